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

#include "metaclip.h"

#if defined(__x86_64__)
#include <cpuid.h>
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

typedef struct { uint32_t symbol, position; } known; /* a symbol that entries have */
typedef struct { uint32_t at, node; } pair; /* the index of a known symbol that continues the one before; their node */
typedef struct { uint32_t position, id; } deeper; /* a match of several symbols that ends at a position */

/* The memory of one thread that matches by one machine; reused from call to call. */
typedef struct {
    row rows[ROWS];
    known known[ROWS];
    uint32_t before[ROWS]; /* the number of ids before each row, and behind the last one */
    struct { int32_t rows, positions; } ends[ROWS]; /* rows and positions up to the end of each text of the chunk */
    pair pairs[ROWS];
    int64_t burst; /* the most ids that one chunk can give: those of each symbol, and of the node to which it leads */
    deeper *deeper;
    uint32_t *ids; /* of the texts of the chunk, and of the text that the next chunk continues */
    int64_t *firsts; /* longest: the position, from the start of the call, of the first symbol of each id */
    uint32_t *values; /* the result */
    /* stamps[node] is the number of the text for which the outputs of a node, and those behind it, were written last.
       So entries that contain each other ("a", "a a", "a a a", ...) are output once per text, not at every position. */
    uint32_t *stamps;
    uint32_t stamp; /* the number of the text with which the chunk begins */
    uint8_t *copy;  /* of the end of a column or of a single text, with MC_READABLE bytes behind it */
    int64_t ids_room, firsts_room, values_room, copy_room;
} mc_workspace;

/* Make room for `wanted` items; 1.5 times as many at least, so that growing is rare. Return whether memory ran out. */
int reserve(void **array, int64_t *room, int64_t wanted, int64_t item) {
    if (wanted <= *room) return 0;
    void *grown = realloc(*array, (size_t)((wanted + wanted / 2) * item));
    if (!grown) return 1;
    *array = grown;
    *room = wanted + wanted / 2;
    return 0;
}

MC_API void mc_free(void *memory) { free(memory); }

MC_API void mc_workspace_free(mc_workspace *w) {
    if (!w) return;
    void *owned[] = {w->deeper, w->ids, w->firsts, w->values, w->stamps, w->copy, w};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
}

MC_API mc_workspace *mc_workspace_new(const mc_machine *machine) {
    mc_workspace *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    w->burst = 2 * CHUNK * machine->most_outputs + 1;
    w->deeper = malloc((size_t)(w->burst + 1) * sizeof *w->deeper); /* touched as far as it is used */
    w->stamps = calloc((size_t)machine->n_nodes, sizeof *w->stamps);
    if (w->deeper && w->stamps) return w;
    mc_workspace_free(w);
    return NULL;
}

/* Where matching continues in the next chunk. */
typedef struct {
    int64_t text;
    const uint8_t *start; /* words: where the current word begins */
    const uint8_t *at;    /* the next block (words) or character; NULL: at the start of the text */
    int spaced;           /* characters: whether the last symbol was a space */
    int skipped;          /* characters: whether the text is null, or has no character of a script without spaces */
    uint32_t node;
    int64_t n_ids;
    int64_t base, positions; /* the number of positions of the chunks before this one, and of this one */
    int64_t written;
} progress;

/* ---- pass 1: split ---- */

