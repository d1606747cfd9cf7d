/* The compiled loops of metaclip: a C11 library without Python.

   Python (metaclip/native/__init__.py) loads it with ctypes and passes addresses of numpy's and Arrow's buffers. All
   functions are reentrant; memory that a function returns is freed with mc_free. Arrays of the automaton are aligned;
   texts are not. The machine is little-endian.

     match.c       from texts to sorted sets of entry ids
     automaton.c   builds the tables that match.c walks, and checks tables that were read from a file
     pairs.c       uids, the draw, expected numbers */

#ifndef METACLIP_H
#define METACLIP_H

#include <stdint.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "metaclip needs a little-endian machine"
#endif

#if defined(_WIN32)
#define MC_API __declspec(dllexport)
#else
#define MC_API __attribute__((visibility("default")))
#endif
#define MC_INLINE static inline __attribute__((always_inline))

/* Bytes behind the end of a text, and behind the bytes of all symbols, that may be read. */
enum { MC_READABLE = 64 };

/* What functions return instead of a size. */
enum { MC_OUT_OF_MEMORY = -1, MC_TOO_MANY_MATCHES = -2 };

/* "metaclip sources " and the sha256 of the sources that this library was compiled from; read from the file (build.py). */
MC_API extern const char mc_sources[];

/* Return whether this processor has AVX2: then the same library, compiled for that, is the faster one. */
MC_API int mc_has_avx2(void);

MC_API void mc_free(void *memory);

/* A column of strings in Arrow's large_string layout: string i is data[offsets[i] .. offsets[i + 1]]. */
typedef struct {
    const uint8_t *data;
    int64_t n_data; /* the size of the buffer */
    const int64_t *offsets;
    const uint8_t *validity; /* bit first_bit + i is 0 where string i is null; NULL: no nulls */
    int64_t first_bit;
    int64_t n;
} mc_strings;

/* ---- the automaton ---- */

/* A known symbol, in the only slot where it can be. Two slots share a cache line. */
typedef struct {
    uint64_t head;   /* the key of the symbol: see keys.h */
    uint32_t symbol; /* its id, from 1; also the id of its node */
    uint32_t tail;
    uint32_t entry; /* 1 + the id of the entry that consists of this symbol alone, or 0 */
    uint32_t more;  /* the node with the next such entry (a text rule may make entries equal), or 0 */
    uint64_t unused;
} mc_slot;

/* The bytes of symbol s are bytes[symbols[s].first .. symbols[s + 1].first]. */
typedef struct {
    uint32_t first;
    uint32_t next; /* the next symbol with the same key, or 0; only long symbols can share a key */
} mc_symbol;

/* A node of the trie of all entries, one step per symbol. Node 0 is the root; the node of a single symbol has its id. */
typedef struct {
    uint32_t fallback; /* where to continue without a child: the longest suffix that has children */
    uint32_t entry;    /* 1 + the id of the entry that ends here, or 0 */
    uint32_t output;   /* the next node, a suffix of this one, where an entry ends, or 0 */
    uint32_t depth;    /* the number of symbols from the root */
} mc_node;

/* A row of the hash table of edges (open addressing); a row without a child is empty. */
typedef struct {
    uint32_t node, symbol, child, unused;
} mc_edge;

/* The tables of one alphabet: words, or characters. The numbers of slots, displacements, words of the Bloom filter, edges
   and bytes of the edge filter are powers of two. */
typedef struct {
    const mc_slot *slots;
    const uint8_t *displacements;
    const uint64_t *bloom;
    const uint8_t *bytes;
    const mc_symbol *symbols;
    const mc_node *nodes;
    const mc_edge *edges;
    const uint8_t *filter;
    int64_t n_slots, n_displacements, n_bloom, n_bytes, n_symbols, n_nodes, n_edges, n_filter;
    uint64_t seed;
    int64_t most_outputs; /* the largest number of entries that end at one node, with its suffixes */
    int64_t words;        /* whether symbols are words */
    int64_t longest;      /* whether an occurrence inside a longer one is ignored */
    int64_t fold_spaces;  /* whether a run of spaces is one space */
} mc_machine;

/* Return 0 if every index in the tables is in bounds and every chain ends, else the number of the check that failed. */
MC_API int64_t mc_check(const mc_machine *machine, int64_t n_entries);

/* Compute the keys and hashes of the symbols 1 .. n_symbols (arrays of n_symbols + 1). */
MC_API void mc_symbol_keys(const uint8_t *bytes, const mc_symbol *symbols, int64_t n_symbols, uint64_t seed,
                           uint64_t *heads, uint32_t *tails, uint64_t *hashes);

