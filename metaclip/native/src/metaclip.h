/* The compiled loops of metaclip: a C11 library without Python.

   Python (metaclip/native/__init__.py) loads it with ctypes and passes addresses of numpy's and Arrow's buffers. All
   functions are reentrant; memory that a function returns is freed with mc_free. Arrays of the automaton are aligned;
   texts are not. The machine is little-endian. */

#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "metaclip needs a little-endian machine"
#endif

#if defined(_WIN32)
#define MC_API __declspec(dllexport)
#else
#define MC_API __attribute__((visibility("default")))
#endif
#define MC_INLINE static inline __attribute__((always_inline))

/* Bytes behind the end of a text, and of the bytes of all symbols, that may be read; what functions return for a size. */
enum { MC_READABLE = 64, MC_OUT_OF_MEMORY = -1, MC_TOO_MANY_MATCHES = -2 };

/* A column of strings in Arrow's large_string layout: string i is data[offsets[i] .. offsets[i + 1]]. */
typedef struct {
    const uint8_t *data;
    int64_t n_data; /* the size of the buffer */
    const int64_t *offsets;
    const uint8_t *validity; /* bit first_bit + i is 0 where string i is null; NULL: no nulls */
    int64_t first_bit;
    int64_t n;
} mc_strings;

/* Rows of matches: row i has values[offsets[i] .. offsets[i + 1]]. */
typedef struct {
    const uint32_t *values;
    const int64_t *offsets;
    int64_t n;
} mc_rows;

/* ---- vectors ---- */

/* Vectors of the compiler: an operator works on all bytes, a comparison gives 0xFF or 0 for each. */
#ifdef __AVX2__
#include <immintrin.h>
#endif
typedef uint8_t vector __attribute__((vector_size(32)));

/* Return the top bit of each byte. */
MC_INLINE uint64_t top_bits(vector v) {
#ifdef __AVX2__
    return (uint32_t)_mm256_movemask_epi8((__m256i)v);
#else
    uint64_t words[4], bits = 0;
    memcpy(words, &v, sizeof v);
    /* The product moves the highest bit of each byte into the highest byte. */
    for (int i = 0; i < 4; i++) bits |= ((words[i] >> 7 & 0x0101010101010101u) * 0x0102040810204080u >> 56) << (8 * i);
    return bits;
#endif
}

/* ---- memory ---- */

/* Make room for `wanted` items; 1.5 times as many at least, so that growing is rare. Return whether memory ran out. */
int reserve(void **array, int64_t *room, int64_t wanted, int64_t item);

/* ---- the automaton ---- */

/* A known symbol, in the only slot where it can be. Two slots share a cache line. */
typedef struct {
    uint64_t head;   /* the key of the symbol: see below */
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
typedef struct { uint32_t node, symbol, child, unused; } mc_edge;

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
    /* Whether symbols are words; whether an occurrence inside a longer one is ignored; whether a run of spaces is one. */
    int64_t words, longest, fold_spaces;
} mc_machine;

/* ---- keys and hashes of symbols ----

   A key is 12 bytes: the symbol's own bytes, up to 11, and its size; for a longer symbol, a hash and its size. So a hit
   on a short key compares the bytes themselves, and a long one is confirmed on its bytes. */

enum { SHORT = 11, LONGEST = 0xFFFFFF }; /* sizes in bytes; a symbol of an entry is shorter than LONGEST */
static const uint32_t LONG_TAIL = 0xFF000000u; /* the tail of a long key is at least this */

/* Odd 64-bit constants with well mixed bits; B and C are SplitMix64's. */
static const uint64_t MULTIPLIER = 0xD6E8FEB86659FD93u, B = 0xBF58476D1CE4E5B9u, C = 0x94D049BB133111EBu;

MC_INLINE uint64_t load64(const uint8_t *at) { uint64_t word; memcpy(&word, at, 8); return word; }
MC_INLINE uint32_t load32(const uint8_t *at) { uint32_t word; memcpy(&word, at, 4); return word; }

MC_INLINE int is_null(const mc_strings *x, int64_t i) {
    return x->validity && !(x->validity[(x->first_bit + i) >> 3] >> ((x->first_bit + i) & 7) & 1);
}

MC_INLINE int log2_of(int64_t power_of_two) { return __builtin_ctzll((uint64_t)power_of_two); }

typedef struct { uint64_t head; uint32_t tail; } symbol_key;

/* By the size of a short symbol: the bits of its first 8 bytes, and of the next 3. */
static const uint64_t HEAD_MASKS[SHORT + 1] = {0, 0xFF, 0xFFFF, 0xFFFFFF, 0xFFFFFFFF, 0xFFFFFFFFFF, 0xFFFFFFFFFFFF,
                                               0xFFFFFFFFFFFFFF, ~0ull, ~0ull, ~0ull, ~0ull};
static const uint32_t TAIL_MASKS[SHORT + 1] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFFFF, 0xFFFFFF};

MC_INLINE uint64_t long_hash(const uint8_t *start, int64_t size) {
    uint64_t h = load64(start) * MULTIPLIER;
    h ^= h >> 32;
    int64_t at = 8;
    for (; at + 8 <= size; at += 8) {
        h = (h ^ load64(start + at)) * B;
        h ^= h >> 29;
    }
    h = (h ^ load64(start + size - 8)) * C;
    return h ^ (h >> 32);
}

/* Return the key of a symbol; 12 bytes are read at `start`, whatever the size. */
MC_INLINE symbol_key key_of(const uint8_t *start, int64_t size) {
    if (size > SHORT) {
        return (symbol_key){long_hash(start, size), LONG_TAIL | (uint32_t)(size < LONGEST ? size : LONGEST)};
    }
    /* Masks from tables instead of branches: the sizes of words are unpredictable. */
    return (symbol_key){load64(start) & HEAD_MASKS[size], (load32(start + 8) & TAIL_MASKS[size]) | (uint32_t)size << 24};
}

MC_INLINE uint64_t hash_of(symbol_key key, uint64_t seed) {
    uint64_t h = (key.head ^ (key.tail * seed)) * MULTIPLIER;
    return h ^ (h >> 32);
}

/* Return the slot that a hash and the displacement of its bucket determine; the bucket is the low bits of the hash. */
MC_INLINE uint64_t slot_of(uint64_t hash, uint8_t by, int shift) { return ((hash ^ (by * B)) * C) >> shift; }

/* Return the two bits that a hash sets in its word of the Bloom filter. */
MC_INLINE uint64_t bloom_bits(uint64_t hash) { return (uint64_t)1 << (hash & 63) | (uint64_t)1 << (hash >> 6 & 63); }

MC_INLINE uint64_t edge_hash(uint32_t node, uint32_t symbol) { return ((uint64_t)symbol << 32 | node) * MULTIPLIER; }

/* Return the row of an edge in a hash table, or the empty row where it belongs. */
MC_INLINE uint64_t find_edge(const mc_edge *table, int64_t n_table, uint32_t node, uint32_t symbol) {
    uint64_t at = edge_hash(node, symbol) >> (64 - log2_of(n_table));
    for (; table[at].child; at = (at + 1) & ((uint64_t)n_table - 1)) {
        if (table[at].node == node && table[at].symbol == symbol) break;
    }
    return at;
}
