/* A batch of images: adding pages, and the columns of a batch.

   Everything that is added is hostile: sizes are those of the caller's buffers, and nothing is read beyond them. Texts of
   images are cleaned when they are added, and images without a text are only counted, since half of them have none. */

#include <stdlib.h>

#include "images.h"

/* ---- memory ---- */

MC_API void mc_images_free(mc_images *x) {
    if (!x) return;
    void *owned[] = {x->bytes, x->pages, x->images, x->candidates, x->signals, x};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
}

/* Make an empty batch. The rules must outlive it. */
MC_API mc_images *mc_images_new(const mc_rules *rules) {
    mc_images *x = calloc(1, sizeof *x);
    if (x) x->rules = rules;
    return x;
}

/* Forget everything that was added; the memory is used again. */
MC_API void mc_images_clear(mc_images *x) { memset(&x->n, 0, sizeof x->n); }

/* Forget the bytes behind the first ones: what judging added. */
MC_API void mc_images_truncate(mc_images *x, int64_t bytes) { x->n.bytes = bytes; }

MC_API const mc_sizes *mc_images_sizes(const mc_images *x) { return &x->n; }

uint8_t *images_room(mc_images *x, int64_t size) {
    if (x->n.bytes + size > UINT32_MAX || reserve((void **)&x->bytes, &x->bytes_room, x->n.bytes + size, 1)) return NULL;
    return x->bytes + x->n.bytes;
}

mc_span images_keep(mc_images *x, int64_t size) {
    mc_span span = {(uint32_t)x->n.bytes, (uint32_t)size};
    x->n.bytes += size;
    return span;
}

int images_put(mc_images *x, mc_text text, mc_span *span) {
    uint8_t *to = images_room(x, text.size + 1); /* never NULL for an empty text */
    if (!to) return 1;
    if (text.size) memcpy(to, text.at, (size_t)text.size);
    *span = images_keep(x, text.size);
    return 0;
}

/* ---- texts ---- */

int64_t valid_utf8(const uint8_t *at, int64_t size) {
    int64_t i = 0;
    while (i < size) {
        if (i + 8 <= size) {
            uint64_t beyond_ascii = load64(at + i) & 0x8080808080808080u;
            i += beyond_ascii ? __builtin_ctzll(beyond_ascii) / 8 : 8;
            if (!beyond_ascii) continue;
        }
        uint8_t c = at[i];
        if (c < 0x80) {
            i++;
            continue;
        }
        int more = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : 1;
        if (c < 0xC2 || c > 0xF4 || i + more >= size) return i;
        uint8_t d = at[i + 1]; /* overlong forms, surrogates and what is beyond U+10FFFF show in the second byte */
        uint8_t least = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80, most = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
        if (d < least || d > most) return i;
        for (int j = 2; j <= more; j++) {
            if ((at[i + j] & 0xC0) != 0x80) return i;
        }
        i += more + 1;
    }
    return i;
}

/* Collapse and strip the blanks of HTML; return whether memory ran out. A text that has none to remove is not copied. */
static int clean_text(mc_images *x, mc_span raw, mc_span *text) {
    const uint8_t *from = x->bytes + raw.start;
    int64_t begin = 0, end = raw.size;
    while (begin < end && is_blank(from[begin])) begin++;
    while (end > begin && is_blank(from[end - 1])) end--;
    int collapse = 0;
    for (int64_t i = begin; i < end; i++) collapse |= is_blank(from[i]) && (from[i] != ' ' || is_blank(from[i + 1]));
    *text = (mc_span){raw.start + (uint32_t)begin, (uint32_t)(end - begin)};
    if (!collapse) return 0;
    uint8_t *to = images_room(x, end - begin);
    if (!to) return 1;
    from = x->bytes + raw.start;
    int64_t size = 0;
    for (int64_t i = begin; i < end; i++) {
        if (!is_blank(from[i])) to[size++] = from[i];
        else if (!is_blank(from[i + 1])) to[size++] = ' '; /* the last byte is no blank */
    }
    *text = images_keep(x, size);
    return 0;
}

static uint8_t text_reason(const mc_images *x, mc_span raw, mc_span text) {
    if (valid_utf8(x->bytes + raw.start, raw.size) < raw.size) return INVALID_TEXT;
    int64_t characters = 0;
    for (int64_t i = 0; i < text.size; i++) characters += (x->bytes[text.start + i] & 0xC0) != 0x80;
    return characters < x->rules->min_text ? TEXT_TOO_SHORT : characters > x->rules->max_text ? TEXT_TOO_LONG : NO_REASON;
}

/* ---- adding ---- */

int images_add(mc_images *x, mc_span link, const mc_span *texts, int64_t n_texts, int is_pixel) {
    int64_t first = x->n.candidates, image = x->n.images;
    for (int64_t i = 0; i < n_texts; i++) {
        mc_span text;
        if (clean_text(x, texts[i], &text)) return 1;
        int repeated = !text.size;
        for (int64_t j = first; j < x->n.candidates && !repeated; j++) { /* of texts that are equal when cleaned, the first stays */
            mc_span other = x->candidates[j].text;
            repeated = other.size == text.size && !memcmp(x->bytes + other.start, x->bytes + text.start, (size_t)text.size);
        }
        if (repeated) continue;
        if (reserve((void **)&x->candidates, &x->candidates_room, x->n.candidates + 1, sizeof *x->candidates)) return 1;
        x->candidates[x->n.candidates++] = (mc_candidate){texts[i], text, (uint32_t)image, text_reason(x, texts[i], text)};
        x->n.counts[ALT_NONEMPTY] += i == 0; /* the first text is the alt */
    }
    int64_t added = x->n.candidates - first;
    x->n.counts[IMAGES_SEEN]++;
    x->n.counts[CANDIDATES] += added ? added : 1;
    if (!added) return 0;
    x->n.counts[MORE_TEXTS] += added - 1;
    if (reserve((void **)&x->images, &x->images_room, image + 1, sizeof *x->images)) return 1;
    x->images[x->n.images++] = (mc_image){.link = link, .page = (uint32_t)x->n.pages, .is_pixel = (uint8_t)is_pixel};
    return 0;
}

