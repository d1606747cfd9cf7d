/* Building the tables that match.c walks, and checking tables that were read from a file. */

#include <stdlib.h>

#include "keys.h"

#ifndef MC_DIGEST
#define MC_DIGEST ""
#endif

const char mc_sources[] = "metaclip sources " MC_DIGEST;

void mc_symbol_keys(const uint8_t *bytes, const mc_symbol *symbols, int64_t n_symbols, uint64_t seed, uint64_t *heads,
                    uint32_t *tails, uint64_t *hashes) {
    for (int64_t i = 1; i <= n_symbols; i++) {
        symbol_key key = key_of(bytes + symbols[i].first, (int64_t)symbols[i + 1].first - symbols[i].first);
        heads[i] = key.head;
        tails[i] = key.tail;
        hashes[i] = hash_of(key, seed);
    }
}

void mc_fill_bloom(const uint64_t *hashes, int64_t n, uint64_t *bloom, int64_t n_bloom) {
    int shift = 64 - log2_of(n_bloom);
    for (int64_t i = 0; i < n; i++) bloom[hashes[i] >> shift] |= bloom_bits(hashes[i]);
}

int64_t mc_displace(const uint64_t *hashes, const int64_t *order, const int64_t *bucket_starts, const int64_t *buckets,
                    int64_t n_buckets, int64_t n_slots, uint8_t *displacements, uint8_t *used, int64_t *slots) {
    int shift = 64 - log2_of(n_slots);
    for (int64_t i = 0; i < n_buckets; i++) {
        int64_t begin = bucket_starts[buckets[i]], end = bucket_starts[buckets[i] + 1], at = begin;
        for (int displacement = 0; at < end && displacement < 256; displacement++) {
            /* Place the keys of the bucket until one finds its slot used; then take them back. */
            for (at = begin; at < end; at++) {
                uint64_t slot = slot_of(hashes[order[at]], (uint8_t)displacement, shift);
                if (used[slot]) break;
                used[slot] = 1;
                slots[order[at]] = (int64_t)slot;
            }
            if (at < end) {
                while (at > begin) used[slots[order[--at]]] = 0;
            }
            displacements[buckets[i]] = (uint8_t)displacement;
        }
        if (at < end) return 0;
    }
    return 1;
}

/* ---- the trie ---- */

/* A hash table {node, symbol} -> child while the trie grows; a power of two of rows, at most half full. */
typedef struct {
    mc_edge *rows;
    int64_t n_rows;
} edge_table;

/* Return the row of an edge, or the empty row where it belongs. */
MC_INLINE mc_edge *find_edge(const edge_table *table, uint32_t node, uint32_t symbol) {
    uint64_t mask = (uint64_t)table->n_rows - 1;
    uint64_t at = edge_hash(node, symbol) >> (64 - log2_of(table->n_rows));
    while (table->rows[at].child && (table->rows[at].node != node || table->rows[at].symbol != symbol)) {
        at = (at + 1) & mask;
    }
    return table->rows + at;
}

int64_t mc_build_trie(const uint32_t *symbols, const int64_t *starts, const uint32_t *ids, int64_t n_entries,
                      int64_t n_symbols, int64_t longest, mc_node *nodes, mc_edge *edges, int64_t *n_nodes,
                      int64_t *most_outputs) {
    int64_t most_nodes = 1 + n_symbols, n = 1 + n_symbols, n_edges = 0, n_active = n_entries, most = 1;
    for (int64_t e = 0; e < n_entries; e++) most_nodes += starts[e + 1] - starts[e] - 1;
    edge_table table = {NULL, 2};
    while (table.n_rows < 2 * (most_nodes - n)) table.n_rows *= 2;
    table.rows = calloc((size_t)table.n_rows, sizeof *table.rows);
    uint32_t *node_of = malloc((size_t)(n_entries + 1) * sizeof *node_of); /* the node that each entry has reached */
    int64_t *active = malloc((size_t)(n_entries + 1) * sizeof *active);    /* the entries that go deeper */
    /* Of each node: the true fallback (also if it has no children), the number of entries there and behind, and the last
       node in the chain of equal entries. */
    uint32_t *fallback = calloc((size_t)most_nodes, sizeof *fallback);
    uint32_t *outputs = calloc((size_t)most_nodes, sizeof *outputs);
    uint32_t *end = malloc((size_t)most_nodes * sizeof *end);
    uint8_t *has_children = calloc((size_t)most_nodes, 1);
    if (!table.rows || !node_of || !active || !fallback || !outputs || !end || !has_children) {
        n_edges = MC_OUT_OF_MEMORY;
        goto done;
    }
    for (int64_t s = 1; s <= n_symbols; s++) nodes[s].depth = 1;
    for (int64_t e = 0; e < n_entries; e++) {
        node_of[e] = symbols[starts[e]];
        active[e] = e;
    }
    /* Breadth first: the fallback of a node is less deep, and so it is made before the node. */
    for (uint32_t depth = 1; n_active; depth++) {
        int64_t left = 0;
        for (int64_t i = 0; i < n_active; i++) {
            int64_t e = active[i];
            if (starts[e] + depth == starts[e + 1]) continue;
            active[left++] = e;
            uint32_t node = node_of[e], symbol = symbols[starts[e] + depth];
            mc_edge *edge = find_edge(&table, node, symbol);
            if (!edge->child) {
                *edge = edges[n_edges++] = (mc_edge){node, symbol, (uint32_t)n, 0};
                nodes[n++].depth = depth + 1;
                has_children[node] = 1;
            }
            node_of[e] = edge->child;
        }
        n_active = left;
    }
    for (int64_t e = 0; e < n_entries; e++) {
        uint32_t node = node_of[e];
        if (!nodes[node].entry) nodes[node].entry = ids[e] + 1;
        outputs[node]++;
        if (longest && outputs[node] > most) most = outputs[node];
    }
    for (int64_t node = 1; node < n; node++) {
        end[node] = (uint32_t)node;
        if (node <= n_symbols) continue;
        const mc_edge *edge = edges + (node - n_symbols - 1);
        uint32_t back = fallback[edge->node], child = 0;
        while (back && !(child = find_edge(&table, back, edge->symbol)->child)) back = fallback[back];
        back = child ? child : edge->symbol;
        fallback[node] = back;
        nodes[node].fallback = has_children[back] ? back : nodes[back].fallback;
        nodes[node].output = nodes[back].entry ? back : nodes[back].output;
        outputs[node] += outputs[back];
    }
    for (int64_t node = 1; node < n && !longest; node++) {
        if (outputs[node] > most) most = outputs[node];
    }
    /* Entries that a rule makes equal: all but the first get nodes of their own, by ascending index, in the chain of
       outputs behind the first. */
    for (int64_t e = 0; e < n_entries; e++) {
        uint32_t node = node_of[e];
        if (nodes[node].entry == ids[e] + 1) continue;
        mc_node *before = nodes + end[node];
        nodes[n] = (mc_node){0, ids[e] + 1, before->output, before->depth};
        before->output = end[node] = (uint32_t)n++;
    }
done:
    *n_nodes = n;
    *most_outputs = most;
    void *owned[] = {table.rows, node_of, active, fallback, outputs, end, has_children};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    return n_edges;
}

