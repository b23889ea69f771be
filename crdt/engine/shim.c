//go:build cgo && (linux || darwin) && (amd64 || arm64)

#include "shim.h"
#include "am.h"

#include <stdlib.h>
#include <string.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

// ---- buffers

void engine_buffer_free(engine_buffer *b) {
	free(b->data);
	memset(b, 0, sizeof *b);
}

static void append(engine_buffer *b, const void *src, size_t n) {
	if (b->failed) return;
	if (n > b->limit - b->len) {
		b->failed = true;
		return;
	}
	if (n > b->cap - b->len) {
		size_t cap = b->cap ? b->cap : 4096;
		while (cap - b->len < n) cap *= 2;
		uint8_t *data = realloc(b->data, cap);
		if (!data) {
			b->failed = true;
			return;
		}
		b->data = data;
		b->cap = cap;
	}
	if (n) memcpy(b->data + b->len, src, n);
	b->len += n;
}

static void append_byte(engine_buffer *b, uint8_t v) { append(b, &v, 1); }

static void append_uvarint(engine_buffer *b, uint64_t v) {
	uint8_t t[10];
	size_t n = 0;
	for (; v >= 0x80; v >>= 7) t[n++] = (uint8_t)v | 0x80;
	t[n++] = (uint8_t)v;
	append(b, t, n);
}

static void append_varint(engine_buffer *b, int64_t v) {
	append_uvarint(b, ((uint64_t)v << 1) ^ (uint64_t)(v >> 63));
}

static void append_blob(engine_buffer *b, AMbyteSpan s) {
	append_uvarint(b, s.count);
	append(b, s.src, s.count);
}

// ---- results

static bool ok(const AMresult *r) { return r && AMresultStatus(r) == STATUS_OK; }

// done frees a result that is wanted for its status alone.
static bool done(AMresult *r) {
	bool good = ok(r);
	AMresultFree(r);
	return good;
}

static AMbyteSpan span(const uint8_t *p, size_t n) {
	AMbyteSpan s = {n ? p : (const uint8_t *)"", n};
	return s;
}

// hashes makes one result that holds n change hashes; NULL when the library refuses one.
static AMresult *hashes(const uint8_t *h, size_t n) {
	AMresult *all = NULL;
	for (size_t i = 0; i < n; i++) {
		AMresult *one = AMitemFromChangeHash(span(h + 32 * i, 32));
		if (!ok(one)) {
			AMresultFree(one);
			if (all) AMresultFree(all);
			return NULL;
		}
		if (!all) {
			all = one;
			continue;
		}
		AMresult *both = AMresultCat(all, one);
		AMresultFree(all);
		AMresultFree(one);
		all = both;
	}
	return all;
}

// ---- documents

void engine_trim(void) {
#if defined(__GLIBC__)
	malloc_trim(0);
#endif
}

// Each further arena costs 64 MiB of address space, which the limit on it would count.
void engine_one_arena(void) {
#if defined(__GLIBC__)
	mallopt(M_ARENA_MAX, 1);
#endif
}

static bool take_document(AMresult *r, engine_document *out) {
	AMdoc *doc;
	if (ok(r) && AMitemToDoc(AMresultItem(r), &doc)) {
		out->owner = r;
		out->doc = doc;
		return true;
	}
	AMresultFree(r);
	return false;
}

bool engine_create(engine_document *out) { return take_document(AMcreate(NULL), out); }

bool engine_load(const uint8_t *saved, size_t n, engine_document *out) { return take_document(AMload(saved, n), out); }

void engine_free(engine_document *d) {
	if (d->owner) AMresultFree(d->owner);
	memset(d, 0, sizeof *d);
}

bool engine_apply(engine_document *d, const uint8_t *changes, size_t n) {
	return done(AMloadIncremental(d->doc, changes, n));
}

bool engine_has(engine_document *d, const uint8_t *h, size_t n) {
	for (size_t i = 0; i < n; i++) {
		AMresult *r = AMgetChangeByHash(d->doc, h + 32 * i, 32);
		AMchange *change;
		bool found = ok(r) && AMresultSize(r) == 1 && AMitemToChange(AMresultItem(r), &change);
		AMresultFree(r);
		if (!found) return false;
	}
	return true;
}

bool engine_heads(engine_document *d, engine_buffer *out) {
	AMresult *r = AMgetHeads(d->doc);
	bool good = ok(r);
	if (good) {
		AMitems items = AMresultItems(r);
		AMitem *item;
		while ((item = AMitemsNext(&items, 1))) {
			AMbyteSpan h;
			if (AMitemToChangeHash(item, &h) && h.count == 32) append(out, h.src, 32);
			else good = false;
		}
	}
	AMresultFree(r);
	return good && !out->failed;
}

