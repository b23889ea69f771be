//go:build cgo && (linux || darwin) && (amd64 || arm64)

// What Go calls. Every function returns true for success, gives no library object away but those in its out parameters,
// and frees every result that it made. Strings are UTF-8 (the caller checks), pointers are never NULL unless said.

#ifndef CHARTMESH_SHIM_H
#define CHARTMESH_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A document: the library's object and the result that owns it.
typedef struct {
	void *owner;
	void *doc;
} engine_document;

// A container that an edit works on; obj is NULL for the root. The owner keeps obj alive.
typedef struct {
	void *owner;
	const void *obj;
} engine_object;

// A growing buffer from malloc. After a failed allocation data is NULL and failed is set.
typedef struct {
	uint8_t *data;
	size_t len, cap, limit;
	bool failed;
} engine_buffer;

// A scalar, or with a container's kind a new empty one. Kinds are crdt.Kind's numbers.
typedef struct {
	int64_t number;
	size_t len;
	uint8_t kind;
} engine_value;

enum { KIND_MAP = 1, KIND_LIST, KIND_TEXT, KIND_STRING, KIND_INT, KIND_BOOL, KIND_NULL, KIND_BYTES };

void engine_buffer_free(engine_buffer *);
void engine_trim(void);
void engine_one_arena(void);

bool engine_create(engine_document *);
bool engine_load(const uint8_t *saved, size_t n, engine_document *);
void engine_free(engine_document *);
// Takes any number of raw changes one after another. Success alone does not mean that they are in the document.
bool engine_apply(engine_document *, const uint8_t *changes, size_t n);
// Whether all n hashes (32 bytes each) name changes of the document.
bool engine_has(engine_document *, const uint8_t *hashes, size_t n);
// Appends 32 bytes for each head.
bool engine_heads(engine_document *, engine_buffer *);
bool engine_save(engine_document *, engine_buffer *);
bool engine_fork(engine_document *, const uint8_t *heads, size_t n, engine_document *);
bool engine_set_actor(engine_document *, const uint8_t *actor, size_t n);
// Commits what is pending and appends the change's raw bytes; fails when nothing is.
bool engine_commit(engine_document *, int64_t seconds, engine_buffer *);

// Appends the root keys as codec.go's fields; keys are n spans in lengths and bytes, or all when n is SIZE_MAX.
bool engine_read(engine_document *, const uint8_t *keys, const size_t *lengths, size_t n,
	const uint8_t *heads, size_t nheads, int depth, engine_buffer *);

void engine_object_free(engine_object *);
// A position in a map is a key, in a list an index; the other one is zero.
bool engine_enter(engine_document *, const void *obj, bool list, const uint8_t *key, size_t keylen, size_t index,
	uint64_t counter, const uint8_t *actor, uint8_t *kind, engine_object *);
bool engine_put(engine_document *, const void *obj, bool list, const uint8_t *key, size_t keylen, size_t index,
	bool insert, const engine_value *, const uint8_t *bytes, engine_object *);
bool engine_splice(engine_document *, const void *obj, size_t index, size_t del, const uint8_t *text, size_t n);
size_t engine_size(engine_document *, const void *obj);

#endif
