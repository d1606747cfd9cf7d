/* Reading the JSON of WAT records: the url, <base> and images of a page, and what it says about its use.

   Law: a record that is accepted gives what metaclip/extract/wat_pages.py gives (msgspec, and json where msgspec refuses).
   What is unusual is left to that: bytes that are not UTF-8, lone surrogates, a field of another type, a key twice or written
   with an escape, nesting deeper than 60, and whatever is no JSON.
   Cost: 0.6 ms per MB of JSON, a third of it in mispredicted branches. */

#include "images.h"

enum { OTHER, PAGE, UNUSUAL = -1, NO_MEMORY = -2 }; /* what mc_images_scan returns */
enum { DEEPEST = 60, LONGEST_NUMBER = 64 };

typedef struct {
    const uint8_t *at, *end;
    mc_images *out;
    int titles;  /* whether titles are texts, too */
    int is_html, has_url;
    mc_span url, base;
} scanner;

typedef struct { mc_text text; int escaped; } json_string; /* what stands between the quotes */
static const json_string NOTHING = {{NULL, 0}, 0};

#define TRY(call)                        \
    do {                                 \
        int failed_ = (call);            \
        if (failed_) return failed_;     \
    } while (0)

/* ---- tokens ---- */

MC_INLINE void skip_blanks(scanner *s) {
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\r' || *s->at == '\t')) s->at++;
}

/* Go behind a byte, and the blanks before it. */
MC_INLINE int expect(scanner *s, uint8_t c) {
    skip_blanks(s);
    if (s->at == s->end || *s->at != c) return UNUSUAL;
    s->at++;
    return 0;
}

/* Go behind a byte if it is the next one. */
MC_INLINE int accept(scanner *s, uint8_t c) {
    skip_blanks(s);
    if (s->at == s->end || *s->at != c) return 0;
    s->at++;
    return 1;
}

/* Go behind a few bytes if they are the next ones. */
MC_INLINE int accept_literal(scanner *s, const char *bytes, int64_t size) {
    if (s->end - s->at < size || memcmp(s->at, bytes, (size_t)size)) return 0;
    s->at += size;
    return 1;
}

/* Return the number of four hex digits; -1 if they are none. */
static int32_t hex4(const uint8_t *at, const uint8_t *end) {
    int32_t code = 0;
    if (end - at < 4) return -1;
    for (int i = 0; i < 4; i++) {
        uint8_t c = lower(at[i]);
        if (c >= '0' && c <= '9') code = code << 4 | (c - '0');
        else if (c >= 'a' && c <= 'f') code = code << 4 | (c - 'a' + 10);
        else return -1;
    }
    return code;
}

/* Return the size of the escape at a backslash; 0 if it is invalid or half a surrogate pair. */
static int64_t escape_size(const uint8_t *at, const uint8_t *end) {
    if (end - at < 2) return 0;
    if (at[1] != 'u') return at[1] && strchr("\"\\/bfnrt", at[1]) ? 2 : 0;
    int32_t code = hex4(at + 2, end);
    if (code < 0 || (code >= 0xDC00 && code < 0xE000)) return 0;
    if (code < 0xD800 || code >= 0xE000) return 6;
    if (end - at < 12 || at[6] != '\\' || at[7] != 'u') return 0;
    int32_t low = hex4(at + 8, end);
    return low >= 0xDC00 && low < 0xE000 ? 12 : 0;
}

/* Read a string behind its first quote, and go behind its last one. Inlined it is no faster, and takes 4 s more to compile. */
static int read_string(scanner *s, json_string *found) {
    const uint8_t *at = s->at, *end = s->end;
    uint64_t beyond_ascii = 0;
    found->escaped = 0;
    for (;;) {
        uint8_t c;
        if (end - at >= (int64_t)sizeof(vector)) {
            vector v;
            memcpy(&v, at, sizeof v);
            uint64_t stops = top_bits((vector)(v == '"') | (vector)(v == '\\') | (vector)(v < 0x20));
            beyond_ascii |= top_bits(v) & (stops ? (stops & -stops) - 1 : UINT64_MAX);
            if (!stops) {
                at += sizeof v;
                continue;
            }
            at += __builtin_ctzll(stops);
            c = *at;
        } else {
            for (; at < end && *at != '"' && *at != '\\' && *at >= 0x20; at++) beyond_ascii |= *at & 0x80;
            if (at == end) return UNUSUAL;
            c = *at;
        }
        if (c == '"') break;
        int64_t size = c == '\\' ? escape_size(at, end) : 0;
        if (!size) return UNUSUAL;
        at += size;
        found->escaped = 1;
    }
    found->text = (mc_text){s->at, at - s->at};
    s->at = at + 1;
    return beyond_ascii && valid_utf8(found->text.at, found->text.size) < found->text.size ? UNUSUAL : 0;
}

