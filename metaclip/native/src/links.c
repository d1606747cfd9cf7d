/* The links of a batch: resolved, cleaned, and judged by the rules of metaclip/extract/urls.py and filters.py.

   Law: an image gets the url and the reason that Python gives it, or is left UNDECIDED. It is left where Python's rules depend
   on Unicode (a url that is not ASCII), and where a link is not simple: then urllib joins it. */

#include "images.h"

/* Python's blanks among ASCII: what \s matches and str.strip removes. */
MC_INLINE int is_space(uint8_t c) { return c == ' ' || (c >= 9 && c <= 13) || (c >= 28 && c <= 31); }
MC_INLINE int is_letter_or_digit(uint8_t c) { return (c >= '0' && c <= '9') || (lower(c) >= 'a' && lower(c) <= 'z'); }

MC_INLINE int starts_with(mc_text text, const char *prefix, int64_t size) {
    return text.size >= size && !memcmp(text.at, prefix, (size_t)size);
}
#define STARTS(text, literal) starts_with(text, literal, sizeof(literal) - 1)

static int is_ascii(mc_text text) {
    uint64_t bits = 0;
    int64_t i = 0;
    for (; i + 8 <= text.size; i += 8) bits |= load64(text.at + i);
    for (; i < text.size; i++) bits |= text.at[i];
    return !(bits & 0x8080808080808080u);
}

int list_has(mc_list list, const uint8_t *at, int64_t size) {
    int number = 0;
    for (const char *item = list.at; item < list.at + list.size; item += strlen(item) + 1) {
        number++;
        if ((int64_t)strlen(item) == size && equals_ignoring_case(at, item, size)) return number;
    }
    return 0;
}

MC_INLINE mc_text text_of(const mc_images *x, mc_span span) { return (mc_text){x->bytes + span.start, span.size}; }

/* ---- bases ---- */

/* Split a url: http or https, a host, perhaps a port. Without a simple path (no "//", "/." and blanks, ASCII) it has no folder. */
static void split_base(mc_images *x, mc_page *page, mc_span span) {
    mc_text url = text_of(x, span);
    int64_t scheme = STARTS(url, "https://") ? 5 : STARTS(url, "http://") ? 4 : 0, at = scheme + 3, host = at;
    if (!scheme) return;
    while (at < url.size && (is_letter_or_digit(url.at[at]) || (url.at[at] && strchr("._-", url.at[at])))) at++;
    if (at == host) return;
    if (at + 1 < url.size && url.at[at] == ':' && url.at[at + 1] >= '0' && url.at[at + 1] <= '9') {
        for (at++; at < url.size && url.at[at] >= '0' && url.at[at] <= '9'; at++) {}
    }
    int64_t root = at, folder = at;
    if (at < url.size && url.at[at] != '/' && url.at[at] != '?' && url.at[at] != '#') return;
    page->root = (mc_span){span.start, (uint32_t)root};
    page->scheme = (uint32_t)scheme;
    page->needs_python = 0;
    if (!is_ascii(url)) return;
    for (; at < url.size && url.at[at] != '?' && url.at[at] != '#'; at++) {
        if (is_space(url.at[at])) return;
        if (url.at[at] != '/') continue;
        if (at + 1 < url.size && (url.at[at + 1] == '/' || url.at[at + 1] == '.')) return;
        folder = at + 1;
    }
    page->folder = (mc_span){span.start, (uint32_t)folder};
}

/* Split the bases of all pages; those that are not simple, and those of a <base>, are left to Python. */
MC_API void mc_images_split_bases(mc_images *x) {
    for (int64_t i = 0; i < x->n.pages; i++) {
        mc_page *page = x->pages + i;
        int from_python = (int)page->needs_python;
        page->needs_python = 1;
        if (!page->base.size && !from_python) split_base(x, page, page->url);
    }
}

/* Set what precedes the links of a page, as Python's BaseUrl has it. Return whether memory ran out. */
MC_API int64_t mc_images_set_base(mc_images *x, int64_t page, const uint8_t *root, int64_t root_size, const uint8_t *folder,
                                  int64_t folder_size, int64_t scheme) {
    mc_page *p = x->pages + page;
    if (images_put(x, (mc_text){root, root_size}, &p->root) || images_put(x, (mc_text){folder, folder_size}, &p->folder)) return 1;
    p->scheme = (uint32_t)scheme;
    return 0;
}

