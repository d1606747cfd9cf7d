/* Keys and hashes of symbols and edges, shared by the code that builds an automaton and the code that walks it.

   A key is 12 bytes: the symbol's own bytes, up to 11, and its size; for a longer symbol, a hash and its size. So a hit on
   a short key compares the bytes themselves, and a long one is confirmed on its bytes. */

#ifndef METACLIP_KEYS_H
#define METACLIP_KEYS_H

#include <string.h>

#include "metaclip.h"

enum { SHORT = 11, LONGEST = 0xFFFFFF }; /* sizes in bytes; a symbol of an entry is shorter than LONGEST */
static const uint32_t LONG_TAIL = 0xFF000000u; /* the tail of a long key is at least this */

/* Odd 64-bit constants with well mixed bits; B and C are SplitMix64's. */
static const uint64_t MULTIPLIER = 0xD6E8FEB86659FD93u, B = 0xBF58476D1CE4E5B9u, C = 0x94D049BB133111EBu;

MC_INLINE uint64_t load64(const uint8_t *at) {
    uint64_t word;
    memcpy(&word, at, 8);
    return word;
}

MC_INLINE uint32_t load32(const uint8_t *at) {
    uint32_t word;
    memcpy(&word, at, 4);
    return word;
}

MC_INLINE int is_null(const mc_strings *x, int64_t i) {
    return x->validity && !(x->validity[(x->first_bit + i) >> 3] >> ((x->first_bit + i) & 7) & 1);
}

MC_INLINE int log2_of(int64_t power_of_two) { return __builtin_ctzll((uint64_t)power_of_two); }

typedef struct {
    uint64_t head;
    uint32_t tail;
} symbol_key;

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
MC_INLINE uint64_t slot_of(uint64_t hash, uint8_t displacement, int shift) {
    return ((hash ^ (displacement * B)) * C) >> shift;
}

/* Return the two bits that a hash sets in its word of the Bloom filter. */
MC_INLINE uint64_t bloom_bits(uint64_t hash) { return (uint64_t)1 << (hash & 63) | (uint64_t)1 << (hash >> 6 & 63); }

MC_INLINE uint64_t edge_hash(uint32_t node, uint32_t symbol) {
    return ((uint64_t)symbol << 32 | node) * MULTIPLIER;
}

#endif