static int skip_word(scanner *s, const char *word, int64_t size) {
    if (s->end - s->at < size || memcmp(s->at, word, (size_t)size)) return UNUSUAL;
    s->at += size;
    return 0;
}

static int64_t skip_digits(scanner *s) {
    const uint8_t *begin = s->at;
    while (s->at < s->end && *s->at >= '0' && *s->at <= '9') s->at++;
    return s->at - begin;
}

static int skip_number(scanner *s) {
    const uint8_t *begin = s->at;
    s->at += *s->at == '-';
    int zero = s->at < s->end && *s->at == '0';
    int64_t digits = skip_digits(s);
    if (!digits || (zero && digits > 1)) return UNUSUAL;
    if (s->at < s->end && *s->at == '.') {
        s->at++;
        if (!skip_digits(s)) return UNUSUAL;
    }
    if (s->at < s->end && (*s->at == 'e' || *s->at == 'E')) {
        s->at++;
        s->at += s->at < s->end && (*s->at == '+' || *s->at == '-');
        if (!skip_digits(s)) return UNUSUAL;
    }
    return s->at - begin > LONGEST_NUMBER ? UNUSUAL : 0;
}

/* Go behind a key and its colon. */
MC_INLINE int read_key(scanner *s, json_string *key) {
    TRY(expect(s, '"'));
    TRY(read_string(s, key));
    return expect(s, ':');
}

/* Go behind a value of any kind. */
static int skip_value(scanner *s) {
    uint64_t objects = 0; /* a bit for each object or array around the value, the innermost last: whether it is an object */
    int depth = 0;
    json_string ignored;
    for (;;) {
        skip_blanks(s);
        if (s->at == s->end) return UNUSUAL;
        int opened = 0;
        switch (*s->at) {
        case '"':
            s->at++;
            TRY(read_string(s, &ignored));
            break;
        case '{':
        case '[':
            opened = 1;
            objects = objects << 1 | (*s->at == '{');
            if (++depth > DEEPEST) return UNUSUAL;
            s->at++;
            break;
        case 't': TRY(skip_word(s, "true", 4)); break;
        case 'f': TRY(skip_word(s, "false", 5)); break;
        case 'n': TRY(skip_word(s, "null", 4)); break;
        default: TRY(skip_number(s));
        }
        for (;;) { /* behind a value, or at the beginning of an object or array */
            if (!depth) return 0;
            if (accept(s, objects & 1 ? '}' : ']')) {
                objects >>= 1;
                depth--;
                opened = 0;
                continue;
            }
            if (!opened) TRY(expect(s, ','));
            if (objects & 1) TRY(read_key(s, &ignored));
            break;
        }
    }
}

/* ---- objects ---- */

/* Read the next key of an object. `more` becomes 0 at its end; `first` is 1 before the first key. */
MC_INLINE int next_key(scanner *s, int *first, int *more, mc_text *key) {
    json_string found;
    *more = !accept(s, '}');
    if (!*more) return 0;
    if (!*first) TRY(expect(s, ','));
    *first = 0;
    TRY(read_key(s, &found));
    *key = found.text;
    return found.escaped ? UNUSUAL : 0;
}

/* Loop over the keys of an object; the body reads or skips the value of `key`. */
#define EACH_KEY(s, key)                                                                             \
    TRY(expect(s, '{'));                                                                             \
    mc_text key;                                                                                     \
    for (int first_ = 1, more_ = 1, failed_; (failed_ = next_key(s, &first_, &more_, &key)) || more_;) \
        if (failed_) return failed_;                                                                 \
        else

/* Fail if a key that is read occurs for the second time. */
#define ONCE(seen, bit)                   \
    do {                                  \
        if ((seen) & (bit)) return UNUSUAL; \
        (seen) |= (bit);                  \
    } while (0)

MC_INLINE int read_value_string(scanner *s, json_string *found) {
    TRY(expect(s, '"'));
    return read_string(s, found);
}

