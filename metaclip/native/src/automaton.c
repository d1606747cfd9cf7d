/* Building the tables that match.c walks, and checking tables that were read from a file. */

#include <stdlib.h>

#include "metaclip.h"

/* Names the sources that this library was compiled from; read from the file (build.py). */
MC_API const char mc_sources[] = "metaclip sources " MC_DIGEST;

/* Compute the keys and hashes of the symbols 1 .. n_symbols (arrays of n_symbols + 1). */
MC_API void mc_symbol_keys(const uint8_t *bytes, const mc_symbol *symbols, int64_t n_symbols, uint64_t seed,
                           uint64_t *heads, uint32_t *tails, uint64_t *hashes) {
    for (int64_t i = 1; i <= n_symbols; i++) {
        symbol_key key = key_of(bytes + symbols[i].first, (int64_t)symbols[i + 1].first - symbols[i].first);
        heads[i] = key.head;
        tails[i] = key.tail;
        hashes[i] = hash_of(key, seed);
    }
}

/* Add hashes to an empty Bloom filter of n_bloom words. */
MC_API void mc_fill_bloom(const uint64_t *hashes, int64_t n, uint64_t *bloom, int64_t n_bloom) {
    int shift = 64 - log2_of(n_bloom);
    for (int64_t i = 0; i < n; i++) bloom[hashes[i] >> shift] |= bloom_bits(hashes[i]);
}

/* Find the displacement of each bucket that sends its keys to free slots. `order` lists the keys by bucket, `buckets` the
   buckets from the largest. `used` (n_slots bytes) is 0. Return 0 if some bucket has no such displacement, else 1. */
MC_API int64_t mc_displace(const uint64_t *hashes, const int64_t *order, const int64_t *bucket_starts,
                           const int64_t *buckets, int64_t n_buckets, int64_t n_slots, uint8_t *displacements, uint8_t *used, int64_t *slots) {
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
            while (at < end && at > begin) used[slots[order[--at]]] = 0;
            displacements[buckets[i]] = (uint8_t)displacement;
        }
        if (at < end) return 0;
    }
    return 1;
}

/* ---- the trie ---- */

/* Build the trie of entries: entry ids[i] consists of symbols[starts[i] .. starts[i + 1]], and ids ascend.

   `nodes` has room for 1 + n_symbols + (the symbols beyond the first of each entry) + n_entries rows, all 0; `edges` for
   the symbols beyond the first of each entry: {node, symbol, child}. Return the number of edges; write the number of
   nodes, and the largest number of outputs (of `longest`: of entries that are equal). */
MC_API int64_t mc_build_trie(const uint32_t *symbols, const int64_t *starts, const uint32_t *ids, int64_t n_entries,
                             int64_t n_symbols, int64_t longest, mc_node *nodes, mc_edge *edges, int64_t *n_nodes,
                             int64_t *most_outputs) {
    int64_t most_nodes = 1 + n_symbols, n = 1 + n_symbols, n_edges = 0, n_active = n_entries, most = 1;
    for (int64_t e = 0; e < n_entries; e++) most_nodes += starts[e + 1] - starts[e] - 1;
    int64_t n_table = 2; /* of a hash table of the edges */
    while (n_table < 2 * (most_nodes - n)) n_table *= 2;
    mc_edge *table = calloc((size_t)n_table, sizeof *table);
    uint32_t *node_of = malloc((size_t)(n_entries + 1) * sizeof *node_of); /* the node that each entry has reached */
    int64_t *active = malloc((size_t)(n_entries + 1) * sizeof *active);    /* the entries that go deeper */
    struct {
        uint32_t fallback; /* the true fallback of a node, also if that has no children */
        uint32_t outputs;  /* the number of entries there and behind */
        uint32_t end;      /* the last node in its chain of equal entries */
        uint32_t has_children;
    } *notes = calloc((size_t)most_nodes, sizeof *notes);
    if (!table || !node_of || !active || !notes) {
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
            mc_edge *edge = table + find_edge(table, n_table, node, symbol);
            if (!edge->child) {
                *edge = edges[n_edges++] = (mc_edge){node, symbol, (uint32_t)n, 0};
                nodes[n++].depth = depth + 1;
                notes[node].has_children = 1;
            }
            node_of[e] = edge->child;
        }
        n_active = left;
    }
    for (int64_t e = 0; e < n_entries; e++) {
        uint32_t node = node_of[e];
        if (!nodes[node].entry) nodes[node].entry = ids[e] + 1;
        notes[node].outputs++;
        if (longest && notes[node].outputs > most) most = notes[node].outputs;
    }
    for (int64_t node = 1; node < n; node++) {
        notes[node].end = (uint32_t)node;
        if (node > n_symbols) {
            const mc_edge *edge = edges + (node - n_symbols - 1);
            uint32_t back = notes[edge->node].fallback, child = 0;
            for (; back && !child; back = notes[back].fallback) {
                child = table[find_edge(table, n_table, back, edge->symbol)].child;
            }
            back = child ? child : edge->symbol;
            nodes[node].fallback = notes[back].has_children ? back : nodes[back].fallback;
            nodes[node].output = nodes[back].entry ? back : nodes[back].output;
            notes[node].fallback = back;
            notes[node].outputs += notes[back].outputs;
        }
        if (!longest && notes[node].outputs > most) most = notes[node].outputs;
    }
    /* Entries that a rule makes equal: all but the first get nodes of their own, by ascending index, in the chain of
       outputs behind the first. */
    for (int64_t e = 0; e < n_entries; e++) {
        uint32_t node = node_of[e];
        if (nodes[node].entry == ids[e] + 1) continue;
        mc_node *before = nodes + notes[node].end;
        nodes[n] = (mc_node){0, ids[e] + 1, before->output, before->depth};
        before->output = notes[node].end = (uint32_t)n++;
    }