bool engine_save(engine_document *d, engine_buffer *out) {
	AMresult *r = AMsave(d->doc);
	AMbyteSpan s;
	bool good = ok(r) && AMitemToBytes(AMresultItem(r), &s);
	if (good) append(out, s.src, s.count);
	AMresultFree(r);
	return good && !out->failed;
}

bool engine_fork(engine_document *d, const uint8_t *h, size_t n, engine_document *out) {
	AMresult *hs = hashes(h, n);
	if (!hs) return false;
	AMitems items = AMresultItems(hs);
	bool good = take_document(AMfork(d->doc, &items), out);
	AMresultFree(hs);
	return good;
}

bool engine_set_actor(engine_document *d, const uint8_t *actor, size_t n) {
	AMresult *r = AMactorIdFromBytes(actor, n);
	const AMactorId *id;
	bool good = ok(r) && AMitemToActorId(AMresultItem(r), &id) && done(AMsetActorId(d->doc, id));
	AMresultFree(r);
	return good;
}

bool engine_commit(engine_document *d, int64_t seconds, engine_buffer *out) {
	AMbyteSpan none = {NULL, 0};
	AMresult *r = AMcommit(d->doc, none, &seconds);
	AMbyteSpan hash;
	bool good = false;
	if (ok(r) && AMitemToChangeHash(AMresultItem(r), &hash)) {
		AMresult *found = AMgetChangeByHash(d->doc, hash.src, hash.count);
		AMchange *change;
		if (ok(found) && AMitemToChange(AMresultItem(found), &change)) {
			AMbyteSpan raw = AMchangeRawBytes(change);
			append(out, raw.src, raw.count);
			good = !out->failed;
		}
		AMresultFree(found);
	}
	AMresultFree(r);
	return good;
}

// ---- reading

typedef struct {
	AMdoc *doc;
	const AMitems *heads;
	engine_buffer *out;
	uint8_t (*actors)[16]; // in the order of their first use, which is their number on the wire
	size_t nactors, capactors, last;
} walk;

static bool walk_map(walk *, const AMobjId *, bool counted, int depth);
static bool walk_list(walk *, const AMobjId *, int depth);

// actor appends an actor's number, and its bytes where it is used for the first time.
static bool actor(walk *w, const uint8_t *a) {
	if (w->nactors && !memcmp(w->actors[w->last], a, 16)) {
		append_uvarint(w->out, w->last);
		return true;
	}
	for (size_t i = 0; i < w->nactors; i++) {
		if (!memcmp(w->actors[i], a, 16)) {
			append_uvarint(w->out, w->last = i);
			return true;
		}
	}
	if (w->nactors == w->capactors) {
		size_t cap = w->capactors ? 2 * w->capactors : 16;
		void *p = realloc(w->actors, cap * 16);
		if (!p) return false;
		w->actors = p;
		w->capactors = cap;
	}
	w->last = w->nactors++;
	memcpy(w->actors[w->last], a, 16);
	append_uvarint(w->out, w->last);
	append(w->out, a, 16);
	return true;
}

static bool operation(const AMitem *item, uint64_t *counter, const uint8_t **actor) {
	const AMobjId *id = AMitemObjId(item);
	if (!id) return false;
	AMbyteSpan a = AMactorIdBytes(AMobjIdActorId(id));
	*counter = AMobjIdCounter(id);
	*actor = a.src;
	return a.count == 16;
}

static bool walk_alternative(walk *w, const AMitem *item, int depth) {
	uint64_t counter;
	const uint8_t *a;
	if (!operation(item, &counter, &a)) return false;
	append_uvarint(w->out, counter);
	if (!actor(w, a)) return false;
	AMbyteSpan s;
	bool truth;
	int64_t number;
	switch (AMitemValType(item)) {
	case VALUE_STR:
		if (!AMitemToStr(item, &s)) return false;
		append_byte(w->out, KIND_STRING);
		append_blob(w->out, s);
		return true;
	case VALUE_BYTES:
		if (!AMitemToBytes(item, &s)) return false;
		append_byte(w->out, KIND_BYTES);
		append_blob(w->out, s);
		return true;
	case VALUE_INT:
		if (!AMitemToInt(item, &number)) return false;
		append_byte(w->out, KIND_INT);
		append_varint(w->out, number);
		return true;
	case VALUE_BOOL:
		if (!AMitemToBool(item, &truth)) return false;
		append_byte(w->out, KIND_BOOL);
		append_byte(w->out, truth);
		return true;
	case VALUE_NULL:
		append_byte(w->out, KIND_NULL);
		return true;
	case VALUE_OBJECT:
		break;
	default:
		return false;
	}
	if (depth == 0) return false;
	const AMobjId *obj = AMitemObjId(item);
	switch (AMobjObjType(w->doc, obj)) {
	case OBJECT_MAP:
		append_byte(w->out, KIND_MAP);
		return walk_map(w, obj, true, depth - 1);
	case OBJECT_LIST:
		append_byte(w->out, KIND_LIST);
		return walk_list(w, obj, depth - 1);
	case OBJECT_TEXT: {
		append_byte(w->out, KIND_TEXT);
		AMresult *r = AMtext(w->doc, obj, w->heads);
		bool good = ok(r) && AMitemToStr(AMresultItem(r), &s);
		if (good) append_blob(w->out, s);
		AMresultFree(r);
		return good;
	}
	}
	return false;
}