void mc_fill_edges(const mc_edge *edges, int64_t n_edges, mc_edge *table, int64_t n_table, uint8_t *filter,
                   int64_t n_filter) {
    edge_table target = {table, n_table};
    int shift = 61 - log2_of(n_filter);
    for (int64_t i = 0; i < n_edges; i++) {
        uint64_t bit = edge_hash(edges[i].node, edges[i].symbol) >> shift;
        filter[bit >> 3] |= (uint8_t)(1 << (bit & 7));
        *find_edge(&target, edges[i].node, edges[i].symbol) = edges[i];
    }
}

/* ---- tables of a file ---- */

static int is_power_of_two(int64_t n) { return n >= 2 && !(n & (n - 1)); }

/* Return whether the output of a node, if it has one, comes later in an order without cycles: less deep, or as deep with
   a larger index. */
MC_INLINE int output_descends(const mc_machine *m, int64_t node) {
    uint32_t next = m->nodes[node].output;
    if (!next) return 1;
    if (next >= m->n_nodes || !m->nodes[next].entry) return 0;
    uint32_t depth = m->nodes[node].depth, next_depth = m->nodes[next].depth;
    return next_depth < depth || (next_depth == depth && next > node);
}

int64_t mc_check(const mc_machine *m, int64_t n_entries) {
    /* Sizes. Shifts by 64 - log2(size) must be below 64. */
    if (!is_power_of_two(m->n_slots) || !is_power_of_two(m->n_displacements) || !is_power_of_two(m->n_bloom) ||
        !is_power_of_two(m->n_edges) || !is_power_of_two(m->n_filter)) {
        return 1;
    }
    /* A row of bounds follows the last symbol; symbols are nodes, too. */
    if (m->n_symbols < 2 || m->n_nodes < m->n_symbols - 1 || m->n_nodes > UINT32_MAX || n_entries >= UINT32_MAX) {
        return 2;
    }
    /* The bytes of symbols lie in the table, with readable bytes behind; symbols that share a key form ascending chains. */
    for (int64_t s = 0; s + 1 < m->n_symbols; s++) {
        if (m->symbols[s].first > m->symbols[s + 1].first) return 3;
        uint32_t next = m->symbols[s].next;
        if (next && (next <= s || next >= m->n_symbols - 1)) return 4;
    }
    if (m->symbols[m->n_symbols - 1].first + (int64_t)MC_READABLE > m->n_bytes) return 5;
    /* A slot repeats what the node of its symbol says. */
    for (int64_t i = 0; i < m->n_slots; i++) {
        const mc_slot *slot = m->slots + i;
        if (slot->symbol >= m->n_symbols - 1) return 6;
        if (slot->entry != m->nodes[slot->symbol].entry || slot->more != m->nodes[slot->symbol].output) return 7;
    }
    /* Fallbacks and outputs lead to nodes that are less deep, so chains end; chains are as long as stated. */
    for (int64_t node = 0; node < m->n_nodes; node++) {
        const mc_node *x = m->nodes + node;
        if (x->entry > n_entries || x->fallback >= m->n_nodes) return 8;
        if (x->fallback && m->nodes[x->fallback].depth >= x->depth) return 9;
        if (!output_descends(m, node)) return 10;
    }
    int64_t most = 1;
    for (int64_t node = 0; node < m->n_nodes; node++) {
        int64_t length = m->nodes[node].entry != 0;
        uint32_t next = m->nodes[node].output, depth = m->nodes[node].depth;
        for (; next && (!m->longest || m->nodes[next].depth == depth); next = m->nodes[next].output) length++;
        if (length > most) most = length;
    }
    if (most != m->most_outputs) return 11;
    int64_t n_empty = 0;
    for (int64_t i = 0; i < m->n_edges; i++) {
        if (m->edges[i].child >= m->n_nodes) return 12;
        n_empty += !m->edges[i].child;
    }
    return n_empty ? 0 : 13; /* a search ends at an empty row */
}
