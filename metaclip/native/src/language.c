/* The languages of texts, by a supervised fastText model with hierarchical softmax (lid.176).

   Law: label and score are those of fastText's predict for the text and a line feed, up to the rounding of sums. A text is
   divided at blanks; the vectors of its words, and of the n-grams of their characters, are averaged; the label is the leaf
   of a binary tree with the highest product of probabilities. The more probable child of a node is visited first, which
   changes nothing but the number of nodes visited.
   Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification"; metaclip/extract/languages.py reads the file.

   Cost: 1.4 us per text of 57 characters. */

#include <math.h>

#include "metaclip.h"

enum { DIMENSIONS = 16, DEEPEST = 64 };

typedef float floats __attribute__((vector_size(32), aligned(4), may_alias)); /* half a vector of the model */

typedef struct {
    const float *vectors;   /* one row for each word, then for each n-gram that was kept, in the order of their hashes */
    const uint64_t *kept;   /* a bit for each hash of an n-gram */
    const uint32_t *before; /* the number of bits in the words before each word of `kept` */
    const uint8_t *words;   /* the bytes of all words and labels */
    const int64_t *word_offsets;
    const int32_t *slots; /* hash table of words and labels (open addressing), -1 where empty */
    const float *output;  /* one row for each inner node of the tree */
    const int32_t *left, *right; /* children of the nodes; leaves come first */
    int64_t n_words, n_slots, n_labels, n_buckets, shortest, longest; /* the number of slots is a power of two */
} mc_language_model;

typedef struct { floats low, high; int64_t n; } sum;

MC_INLINE void add_row(const mc_language_model *m, sum *s, int64_t row) {
    floats low, high;
    memcpy(&low, m->vectors + DIMENSIONS * row, sizeof low);
    memcpy(&high, m->vectors + DIMENSIONS * row + 8, sizeof high);
    s->low += low;
    s->high += high;
    s->n++;
}

/* FNV-1a, as fastText has it: bytes are signed. */
static const uint32_t FNV = 2166136261u;
MC_INLINE uint32_t fnv(uint32_t hash, uint8_t byte) { return (hash ^ (uint32_t)(int8_t)byte) * 16777619u; }

MC_INLINE void add_gram(const mc_language_model *m, sum *s, uint32_t hash) {
    int64_t id = hash % (uint32_t)m->n_buckets;
    uint64_t word = m->kept[id >> 6], bit = (uint64_t)1 << (id & 63);
    if (word & bit) add_row(m, s, m->n_words + m->before[id >> 6] + __builtin_popcountll(word & (bit - 1)));
}

/* Add the n-grams of the characters of a word, with "<" before and ">" behind it. */
static void add_grams(const mc_language_model *m, sum *s, const uint8_t *word, int64_t size) {
    for (int64_t i = -1; i <= size; i++) { /* -1 and size are the positions of the marks */
        if (i >= 0 && i < size && (word[i] & 0xC0) == 0x80) continue;
        uint32_t hash = FNV;
        int64_t j = i;
        for (int64_t n = 1; j <= size && n <= m->longest; n++) {
            hash = fnv(hash, j < 0 ? '<' : j == size ? '>' : word[j]);
            for (j++; j >= 0 && j < size && (word[j] & 0xC0) == 0x80; j++) hash = fnv(hash, word[j]);
            if (n >= m->shortest && !(n == 1 && (i < 0 || j > size))) add_gram(m, s, hash);
        }
    }
}

/* Return the id of a word, or a label (from n_words); -1 if there is none. */
static int64_t find_word(const mc_language_model *m, const uint8_t *word, int64_t size) {
    uint32_t hash = FNV;
    for (int64_t i = 0; i < size; i++) hash = fnv(hash, word[i]);
    for (uint64_t at = hash & (uint64_t)(m->n_slots - 1);; at = (at + 1) & (uint64_t)(m->n_slots - 1)) {
        int32_t id = m->slots[at];
        if (id < 0) return -1;
        int64_t first = m->word_offsets[id];
        if (m->word_offsets[id + 1] - first == size && !memcmp(m->words + first, word, (size_t)size)) return id;
    }
}