/* Copy a string to the batch, without its escapes. */
static int keep_string(scanner *s, json_string string, mc_span *span) {
    if (!string.escaped) return images_put(s->out, string.text, span) ? NO_MEMORY : 0;
    uint8_t *begin = images_room(s->out, string.text.size), *to = begin; /* no escape is shorter than its character */
    if (!begin) return NO_MEMORY;
    for (const uint8_t *at = string.text.at, *end = at + string.text.size; at < end;) {
        if (*at != '\\') {
            *to++ = *at++;
            continue;
        }
        uint32_t code = at[1];
        int64_t size = 2;
        switch (at[1]) {
        case 'b': code = '\b'; break;
        case 'f': code = '\f'; break;
        case 'n': code = '\n'; break;
        case 'r': code = '\r'; break;
        case 't': code = '\t'; break;
        case 'u':
            size = escape_size(at, end);
            code = (uint32_t)hex4(at + 2, end);
            if (size == 12) code = 0x10000 + ((code - 0xD800) << 10) + ((uint32_t)hex4(at + 8, end) - 0xDC00);
        }
        at += size;
        if (code < 0x80) {
            *to++ = (uint8_t)code;
        } else if (code < 0x800) {
            *to++ = (uint8_t)(0xC0 | code >> 6);
            *to++ = (uint8_t)(0x80 | (code & 63));
        } else if (code < 0x10000) {
            *to++ = (uint8_t)(0xE0 | code >> 12);
            *to++ = (uint8_t)(0x80 | (code >> 6 & 63));
            *to++ = (uint8_t)(0x80 | (code & 63));
        } else {
            *to++ = (uint8_t)(0xF0 | code >> 18);
            *to++ = (uint8_t)(0x80 | (code >> 12 & 63));
            *to++ = (uint8_t)(0x80 | (code >> 6 & 63));
            *to++ = (uint8_t)(0x80 | (code & 63));
        }
    }
    *span = images_keep(s->out, to - begin);
    return 0;
}

/* Return whether a value may hold noai, noimageai, noimageindex or noml: hardly any does, and "index, follow" is common. */
static int may_opt_out(json_string value) {
    const uint8_t *at = value.text.at;
    for (int64_t i = 0; i + 4 <= value.text.size; i++) {
        if (lower(at[i]) != 'n' || lower(at[i + 1]) != 'o') continue;
        uint8_t a = lower(at[i + 2]), b = lower(at[i + 3]);
        if ((a == 'a' && b == 'i') || (a == 'i' && b == 'm') || (a == 'm' && b == 'l')) return 1;
    }
    return value.escaped;
}

/* Return whether a name says by itself what the value means: tdm-reservation. */
static int is_reservation(mc_text name) { return list_has((mc_list){"tdm-reservation", 16}, name.at, name.size); }

static int keep_signal(scanner *s, uint32_t kind, json_string name, json_string value) {
    mc_span names, values;
    TRY(keep_string(s, name, &names));
    TRY(keep_string(s, value, &values));
    return images_signal(s->out, kind, names, values) ? NO_MEMORY : 0;
}

/* ---- fields of a WAT ---- */

enum { READ_PATH = 1, READ_URL = 2, READ_ALT = 4, READ_TITLE = 8, READ_REL = 16 };

/* Whether a text has the literal, in lower case, at a place, ignoring the case of ASCII letters. */
#define HAS_AT(text, i, literal) \
    ((text).size - (i) >= (int64_t)sizeof(literal) - 1 && equals_ignoring_case((text).at + (i), literal, sizeof(literal) - 1))

/* Return whether `rel` has the word license. */
static int is_license(mc_text rel) {
    enum { SIZE = sizeof "license" - 1 };
    for (int64_t i = 0; i + SIZE <= rel.size; i++) {
        if (HAS_AT(rel, i, "license") && (!i || is_blank(rel.at[i - 1])) && (i + SIZE == rel.size || is_blank(rel.at[i + SIZE]))) return 1;
    }
    return 0;
}

/* Return whether a link leads to Creative Commons. */
static int is_creative_commons(mc_text url) {
    int64_t at = 0;
    for (int64_t i = 0; i + 1 < url.size && i < 8; i++) {
        if (url.at[i] == '/' && url.at[i + 1] == '/') at = i + 2; /* behind the scheme */
    }
    if (HAS_AT(url, at, "www.")) at += 4;
    return HAS_AT(url, at, "creativecommons.org/");
}