/* Return the bits of separators among 64 bytes: the marks , . ; : ? ! ` and the blanks space, tab and line ends. */
MC_INLINE uint64_t find_separators(const uint8_t *block) {
    uint64_t bits = 0;
    for (size_t i = 0; i < BLOCK; i += sizeof(vector)) {
        vector c;
        memcpy(&c, block + i, sizeof c);
        /* ':' and ';' differ only in the lowest bit, ',' and '.' only in the second lowest. */
        vector found = (vector)(c == ' ') | (vector)(c == '\t') | (vector)(c == '\n') | (vector)(c == '\r') |
                       (vector)(c == '!') | (vector)(c == '?') | (vector)(c == '`') | (vector)((c & 0xFE) == ':') |
                       (vector)((c & 0xFD) == ',');
        bits |= top_bits(found) << i;
    }
    return bits;
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
    for (; t < n_texts && position + SPLIT_ROOM <= CHUNK; t++) {
        const uint8_t *stop = x->data + x->offsets[t + 1];
        int done = is_null(x, t); /* a null has no words, not even the empty one */
        if (!block) start = block = x->data + x->offsets[t];
        for (; !done && position + SPLIT_ROOM <= CHUNK; block += BLOCK) {
            uint64_t separators = find_separators(block);
            done = stop - block < BLOCK;
            if (done) { /* the end of the text ends its last word */
                uint64_t end = (uint64_t)1 << (stop - block);
                separators = (separators & (end - 1)) | end;
            }
            for (; separators; separators &= separators - 1) {
                const uint8_t *at = block + __builtin_ctzll(separators);
                /* Always written, kept if it may be known. */
                uint64_t hash = put_symbol(rows + n, start, at - start, position, seed);
                int there = (at != start) | !fold;
                n += there & may_be_known(m, shift, hash);
                position += there;
                if ((*at > ' ') & (at != stop)) { /* a mark is a word, too; most separators are blanks */
                    put_symbol(rows + n, at, 1, position, seed);
                    n++;
                    position++;
                }
                start = at + 1;
            }
        }
        if (!done) break;
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

/* Write a space, unless spaces are folded and one is there already. */
MC_INLINE int64_t put_space(const mc_machine *m, row *out, int64_t position, int spaced) {
    put_symbol(out, (const uint8_t *)"            ", 1, position, m->seed);
    return !(m->fold_spaces && spaced);
}

/* Return whether a text holds characters that may be of a script without spaces: U+0E00 to U+1E7F, or from U+2E80 on. */
static int may_be_unspaced(const uint8_t *at, const uint8_t *stop) {
    uint64_t bits = 0; /* the highest bit of a byte: whether its three highest bits are set, as in characters of three bytes */
    const uint8_t *i = at;
    for (; stop - i >= 8; i += 8) {
        uint64_t word = load64(i);
        bits |= word & word << 1 & word << 2;
    }
    for (; i < stop; i++) bits |= *i & (uint64_t)(*i << 1) & (uint64_t)(*i << 2);
    if (!(bits & 0x8080808080808080u)) return 0;
    for (i = at; i < stop; i++) {
        uint8_t c = *i, next = i + 1 < stop ? i[1] : 0;
        if (c >= 0xE3 || c == 0xE0 || (c == 0xE1 && next < 0xBA) || (c == 0xE2 && next >= 0xBA)) return 1;
    }
    return 0;
}

/* Split texts into the characters of their padded, spaced form until the chunk is full; return the number of rows. All
   characters are kept, because nearly all are known. */
static int64_t split_characters(const mc_machine *m, mc_workspace *w, const mc_strings *x, progress *p) {
    int64_t n = 0, ended = 0, t = p->text;
    const uint8_t *at = p->at;
    int spaced = p->spaced, skipped = p->skipped;
    row *rows = w->rows;
    for (; t < x->n && n + ended + 5 <= CHUNK; t++) {
        const uint8_t *stop = x->data + x->offsets[t + 1];
        if (!at) {
            at = x->data + x->offsets[t];
            /* Unless words are in this machine, too, each entry begins or ends with a character of these scripts. */
            skipped = is_null(x, t) || (!m->longest && !may_be_unspaced(at, stop));
            if (skipped) at = stop;
            if (!skipped) n += put_space(m, rows + n, n + ended, 0);
            spaced = 1;
        }
        while (at < stop && n + ended + 5 <= CHUNK) {
            uint8_t c = *at;
            int blank = c == ' ' || c == '\t' || c == '\n' || c == '\r', size = 1;
            int mark = c == ',' || c == '.' || c == ';' || c == ':' || c == '?' || c == '!' || c == '`';
            if (blank || mark) n += put_space(m, rows + n, n + ended, spaced);
            if (!blank) {
                /* Invalid UTF-8 must not hide a separator: only continuation bytes belong to a character. */
                int most = 1 + (c >= 0xC0) + (c >= 0xE0) + (c >= 0xF0);
                while (size < most && at + size < stop && (at[size] & 0xC0) == 0x80) size++;
                put_symbol(rows + n, at, size, n + ended, m->seed);
                n++;
            }
            if (mark) n += put_space(m, rows + n, n + ended, 0);
            spaced = blank || mark;
            at += size;
        }
        if (at < stop || n + ended + 2 > CHUNK) break;
        if (!skipped) n += put_space(m, rows + n, n + ended, spaced);
        w->ends[ended].rows = (int32_t)n;
        w->ends[ended].positions = (int32_t)(n + ended);
        ended++;
        at = NULL;
    }
    p->text = t;
    p->at = at;
    p->spaced = spaced;
    p->skipped = skipped;
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

/* Return the number that stamps have in the text of a position; `text` follows ascending positions through the chunk. */
MC_INLINE uint32_t stamp_at(const mc_workspace *w, int64_t n_ended, uint32_t position, int64_t *text) {
    while (*text < n_ended && w->ends[*text].positions <= (int32_t)position) ++*text;
    return w->stamp + (uint32_t)*text;
}

/* Write {symbol, position} of each row that is known, and the ids of entries that consist of its symbol; return how many
   rows are known. */
static int64_t look_up(const mc_machine *m, mc_workspace *w, int64_t n, int64_t n_ended, progress *p) {
    const uint64_t buckets = (uint64_t)m->n_displacements - 1;
    const int shift = 64 - log2_of(m->n_slots);
    row *rows = w->rows;
    for (int64_t i = 0; i < n; i++) {
        uint64_t h = rows[i].hash;
        rows[i].slot = m->slots + slot_of(h, m->displacements[h & buckets], shift);
        __builtin_prefetch(rows[i].slot);
    }
    int64_t found = 0, n_ids = p->n_ids, text = 0;
    for (int64_t i = 0; i < n; i++) {
        const row *r = rows + i;
        const mc_slot *slot = r->slot;
        uint32_t symbol = slot->symbol, entry = slot->entry, more = slot->more;
        int same = (slot->head == r->head) & (slot->tail == r->tail);
        w->before[i] = (uint32_t)n_ids;
        if (slot->tail >= LONG_TAIL && same) { /* the key holds a hash: the bytes decide */
            symbol = confirm(m, symbol, r->start, r->tail & LONGEST);
            same = symbol != 0;
            entry = m->nodes[symbol].entry;
            more = m->nodes[symbol].output;
        }
        /* Always written, kept if it is known. */
        w->known[found] = (known){symbol, r->position};
        found += same;
        w->ids[n_ids] = entry - 1;
        n_ids += (entry != 0) & same;
        if (more && same) { /* entries that a rule makes equal */
            uint32_t stamp = stamp_at(w, n_ended, r->position, &text);
            for (; more && w->stamps[more] != stamp; more = m->nodes[more].output) {
                w->stamps[more] = stamp;
                w->ids[n_ids++] = m->nodes[more].entry - 1;
            }
        }
    }
    w->before[n] = (uint32_t)n_ids;
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
    return m->edges[find_edge(m->edges, m->n_edges, node, symbol)].child;
}

/* Follow goto and fallback from a node by a symbol. */
MC_INLINE uint32_t step(const mc_machine *m, uint32_t node, uint32_t symbol) {
    for (; node; node = m->nodes[node].fallback) {
        uint32_t child = may_lead(m, edge_hash(node, symbol)) ? child_of(m, node, symbol) : 0;
        if (child) return child;
    }
    return symbol;
}

/* Find each known symbol that continues the one before it: write its index and the node to which both lead. Behind them,
   write `found`. Each loop asks for the memory that the next one reads, so that pairs do not wait for it one by one. */
static void find_pairs(const mc_machine *m, mc_workspace *w, int64_t found) {
    const known *known = w->known;
    pair *pairs = w->pairs;
    int64_t n = 0, may = 0, lead = 0;
    uint32_t expected = NEVER;
    for (int64_t i = 0; i < found; i++) {
        pairs[n].at = (uint32_t)i; /* always written, kept if they are consecutive */
        n += known[i].position == expected;
        expected = known[i].position + 1;
    }
    const int shift = 64 - log2_of(m->n_edges);
    for (int64_t i = 0; i < n; i++) {
        uint32_t k = pairs[i].at;
        uint64_t hash = edge_hash(known[k - 1].symbol, known[k].symbol);
        int kept = may_lead(m, hash);
        pairs[may].at = k;
        __builtin_prefetch(m->edges + (kept ? hash >> shift : 0));
        may += kept;
    }
    for (int64_t i = 0; i < may; i++) {
        uint32_t k = pairs[i].at, node = child_of(m, known[k - 1].symbol, known[k].symbol);
        pairs[lead] = (pair){k, node};
        __builtin_prefetch(m->nodes + node);
        __builtin_prefetch(w->stamps + node);
        lead += node != 0;
    }
    pairs[lead] = (pair){(uint32_t)found, found ? known[found - 1].symbol : 0};
}

/* Walk where the automaton can go beyond depth 1; write what is found there to `deeper`, then a position NEVER. */
static void walk(const mc_machine *m, mc_workspace *w, int64_t found, int64_t n_ended, progress *p) {
    find_pairs(m, w, found);
    const mc_node *nodes = m->nodes;
    const known *known = w->known;
    deeper *out = w->deeper;
    uint32_t node = p->node, last = NEVER; /* `last` is the position of the symbol that led to `node` */
    const pair *next = w->pairs;
    int64_t text = 0;
    for (int64_t i = 0; i < found; i++) {
        uint32_t symbol = known[i].symbol;
        node = node && known[i].position == last + 1 ? step(m, node, symbol) : symbol;
        if (node == symbol) { /* go to the next pair that leads deeper */
            while (next->at < i) next++;
            i = next->at;
            node = next->node;
            if (i == found) break;
            symbol = known[i].symbol;
        }
        last = known[i].position;
        uint32_t stamp = stamp_at(w, n_ended, last, &text);
        /* Pass 2 has output the entries of the symbol alone. */
        for (uint32_t x = node; x && x != symbol && w->stamps[x] != stamp; x = nodes[x].output) {
            w->stamps[x] = stamp;
            *out = (deeper){last, nodes[x].entry - 1};
            out += nodes[x].entry != 0;
        }
    }
    if (found) last = known[found - 1].position;
    p->node = last + 1 == (uint32_t)p->positions ? node : 0;
    out->position = NEVER;
}

/* Walk over all known symbols, but keep only occurrences that do not lie inside a longer one.

   Occurrences come by ascending ends, so one can only lie inside a later one: `ids` is a stack from which a new one
   removes all that begin where it begins or later. What pass 2 wrote there is overwritten; `ends` receives the number of
   ids instead of the number of rows. */
static void walk_longest(const mc_machine *m, mc_workspace *w, int64_t found, int64_t n_ended, progress *p) {
    const mc_node *nodes = m->nodes;
    int64_t n_ids = p->n_ids, bottom = 0, t = 0;
    uint32_t node = p->node, last = NEVER;
    for (int64_t i = 0; i < found; i++) {
        uint32_t symbol = w->known[i].symbol, position = w->known[i].position;
        for (; t < n_ended && w->ends[t].positions <= (int32_t)position; t++) w->ends[t].rows = (int32_t)(bottom = n_ids);
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
    for (; t < n_ended; t++) w->ends[t].rows = (int32_t)n_ids;
    p->n_ids = n_ids;
    p->node = last + 1 == (uint32_t)p->positions ? node : 0;
    w->deeper->position = NEVER;
}

/* ---- pass 4: collect ---- */

/* Put v[i] and v[j] in order, without a branch. */
#define ORDER(i, j) { uint32_t x = v[i], y = v[j]; v[i] = x < y ? x : y; v[j] = x < y ? y : x; }

/* Write sorted ids without repetitions, to the same place or another; return how many are left. */
MC_INLINE int64_t drop_repetitions(uint32_t *target, const uint32_t *ids, int64_t n) {
    int64_t size = 0;
    for (int64_t i = 0; i < n; i++) {
        int another = i == 0 || ids[i] != ids[i - 1];
        target[size] = ids[i]; /* always written, kept if it is another one */
        size += another;
    }
    return size;
}

/* Write the sorted set of 1 to 8 ids by Batcher's networks, because their order is unpredictable; return its size. */
MC_INLINE int64_t sort_few(uint32_t *target, const uint32_t *ids, int64_t n) {
    uint32_t v[8];
    for (int i = 0; i < 8; i++) v[i] = i < n ? ids[i] : NEVER;
    if (n <= 4) {
        ORDER(0, 1) ORDER(2, 3) ORDER(0, 2) ORDER(1, 3) ORDER(1, 2)
    } else {
        ORDER(0, 1) ORDER(2, 3) ORDER(4, 5) ORDER(6, 7) ORDER(0, 2) ORDER(1, 3) ORDER(4, 6) ORDER(5, 7) ORDER(1, 2)
        ORDER(5, 6) ORDER(0, 4) ORDER(1, 5) ORDER(2, 6) ORDER(3, 7) ORDER(2, 4) ORDER(3, 5) ORDER(1, 2) ORDER(3, 4) ORDER(5, 6)
    }
    return drop_repetitions(target, v, n);
}

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Sort ids and drop repetitions, in place; return how many are left. */
static int64_t sort_unique(uint32_t *ids, int64_t n) {
    if (n > 32) qsort(ids, (size_t)n, sizeof *ids, compare);
    for (int64_t i = 1; i < n && n <= 32; i++) {
        uint32_t id = ids[i];
        int64_t at = i;
        for (; at && ids[at - 1] > id; at--) ids[at] = ids[at - 1];
        ids[at] = id;
    }
    return drop_repetitions(ids, ids, n);
}

/* Write the ids of the texts that ended in the chunk to the result; move those of the text that continues to the front. */
static void collect(mc_workspace *w, int longest, int64_t first_text, int64_t n_ended, int32_t *offsets, progress *p) {
    int64_t begin = 0, written = p->written;
    const deeper *more = w->deeper;
    for (int64_t t = 0; t < n_ended; t++) {
        int64_t end = longest ? w->ends[t].rows : (int64_t)w->before[w->ends[t].rows], n = end - begin;
        uint32_t *target = w->values + written;
        const uint32_t *ids = w->ids + begin;
        if (n > 8 || more->position < (uint32_t)w->ends[t].positions) {
            ids = memcpy(target, ids, (size_t)n * sizeof *ids);
            for (; more->position < (uint32_t)w->ends[t].positions; more++) target[n++] = more->id;
        }
        if (n) written += n <= 8 ? sort_few(target, ids, n) : sort_unique(target, n);
        offsets[first_text + t + 1] = (int32_t)written;
        begin = end;
    }
    int64_t left = p->n_ids - begin;
    if (begin) memmove(w->ids, w->ids + begin, (size_t)left * sizeof *w->ids);
    if (begin && longest) memmove(w->firsts, w->firsts + begin, (size_t)left * sizeof *w->firsts);
    for (; more->position != NEVER; more++) w->ids[left++] = more->id;
    p->n_ids = left;
    p->written = written;
}

/* ---- calls ---- */

/* Return whether this processor has AVX2: then the same library, compiled for that, is the faster one. */
MC_API int mc_has_avx2(void) {
#if defined(__x86_64__)
    /* Not __builtin_cpu_supports, which is always false in what zig compiles. */
    unsigned a, b, c, d, saved = 0; /* bit 27: xgetbv can be used; 1 and 2: the system saves the vector registers */
    if (__get_cpuid(1, &a, &b, &c, &d) && c >> 27 & 1) __asm__("xgetbv" : "=a"(saved), "=d"(d) : "c"(0));
    return (saved & 6) == 6 && __get_cpuid_count(7, 0, &a, &b, &c, &d) && b >> 3 & 1 && b >> 5 & 1; /* BMI, AVX2 */
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
        int64_t first_text = p.text, n_ids = p.n_ids;
        int64_t n = m->words ? split_words(m, w, x, &p) : split_characters(m, w, x, &p), n_ended = p.text - first_text;
        int64_t found = look_up(m, w, n, n_ended, &p);
        if (longest) {
            p.n_ids = n_ids;
            walk_longest(m, w, found, n_ended, &p);
        } else {
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

/* Match texts. Write their matches in Arrow's list layout: `offsets` (n + 1) and `*values`, which the caller frees.
   Return the number of values, or an error. */
MC_API int64_t mc_match(const mc_machine *m, mc_workspace *w, const mc_strings *x, int32_t *offsets, uint32_t **values) {
    /* Passes read behind the end of a text. The texts that are too close to the end of the buffer are the last ones. */
    mc_strings head = *x;
    while (head.n && x->offsets[head.n] + MC_READABLE > x->n_data) head.n--;
    offsets[0] = 0;
    /* Memory that is not touched costs nothing; growing would copy. */
    if (reserve((void **)&w->values, &w->values_room, 3 * x->n + w->burst, sizeof *w->values)) return MC_OUT_OF_MEMORY;
    int64_t written = match(m, w, &head, offsets, 0), size;
    for (int64_t i = head.n; i < x->n && written >= 0; i++) {
        size = x->offsets[i + 1] - x->offsets[i];
        const uint8_t *data = copy(w, x->data + x->offsets[i], size);
        mc_strings text = {data, size, (int64_t[]){0, size}, x->validity, x->first_bit + i, 1};
        written = data ? match(m, w, &text, offsets + i, written) : MC_OUT_OF_MEMORY;
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

/* Match one text. `*values` points to its ascending entry ids, until the next call. Return their number, or an error. */
MC_API int64_t mc_find(const mc_machine *m, mc_workspace *w, const uint8_t *data, int64_t size, const uint32_t **values) {
    mc_strings text = {.data = copy(w, data, size), .offsets = (int64_t[]){0, size}, .n = 1};
    int32_t offsets[2];
    int64_t n = text.data ? match(m, w, &text, offsets, 0) : MC_OUT_OF_MEMORY;
    *values = w->values;
    return n;
}

/* Unite two columns of matches; as mc_match. */
MC_API int64_t mc_unite(const uint32_t *first, const int32_t *first_offsets, const uint32_t *second,
                        const int32_t *second_offsets, int64_t n_texts, int32_t *offsets, uint32_t **values) {
    int64_t n = 0, room = (int64_t)first_offsets[n_texts] + second_offsets[n_texts];
    if (room > INT32_MAX) return MC_TOO_MANY_MATCHES;
    uint32_t *out = malloc((size_t)(room ? room : 1) * sizeof *out);
    if (!out) return MC_OUT_OF_MEMORY;
    offsets[0] = 0;
    for (int64_t t = 0, i = 0, j = 0; t < n_texts; t++) {
        int64_t end = first_offsets[t + 1], second_end = second_offsets[t + 1];
        /* An entry is in one machine only, so no id is in both. */
        while (i < end && j < second_end) out[n++] = first[i] < second[j] ? first[i++] : second[j++];
        while (i < end) out[n++] = first[i++];
        while (j < second_end) out[n++] = second[j++];
        offsets[t + 1] = (int32_t)n;
    }
    *values = out;
    return n;
}
