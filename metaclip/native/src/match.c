/* Matching: from texts in Arrow's buffers to sorted sets of entry ids.

   An entry matches if its symbols are consecutive in the text. A symbol is a word (the string between two spaces of the
   spaced text, which may be empty) or, for entries whose edges get no space, a character of the padded, spaced text.

   Texts are processed in chunks of a few thousand symbols, each in four passes. Separate passes keep many reads of memory
   in flight; a single pass would wait for each of them.

     1. split     Find separators, 64 bytes at a time, and make a row for each symbol: its key, its hash, its position.
                  Two thirds of the words of web captions are in no entry: a Bloom filter, which fits a second-level
                  cache, drops nearly all of them.
     2. look up   A perfect hash (hash and displace): one small read for the displacement, one for the only slot where
                  the key can be. The slot also holds the entry that consists of this symbol alone, which is output at
                  once: most matches are single words and need no automaton.
     3. walk      Aho-Corasick over symbol ids, only where a known symbol follows another and a filter of one bit per
                  edge does not exclude the pair.
     4. collect   Sort the ids of each text and drop repetitions.

   Where a comment says "always written, kept if ...", a branch would be unpredictable and cost more than the write. */

#include <stdlib.h>

#include "keys.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

enum {
    CHUNK = 4096, /* positions; 1,000 to 8,000 are equally fast */
    BLOCK = 64,   /* bytes among which separators are found at once */
    SPLIT_ROOM = 2 * BLOCK + 2, /* symbols that one block and the end of its text can give */
    ROWS = CHUNK + 8
};
static const uint32_t NEVER = 0xFFFFFFFFu; /* a position behind all others */

/* ---- memory ---- */

typedef struct {
    uint64_t head;
    uint32_t tail;
    uint32_t position; /* numbers the symbols of a chunk; skips one behind each text, so texts never touch */
    union {
        uint64_t hash;       /* from pass 1 */
        const mc_slot *slot; /* from pass 2 */
    };
    const uint8_t *start;
} row; /* of a symbol: 32 bytes */

typedef struct {
    uint32_t symbol, position;
} known; /* a symbol that entries have */

typedef struct {
    uint32_t position, id;
} deeper; /* a match of several symbols that ends at a position */

struct mc_workspace {
    row rows[ROWS];
    known known[ROWS];
    uint32_t before[ROWS]; /* ids (longest: known symbols) before each row, and behind the last one */
    struct {
        int32_t rows, positions;
    } ends[ROWS]; /* rows and positions up to the end of each text of the chunk */
    uint32_t pairs[ROWS]; /* indices of known symbols that follow another one */
    int64_t burst; /* the most ids that one chunk can give: those of each symbol, and of the node to which it leads */
    deeper *deeper;
    uint32_t *ids; /* of the texts of the chunk, and of the text that the next chunk continues */
    int64_t *firsts; /* longest: the position, from the start of the call, of the first symbol of each id */
    int64_t ids_room, firsts_room;
    uint32_t *values; /* the result */
    int64_t values_room;
    /* stamps[node] is the number of the text for which the outputs of a node, and those behind it, were written last.
       So entries that contain each other ("a", "a a", "a a a", ...) are output once per text, not at every position. */
    uint32_t *stamps;
    uint32_t stamp; /* the number of the text with which the chunk begins */
    uint8_t *copy;  /* of the end of a column or of a single text, with MC_READABLE bytes behind it */
    int64_t copy_room;
};

/* Make room for `wanted` items; 1.5 times as many at least, so that growing is rare. Return whether memory ran out. */
static int reserve(void **array, int64_t *room, int64_t wanted, int64_t item) {
    if (wanted <= *room) return 0;
    int64_t larger = wanted + (wanted >> 1);
    void *grown = realloc(*array, (size_t)(larger * item));
    if (!grown) return 1;
    *array = grown;
    *room = larger;
    return 0;
}

void mc_free(void *memory) { free(memory); }

mc_workspace *mc_workspace_new(const mc_machine *machine) {
    mc_workspace *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    w->burst = 2 * CHUNK * machine->most_outputs + 1;
    w->deeper = malloc((size_t)(w->burst + 1) * sizeof *w->deeper); /* touched as far as it is used */
    w->stamps = calloc((size_t)machine->n_nodes, sizeof *w->stamps);
    if (w->deeper && w->stamps) return w;
    mc_workspace_free(w);
    return NULL;
}