/* ---- resolving ---- */

enum { FROM_ROOT, FROM_FOLDER, OTHER_HOST, NOT_SIMPLE };

/* Return what precedes a link that urljoin joins without a change: no parameters, fragments, other
   blanks than spaces, empty queries. */
static int kind_of_link(mc_text link) {
    int64_t i = 0, query = -1;
    int kind = FROM_FOLDER;
    if (!link.size) return NOT_SIMPLE;
    if (link.at[0] == '/') {
        kind = link.size > 1 && link.at[1] == '/' ? OTHER_HOST : FROM_ROOT;
        i = kind == OTHER_HOST ? 2 : 1;
        if (i < link.size && link.at[i] == '.') return NOT_SIMPLE;
        if (kind == OTHER_HOST) {
            while (i < link.size && (is_letter_or_digit(link.at[i]) || link.at[i] == '.' || link.at[i] == '-')) i++;
            if (i == 2 || (i < link.size && link.at[i] != '/' && link.at[i] != '?')) return NOT_SIMPLE;
        }
    } else if (link.at[0] == '?' || link.at[0] == '.') {
        return NOT_SIMPLE;
    }
    for (; i < link.size; i++) {
        uint8_t c = link.at[i];
        if (c == ' ' && i && i + 1 < link.size) continue; /* only blanks at the ends are lost */
        if (c == '#' || is_space(c) || c >= 0x80) return NOT_SIMPLE;
        if (c == '/' && i + 1 < link.size && link.at[i + 1] == '.') return NOT_SIMPLE; /* in the query, too */
        if (query >= 0) continue;
        if (c == '?') query = i;
        if (c == ';') return NOT_SIMPLE;
        if (kind == FROM_FOLDER && (c == ':' || (c == '/' && (i + 1 == link.size || link.at[i + 1] == '/' || link.at[i + 1] == '?')))) {
            return NOT_SIMPLE;
        }
    }
    return query == link.size - 1 ? NOT_SIMPLE : kind;
}

/* Resolve the link of an image, if it is simple; return whether memory ran out. Set `decided` unless Python must do it. */
static int resolve(mc_images *x, mc_image *image, int *decided) {
    mc_text link = text_of(x, image->link);
    const mc_page *page = x->pages + image->page;
    *decided = 1;
    image->url = image->link;
    if (STARTS(link, "http://") || STARTS(link, "https://")) return 0;
    if (STARTS(link, "data:") && link.size > 5 && (link.at[5] == 0 || !strchr("/\t\n\r", link.at[5]))) return 0;
    *decided = 0;
    if (!page->root.size) return 0;
    mc_span before = page->folder;
    int64_t skip = 0;
    while (before.size && skip < link.size && link.at[skip] == '.') { /* ./ and ../ */
        int up = skip + 1 < link.size && link.at[skip + 1] == '.';
        if (skip + up + 1 >= link.size || link.at[skip + up + 1] != '/') return 0;
        skip += up + 2;
        if (!up || before.size <= page->root.size + 1) continue;
        while (x->bytes[before.start + before.size - 2] != '/') before.size--;
        before.size--;
    }
    link = (mc_text){link.at + skip, link.size - skip};
    int kind = kind_of_link(link);
    if (kind == NOT_SIMPLE || (skip && kind != FROM_FOLDER) || (kind == FROM_FOLDER && !page->folder.size)) return 0;
    if (kind == FROM_ROOT) before = page->root;
    if (kind == OTHER_HOST) before = (mc_span){page->root.start, page->scheme + 1};
    int slash = kind == FROM_FOLDER && before.size == page->root.size; /* a base without a path */
    if (before.size > x->rules->max_url) { /* memory must not grow with the number of images times the size of the base */
        *decided = is_ascii(text_of(x, before));
        image->url = (mc_span){0, 0};
        image->reason = BAD_URL;
        return 0;
    }
    uint8_t *to = images_room(x, before.size + 1 + link.size);
    if (!to) return 1;
    memcpy(to, x->bytes + before.start, before.size);
    to[before.size] = '/';
    memcpy(to + before.size + slash, x->bytes + image->link.start + skip, (size_t)link.size);
    image->url = images_keep(x, before.size + slash + link.size);
    *decided = 1;
    return 0;
}