/* Go behind a key, its colon and the quote of its string, if that is what comes next, without blanks. */
#define ACCEPT_STRING_OF(s, key) accept_literal(s, "\"" key "\":\"", sizeof(key) + 3)

static int read_link(scanner *s, int images) {
    json_string path = NOTHING, url = NOTHING, alt = NOTHING, title = NOTHING, rel = NOTHING, ignored;
    unsigned seen = 0;
    TRY(expect(s, '{'));
    if (!accept(s, '}')) {
        do {
            json_string *field = NULL;
            unsigned bit = 0;
            /* What nearly all links consist of, as the crawler writes it. */
            if (ACCEPT_STRING_OF(s, "path")) field = &path, bit = READ_PATH;
            else if (ACCEPT_STRING_OF(s, "url")) field = &url, bit = READ_URL;
            else if (ACCEPT_STRING_OF(s, "text")) field = &ignored;
            else if (ACCEPT_STRING_OF(s, "alt")) field = &alt, bit = READ_ALT;
            if (!field) {
                json_string key;
                TRY(read_key(s, &key));
                if (key.escaped) return UNUSUAL;
                if (IS(key.text, "path")) field = &path, bit = READ_PATH;
                else if (IS(key.text, "url")) field = &url, bit = READ_URL;
                else if (IS(key.text, "alt")) field = &alt, bit = READ_ALT;
                else if (s->titles && IS(key.text, "title")) field = &title, bit = READ_TITLE;
                else if (IS(key.text, "rel") && accept(s, '"')) s->at--, field = &rel, bit = READ_REL;
                if (!field) {
                    TRY(skip_value(s));
                    continue;
                }
                TRY(expect(s, '"'));
            }
            ONCE(seen, bit);
            TRY(read_string(s, field));
        } while (accept(s, ','));
        TRY(expect(s, '}'));
    }
    if (path.escaped) return UNUSUAL;
    if (images && IS(path.text, "IMG@/src")) {
        mc_span link, texts[2];
        TRY(keep_string(s, url, &link));
        TRY(keep_string(s, alt, texts));
        TRY(keep_string(s, title, texts + 1));
        return images_add(s->out, link, texts, 2, 0) ? NO_MEMORY : 0;
    }
    if (!rel.escaped && !url.escaped && !is_license(rel.text) && !is_creative_commons(url.text)) return 0;
    return keep_signal(s, images ? SIGNAL_LINK : SIGNAL_LINK_IN_HEAD, rel, url);
}

static int read_links(scanner *s, int images) {
    TRY(expect(s, '['));
    if (accept(s, ']')) return 0;
    do {
        TRY(read_link(s, images));
    } while (accept(s, ','));
    return expect(s, ']');
}

static int read_meta(scanner *s) {
    json_string name = NOTHING, content = NOTHING;
    unsigned seen = 0;
    EACH_KEY(s, key) {
        json_string *field = IS(key, "name") ? &name : IS(key, "content") ? &content : NULL;
        if (!field) {
            TRY(skip_value(s));
            continue;
        }
        ONCE(seen, field == &name ? 1u : 2u);
        TRY(read_value_string(s, field));
    }
    if (name.escaped || !list_has(s->out->rules->meta_names, name.text.at, name.text.size)) return name.escaped ? UNUSUAL : 0;
    return may_opt_out(content) || is_reservation(name.text) ? keep_signal(s, SIGNAL_META, name, content) : 0;
}

static int read_metas(scanner *s) {
    TRY(expect(s, '['));
    if (accept(s, ']')) return 0;
    do {
        TRY(read_meta(s));
    } while (accept(s, ','));
    return expect(s, ']');
}

static int read_head(scanner *s) {
    unsigned seen = 0;
    EACH_KEY(s, key) {
        if (IS(key, "Base")) {
            json_string base;
            ONCE(seen, 1u);
            TRY(read_value_string(s, &base));
            TRY(keep_string(s, base, &s->base));
        } else if (IS(key, "Metas")) {
            ONCE(seen, 2u);
            TRY(read_metas(s));
        } else if (IS(key, "Link")) {
            ONCE(seen, 4u);
            TRY(read_links(s, 0));
        } else {
            TRY(skip_value(s));
        }
    }
    return 0;
}

static int read_html(scanner *s) {
    unsigned seen = 0;
    s->is_html = 1;
    EACH_KEY(s, key) {
        if (IS(key, "Head")) {
            ONCE(seen, 1u);
            TRY(read_head(s));
        } else if (IS(key, "Links")) {
            ONCE(seen, 2u);
            TRY(read_links(s, 1));
        } else {
            TRY(skip_value(s));
        }
    }
    return 0;
}

