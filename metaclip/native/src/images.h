/* A batch of pages and their images: filled by wat.c and images.c, judged by links.c. */

#pragma once

#include "metaclip.h"

typedef struct { uint32_t start, size; } mc_span; /* in the bytes of a batch, which are less than 4 GiB */
typedef struct { const uint8_t *at; int64_t size; } mc_text;

/* Why an image or a text gives no pair: the index of the reason in metaclip/extract/filters.py, from 1. */
enum {
    NO_REASON, NO_TEXT, NO_URL, DATA_URL, BAD_URL, NOT_WEB, SVG, TRACKING_PIXEL, INVALID_TEXT, TEXT_TOO_SHORT, TEXT_TOO_LONG,
    UNDECIDED = 255 /* left to Python */
};

typedef struct {
    mc_span url, base;      /* as the page gives them; base: that of <base>, empty if there is none */
    mc_span root, folder;   /* what precedes links that begin with a slash, and others; empty: Python resolves them */
    uint32_t scheme;        /* the number of bytes of the root before the colon */
    uint32_t needs_python;   /* the url or <base> is not simple, and Python has not set root and folder yet */
} mc_page;

typedef struct {
    mc_span link, url, clean; /* as written, resolved, and cleaned as the URL standard says */
    mc_span host;             /* of the url, perhaps with upper-case letters */
    uint32_t page;
    uint8_t is_pixel, reason;
} mc_image;

typedef struct {
    mc_span raw, text; /* as written, and with blanks collapsed */
    uint32_t image;
    uint8_t reason;
} mc_candidate; /* a text of an image */

typedef struct {
    mc_span name, value;
    uint32_t page, kind;
} mc_signal; /* what a page says about its use */

enum { SIGNAL_META, SIGNAL_HEADER, SIGNAL_LINK_IN_HEAD, SIGNAL_LINK }; /* links: name is `rel`, value the address */

typedef struct { int64_t bytes, pages, images, candidates, signals, counts[4]; } mc_sizes;
enum { IMAGES_SEEN, ALT_NONEMPTY, MORE_TEXTS, CANDIDATES }; /* the counts; images without a text are only counted */

/* Strings, each followed by a NUL; in lower case. */
typedef struct { const char *at; int64_t size; } mc_list;

typedef struct {
    int64_t min_text, max_text, max_url; /* in characters */
    mc_list svg_endings, blank_names, blank_endings, counter_domains, counter_urls; /* see metaclip/extract/filters.py */
    mc_list meta_names, headers; /* of signals */
} mc_rules;

typedef struct {
    uint8_t *bytes;
    mc_page *pages;
    mc_image *images;
    mc_candidate *candidates;
    mc_signal *signals;
    int64_t bytes_room, pages_room, images_room, candidates_room, signals_room;
    mc_sizes n;
    const mc_rules *rules;
} mc_images;

/* Each of these returns whether memory ran out. */
int images_put(mc_images *x, mc_text text, mc_span *span);
int images_add(mc_images *x, mc_span link, const mc_span *texts, int64_t n_texts, int is_pixel);
int images_signal(mc_images *x, uint32_t kind, mc_span name, mc_span value);
int images_end_page(mc_images *x, mc_span url, mc_span base);

/* Make room for bytes behind all others; NULL if memory ran out. Then count those that were written, and return their span. */
uint8_t *images_room(mc_images *x, int64_t size);
mc_span images_keep(mc_images *x, int64_t size);

/* Return the number of a text in a list, from 1, ignoring the case of ASCII letters; 0 if it is not there. */
int list_has(mc_list list, const uint8_t *at, int64_t size);

/* Return the number of bytes of valid UTF-8 at the beginning of a text. */
int64_t valid_utf8(const uint8_t *at, int64_t size);

MC_INLINE uint8_t lower(uint8_t c) { return (uint8_t)(c >= 'A' && c <= 'Z' ? c | 32 : c); }
MC_INLINE int is_blank(uint8_t c) { return c == ' ' || c == '\t' || c == '\n' || c == '\f' || c == '\r'; } /* as HTML has them */

/* Whether bytes are another text, which is in lower case, ignoring the case of ASCII letters. */
MC_INLINE int equals_ignoring_case(const uint8_t *at, const char *other, int64_t size) {
    for (int64_t i = 0; i < size; i++) {
        if (lower(at[i]) != (uint8_t)other[i]) return 0;
    }
    return 1;
}
MC_INLINE int equals(mc_text text, const char *other, int64_t size) {
    return text.size == size && !memcmp(text.at, other, (size_t)size);
}
/* Whether a text is the literal. */
#define IS(text, literal) equals(text, literal, sizeof(literal) - 1)