void mc_workspace_free(mc_workspace *w) {
    if (!w) return;
    void *owned[] = {w->deeper, w->ids, w->firsts, w->values, w->stamps, w->copy, w};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
}

/* Where matching continues in the next chunk. */
typedef struct {
    int64_t text;
    const uint8_t *start; /* words: where the current word begins */
    const uint8_t *at;    /* the next block (words) or character; NULL: at the start of the text */
    int spaced;           /* characters: whether the last symbol was a space */
    uint32_t node;
    int64_t n_ids;
    int64_t base;      /* positions of the chunks before this one */
    int64_t positions; /* positions of this chunk */
    int64_t written;
} progress;

/* ---- pass 1: split ---- */

/* Vectors of the compiler: an operator works on all bytes, a comparison gives 0xFF or 0 for each. */
#if defined(__AVX2__)
typedef uint8_t vector __attribute__((vector_size(32)));
MC_INLINE uint64_t top_bits(vector v) { return (uint32_t)_mm256_movemask_epi8((__m256i)v); }
#elif defined(__SSE2__)
typedef uint8_t vector __attribute__((vector_size(16)));
MC_INLINE uint64_t top_bits(vector v) { return (uint32_t)_mm_movemask_epi8((__m128i)v); }
#else
typedef uint8_t vector __attribute__((vector_size(8)));
MC_INLINE uint64_t top_bits(vector v) { /* the product moves the lowest bit of each byte into the highest byte */
    return ((uint64_t)v & 0x0101010101010101u) * 0x0102040810204080u >> 56;
}
#endif

/* Set the bits of separators among 64 bytes: `marks` are , . ; : ? ! ` and `both` are marks, space, tab and line ends. */
MC_INLINE void find_separators(const uint8_t *block, uint64_t *both, uint64_t *marks) {
    *both = *marks = 0;
    for (size_t i = 0; i < BLOCK; i += sizeof(vector)) {
        vector c;
        memcpy(&c, block + i, sizeof c);
        /* ':' and ';' differ only in the lowest bit, ',' and '.' only in the second lowest. */
        vector mark = (vector)(c == '!') | (vector)(c == '?') | (vector)(c == '`') | (vector)((c & 0xFE) == ':') |
                      (vector)((c & 0xFD) == ',');
        vector blank = (vector)(c == ' ') | (vector)(c == '\t') | (vector)(c == '\n') | (vector)(c == '\r');
        *marks |= top_bits(mark) << i;
        *both |= top_bits(mark | blank) << i;
    }
}

MC_INLINE uint64_t put_symbol(row *out, const uint8_t *start, int64_t size, int64_t position, uint64_t seed) {
    symbol_key key = key_of(start, size);
    uint64_t hash = hash_of(key, seed);
    *out = (row){key.head, key.tail, (uint32_t)position, {hash}, start};
    return hash;
}

MC_INLINE int may_be_known(const mc_machine *m, int shift, uint64_t hash) {
    uint64_t bits = bloom_bits(hash);
    return (m->bloom[hash >> shift] & bits) == bits;
}

/* Split texts into words until the chunk is full; return the number of rows. */
static int64_t split_words(const mc_machine *m, mc_workspace *w, const mc_strings *x, progress *p) {
    int64_t n = 0, position = 0, ended = 0, t = p->text, n_texts = x->n;
    const uint8_t *start = p->start, *block = p->at;
    const uint64_t seed = m->seed;
    const int shift = 64 - log2_of(m->n_bloom), fold = (int)m->fold_spaces;
    row *rows = w->rows;
    for (; t < n_texts; t++) {
        const uint8_t *stop = x->data + x->offsets[t + 1];
        int null = is_null(x, t);
        if (!block) start = block = null ? stop : x->data + x->offsets[t];
        for (; block < stop && position + SPLIT_ROOM <= CHUNK; block += BLOCK) {
            uint64_t both, marks;
            find_separators(block, &both, &marks);
            if (stop - block < BLOCK) both &= ((uint64_t)1 << (stop - block)) - 1;
            for (; both; both &= both - 1) {
                int bit = __builtin_ctzll(both);
                const uint8_t *at = block + bit;
                /* Always written, kept if it may be known. */
                uint64_t hash = put_symbol(rows + n, start, at - start, position, seed);
                int there = (at != start) | !fold;
                n += there & may_be_known(m, shift, hash);
                position += there;
                if (marks >> bit & 1) { /* most separators are blanks */
                    put_symbol(rows + n, at, 1, position, seed);
                    n++;
                    position++;
                }
                start = at + 1;
            }
        }
        if (block < stop || position + 2 > CHUNK) break;
        /* The last word; a null has none, not even the empty one. */
        int there = ((stop > start) | !fold) & !null;
        uint64_t hash = put_symbol(rows + n, start, stop - start, position, seed);
        n += there & may_be_known(m, shift, hash);
        position += there;
        w->ends[ended].rows = (int32_t)n;
        w->ends[ended].positions = (int32_t)position;
        position++;
        ended++;
        block = NULL;
    }
    p->text = t;
    p->start = start;
    p->at = block;
    p->positions = position;
    return n;
}