/* Headers of the response; the values of one that was sent several times are an array. */
static int read_headers(scanner *s) {
    unsigned seen = 0;
    EACH_KEY(s, key) {
        int number = list_has(s->out->rules->headers, key.at, key.size);
        if (!number) {
            TRY(skip_value(s));
            continue;
        }
        ONCE(seen, 1u << number);
        json_string name = {key, 0}, value;
        int is_array = accept(s, '[');
        if (is_array && accept(s, ']')) continue;
        do {
            TRY(read_value_string(s, &value));
            if (may_opt_out(value) || is_reservation(key)) TRY(keep_signal(s, SIGNAL_HEADER, name, value));
        } while (is_array && accept(s, ','));
        if (is_array) TRY(expect(s, ']'));
    }
    return 0;
}

static int read_response(scanner *s) {
    unsigned seen = 0;
    EACH_KEY(s, key) {
        if (IS(key, "HTML-Metadata")) {
            ONCE(seen, 1u);
            TRY(read_html(s));
        } else if (IS(key, "Headers")) {
            ONCE(seen, 2u);
            TRY(read_headers(s));
        } else {
            TRY(skip_value(s));
        }
    }
    return 0;
}

static int read_payload(scanner *s) {
    unsigned seen = 0;
    EACH_KEY(s, key) {
        if (IS(key, "HTTP-Response-Metadata")) {
            ONCE(seen, 1u);
            TRY(read_response(s));
        } else {
            TRY(skip_value(s));
        }
    }
    return 0;
}

static int read_warc_header(scanner *s) {
    EACH_KEY(s, key) {
        if (IS(key, "WARC-Target-URI")) {
            json_string url;
            ONCE(s->has_url, 1);
            TRY(read_value_string(s, &url));
            TRY(keep_string(s, url, &s->url));
        } else {
            TRY(skip_value(s));
        }
    }
    return 0;
}

static int read_envelope(scanner *s) {
    unsigned seen = 0;
    EACH_KEY(s, key) {
        if (IS(key, "WARC-Header-Metadata")) {
            ONCE(seen, 1u);
            TRY(read_warc_header(s));
        } else if (IS(key, "Payload-Metadata")) {
            ONCE(seen, 2u);
            TRY(read_payload(s));
        } else {
            TRY(skip_value(s));
        }
    }
    return 0;
}

static int read_record(scanner *s) {
    unsigned seen = 0;
    EACH_KEY(s, key) {
        if (IS(key, "Envelope")) {
            ONCE(seen, 1u);
            TRY(read_envelope(s));
        } else {
            TRY(skip_value(s));
        }
    }
    skip_blanks(s);
    return s->at == s->end ? 0 : UNUSUAL;
}

/* Add the page of a WAT record, with its images. Return PAGE, OTHER if it describes no page, UNUSUAL or NO_MEMORY; then
   nothing is added. */
MC_API int64_t mc_images_scan(mc_images *x, const uint8_t *json, int64_t begin, int64_t end, int64_t titles) {
    mc_sizes before = x->n;
    scanner s = {.at = json + begin, .end = json + end, .out = x, .titles = (int)titles};
    int failed = read_record(&s);
    if (!failed && s.is_html && s.url.size) {
        failed = images_end_page(x, s.url, s.base) ? NO_MEMORY : 0;
        if (!failed) return PAGE;
    }
    x->n = before;
    return failed ? failed : OTHER;
}

/* ---- members of a gzip file ---- */

/* Return where the first three bytes of a member begin, or -1. */
MC_API int64_t mc_find_member(const uint8_t *data, int64_t size) {
    enum { BLOCK = 64 };
    for (int64_t i = 0; i + 3 <= size; i += BLOCK) {
        int64_t end = i + BLOCK;
        if (end + 2 <= size) { /* a whole block: whether the first two bytes begin in it, in vectors */
            uint8_t found = 0;
            for (int64_t j = i; j < i + BLOCK; j++) found |= (uint8_t)((data[j] == 0x1F) & (data[j + 1] == 0x8B));
            if (!found) continue;
        } else {
            end = size - 2;
        }
        for (int64_t j = i; j < end; j++) {
            if (data[j] == 0x1F && data[j + 1] == 0x8B && data[j + 2] == 8) return j;
        }
    }
    return -1;
}
