/* Pairs: uids from hex digits and by MD5 (RFC 1321), the draw, and expected numbers.

   The laws are in metaclip/pool/uid.py and metaclip/curate/draw.py, with numpy implementations of the same bits. The
   library is compiled with -ffp-contract=off: a fused multiply-add would change the last bit of P(keep). */

#include <math.h>

#include "metaclip.h"

/* ---- uids ---- */

MC_INLINE int64_t size_of(const mc_strings *x, int64_t i) { return is_null(x, i) ? 0 : x->offsets[i + 1] - x->offsets[i]; }

/* Parse strings of up to 32 hex digits as uids (high, low); `kinds`: 0 parsed, 1 another string, 2 empty or null. */
MC_API void mc_hex(const mc_strings *x, uint64_t *uids, uint8_t *kinds) {
    enum { PARSED, OTHER, EMPTY };
    uint8_t digits[256];
    memset(digits, 16, sizeof digits);
    for (int i = 0; i < 16; i++) digits[(uint8_t)"0123456789abcdef"[i]] = digits[(uint8_t)"0123456789ABCDEF"[i]] = (uint8_t)i;
    for (int64_t i = 0; i < x->n; i++) {
        const uint8_t *at = x->data + x->offsets[i];
        int64_t size = size_of(x, i);
        kinds[i] = size ? OTHER : EMPTY;
        if (!size || size > 32) continue;
        uint64_t high = 0, low = 0;
        uint8_t wrong = 0;
        for (int64_t j = 0; j < size; j++) {
            uint8_t digit = digits[at[j]];
            wrong |= digit;
            high = high << 4 | low >> 60;
            low = low << 4 | (digit & 15);
        }
        uids[2 * i] = high;
        uids[2 * i + 1] = low;
        kinds[i] = wrong > 15 ? OTHER : PARSED;
    }
}

/* MD5 of many messages at once, one in each lane, so that the compiler can use vector instructions: the rounds of a single
   message depend on each other and cannot. A lane that has finished its message takes the next one. */
enum { MESSAGES = 32 };

typedef struct {
    uint32_t words[16][MESSAGES];
    uint32_t state[4][MESSAGES];
    uint32_t sines[64]; /* RFC 1321, section 3.4 */
} md5_lanes;

#define ROTATE(x, by) ((x) << (by) | (x) >> (32 - (by)))
#define MD5_STEP(MIX, A, B_, C_, D, WORD, SUM, TURN)                                                                   \
    for (int l = 0; l < MESSAGES; l++) {                                                                                  \
        uint32_t b = s[B_][l], c = s[C_][l], d = s[D][l];                                                              \
        uint32_t x = s[A][l] + MIX + m->words[WORD][l] + SUM;                                                          \
        s[A][l] = b + ROTATE(x, TURN);                                                                                 \
    }
#define MD5_ROUND(MIX, TIMES, PLUS, T0, T1, T2, T3, SUMS)                                                              \
    for (int i = 0; i < 16; i += 4) {                                                                                  \
        MD5_STEP(MIX, 0, 1, 2, 3, ((TIMES) * i + (PLUS)) & 15, SUMS[i], T0)                                            \
        MD5_STEP(MIX, 3, 0, 1, 2, ((TIMES) * (i + 1) + (PLUS)) & 15, SUMS[i + 1], T1)                                  \
        MD5_STEP(MIX, 2, 3, 0, 1, ((TIMES) * (i + 2) + (PLUS)) & 15, SUMS[i + 2], T2)                                  \
        MD5_STEP(MIX, 1, 2, 3, 0, ((TIMES) * (i + 3) + (PLUS)) & 15, SUMS[i + 3], T3)                                  \
    }

static void md5_block(md5_lanes *m) {
    uint32_t s[4][MESSAGES];
    memcpy(s, m->state, sizeof s);
    MD5_ROUND((d ^ (b & (c ^ d))), 1, 0, 7, 12, 17, 22, m->sines)
    MD5_ROUND((c ^ (d & (b ^ c))), 5, 1, 5, 9, 14, 20, (m->sines + 16))
    MD5_ROUND((b ^ c ^ d), 3, 5, 4, 11, 16, 23, (m->sines + 32))
    MD5_ROUND((c ^ (b | ~d)), 7, 0, 6, 10, 15, 21, (m->sines + 48))
    for (int i = 0; i < 4; i++) {
        for (int l = 0; l < MESSAGES; l++) m->state[i][l] += s[i][l];
    }
}