static int by_operation(const void *x, const void *y) {
	uint64_t cx = 0, cy = 0;
	const uint8_t *ax = NULL, *ay = NULL;
	if (!operation(*(AMitem *const *)x, &cx, &ax) || !operation(*(AMitem *const *)y, &cy, &ay)) return 0;
	if (cx != cy) return cx < cy ? -1 : 1;
	return memcmp(ax, ay, 16);
}

// walk_register appends all concurrent values in the order of their operations.
static bool walk_register(walk *w, AMresult *all, int depth) {
	size_t n = AMresultSize(all);
	append_uvarint(w->out, n);
	if (n == 1) return walk_alternative(w, AMresultItem(all), depth);
	AMitem **sorted = malloc(n * sizeof *sorted);
	if (!sorted) return false;
	AMitems items = AMresultItems(all);
	AMitem *item;
	size_t k = 0;
	while (k < n && (item = AMitemsNext(&items, 1))) sorted[k++] = item;
	qsort(sorted, k, sizeof *sorted, by_operation);
	bool good = k == n;
	for (size_t i = 0; good && i < n; i++) good = walk_alternative(w, sorted[i], depth);
	free(sorted);
	return good;
}

// walk_map appends a map's fields, ascending by key as the library gives them; the root's run to the end, uncounted.
static bool walk_map(walk *w, const AMobjId *obj, bool counted, int depth) {
	AMresult *keys = AMkeys(w->doc, obj, w->heads);
	bool good = ok(keys);
	if (good) {
		if (counted) append_uvarint(w->out, AMresultSize(keys));
		AMitems items = AMresultItems(keys);
		AMitem *item;
		while (good && !w->out->failed && (item = AMitemsNext(&items, 1))) {
			AMbyteSpan key;
			if (!AMitemToStr(item, &key)) {
				good = false;
				break;
			}
			append_blob(w->out, key);
			AMresult *all = AMmapGetAll(w->doc, obj, span(key.src, key.count), w->heads);
			good = ok(all) && AMresultSize(all) > 0 && walk_register(w, all, depth);
			AMresultFree(all);
		}
	}
	AMresultFree(keys);
	return good && !w->out->failed;
}

static bool walk_list(walk *w, const AMobjId *obj, int depth) {
	size_t n = AMobjSize(w->doc, obj, w->heads);
	append_uvarint(w->out, n);
	for (size_t i = 0; i < n; i++) {
		AMresult *all = AMlistGetAll(w->doc, obj, i, w->heads);
		bool good = ok(all) && AMresultSize(all) > 0 && walk_register(w, all, depth);
		AMresultFree(all);
		if (!good || w->out->failed) return false;
	}
	return true;
}

bool engine_read(engine_document *d, const uint8_t *keys, const size_t *lengths, size_t n,
	const uint8_t *h, size_t nheads, int depth, engine_buffer *out) {
	AMresult *hs = NULL;
	AMitems items;
	if (nheads) {
		if (!(hs = hashes(h, nheads))) return false;
		items = AMresultItems(hs);
	}
	walk w = {.doc = d->doc, .heads = hs ? &items : NULL, .out = out};
	bool good = true;
	if (n == SIZE_MAX) {
		good = walk_map(&w, NULL, false, depth);
	} else {
		for (size_t i = 0; good && i < n; i++) {
			AMresult *all = AMmapGetAll(w.doc, NULL, span(keys, lengths[i]), w.heads);
			good = ok(all);
			if (good && AMresultSize(all) > 0) {
				append_uvarint(out, lengths[i]);
				append(out, keys, lengths[i]);
				good = walk_register(&w, all, depth);
			}
			AMresultFree(all);
			keys += lengths[i];
		}
	}
	free(w.actors);
	if (hs) AMresultFree(hs);
	return good && !out->failed;
}