done:
    *n_nodes = n;
    *most_outputs = most;
    free(table), free(node_of), free(active), free(notes);
    return n_edges;
}

/* Enter edges into an empty hash table of n_table rows, and into an empty filter of n_filter bytes. */
MC_API void mc_fill_edges(const mc_edge *edges, int64_t n_edges, mc_edge *table, int64_t n_table, uint8_t *filter,
                          int64_t n_filter) {
    int shift = 61 - log2_of(n_filter);
    for (int64_t i = 0; i < n_edges; i++) {
        uint64_t bit = edge_hash(edges[i].node, edges[i].symbol) >> shift;
        filter[bit >> 3] |= (uint8_t)(1 << (bit & 7));
        table[find_edge(table, n_table, edges[i].node, edges[i].symbol)] = edges[i];
    }
}

/* ---- tables of a file ---- */

static int is_power_of_two(int64_t n) { return n >= 2 && !(n & (n - 1)); }

/* Return 0 if every index in the tables is in bounds and every chain ends, else the number of the check that failed. */
MC_API int64_t mc_check(const mc_machine *m, int64_t n_entries) {
    /* Sizes. Shifts by 64 - log2(size) must be below 64. */
    if (!is_power_of_two(m->n_slots) || !is_power_of_two(m->n_displacements) || !is_power_of_two(m->n_bloom) ||
        !is_power_of_two(m->n_edges) || !is_power_of_two(m->n_filter)) {
        return 1;
    }
    /* A row of bounds follows the last symbol; symbols are nodes, too. */
    int64_t end = m->n_symbols - 1;
    if (end < 1 || m->n_nodes < end || m->n_nodes > UINT32_MAX || n_entries >= UINT32_MAX) return 2;
    /* The bytes of symbols lie in the table, with readable bytes behind; symbols of the same key form ascending chains. */
    for (int64_t s = 0; s < end; s++) {
        uint32_t next = m->symbols[s].next;
        if (m->symbols[s].first > m->symbols[s + 1].first) return 3;
        if (next && (next <= s || next >= end)) return 4;
    }
    if (m->symbols[end].first + (int64_t)MC_READABLE > m->n_bytes) return 5;
    /* A slot repeats what the node of its symbol says. */
    for (int64_t i = 0; i < m->n_slots; i++) {
        const mc_slot *slot = m->slots + i;
        if (slot->symbol >= end) return 6;
        if (slot->entry != m->nodes[slot->symbol].entry || slot->more != m->nodes[slot->symbol].output) return 7;
    }
    /* Fallbacks lead to nodes that are less deep; outputs lead to such nodes, or to later ones of the same depth. */
    for (int64_t i = 0; i < m->n_nodes; i++) {
        const mc_node *node = m->nodes + i, *back = m->nodes + node->fallback, *next = m->nodes + node->output;
        if (node->entry > n_entries || node->fallback >= m->n_nodes || node->output >= m->n_nodes) return 8;
        if (node->fallback && back->depth >= node->depth) return 9;
        if (node->output && (!next->entry || (uint64_t)next->depth + (next <= node) > node->depth)) return 10;
    }
    /* Chains are as long as stated. */
    int64_t most = 1;
    for (int64_t i = 0; i < m->n_nodes; i++) {
        const mc_node *node = m->nodes + i;
        int64_t length = node->entry != 0;
        uint32_t depth = node->depth, next = node->output;
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