/* Copy what a piece of a message, which begins `before` bytes into it, has in the block of 64 bytes at `at`. */
MC_INLINE void copy_piece(uint8_t *block, int64_t at, const uint8_t *piece, int64_t before, int64_t size) {
    int64_t from = at > before ? at : before, to = before + size < at + 64 ? before + size : at + 64;
    if (from < to) memcpy(block + (from - at), piece + (from - before), (size_t)(to - from));
}

/* Write the block of 64 bytes at `at` of message i, which ends with a bit 1 and its size; return whether it is the last. */
MC_INLINE int load_block(const mc_strings *first, const mc_strings *second, int64_t i, int64_t at, uint8_t *block) {
    int64_t size = size_of(first, i), all = size + (second ? size_of(second, i) : 0);
    memset(block, 0, 64);
    copy_piece(block, at, first->data + first->offsets[i], 0, size);
    if (all > size) copy_piece(block, at, second->data + second->offsets[i], size, all - size);
    if (all >= at && all < at + 64) block[all - at] = 0x80;
    if (all + 8 >= at + 64) return 0;
    uint64_t bits = 8 * (uint64_t)all;
    memcpy(block + 56, &bits, 8);
    return 1;
}

/* Write md5(first[i] + second[i]) as uids (high, low); `second` may be NULL, and a null is an empty string. */
MC_API void mc_md5(const mc_strings *first, const mc_strings *second, uint64_t *uids) {
    static const uint32_t start[4] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};
    md5_lanes m = {0};
    int64_t message[MESSAGES], at[MESSAGES], next = 0;
    int ended[MESSAGES], active = 1;
    for (int i = 0; i < 64; i++) m.sines[i] = (uint32_t)(fabs(sin(i + 1)) * 0x1p32);
    for (int l = 0; l < MESSAGES; l++) message[l] = -1, ended[l] = 1;
    while (active) {
        active = 0;
        for (int l = 0; l < MESSAGES; l++) {
            int64_t i = message[l];
            if (ended[l]) {
                if (i >= 0) { /* the bytes of the digest are a big-endian number of 128 bits */
                    uids[2 * i] = __builtin_bswap64((uint64_t)m.state[1][l] << 32 | m.state[0][l]);
                    uids[2 * i + 1] = __builtin_bswap64((uint64_t)m.state[3][l] << 32 | m.state[2][l]);
                }
                message[l] = i = next < first->n ? next++ : -1;
                at[l] = 0;
                for (int j = 0; j < 4; j++) m.state[j][l] = start[j];
            }
            if (i < 0) continue;
            uint8_t block[64];
            ended[l] = load_block(first, second, i, at[l], block);
            for (int j = 0; j < 16; j++) m.words[j][l] = load32(block + 4 * j);
            at[l] += 64;
            active = 1;
        }
        md5_block(&m);
    }
}

/* ---- the draw ---- */

/* Return P(keep) of a row: 1 - product of (1 - p) in the order of the entries, which the law states. */
MC_INLINE double keep_probability(const mc_rows *rows, int64_t i, const double *probability) {
    double dropped = 1.0;
    for (int64_t j = rows->offsets[i]; j < rows->offsets[i + 1]; j++) dropped *= 1.0 - probability[rows->values[j]];
    return 1.0 - dropped;
}

/* Compute P(keep) of each row. */
MC_API void mc_keep_probabilities(const mc_rows *rows, const double *probability, double *result) {
    for (int64_t i = 0; i < rows->n; i++) result[i] = keep_probability(rows, i, probability);
}

/* Return floor(x * 2^32) for 0 <= x <= 1. A conversion to signed integers is one instruction; to unsigned ones, five. */
MC_INLINE uint64_t to_fixed(double x) { return (uint64_t)(int64_t)(x * 4294967296.0); }

/* The finaliser of SplitMix64. */
MC_INLINE uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * B;
    x = (x ^ x >> 27) * C;
    return x ^ x >> 31;
}