MC_INLINE int ends_word(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r') || !c; }

/* Add up the vectors of a text: its words and n-grams, and the end of the line. */
static void add_text(const mc_language_model *m, sum *s, const uint8_t *at, const uint8_t *end) {
    static const char label[] = "__label__";
    enum { END_OF_LINE = 0 }; /* the word "</s>" is the first one */
    while (at < end) {
        if (ends_word(*at)) {
            at++;
            continue;
        }
        const uint8_t *word = at;
        while (at < end && !ends_word(*at)) at++;
        int64_t size = at - word, id = find_word(m, word, size), prefix = sizeof label - 1;
        if (id == END_OF_LINE) break;
        if (id >= m->n_words || (id < 0 && size >= prefix && !memcmp(word, label, (size_t)prefix))) continue;
        if (id >= 0) add_row(m, s, id);
        add_grams(m, s, word, size);
    }
    add_row(m, s, END_OF_LINE);
}

MC_INLINE float add_up(floats v) { return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7])); }

/* fastText's logarithm, which is finite at 0. */
MC_INLINE float log_of(float x) { return (float)log((double)x + 1e-5); }

/* Return the most probable leaf, and the logarithm of its probability; -1 if all are improbable. */
static int32_t best_leaf(const mc_language_model *m, sum mean, float *best) {
    struct { int32_t node; float score; } open[DEEPEST]; /* nodes to visit, at most one for each level */
    int32_t found = -1;
    int64_t n_open = 0;
    open[n_open].node = (int32_t)(2 * m->n_labels - 2);
    open[n_open++].score = 0.0f;
    *best = log_of(0.0f);
    while (n_open) {
        int32_t node = open[--n_open].node;
        float score = open[n_open].score;
        for (;;) { /* down the more probable children */
            if (score < *best) break;
            if (node < m->n_labels) {
                *best = score;
                found = node;
                break;
            }
            const float *row = m->output + DIMENSIONS * (node - m->n_labels);
            floats low, high;
            memcpy(&low, row, sizeof low);
            memcpy(&high, row + 8, sizeof high);
            float p = (float)(1.0 / (1.0 + (double)expf(-add_up(low * mean.low + high * mean.high))));
            float to_left = score + log_of(1.0f - p), to_right = score + log_of(p);
            int right = to_right > to_left;
            if (n_open == DEEPEST) return -1; /* never: the caller refuses deeper trees */
            open[n_open].node = right ? m->left[node] : m->right[node];
            open[n_open++].score = right ? to_left : to_right;
            node = right ? m->right[node] : m->left[node];
            score = right ? to_right : to_left;
        }
    }
    return found;
}

/* Write the number of the label of each text, -1 if there is none, and its score. */
MC_API void mc_languages(const mc_language_model *m, const mc_strings *texts, int32_t *labels, float *scores) {
    for (int64_t i = 0; i < texts->n; i++) {
        sum s = {0};
        add_text(m, &s, texts->data + texts->offsets[i], texts->data + texts->offsets[i + 1]);
        float by = (float)(1.0 / (double)s.n), best;
        s.low *= by;
        s.high *= by;
        labels[i] = best_leaf(m, s, &best);
        scores[i] = labels[i] < 0 ? 0.0f : fminf(expf(best), 1.0f);
    }
}

/* Say of each text whether its case misleads the model: 0 no, 1 yes, 2 if Python's str.isupper says so. */
MC_API void mc_shouted(const mc_strings *texts, uint8_t *kinds) {
    enum { NO, YES, ASK };
    for (int64_t i = 0; i < texts->n; i++) {
        int64_t upper = 0, lower = 0, characters = 0, beyond_ascii = 0;
        for (int64_t j = texts->offsets[i]; j < texts->offsets[i + 1]; j++) {
            uint8_t c = texts->data[j];
            upper += c >= 'A' && c <= 'Z';
            lower += c >= 'a' && c <= 'z';
            characters += (c & 0xC0) != 0x80;
            beyond_ascii |= c & 0x80;
        }
        int mostly = (double)upper > 0.8 * (double)(upper + lower) && characters > 5;
        kinds[i] = (uint8_t)(mostly || (!beyond_ascii && upper && !lower) ? YES : beyond_ascii && !lower ? ASK : NO);
    }
}