/* ---- reasons ---- */

/* Return the host of a web url, without port, user and final dots. */
static mc_text host_of(mc_text url) {
    int64_t at = url.at[4] == 's' ? 8 : 7, host = at;
    for (; at < url.size; at++) { /* the part that names a host, and its beginning behind a user */
        uint8_t c = url.at[at];
        if (c == '/' || c == '?' || c == '#' || c == '\\') break;
        if (c == '@') host = at + 1;
    }
    int64_t end = at;
    at = host;
    if (at < end && url.at[at] == '[') {
        const uint8_t *closing = memchr(url.at + at, ']', (size_t)(url.size - at));
        at = closing ? closing + 1 - url.at : at;
    } else {
        while (at < end && url.at[at] != ':' && url.at[at] != '[' && url.at[at] != ']') at++;
    }
    while (at > host && url.at[at - 1] == '.') at--;
    return (mc_text){url.at + host, at - host};
}

static int is_counter_host(const mc_rules *rules, mc_text host) {
    mc_list list = rules->counter_domains;
    for (const char *item = list.at; item < list.at + list.size; item += strlen(item) + 1) {
        int64_t size = (int64_t)strlen(item), before = host.size - size;
        if (before >= 0 && (!before || host.at[before - 1] == '.') && equals_ignoring_case(host.at + before, item, size)) return 1;
    }
    return 0;
}

static int is_counter_url(const mc_rules *rules, mc_text url) {
    int64_t at = url.at[4] == 's' ? 8 : 7;
    if (url.size - at >= 4 && equals_ignoring_case(url.at + at, "www.", 4)) at += 4;
    mc_list list = rules->counter_urls;
    for (const char *item = list.at; item < list.at + list.size; item += strlen(item) + 1) {
        int64_t size = (int64_t)strlen(item), end = at + size;
        if (end < url.size && (url.at[end] == '/' || url.at[end] == '?') && equals_ignoring_case(url.at + at, item, size)) return 1;
    }
    return 0;
}

/* Return the size of the path of a url: all before the query and the fragment. */
static int64_t path_size(mc_text url) {
    int64_t i = 0;
    while (i < url.size && url.at[i] != '?' && url.at[i] != '#') i++;
    return i;
}

/* Return the size of a path before its last dot; -1 if there is none behind the last slash. */
static int64_t before_ending(mc_text path) {
    int64_t dot = path.size - 1;
    while (dot >= 0 && path.at[dot] != '.' && path.at[dot] != '/') dot--;
    return dot >= 0 && path.at[dot] == '.' ? dot : -1;
}

static int is_drawing(const mc_rules *rules, mc_text path) {
    int64_t dot = before_ending(path);
    return dot >= 0 && list_has(rules->svg_endings, path.at + dot + 1, path.size - dot - 1);
}

/* Return whether the last name of a path is that of a blank image: perhaps a prefix that ends in a mark, a name, an ending. */
static int is_blank_image(const mc_rules *rules, mc_text path) {
    int64_t dot = before_ending(path), first;
    if (dot < 0 || !list_has(rules->blank_endings, path.at + dot + 1, path.size - dot - 1)) return 0;
    for (first = dot; first > 0 && path.at[first - 1] != '/'; first--) {}
    if (!first) return 0;
    mc_list list = rules->blank_names;
    for (const char *item = list.at; item < list.at + list.size; item += strlen(item) + 1) {
        int64_t size = (int64_t)strlen(item), begin = dot - size;
        if (begin < first || !equals_ignoring_case(path.at + begin, item, size)) continue;
        int matches = begin == first || strchr("_.-", path.at[begin - 1]) != NULL;
        for (int64_t i = first; i < begin && matches; i++) {
            uint8_t c = path.at[i];
            matches = is_letter_or_digit(c) || c == '_' || c == '.' || c == '-';
        }
        if (matches) return 1;
    }
    return 0;
}