/* Add hashes to an empty Bloom filter of n_bloom words. */
MC_API void mc_fill_bloom(const uint64_t *hashes, int64_t n, uint64_t *bloom, int64_t n_bloom);

/* Find the displacement of each bucket that sends its keys to free slots. `order` lists the keys by bucket, `buckets` the
   buckets from the largest. `used` (n_slots bytes) is 0. Return 0 if some bucket has no such displacement, else 1. */
MC_API int64_t mc_displace(const uint64_t *hashes, const int64_t *order, const int64_t *bucket_starts,
                           const int64_t *buckets, int64_t n_buckets, int64_t n_slots, uint8_t *displacements,
                           uint8_t *used, int64_t *slots);

/* Build the trie of entries: entry ids[i] consists of symbols[starts[i] .. starts[i + 1]], and ids ascend.

   `nodes` has room for 1 + n_symbols + (the symbols beyond the first of each entry) + n_entries rows, all 0; `edges` for
   the symbols beyond the first of each entry: {node, symbol, child}. Return the number of edges; write the number of
   nodes, and the largest number of outputs (of `longest`: of entries that are equal). */
MC_API int64_t mc_build_trie(const uint32_t *symbols, const int64_t *starts, const uint32_t *ids, int64_t n_entries,
                             int64_t n_symbols, int64_t longest, mc_node *nodes, mc_edge *edges, int64_t *n_nodes,
                             int64_t *most_outputs);

/* Enter edges into an empty hash table of n_table rows, and into an empty filter of n_filter bytes. */
MC_API void mc_fill_edges(const mc_edge *edges, int64_t n_edges, mc_edge *table, int64_t n_table, uint8_t *filter,
                          int64_t n_filter);

/* ---- matching ---- */

/* The memory of one thread that matches by one machine; reused from call to call. */
typedef struct mc_workspace mc_workspace;

MC_API mc_workspace *mc_workspace_new(const mc_machine *machine);
MC_API void mc_workspace_free(mc_workspace *workspace);

/* Match texts. Write their matches in Arrow's list layout: `offsets` (n + 1) and `*values`, which the caller frees.
   Return the number of values, or an error. */
MC_API int64_t mc_match(const mc_machine *machine, mc_workspace *workspace, const mc_strings *texts, int32_t *offsets,
                        uint32_t **values);

/* Match one text. `*values` points to its ascending entry ids, until the next call. Return their number, or an error. */
MC_API int64_t mc_find(const mc_machine *machine, mc_workspace *workspace, const uint8_t *text, int64_t size,
                       const uint32_t **values);

/* Unite two columns of matches; as mc_match. */
MC_API int64_t mc_unite(const uint32_t *first, const int32_t *first_offsets, const uint32_t *second,
                        const int32_t *second_offsets, int64_t n_texts, int32_t *offsets, uint32_t **values);

/* ---- pairs: metaclip/pool/uid.py and metaclip/curate/draw.py state the laws ---- */

/* Parse strings of up to 32 hex digits as uids (high, low); `kinds`: 0 parsed, 1 another string, 2 empty or null. */
MC_API void mc_hex(const mc_strings *strings, uint64_t *uids, uint8_t *kinds);

/* Write md5(first[i] + second[i]) as uids (high, low); `second` may be NULL, and a null is an empty string. */
MC_API void mc_md5(const mc_strings *first, const mc_strings *second, uint64_t *uids);

/* Rows of matches: row i has values[offsets[i] .. offsets[i + 1]]. */
typedef struct {
    const uint32_t *values;
    const int64_t *offsets;
    int64_t n;
} mc_rows;

/* Compute P(keep) of each row. */
MC_API void mc_keep_probabilities(const mc_rows *rows, const double *probability, double *result);

/* Draw rows. `sums`: expected number, variance (both in units of 2^-32) and number kept, added to. */
MC_API void mc_draw(const mc_rows *rows, const double *probability, const uint64_t *uids, uint64_t key, double *drawn,
                    uint8_t *keep, uint64_t *expected, uint64_t *kept, uint64_t *sums);

/* Add P(keep) of rows under each of n_t thresholds, in units of 2^-32, to `sums`, and, unless `by_entry` (n_t numbers for
   each entry) is NULL, to those of the row's entries. With n_t rounded up to a multiple of MC_WIDTH, `thresholds` has so many
   numbers and `scratch` room for twice as many. */
enum { MC_WIDTH = 16 };
MC_API void mc_expect(const mc_rows *rows, const uint64_t *counts, const double *thresholds, int64_t n_t, uint64_t *sums,
                      uint64_t *by_entry, double *scratch);

/* Count ids: counts[ids[i]] += 1. */
MC_API void mc_count(const uint32_t *ids, int64_t n, uint64_t *counts);

#endif