int images_signal(mc_images *x, uint32_t kind, mc_span name, mc_span value) {
    if (reserve((void **)&x->signals, &x->signals_room, x->n.signals + 1, sizeof *x->signals)) return 1;
    x->signals[x->n.signals++] = (mc_signal){name, value, (uint32_t)x->n.pages, kind};
    return 0;
}

int images_end_page(mc_images *x, mc_span url, mc_span base) {
    if (reserve((void **)&x->pages, &x->pages_room, x->n.pages + 1, sizeof *x->pages)) return 1;
    x->pages[x->n.pages++] = (mc_page){.url = url, .base = base};
    return 0;
}

/* Add a page that Python read. `bytes` has its url and then for each image its link and texts; `numbers` has for each image:
   whether it is a pixel, the number of texts, the size of the link, the sizes of the texts. Return whether memory ran out. */
MC_API int64_t mc_images_add(mc_images *x, const uint8_t *bytes, int64_t url_size, const int64_t *numbers, int64_t n) {
    mc_sizes before = x->n;
    mc_span url, link;
    if (images_put(x, (mc_text){bytes, url_size}, &url)) goto failed;
    bytes += url_size;
    for (int64_t i = 0; i < n; i++) {
        int is_pixel = (int)*numbers++;
        int64_t n_texts = *numbers++, size = *numbers++;
        mc_span texts[8];
        if (n_texts > 8 || images_put(x, (mc_text){bytes, size}, &link)) goto failed;
        bytes += size;
        for (int64_t j = 0; j < n_texts; j++) {
            size = *numbers++;
            if (images_put(x, (mc_text){bytes, size}, texts + j)) goto failed;
            bytes += size;
        }
        if (images_add(x, link, texts, n_texts, is_pixel)) goto failed;
    }
    if (images_end_page(x, url, (mc_span){url.start, 0})) goto failed;
    x->pages[x->n.pages - 1].needs_python = 1;
    return 0;
failed:
    x->n = before;
    return 1;
}

/* ---- columns ---- */

enum { PAGE_URL, PAGE_BASE, IMAGE_LINK, IMAGE_URL, IMAGE_CLEAN, IMAGE_HOST, TEXT_RAW, TEXT_CLEAN, SIGNAL_NAME, SIGNAL_VALUE };

static mc_span span_of(const mc_images *x, int64_t column, int64_t row) {
    switch (column) {
    case PAGE_URL: return x->pages[row].url;
    case PAGE_BASE: return x->pages[row].base;
    case IMAGE_LINK: return x->images[row].link;
    case IMAGE_URL: return x->images[row].url;
    case IMAGE_CLEAN: return x->images[row].clean;
    case IMAGE_HOST: return x->images[row].host;
    case TEXT_RAW: return x->candidates[row].raw;
    case TEXT_CLEAN: return x->candidates[row].text;
    case SIGNAL_NAME: return x->signals[row].name;
    default: return x->signals[row].value;
    }
}

/* Write n + 1 offsets of a column of strings, of the rows given. */
MC_API void mc_images_offsets(const mc_images *x, int64_t column, const int64_t *rows, int64_t n, int64_t *offsets) {
    offsets[0] = 0;
    for (int64_t i = 0; i < n; i++) offsets[i + 1] = offsets[i] + span_of(x, column, rows[i]).size;
}

/* Write the bytes of a column of strings, of the rows given. */
MC_API void mc_images_bytes(const mc_images *x, int64_t column, const int64_t *rows, int64_t n, uint8_t *to) {
    for (int64_t i = 0; i < n; i++) {
        mc_span span = span_of(x, column, rows[i]);
        if (span.size) memcpy(to, x->bytes + span.start, span.size);
        to += span.size;
    }
}

enum { PAGE_FOR_PYTHON, IMAGE_PAGE, IMAGE_REASON, IMAGE_PIXEL, TEXT_IMAGE, TEXT_REASON, SIGNAL_PAGE, SIGNAL_KIND };

/* Write a column of numbers, of the rows [first, end). */
MC_API void mc_images_numbers(const mc_images *x, int64_t column, int64_t first, int64_t end, int64_t *to) {
    for (int64_t i = first; i < end; i++) {
        switch (column) {
        case PAGE_FOR_PYTHON: *to++ = x->pages[i].needs_python; break;
        case IMAGE_PAGE: *to++ = x->images[i].page; break;
        case IMAGE_REASON: *to++ = x->images[i].reason; break;
        case IMAGE_PIXEL: *to++ = x->images[i].is_pixel; break;
        case TEXT_IMAGE: *to++ = x->candidates[i].image; break;
        case TEXT_REASON: { /* that of the image comes first */
            uint8_t reason = x->images[x->candidates[i].image].reason;
            *to++ = reason ? reason : x->candidates[i].reason;
            break;
        }
        case SIGNAL_PAGE: *to++ = x->signals[i].page; break;
        default: *to++ = x->signals[i].kind;
        }
    }
}