// ---- editing

void engine_object_free(engine_object *o) {
	if (o->owner) AMresultFree(o->owner);
	memset(o, 0, sizeof *o);
}

bool engine_enter(engine_document *d, const void *obj, bool list, const uint8_t *key, size_t keylen, size_t index,
	uint64_t counter, const uint8_t *who, uint8_t *kind, engine_object *out) {
	AMresult *all = list ? AMlistGetAll(d->doc, obj, index, NULL) : AMmapGetAll(d->doc, obj, span(key, keylen), NULL);
	if (ok(all)) {
		AMitems items = AMresultItems(all);
		AMitem *item;
		while ((item = AMitemsNext(&items, 1))) {
			uint64_t c;
			const uint8_t *a;
			if (AMitemValType(item) != VALUE_OBJECT || !operation(item, &c, &a)) continue;
			if (c != counter || memcmp(a, who, 16)) continue;
			out->owner = all;
			out->obj = AMitemObjId(item);
			switch (AMobjObjType(d->doc, out->obj)) {
			case OBJECT_MAP: *kind = KIND_MAP; return true;
			case OBJECT_LIST: *kind = KIND_LIST; return true;
			case OBJECT_TEXT: *kind = KIND_TEXT; return true;
			}
			out->owner = NULL;
			out->obj = NULL;
			break;
		}
	}
	AMresultFree(all);
	return false;
}

static AMresult *put(AMdoc *doc, const AMobjId *obj, bool list, AMbyteSpan key, size_t index, bool insert,
	uint8_t kind, int64_t number, AMbyteSpan bytes) {
	uint8_t type = 0;
	switch (kind) {
	case KIND_STRING:
		return list ? AMlistPutStr(doc, obj, index, insert, bytes) : AMmapPutStr(doc, obj, key, bytes);
	case KIND_BYTES:
		return list ? AMlistPutBytes(doc, obj, index, insert, bytes) : AMmapPutBytes(doc, obj, key, bytes);
	case KIND_INT:
		return list ? AMlistPutInt(doc, obj, index, insert, number) : AMmapPutInt(doc, obj, key, number);
	case KIND_BOOL:
		return list ? AMlistPutBool(doc, obj, index, insert, number != 0) : AMmapPutBool(doc, obj, key, number != 0);
	case KIND_NULL:
		return list ? AMlistPutNull(doc, obj, index, insert) : AMmapPutNull(doc, obj, key);
	case KIND_MAP: type = OBJECT_MAP; break;
	case KIND_LIST: type = OBJECT_LIST; break;
	case KIND_TEXT: type = OBJECT_TEXT; break;
	default: return NULL;
	}
	return list ? AMlistPutObject(doc, obj, index, insert, type) : AMmapPutObject(doc, obj, key, type);
}

bool engine_put(engine_document *d, const void *obj, bool list, const uint8_t *key, size_t keylen, size_t index,
	bool insert, const engine_value *v, const uint8_t *bytes, engine_object *out) {
	AMbyteSpan k = span(key, keylen), b = span(bytes, v->len);
	size_t before = AMpendingOps(d->doc);
	AMresult *r = put(d->doc, obj, list, k, index, insert, v->kind, v->number, b);
	if (!r || !ok(r)) {
		if (r) AMresultFree(r);
		return false;
	}
	if (v->kind <= KIND_TEXT) {
		const AMitem *item = AMresultItem(r);
		if (item && AMitemObjId(item)) {
			out->owner = r;
			out->obj = AMitemObjId(item);
			return true;
		}
		AMresultFree(r);
		return false;
	}
	AMresultFree(r);
	if (AMpendingOps(d->doc) != before) return true;
	// The library makes no operation of a value that is there already, though writing it again must meet a concurrent
	// removal as a conflict. So 1 or 0 goes first, in the same change: a value that is allowed at every scalar's place.
	int64_t other = !(v->kind == KIND_INT && v->number == 1);
	if (!done(put(d->doc, obj, list, k, index, false, KIND_INT, other, span(NULL, 0)))) return false;
	return done(put(d->doc, obj, list, k, index, false, v->kind, v->number, b)) && AMpendingOps(d->doc) == before + 2;
}

bool engine_splice(engine_document *d, const void *obj, size_t index, size_t del, const uint8_t *text, size_t n) {
	return done(AMspliceText(d->doc, obj, index, (ptrdiff_t)del, span(text, n)));
}

size_t engine_size(engine_document *d, const void *obj) { return AMobjSize(d->doc, obj, NULL); }