/* Draw rows. `sums`: expected number, variance (both in units of 2^-32) and number kept, added to. */
MC_API void mc_draw(const mc_rows *rows, const double *probability, const uint64_t *uids, uint64_t key, double *drawn,
                    uint8_t *keep, uint64_t *expected, uint64_t *kept, uint64_t *sums) {
    for (int64_t i = 0; i < rows->n; i++) {
        double p = keep_probability(rows, i, probability);
        uint64_t hash = mix(mix(key ^ uids[2 * i]) ^ uids[2 * i + 1]);
        int stays = (double)(int64_t)(hash >> 11) * 0x1p-53 < p;
        uint64_t fixed = to_fixed(p);
        drawn[i] = p;
        keep[i] = (uint8_t)stays;
        sums[0] += fixed;
        sums[1] += to_fixed(p * (1.0 - p));
        sums[2] += (uint64_t)stays;
        for (int64_t j = rows->offsets[i]; j < rows->offsets[i + 1]; j++) {
            expected[rows->values[j]] += fixed;
            kept[rows->values[j]] += (uint64_t)stays;
        }
    }
}

/* Vectors of the compiler: operators work on all numbers at once; a comparison gives all bits of each or none. */
enum { MC_WIDTH = 16, LANES = 4 };
typedef double doubles __attribute__((vector_size(8 * LANES), aligned(8), may_alias));
typedef int64_t integers __attribute__((vector_size(8 * LANES), aligned(8), may_alias));

/* Add P(keep) of rows under each of n_t thresholds, in units of 2^-32, to `sums`, and to those of the row's entries in `by_entry`
   (n_t numbers for each of the first `n_entries` entries; none of the others). `slopes` are the entries' probabilities at a threshold of 1, where they
   are below 1. With n_t rounded up to a multiple of MC_WIDTH, `thresholds` has so many numbers and `scratch` room for twice
   as many. */
MC_API void mc_expect(const mc_rows *rows, const double *slopes, const double *thresholds, int64_t n_t, uint64_t *sums,
                      uint64_t *by_entry, int64_t n_entries, double *scratch) {
    enum { ENTRIES = 32 }; /* of a row, at a time */
    const doubles one = 1.0 - (doubles){0}, shift = 0x1p52 - (doubles){0};
    int64_t room = (n_t + MC_WIDTH - 1) / MC_WIDTH * MC_WIDTH;
    double *dropped = scratch;
    uint64_t *fixed = (uint64_t *)(scratch + room);
    for (int64_t i = 0; i < rows->n; i++) {
        const uint32_t *ids = rows->values + rows->offsets[i], *end = rows->values + rows->offsets[i + 1];
        for (int64_t k = 0; k < room; k++) dropped[k] = 1.0;
        for (const uint32_t *first = ids; first < end; first += ENTRIES) {
            double slope[ENTRIES];
            int64_t n = end - first < ENTRIES ? end - first : ENTRIES;
            for (int64_t j = 0; j < n; j++) slope[j] = slopes[first[j]];
            for (int64_t k = 0; k < room; k += MC_WIDTH) {
                const doubles *t = (const doubles *)(thresholds + k);
                doubles *result = (doubles *)(dropped + k), product[MC_WIDTH / LANES]; /* in registers */
                for (int w = 0; w < MC_WIDTH / LANES; w++) product[w] = result[w];
                for (int64_t j = 0; j < n; j++) {
                    for (int w = 0; w < MC_WIDTH / LANES; w++) {
                        doubles rest = 1.0 - t[w] * slope[j];
                        product[w] *= (doubles)((integers)rest & (rest > 0.0)); /* max(0, rest) */
                    }
                }
                for (int w = 0; w < MC_WIDTH / LANES; w++) result[w] = product[w];
            }
        }
        /* Do what to_fixed does. Adding 2^52 rounds to an integer, which is then in the low bits. */
        for (int64_t k = 0; k < room; k += LANES) {
            doubles scaled = (1.0 - *(doubles *)(dropped + k)) * 4294967296.0, rounded = (scaled + shift) - shift;
            doubles above = (doubles)((integers)one & (rounded > scaled));
            *(integers *)(fixed + k) = (integers)((rounded - above) + shift) - (integers)shift;
        }
        for (int64_t k = 0; k < n_t; k++) sums[k] += fixed[k];
        for (; n_entries && ids < end; ids++) {
            if (*ids >= n_entries) continue;
            uint64_t *sum = by_entry + n_t * *ids;
            for (int64_t k = 0; k < n_t; k++) sum[k] += fixed[k];
        }
    }
}

/* Count ids: counts[ids[i]] += 1. */
MC_API void mc_count(const uint32_t *ids, int64_t n, uint64_t *counts) {
    for (int64_t i = 0; i < n; i++) counts[ids[i]]++;
}