MC_INLINE int is_blank(uint8_t c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

MC_INLINE int is_mark(uint8_t c) {
    return c == ',' || c == '.' || c == ';' || c == ':' || c == '?' || c == '!' || c == '`';
}

/* Split texts into the characters of their padded, spaced form until the chunk is full; return the number of rows. All
   characters are kept, because nearly all are known. */
static int64_t split_characters(const mc_machine *m, mc_workspace *w, const mc_strings *x, progress *p) {
    static const uint8_t space[MC_READABLE] = {' '};
    int64_t n = 0, ended = 0, t = p->text, n_texts = x->n;
    const uint64_t seed = m->seed;
    const uint8_t *at = p->at;
    int spaced = p->spaced, fold = (int)m->fold_spaces;
    row *rows = w->rows;
    for (; t < n_texts && n + ended + 4 <= CHUNK; t++) {
        const uint8_t *stop = x->data + x->offsets[t + 1];
        int null = is_null(x, t);
        if (!at) {
            at = null ? stop : x->data + x->offsets[t];
            spaced = !null;
            put_symbol(rows + n, space, 1, n + ended, seed);
            n += spaced;
        }
        while (at < stop && n + ended + 4 <= CHUNK) {
            uint8_t c = *at;
            int blank = is_blank(c);
            if (blank || is_mark(c)) {
                put_symbol(rows + n, space, 1, n + ended, seed);
                n += !(fold && spaced);
                if (!blank) {
                    put_symbol(rows + n, at, 1, n + ended, seed);
                    put_symbol(rows + n + 1, space, 1, n + 1 + ended, seed);
                    n += 2;
                }
                spaced = 1;
                at++;
            } else {
                int size = 1 + (c >= 0xC0) + (c >= 0xE0) + (c >= 0xF0), follow = 1;
                /* Invalid UTF-8 must not hide a separator: only continuation bytes belong to a character. */
                while (follow < size && at + follow < stop && (at[follow] & 0xC0) == 0x80) follow++;
                put_symbol(rows + n, at, follow, n + ended, seed);
                n++;
                spaced = 0;
                at += follow;
            }
        }
        if (at < stop || n + ended + 2 > CHUNK) break;
        put_symbol(rows + n, space, 1, n + ended, seed);
        n += !null && !(fold && spaced);
        w->ends[ended].rows = (int32_t)n;
        w->ends[ended].positions = (int32_t)(n + ended);
        ended++;
        at = NULL;
    }
    p->text = t;
    p->at = at;
    p->spaced = spaced;
    p->positions = n + ended;
    return n;
}

/* ---- pass 2: look up ---- */

/* Return the symbol of exactly these bytes among those that share a key with `symbol`; 0 if there is none. */
static uint32_t confirm(const mc_machine *m, uint32_t symbol, const uint8_t *start, int64_t size) {
    for (; symbol; symbol = m->symbols[symbol].next) {
        int64_t first = m->symbols[symbol].first;
        if (m->symbols[symbol + 1].first - first == size && !memcmp(m->bytes + first, start, (size_t)size)) break;
    }
    return symbol;
}

/* Follows the texts of a chunk by ascending positions, for the number that stamps have in each. */
typedef struct {
    const mc_workspace *w;
    int64_t text;
} stamper;

MC_INLINE uint32_t stamp_at(stamper *s, uint32_t position, int64_t n_ended) {
    while (s->text < n_ended && s->w->ends[s->text].positions <= (int32_t)position) s->text++;
    return s->w->stamp + (uint32_t)s->text;
}

/* Write {symbol, position} of each row that is known; return their number. `entries`: also write the ids of entries of one
   symbol, and count them in `before`, which otherwise counts known symbols. */
MC_INLINE int64_t look_up_with(int entries, const mc_machine *m, mc_workspace *w, int64_t n, int64_t n_ended,
                               progress *p) {
    const mc_slot *slots = m->slots;
    const uint64_t buckets = (uint64_t)m->n_displacements - 1;
    const int shift = 64 - log2_of(m->n_slots);
    row *rows = w->rows;
    for (int64_t i = 0; i < n; i++) {
        uint64_t h = rows[i].hash;
        rows[i].slot = slots + slot_of(h, m->displacements[h & buckets], shift);
        __builtin_prefetch(rows[i].slot);
    }
    int64_t found = 0, n_ids = p->n_ids;
    stamper s = {w, 0};
    for (int64_t i = 0; i < n; i++) {
        const row *r = rows + i;
        const mc_slot *slot = r->slot;
        uint32_t symbol = slot->symbol, entry = slot->entry, more = slot->more;
        int same = (slot->head == r->head) & (slot->tail == r->tail);
        w->before[i] = (uint32_t)(entries ? n_ids : found);
        if (slot->tail >= LONG_TAIL && same) { /* the key holds a hash: the bytes decide */
            symbol = confirm(m, symbol, r->start, r->tail & LONGEST);
            same = symbol != 0;
            entry = m->nodes[symbol].entry;
            more = m->nodes[symbol].output;
        }
        /* Always written, kept if it is known. */
        w->known[found] = (known){symbol, r->position};
        found += same;
        if (!entries) continue;
        w->ids[n_ids] = entry - 1;
        n_ids += (entry != 0) & same;
        if (more && same) { /* entries that a rule makes equal */
            uint32_t stamp = stamp_at(&s, r->position, n_ended);
            for (; more && w->stamps[more] != stamp; more = m->nodes[more].output) {
                w->stamps[more] = stamp;
                w->ids[n_ids++] = m->nodes[more].entry - 1;
            }
        }
    }
    w->before[n] = (uint32_t)(entries ? n_ids : found);
    p->n_ids = n_ids;
    return found;
}

/* ---- pass 3: walk ---- */

/* Return 0 only if there is no edge of this hash, mostly 1 otherwise. */
MC_INLINE int may_lead(const mc_machine *m, uint64_t hash) {
    uint64_t bit = hash >> (61 - log2_of(m->n_filter));
    return m->filter[bit >> 3] >> (bit & 7) & 1;
}

/* Return the child of a node, 0 if there is none. */
MC_INLINE uint32_t child_of(const mc_machine *m, uint32_t node, uint32_t symbol) {
    uint64_t hash = edge_hash(node, symbol), mask = (uint64_t)m->n_edges - 1;
    if (!may_lead(m, hash)) return 0;
    for (uint64_t at = hash >> (64 - log2_of(m->n_edges));; at = (at + 1) & mask) {
        const mc_edge *edge = m->edges + at;
        if (!edge->child || (edge->node == node && edge->symbol == symbol)) return edge->child;
    }
}

/* Follow goto and fallback from a node by a symbol. */
MC_INLINE uint32_t step(const mc_machine *m, uint32_t node, uint32_t symbol) {
    for (; node; node = m->nodes[node].fallback) {
        uint32_t child = child_of(m, node, symbol);
        if (child) return child;
    }
    return symbol;
}

/* Find the known symbols that may continue the one before them: write their indices, and `found` behind them. One loop
   collects the pairs and another reads the filter: in a single loop, each pair would wait for the memory of the filter. */
static void find_pairs(const mc_machine *m, mc_workspace *w, int64_t found) {
    const known *known = w->known;
    int64_t n = 0, kept = 0;
    uint32_t expected = NEVER;
    for (int64_t i = 0; i < found; i++) {
        w->pairs[n] = (uint32_t)i; /* always written, kept if they are consecutive */
        n += known[i].position == expected;
        expected = known[i].position + 1;
    }
    const int shift = 64 - log2_of(m->n_edges);
    for (int64_t i = 0; i < n; i++) {
        uint32_t k = w->pairs[i];
        uint64_t hash = edge_hash(known[k - 1].symbol, known[k].symbol);
        int may = may_lead(m, hash);
        w->pairs[kept] = k;
        __builtin_prefetch(m->edges + (may ? hash >> shift : 0));
        kept += may;
    }
    w->pairs[kept] = (uint32_t)found;
}

/* Walk where the automaton can go beyond depth 1; write what is found there to `deeper`, then a position NEVER. */
static void walk(const mc_machine *m, mc_workspace *w, int64_t found, int64_t n_ended, progress *p) {
    find_pairs(m, w, found);
    const mc_node *nodes = m->nodes;
    const known *known = w->known;
    deeper *out = w->deeper;
    uint32_t node = p->node, last = NEVER; /* `last` is the position of the symbol that led to `node` */
    stamper s = {w, 0};
    for (int64_t i = 0, pair = 0;;) {
        while (node && i < found) {
            uint32_t symbol = known[i].symbol, position = known[i].position;
            node = position == last + 1 ? step(m, node, symbol) : symbol;
            if (node == symbol) {
                node = 0;
                break;
            }
            uint32_t source = node, stamp = stamp_at(&s, position, n_ended);
            /* Pass 2 has output the entries of the symbol alone. */
            for (; source && source != symbol && w->stamps[source] != stamp; source = nodes[source].output) {
                w->stamps[source] = stamp;
                *out = (deeper){position, nodes[source].entry - 1};
                out += nodes[source].entry != 0;
            }
            last = position;
            i++;
        }
        /* Here no symbol up to `i` continues the one before it, or there are no more symbols. */
        while (w->pairs[pair] <= i && w->pairs[pair] < found) pair++;
        i = w->pairs[pair];
        if (i == found) break;
        node = known[i - 1].symbol;
        last = known[i - 1].position;
    }
    if (!node && found) {
        node = known[found - 1].symbol;
        last = known[found - 1].position;
    }
    p->node = last + 1 == (uint32_t)p->positions ? node : 0;
    out->position = NEVER;
}

/* Walk over all known symbols, but keep only occurrences that do not lie inside a longer one.

   Occurrences come by ascending ends, so one can only lie inside a later one: `ids` is a stack from which a new occurrence
   removes all that begin where it begins or later. `ends` receives the number of ids instead of the number of rows. */
static void walk_longest(const mc_machine *m, mc_workspace *w, int64_t found, int64_t n_ended, progress *p) {
    const mc_node *nodes = m->nodes;
    int64_t n_ids = p->n_ids, bottom = 0, i = 0;
    uint32_t node = p->node, last = NEVER;
    for (int64_t t = 0; t <= n_ended; t++) {
        int64_t stop = t < n_ended ? w->before[w->ends[t].rows] : found;
        for (; i < stop; i++) {
            uint32_t symbol = w->known[i].symbol, position = w->known[i].position;
            node = step(m, position == last + 1 ? node : 0, symbol);
            last = position;
            uint32_t source = node;
            while (source && !nodes[source].entry) source = nodes[source].output;
            if (!source) continue;
            uint32_t depth = nodes[source].depth;
            int64_t first = p->base + position + 1 - depth;
            while (n_ids > bottom && w->firsts[n_ids - 1] >= first) n_ids--;
            /* Entries that a rule makes equal end and begin together: all of them are kept. */
            for (; source && nodes[source].depth == depth; source = nodes[source].output) {
                w->ids[n_ids] = nodes[source].entry - 1;
                w->firsts[n_ids++] = first;
            }
        }
        if (t < n_ended) {
            w->ends[t].rows = (int32_t)n_ids;
            bottom = n_ids;
        }
    }
    p->n_ids = n_ids;
    p->node = last + 1 == (uint32_t)p->positions ? node : 0;
    w->deeper->position = NEVER;
}

/* ---- pass 4: collect ---- */

/* Put v[i] and v[j] in order, without a branch. */
#define ORDER(i, j)                                                                                                    \
    {                                                                                                                  \
        uint32_t low = v[i] < v[j] ? v[i] : v[j], high = v[i] < v[j] ? v[j] : v[i];                                    \
        v[i] = low, v[j] = high;                                                                                       \
    }

/* Write the sorted set of 1 to 8 ids by Batcher's networks, because their order is unpredictable; return its size. */
MC_INLINE int64_t sort_few(uint32_t *target, const uint32_t *ids, int64_t n) {
    uint32_t v[8];
    for (int i = 0; i < 8; i++) v[i] = i < n ? ids[i] : NEVER;
    if (n <= 4) {
        ORDER(0, 1) ORDER(2, 3) ORDER(0, 2) ORDER(1, 3) ORDER(1, 2)
    } else {
        ORDER(0, 1) ORDER(2, 3) ORDER(4, 5) ORDER(6, 7) ORDER(0, 2) ORDER(1, 3) ORDER(4, 6) ORDER(5, 7) ORDER(1, 2) ORDER(5, 6)
        ORDER(0, 4) ORDER(1, 5) ORDER(2, 6) ORDER(3, 7) ORDER(2, 4) ORDER(3, 5) ORDER(1, 2) ORDER(3, 4) ORDER(5, 6)
    }
    int64_t size = 1;
    target[0] = v[0];
    for (int64_t i = 1; i < n; i++) {
        target[size] = v[i];
        size += v[i] != v[i - 1];
    }
    return size;
}

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Sort ids and drop repetitions, in place; return how many are left. */
static int64_t sort_unique(uint32_t *ids, int64_t n) {
    if (n < 2) return n;
    qsort(ids, (size_t)n, sizeof *ids, compare);
    int64_t size = 1;
    for (int64_t i = 1; i < n; i++) {
        ids[size] = ids[i];
        size += ids[i] != ids[size - 1];
    }
    return size;
}

/* Write the ids of the texts that ended in the chunk to the result; move those of the text that continues to the front. */
static void collect(mc_workspace *w, int longest, int64_t first_text, int64_t n_ended, int32_t *offsets, progress *p) {
    int64_t begin = 0, written = p->written;
    const deeper *more = w->deeper;
    for (int64_t t = 0; t < n_ended; t++) {
        int64_t end = longest ? w->ends[t].rows : (int64_t)w->before[w->ends[t].rows], n = end - begin;
        uint32_t *target = w->values + written;
        if (n && n <= 8 && more->position >= (uint32_t)w->ends[t].positions) {
            written += sort_few(target, w->ids + begin, n);
        } else {
            memcpy(target, w->ids + begin, (size_t)n * sizeof *target);
            for (; more->position < (uint32_t)w->ends[t].positions; more++) target[n++] = more->id;
            written += sort_unique(target, n);
        }
        offsets[first_text + t + 1] = (int32_t)written;
        begin = end;
    }
    int64_t left = p->n_ids - begin;
    for (int64_t i = 0; i < left; i++) {
        w->ids[i] = w->ids[begin + i];
        if (longest) w->firsts[i] = w->firsts[begin + i];
    }
    for (; more->position != NEVER; more++) w->ids[left++] = more->id;
    p->n_ids = left;
    p->written = written;
}

/* ---- calls ---- */

int mc_has_avx2(void) {
#if defined(__x86_64__)
    /* Not __builtin_cpu_supports, which is always false in what zig compiles. */
    unsigned a, b, c, d, saved;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return 0; /* bit 27: xgetbv can be used */
    __asm__("xgetbv" : "=a"(saved), "=d"(d) : "c"(0));
    if ((saved & 6) != 6) return 0; /* the operating system saves the vector registers */
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && b >> 3 & 1 && b >> 5 & 1; /* BMI, AVX2 */
#else
    return 0;
#endif
}

/* Match texts that have readable bytes behind them; the result grows behind `written` values. Return their new number. */
static int64_t match(const mc_machine *m, mc_workspace *w, const mc_strings *x, int32_t *offsets, int64_t written) {
    const int longest = (int)m->longest;
    progress p = {.written = written};
    if ((uint64_t)w->stamp + (uint64_t)x->n >= NEVER) {
        memset(w->stamps, 0, (size_t)m->n_nodes * sizeof *w->stamps);
        w->stamp = 0;
    }
    w->stamp++;
    while (p.text < x->n) {
        int64_t room = p.n_ids + w->burst;
        if (!longest && room > w->ids_room) {
            /* A text of megabytes: without repetitions, its ids are at most all entries. With room for as many again, they
               are not sorted in every chunk. */
            p.n_ids = sort_unique(w->ids, p.n_ids);
            room = 2 * p.n_ids + w->burst;
        }
        if (reserve((void **)&w->ids, &w->ids_room, room, sizeof *w->ids) ||
            reserve((void **)&w->values, &w->values_room, p.written + p.n_ids + w->burst, sizeof *w->values) ||
            (longest && reserve((void **)&w->firsts, &w->firsts_room, p.n_ids + w->burst, sizeof *w->firsts))) {
            return MC_OUT_OF_MEMORY;
        }
        int64_t first_text = p.text, found;
        int64_t n = m->words ? split_words(m, w, x, &p) : split_characters(m, w, x, &p), n_ended = p.text - first_text;
        if (longest) {
            found = look_up_with(0, m, w, n, n_ended, &p);
            walk_longest(m, w, found, n_ended, &p);
        } else {
            found = look_up_with(1, m, w, n, n_ended, &p);
            walk(m, w, found, n_ended, &p);
        }
        collect(w, longest, first_text, n_ended, offsets, &p);
        if (p.written > INT32_MAX) return MC_TOO_MANY_MATCHES;
        p.base += p.positions;
        w->stamp += (uint32_t)n_ended;
    }
    return p.written;
}

/* Copy bytes to the workspace, with readable bytes behind them; return NULL if memory runs out. */
static const uint8_t *copy(mc_workspace *w, const uint8_t *data, int64_t size) {
    if (reserve((void **)&w->copy, &w->copy_room, size + MC_READABLE, 1)) return NULL;
    if (size) memcpy(w->copy, data, (size_t)size);
    memset(w->copy + size, 0, MC_READABLE);
    return w->copy;
}

int64_t mc_match(const mc_machine *m, mc_workspace *w, const mc_strings *x, int32_t *offsets, uint32_t **values) {
    /* Passes read behind the end of a text. The texts that are too close to the end of the buffer are the last ones. */
    mc_strings head = *x;
    while (head.n && x->offsets[head.n] + MC_READABLE > x->n_data) head.n--;
    offsets[0] = 0;
    /* Memory that is not touched costs nothing; growing would copy. */
    if (reserve((void **)&w->values, &w->values_room, 3 * x->n + w->burst, sizeof *w->values)) return MC_OUT_OF_MEMORY;
    int64_t written = match(m, w, &head, offsets, 0), size;
    for (int64_t i = head.n; i < x->n && written >= 0; i++) {
        size = x->offsets[i + 1] - x->offsets[i];
        mc_strings text = {copy(w, x->data + x->offsets[i], size), size, (int64_t[]){0, size}, x->validity, x->first_bit + i, 1};
        written = text.data ? match(m, w, &text, offsets + i, written) : MC_OUT_OF_MEMORY;
    }
    if (written < 0) return written;
    /* Hand over an array of the exact size; realloc shrinks in place. */
    *values = w->values;
    w->values = NULL;
    w->values_room = 0;
    uint32_t *exact = realloc(*values, (size_t)(written ? written : 1) * sizeof **values);
    if (exact) *values = exact;
    return written;
}

int64_t mc_find(const mc_machine *m, mc_workspace *w, const uint8_t *data, int64_t size, const uint32_t **values) {
    mc_strings text = {.data = copy(w, data, size), .offsets = (int64_t[]){0, size}, .n = 1};
    int32_t offsets[2];
    int64_t n = text.data ? match(m, w, &text, offsets, 0) : MC_OUT_OF_MEMORY;
    *values = w->values;
    return n;
}

int64_t mc_unite(const uint32_t *first, const int32_t *first_offsets, const uint32_t *second,
                 const int32_t *second_offsets, int64_t n_texts, int32_t *offsets, uint32_t **values) {
    int64_t n = 0, room = (int64_t)first_offsets[n_texts] + second_offsets[n_texts];
    uint32_t *out = malloc((size_t)(room ? room : 1) * sizeof *out);
    if (!out) return MC_OUT_OF_MEMORY;
    offsets[0] = 0;
    for (int64_t t = 0; t < n_texts; t++) {
        int32_t i = first_offsets[t], i_end = first_offsets[t + 1], j = second_offsets[t], j_end = second_offsets[t + 1];
        /* An entry is in one machine only, so no id is in both. */
        while (i < i_end && j < j_end) out[n++] = first[i] < second[j] ? first[i++] : second[j++];
        while (i < i_end) out[n++] = first[i++];
        while (j < j_end) out[n++] = second[j++];
        if (n > INT32_MAX) {
            free(out);
            return MC_TOO_MANY_MATCHES;
        }
        offsets[t + 1] = (int32_t)n;
    }
    *values = out;
    return n;
}