static int is_data(mc_text text) { return text.size >= 5 && equals_ignoring_case(text.at, "data:", 5); }

/* Return the reason of an image whose link is resolved and ASCII. */
static uint8_t url_reason(const mc_images *x, mc_image *image) {
    mc_text link = text_of(x, image->link), url = text_of(x, image->url);
    if (url.size > x->rules->max_url) {
        while (link.size && is_space(*link.at)) link.at++, link.size--;
        return is_data(link) ? DATA_URL : BAD_URL;
    }
    if (!STARTS(url, "http://") && !STARTS(url, "https://")) return is_data(url) ? DATA_URL : NOT_WEB;
    mc_text host = host_of(url), path = {url.at, path_size(url)};
    if (!host.size) return BAD_URL;
    if (is_drawing(x->rules, path)) return SVG;
    int pixel = image->is_pixel || is_blank_image(x->rules, path) || is_counter_host(x->rules, host) ||
                is_counter_url(x->rules, url);
    return pixel ? TRACKING_PIXEL : NO_REASON;
}

/* Remove what the URL standard has parsers remove from a web url; return whether memory ran out. */
static int clean_url(mc_images *x, mc_span url, mc_span *clean) {
    const uint8_t *from = x->bytes + url.start;
    int64_t end = url.size, size = 0;
    while (end && from[end - 1] <= 0x20) end--;
    *clean = (mc_span){url.start, (uint32_t)end};
    int64_t i = 0;
    while (i < end && from[i] != '\t' && from[i] != '\n' && from[i] != '\r') i++;
    if (i == end) return 0;
    uint8_t *to = images_room(x, end);
    if (!to) return 1;
    from = x->bytes + url.start;
    for (i = 0; i < end; i++) {
        if (from[i] != '\t' && from[i] != '\n' && from[i] != '\r') to[size++] = from[i];
    }
    *clean = images_keep(x, size);
    return 0;
}

/* Resolve, clean and judge the links of images from the first on, until their pairs may take `budget` bytes. Return the image to
   continue at, or -1 if memory ran out. */
MC_API int64_t mc_images_judge(mc_images *x, int64_t first, int64_t budget) {
    int64_t begin = x->n.bytes, i = first, urls = 0;
    for (; i < x->n.images && x->n.bytes - begin + urls <= budget; i++) {
        mc_image *image = x->images + i;
        urls += x->pages[image->page].url.size; /* each pair has that of its page */
        mc_text link = text_of(x, image->link);
        int decided;
        int64_t blanks = 0;
        while (blanks < link.size && link.at[blanks] && strchr(" \t\n\f\r", link.at[blanks])) blanks++;
        image->url = image->clean = image->host = (mc_span){0, 0};
        image->reason = NO_URL;
        if (blanks == link.size) continue;
        image->reason = UNDECIDED;
        if (resolve(x, image, &decided)) return -1;
        if (image->reason == BAD_URL && decided) continue;
        image->reason = UNDECIDED;
        if (!decided || !is_ascii(text_of(x, image->url))) continue;
        image->reason = url_reason(x, image);
        if (image->reason != NO_REASON) continue;
        if (clean_url(x, image->url, &image->clean)) return -1;
        mc_text host = host_of(text_of(x, image->clean)); /* which lists are asked for: tabs may stand in that of the url */
        image->host = (mc_span){(uint32_t)(host.at - x->bytes), (uint32_t)host.size};
    }
    return i;
}

/* Decide an image as Python did: its reason, and its url as resolved and as cleaned, and its host. Return whether memory ran
   out. */
MC_API int64_t mc_images_decide(mc_images *x, int64_t image, int64_t reason, const uint8_t *url, int64_t url_size,
                                const uint8_t *clean, int64_t clean_size, const uint8_t *host, int64_t host_size) {
    mc_image *found = x->images + image;
    found->reason = (uint8_t)reason;
    return images_put(x, (mc_text){url, url_size}, &found->url) || images_put(x, (mc_text){clean, clean_size}, &found->clean) ||
           images_put(x, (mc_text){host, host_size}, &found->host);
}
