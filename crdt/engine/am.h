//go:build cgo && (linux || darwin) && (amd64 || arm64)

// Declarations of the part of Automerge's C interface (Rust core 0.5.0) that shim.c uses. The library that defines it
// comes with the Go module automerge-go; its header is not on a path that another package can name. Numbers and layouts
// below are that library's: check them when its version changes.

#ifndef CHARTMESH_AM_H
#define CHARTMESH_AM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct AMactorId AMactorId;
typedef struct AMchange AMchange;
typedef struct AMdoc AMdoc;
typedef struct AMitem AMitem;
typedef struct AMobjId AMobjId;
typedef struct AMresult AMresult;

// Passed by value; an empty one still wants a src that is not NULL.
typedef struct AMbyteSpan {
	const uint8_t *src;
	size_t count;
} AMbyteSpan;

// A cursor over a result's items; valid as long as the result.
typedef struct AMitems {
	uint8_t detail[24];
} AMitems;

enum { STATUS_OK = 0 };
enum { OBJECT_LIST = 1, OBJECT_MAP = 2, OBJECT_TEXT = 3 };
enum {
	VALUE_BOOL = 1 << 2,
	VALUE_BYTES = 1 << 3,
	VALUE_INT = 1 << 9,
	VALUE_NULL = 1 << 11,
	VALUE_OBJECT = 1 << 12,
	VALUE_STR = 1 << 13,
};

// Results: everything below that returns AMresult* gives ownership; AMresultFree ends it and all that points into it.
void AMresultFree(AMresult *);
uint8_t AMresultStatus(const AMresult *);
AMitem *AMresultItem(AMresult *);
AMitems AMresultItems(AMresult *);
size_t AMresultSize(const AMresult *);
AMresult *AMresultCat(const AMresult *, const AMresult *);
AMitem *AMitemsNext(AMitems *, ptrdiff_t);
uint32_t AMitemValType(const AMitem *);
const AMobjId *AMitemObjId(const AMitem *);
bool AMitemToBool(const AMitem *, bool *);
bool AMitemToBytes(const AMitem *, AMbyteSpan *);
bool AMitemToChange(AMitem *, AMchange **);
bool AMitemToChangeHash(const AMitem *, AMbyteSpan *);
bool AMitemToActorId(const AMitem *, const AMactorId **);
bool AMitemToDoc(AMitem *, AMdoc **);
bool AMitemToInt(const AMitem *, int64_t *);
bool AMitemToStr(const AMitem *, AMbyteSpan *);
AMresult *AMitemFromChangeHash(AMbyteSpan);
const AMactorId *AMobjIdActorId(const AMobjId *);
uint64_t AMobjIdCounter(const AMobjId *);
AMresult *AMactorIdFromBytes(const uint8_t *, size_t);
AMbyteSpan AMactorIdBytes(const AMactorId *);
AMbyteSpan AMchangeRawBytes(const AMchange *);

// Documents. A NULL object is the root map, NULL heads mean now.
AMresult *AMcreate(const AMactorId *);
AMresult *AMload(const uint8_t *, size_t);
AMresult *AMloadIncremental(AMdoc *, const uint8_t *, size_t);
AMresult *AMsave(AMdoc *);
AMresult *AMfork(AMdoc *, const AMitems *);
AMresult *AMsetActorId(AMdoc *, const AMactorId *);
AMresult *AMcommit(AMdoc *, AMbyteSpan, const int64_t *);
AMresult *AMgetHeads(AMdoc *);
AMresult *AMgetChangeByHash(AMdoc *, const uint8_t *, size_t);
size_t AMpendingOps(const AMdoc *);
uint8_t AMobjObjType(const AMdoc *, const AMobjId *);
size_t AMobjSize(const AMdoc *, const AMobjId *, const AMitems *);
AMresult *AMkeys(const AMdoc *, const AMobjId *, const AMitems *);
AMresult *AMtext(const AMdoc *, const AMobjId *, const AMitems *);
AMresult *AMmapGetAll(const AMdoc *, const AMobjId *, AMbyteSpan, const AMitems *);
AMresult *AMlistGetAll(const AMdoc *, const AMobjId *, size_t, const AMitems *);
AMresult *AMspliceText(AMdoc *, const AMobjId *, size_t, ptrdiff_t, AMbyteSpan);
AMresult *AMmapPutBool(AMdoc *, const AMobjId *, AMbyteSpan, bool);
AMresult *AMmapPutBytes(AMdoc *, const AMobjId *, AMbyteSpan, AMbyteSpan);
AMresult *AMmapPutInt(AMdoc *, const AMobjId *, AMbyteSpan, int64_t);
AMresult *AMmapPutNull(AMdoc *, const AMobjId *, AMbyteSpan);
AMresult *AMmapPutObject(AMdoc *, const AMobjId *, AMbyteSpan, uint8_t);
AMresult *AMmapPutStr(AMdoc *, const AMobjId *, AMbyteSpan, AMbyteSpan);
AMresult *AMlistPutBool(AMdoc *, const AMobjId *, size_t, bool, bool);
AMresult *AMlistPutBytes(AMdoc *, const AMobjId *, size_t, bool, AMbyteSpan);
AMresult *AMlistPutInt(AMdoc *, const AMobjId *, size_t, bool, int64_t);
AMresult *AMlistPutNull(AMdoc *, const AMobjId *, size_t, bool);
AMresult *AMlistPutObject(AMdoc *, const AMobjId *, size_t, bool, uint8_t);
AMresult *AMlistPutStr(AMdoc *, const AMobjId *, size_t, bool, AMbyteSpan);

#endif
