/* Repeat the calls that recording.py recorded, and compare: for machines on which Python does not run.

   replay FILE: prints the number of calls and exits with 0, or says which call differs and exits with 1. */

#define _POSIX_C_SOURCE 200112L /* posix_memalign */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "automaton.c"
#include "match.c"
#include "pairs.c"

enum { MOST_ARGUMENTS = 32, MOST_WORKSPACES = 10000 };

typedef struct {
    int64_t number;
    void *array; /* a copy, which the call may change; NULL if there are no bytes */
    int64_t size, wanted_size;
    const uint8_t *wanted; /* the bytes after the call */
} argument;

static const uint8_t *at; /* in the file */
static char name[33];
static argument a[MOST_ARGUMENTS];
static struct {
    mc_machine machine;
    mc_workspace *memory;
} workspaces[MOST_WORKSPACES];
static int64_t n_workspaces, n_calls;

static void fail(const char *what, int64_t number) {
    fprintf(stderr, "call %lld, %s: %s %lld differs\n", (long long)n_calls, name, what, (long long)number);
    exit(1);
}

static int64_t read_number(void) {
    int64_t number;
    memcpy(&number, at, 8);
    at += 8;
    return number;
}

static const uint8_t *read_bytes(int64_t size) {
    const uint8_t *bytes = at;
    at += (size + 7) / 8 * 8;
    return bytes;
}

static void read_argument(argument *x) {
    memset(x, 0, sizeof *x);
    if (!read_number()) {
        x->number = read_number();
        return;
    }
    x->size = x->wanted_size = read_number();
    x->wanted = read_bytes(x->size);
    if (x->size) { /* exactly as many bytes: a sanitizer sees where they end */
        if (posix_memalign(&x->array, 64, (size_t)x->size)) exit(2);
        memcpy(x->array, x->wanted, (size_t)x->size);
    }
    if (read_number()) {
        x->wanted_size = read_number();
        x->wanted = read_bytes(x->wanted_size);
    }
}

static void expect_bytes(int64_t i, const void *bytes, int64_t size) {
    if (size != a[i].wanted_size || (size && memcmp(bytes, a[i].wanted, (size_t)size))) fail("argument", i);
}

static mc_strings strings(int i) {
    return (mc_strings){a[i].array, a[i].size, a[i + 1].array, a[i + 2].array, a[i + 3].number, a[i + 4].number};
}

static mc_rows rows(int i) { return (mc_rows){a[i].array, a[i + 1].array, a[i + 2].number}; }

static mc_machine machine(void) {
    return (mc_machine){
        a[0].array, a[2].array, a[4].array, a[6].array, a[8].array, a[10].array, a[12].array, a[14].array,
        a[1].number, a[3].number, a[5].number, a[7].number, a[9].number, a[11].number, a[13].number, a[15].number,
        (uint64_t)a[16].number, a[17].number, a[18].number, a[19].number, a[20].number,
    };
}

#define P(i) a[i].array
#define N(i) a[i].number
#define IS(function) !strcmp(name, function)

/* Make the call; return what it returns. Arguments that hold memory of the library are compared here. */
static int64_t call(void) {
    if (IS("mc_check")) {
        mc_machine m = machine();
        return mc_check(&m, N(21));
    }
    if (IS("mc_workspace_new")) {
        if (n_workspaces == MOST_WORKSPACES) exit(2);
        workspaces[n_workspaces].machine = machine();
        workspaces[n_workspaces].memory = mc_workspace_new(&workspaces[n_workspaces].machine);
        if (!workspaces[n_workspaces++].memory) exit(2);
        return 0;
    }
    if (IS("mc_match")) {
        mc_strings texts = strings(1);
        uint32_t *values;
        int64_t n = mc_match(&workspaces[N(0)].machine, workspaces[N(0)].memory, &texts, P(6), &values);
        expect_bytes(7, values, 4 * n);
        mc_free(values);
        return n;
    }
    if (IS("mc_find")) {
        const uint32_t *values;
        int64_t n = mc_find(&workspaces[N(0)].machine, workspaces[N(0)].memory, P(1), N(2), &values);
        expect_bytes(3, values, 4 * n);
        return n;
    }
    if (IS("mc_unite")) {
        uint32_t *values;
        int64_t n = mc_unite(P(0), P(1), P(2), P(3), N(4), P(5), &values);
        expect_bytes(6, values, 4 * n);
        mc_free(values);
        return n;
    }
    if (IS("mc_displace")) return mc_displace(P(0), P(1), P(2), P(3), N(4), N(5), P(6), P(7), P(8));
    if (IS("mc_build_trie")) return mc_build_trie(P(0), P(1), P(2), N(3), N(4), N(5), P(6), P(7), P(8), P(9));
    if (IS("mc_symbol_keys")) return mc_symbol_keys(P(0), P(1), N(2), (uint64_t)N(3), P(4), P(5), P(6)), 0;
    if (IS("mc_fill_bloom")) return mc_fill_bloom(P(0), N(1), P(2), N(3)), 0;
    if (IS("mc_fill_edges")) return mc_fill_edges(P(0), N(1), P(2), N(3), P(4), N(5)), 0;
    if (IS("mc_count")) return mc_count(P(0), N(1), P(2)), 0;
    mc_strings first = strings(0), second = strings(5);
    if (IS("mc_hex")) return mc_hex(&first, P(5), P(6)), 0;
    if (IS("mc_md5")) return mc_md5(&first, second.offsets ? &second : NULL, P(10)), 0;
    mc_rows r = rows(0);
    if (IS("mc_keep_probabilities")) return mc_keep_probabilities(&r, P(3), P(4)), 0;
    if (IS("mc_draw")) return mc_draw(&r, P(3), P(4), (uint64_t)N(5), P(6), P(7), P(8), P(9), P(10)), 0;
    if (IS("mc_expect")) return mc_expect(&r, P(3), P(4), N(5), P(6), P(7), N(8), P(9)), 0;
    fprintf(stderr, "%s is unknown\n", name);
    exit(2);
}

int main(int n_given, char **given) {
    FILE *file = n_given == 2 ? fopen(given[1], "rb") : NULL;
    if (!file || fseek(file, 0, SEEK_END)) return 2;
    long size = ftell(file);
    uint8_t *calls = malloc((size_t)size + 1);
    rewind(file);
    if (!calls || fread(calls, 1, (size_t)size, file) != (size_t)size) return 2;
    fclose(file);
    for (at = calls; at < calls + size; n_calls++) {
        memcpy(name, read_bytes(32), 32);
        int64_t n = read_number();
        memset(a, 0, sizeof a);
        for (int64_t i = 0; i < n; i++) read_argument(a + i);
        int64_t result = call();
        if (result != read_number()) fail("result", result);
        int keep = IS("mc_workspace_new"); /* its arrays stay those of the machine */
        for (int64_t i = 0; i < n; i++) {
            if (!a[i].array) continue;
            expect_bytes(i, a[i].array, a[i].size);
            if (!keep) free(a[i].array);
        }
    }
    for (int64_t i = 0; i < n_workspaces; i++) mc_workspace_free(workspaces[i].memory);
    printf("%lld calls\n", (long long)n_calls);
    return 0;
}
