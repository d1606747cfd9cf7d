"""The automaton: a query list under a text rule, as flat arrays, and the file that holds them.

One `Machine` holds the entries of one alphabet. ``native/src/metaclip.h`` has the rows as structs, ``match.c`` walks them:

    bloom          uint64[2^b]      two bits in one word for each symbol's hash, at most 1 in 3 set
    slots          uint64[2^k, 4]   {first 8 bytes, tail << 32 | symbol id, next output << 32 | entry_id + 1, 0} of the
                                    symbol that is stored in this slot
    displacements  uint8[2^(k-2)]   by bucket of the hash: gives each symbol a slot of its own
    bytes, symbols                  the symbols' bytes; {offset, next symbol with the same key} by symbol id
    nodes          uint32[n, 4]     {fallback, entry_id + 1, next output, depth}
    edges          uint32[2^m, 4]   hash table {node, symbol, child, 0}, open addressing, at most half full
    filter         uint8[2^f]       one bit for each edge's hash, at most 1 in 6 set

Measurements behind the layout (one thread, 500,000 entries, captions of 59 bytes, each compared with what it replaced):

- One displaced slot takes a third of the time of probing: 69% of real words are unknown, and the branch predictor cannot
  learn a probe that may end at any step.
- The Bloom filter (256 KiB) keeps unknown words away from the slots, and a slot that names the entry of its symbol keeps
  most other words away from the nodes. Together they reduce the time of all passes to three quarters.
- Rows have 16 or 32 bytes, so that none straddles two cache lines.
- Symbol ids are ordered by the number of entries that hold the symbol: 5 to 10% faster than the order of the list.
- Children are in one hash table, because just the frequent words have long lists of children, behind a filter of 256 KiB.
  A 32-bit mask of children in each node, which is full for just those words, took a tenth more in total.

An automaton is built once for a list and a rule, and its file is shared by all workers of a machine. One file holds all
arrays and is memory-mapped: a header with the digest of everything behind it, a directory in JSON, and the arrays, each
aligned to 64 bytes.

Cost for 500,000 entries: 38 MiB, built in 1 s, opened in 0.03 s including all checks.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import mmap
import os
import stat
import struct
import unicodedata
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from metaclip.errors import MetaclipError
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata import Metadata
from metaclip.native import READABLE, MachineStruct, address, load
from metaclip.storage.files import atomic_write, cache_folder

_CAPACITY: Final = 0.8  # maximum load of the slots
_ATTEMPTS: Final = 16
_FILTER_BITS: Final = 6  # minimum number of bits of a filter per edge or symbol
_LONGEST: Final = 0xFFFFFF  # a symbol must have fewer bytes: 24 bits of a long key hold the length

Arrays = dict[str, npt.NDArray[Any]]
ARRAYS: Final = {
    "slots": (np.uint64, 4), "displacements": (np.uint8, 1), "bloom": (np.uint64, 1), "bytes": (np.uint8, 1),
    "symbols": (np.uint32, 2), "nodes": (np.uint32, 4), "edges": (np.uint32, 4), "filter": (np.uint8, 1),
}  # fmt: skip
"""The dtype of each array of a machine, and its number of columns."""
INFO: Final = ("seed", "most_outputs", "words", "longest", "fold_spaces")
"""The numbers of a machine."""


class Machine:
    """The arrays of one alphabet, with the struct of their addresses that the library takes."""

    def __init__(self, arrays: Arrays, info: dict[str, int]) -> None:
        """Wrap `arrays` and `info`, which have the names of `ARRAYS` and `INFO`."""
        self.arrays, self.info = arrays, info
        self.struct = MachineStruct(**info)
        for name, (dtype, _) in ARRAYS.items():
            setattr(self.struct, name, address(arrays[name], dtype))
            setattr(self.struct, f"n_{name}", len(arrays[name]))


class Automaton:
    """The machines of a list under a rule: one for words, and one for characters if entries need it."""

    def __init__(self, machines: list[Machine], rule: TextRule, size: int, list_digest: str) -> None:
        """Wrap machines; use `build` or `open_automaton` to make an automaton."""
        self.machines, self.rule, self.size, self.list_digest = machines, rule, size, list_digest

    @property
    def nbytes(self) -> int:
        """The size of all arrays in bytes."""
        return sum(array.nbytes for machine in self.machines for array in machine.arrays.values())

    def __repr__(self) -> str:
        """Return a short description with the sizes."""
        return f"Automaton({self.size} entries, {len(self.machines)} machine(s), {self.nbytes / 2**20:.1f} MiB)"


def build(metadata: Metadata, rule: TextRule = PAPER) -> Automaton:
    """Build the automaton of a list under a rule, in memory."""
    words: tuple[list[int], list[str]] = ([], [])
    characters: tuple[list[int], list[str]] = ([], [])
    # If longer matches hide shorter ones, one machine must see words and characters.
    split_words = not (rule.longest_only and rule.unspaced_scripts != "none")
    for entry_id, entry in enumerate(metadata.entries.to_pylist()):
        if (padded := rule.entry(entry)) is None:
            continue
        is_words = split_words and padded[:1] == " " and padded[-1:] == " "
        ids, strings = words if is_words else characters
        ids.append(entry_id)
        strings.append(padded[1:-1] if is_words else padded)
    machines = []
    for ids, strings in (words, characters):
        if ids or (ids is words[0] and not characters[0]):
            symbols = _words(strings) if ids is words[0] else _characters(strings)
            machines.append(_machine(ids, *symbols, rule, words=ids is words[0]))
    return Automaton(machines, rule, len(metadata), metadata.digest)


def _words(strings: list[str]) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Split spaced strings into words: all words one after the other, and where those of each string begin."""
    lists = pc.split_pattern(pa.array(strings, pa.large_string()), " ")
    return lists.flatten(), lists.offsets.to_numpy().astype(np.int64)


def _characters(strings: list[str]) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Split strings into characters, like `_words`."""
    characters = pa.array([*"".join(strings)], pa.large_string())
    return characters, np.cumsum([0, *map(len, strings)])


def _power_of_two(least: float) -> int:
    return 1 << max(1, int(np.ceil(np.log2(max(2.0, least)))))


def _machine(
    entry_ids: list[int], symbols: pa.Array, starts: npt.NDArray[np.int64], rule: TextRule, *, words: bool
) -> Machine:
    encoded = symbols.dictionary_encode()
    codes, known = encoded.indices.to_numpy(), encoded.dictionary
    # Symbol ids are ranks by the number of occurrences in entries, from 1.
    by_rank = pa.table({"times": np.bincount(codes, minlength=len(known)), "symbol": known})
    order = pc.sort_indices(by_rank, [("times", "descending"), ("symbol", "ascending")]).to_numpy()
    ids = np.empty(len(known), np.uint32)
    ids[order] = np.arange(1, len(known) + 1)
    arrays, seed = _symbol_arrays(known.take(pa.array(order)))
    info = {
        "seed": seed,
        "words": int(words),
        "longest": int(rule.longest_only),
        "fold_spaces": int(rule.fold_spaces),
    }
    trie, info["most_outputs"] = _trie_arrays(
        ids[codes], starts, entry_ids, len(known), rule.longest_only
    )
    # A slot holds the outputs of its symbol's node.
    held, nodes = (
        (arrays["slots"][:, 1] & np.uint64(0xFFFFFFFF)).astype(np.int64),
        trie["nodes"].astype(np.uint64),
    )
    arrays["slots"][:, 2] = nodes[held, 1] | (nodes[held, 2] << np.uint64(32))
    return Machine({**arrays, **trie}, info)


def seed_of(attempt: int) -> int:
    """Return the odd multiplier of the key hash for the n-th attempt to lay out a table."""
    return (0x9E3779B97F4A7C15 * (2 * attempt + 1)) & 0xFFFFFFFFFFFFFFFF


def _symbol_arrays(ordered: pa.Array) -> tuple[Arrays, int]:
    """Lay out the table of symbols, a large_string array, and return it with its seed; symbol ids are 1-based."""
    n = len(ordered)
    sizes = pc.binary_length(ordered).to_numpy()
    if n and sizes.max() >= _LONGEST:
        raise MetaclipError(f"an entry has a word of over {_LONGEST} bytes; take it out of the list")
    if sizes.sum() + READABLE > 0xFFFFFFFF:
        raise MetaclipError("the list's words take over 4 GiB; split the list")
    text = b"" if ordered.buffers()[2] is None else ordered.buffers()[2]
    blob = np.concatenate([np.frombuffer(text, np.uint8, int(sizes.sum())), np.zeros(READABLE, np.uint8)])
    symbols = np.zeros((n + 2, 2), np.uint32)
    symbols[2:, 0] = np.cumsum(sizes)
    heads, tails, hashes = (
        np.zeros(n + 1, np.uint64),
        np.zeros(n + 1, np.uint32),
        np.zeros(n + 1, np.uint64),
    )
    library = load()
    for attempt in range(_ATTEMPTS):
        seed = seed_of(attempt)
        library.mc_symbol_keys(
            address(blob, np.uint8), address(symbols, np.uint32), n, seed,
            address(heads, np.uint64), address(tails, np.uint32), address(hashes, np.uint64),
        )  # fmt: skip
        placed = _chain_same_keys(symbols, heads, tails)
        if (displaced := _displace(hashes, placed, attempt)) is not None:
            slots, displacements, capacity = displaced
            table = np.zeros((capacity, 4), np.uint64)
            table[slots, 0] = heads[placed]
            table[slots, 1] = (tails[placed].astype(np.uint64) << np.uint64(32)) | placed.astype(
                np.uint64
            )
            bloom = np.zeros(_power_of_two(_FILTER_BITS * n / 64), np.uint64)
            library.mc_fill_bloom(
                address(hashes[1:], np.uint64), n, address(bloom, np.uint64), len(bloom)
            )
            return {
                "slots": table, "displacements": displacements, "bytes": blob, "symbols": symbols, "bloom": bloom,
            }, seed  # fmt: skip
    raise MetaclipError(
        "the words of the list cannot be hashed without collisions; the list seems constructed for that"
    )


def _chain_same_keys(symbols: npt.NDArray[np.uint32], heads: Any, tails: Any) -> npt.NDArray[np.int64]:
    """Chain the (long) symbols that share a key; return the ids that get a slot, one of each chain."""
    symbols[:, 1] = 0
    ids = np.arange(1, len(heads), dtype=np.int64)
    order = ids[np.lexsort((ids, heads[1:], tails[1:]))]
    same = (heads[order[1:]] == heads[order[:-1]]) & (tails[order[1:]] == tails[order[:-1]])
    symbols[order[:-1][same], 1] = order[1:][same]
    return np.sort(np.delete(order, np.flatnonzero(same) + 1))


def _displace(
    hashes: npt.NDArray[np.uint64], placed: npt.NDArray[np.int64], attempt: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8], int] | None:
    """Return a slot for each key, the displacements that lead to them, and the number of slots; None if there are none."""
    capacity = _power_of_two(len(placed) / _CAPACITY) << (attempt // 4)
    n_buckets = max(2, capacity // 4)
    keys = np.ascontiguousarray(hashes[placed])
    bucket = (keys & np.uint64(n_buckets - 1)).astype(np.int64)
    sizes = np.bincount(bucket, minlength=n_buckets)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    order, buckets = np.argsort(bucket, kind="stable"), np.argsort(-sizes, kind="stable")
    displacements, slots, used = (
        np.zeros(n_buckets, np.uint8),
        np.zeros(len(placed), np.int64),
        np.zeros(capacity, np.uint8),
    )
    done = load().mc_displace(
        address(keys, np.uint64), address(order, np.int64), address(starts, np.int64), address(buckets, np.int64),
        n_buckets, capacity, address(displacements, np.uint8), address(used, np.uint8), address(slots, np.int64),
    )  # fmt: skip
    return (slots, displacements, capacity) if done else None


def _trie_arrays(
    symbols: npt.NDArray[np.uint32],
    starts: npt.NDArray[np.int64],
    entry_ids: list[int],
    n_symbols: int,
    longest: bool,
) -> tuple[Arrays, int]:
    """Lay out goto, fallback and output over symbol ids; return them, and the most entries that end at one node.

    The node at depth 1 of a symbol has the symbol's id.
    """
    n_entries = len(entry_ids)
    most_edges = len(symbols) - n_entries
    if n_symbols + len(symbols) >= 0xFFFFFFFF:
        raise MetaclipError("the list has over 4 billion words; split it")
    nodes = np.zeros((1 + n_symbols + most_edges + n_entries, 4), np.uint32)
    edges, ids = np.zeros((most_edges, 4), np.uint32), np.array(entry_ids, np.uint32)
    n_nodes, most_outputs = ctypes.c_int64(), ctypes.c_int64()
    n_edges = load().mc_build_trie(
        address(symbols, np.uint32), address(starts, np.int64), address(ids, np.uint32), n_entries, n_symbols, longest,
        address(nodes, np.uint32), address(edges, np.uint32), n_nodes, most_outputs,
    )  # fmt: skip
    if n_edges < 0:
        raise MemoryError
    table = np.zeros((_power_of_two(1.5 * n_edges), 4), np.uint32)
    bits = np.zeros(_power_of_two(_FILTER_BITS * n_edges / 8), np.uint8)
    load().mc_fill_edges(
        address(edges, np.uint32),
        n_edges,
        address(table, np.uint32),
        len(table),
        address(bits, np.uint8),
        len(bits),
    )
    return {"nodes": nodes[: n_nodes.value].copy(), "edges": table, "filter": bits}, most_outputs.value


# --- the file

VERSION: Final = 4
"""Increased when the arrays, or what the library does with them, change; part of the key."""

_MAGIC: Final = b"metaclip automaton\n\0"
_HEADER: Final = struct.Struct("<20sIQ32s")
"""Magic, version, size of the JSON directory, sha256 of this size and everything behind the header."""
_ALIGN: Final = 64


class UntrustedFile(Exception):
    """A file of the cache that is damaged, or was made by another user or for another list."""


def key(metadata: Metadata, rule: TextRule) -> str:
    """Return the key of an automaton: 64 hex digits of the list, the rule, and the versions of the format and of Unicode."""
    parts = (str(VERSION), unicodedata.unidata_version, metadata.digest, rule.identity)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def write(automaton: Automaton, path: Path) -> None:
    """Write an automaton as one file, whole or not at all."""
    machines: list[dict[str, Any]] = []
    chunks: list[bytes | memoryview] = []
    at = 0
    for machine in automaton.machines:
        sections = {}
        for name, array in machine.arrays.items():
            sections[name] = {"rows": len(array), "at": at}
            data = np.ascontiguousarray(array).data.cast("B")
            chunks += [data, bytes(-len(data) % _ALIGN)]
            at += len(data) + len(chunks[-1])
        machines.append({"info": machine.info, "arrays": sections})
    rule = json.loads(automaton.rule.identity)
    directory = {
        "rule": rule,
        "list": automaton.list_digest,
        "size": automaton.size,
        "machines": machines,
    }
    text = json.dumps(directory, sort_keys=True).encode()
    text += b" " * (-(_HEADER.size + len(text)) % _ALIGN)
    digest = hashlib.sha256(struct.pack("<Q", len(text)))
    digest.update(text)
    for chunk in chunks:
        digest.update(chunk)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        temporary.chmod(0o644)
        file.write(_HEADER.pack(_MAGIC, VERSION, len(text), digest.digest()))
        file.write(text)
        for chunk in chunks:
            file.write(chunk)


def read(path: Path, metadata: Metadata, rule: TextRule) -> Automaton:
    """Memory-map the automaton of a list under a rule. Raise UntrustedFile, or OSError.

    Checked are the owner and the mode of the file, magic, version and digest, the identities of list and rule, and every
    index of the arrays: so a file can be damaged or crafted, but never lead to other matches or to other memory.
    """
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if found.st_uid not in (0, os.getuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UntrustedFile("it belongs to another user, or others may write to it")
        if found.st_size < _HEADER.size:
            raise UntrustedFile("it is not complete")
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    magic, version, size, digest = _HEADER.unpack_from(memory)
    view = memoryview(memory)
    hashed = hashlib.sha256(struct.pack("<Q", size))
    hashed.update(view[_HEADER.size :])
    if magic != _MAGIC or version != VERSION or hashed.digest() != digest:
        raise UntrustedFile("it is damaged, or of another version")
    if size % _ALIGN:
        raise UntrustedFile("its arrays are not aligned")
    try:
        directory = json.loads(bytes(view[_HEADER.size : _HEADER.size + size]))
        if (directory["list"], directory["size"]) != (metadata.digest, len(metadata)):
            raise UntrustedFile("it is of another list")
        if directory["rule"] != json.loads(rule.identity):
            raise UntrustedFile("it is of another text rule")
        arrays = view[_HEADER.size + size :]
        machines = [
            _read_machine(arrays, stored, rule, len(metadata)) for stored in directory["machines"]
        ]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UntrustedFile(f"its directory is damaged ({error})") from None
    if not 1 <= len(machines) <= 2:
        raise UntrustedFile("it has another number of machines")
    return Automaton(machines, rule, len(metadata), metadata.digest)


def _read_machine(data: memoryview, stored: dict[str, Any], rule: TextRule, n_entries: int) -> Machine:
    arrays = {}
    for name, (dtype, columns) in ARRAYS.items():
        begin, rows = (int(stored["arrays"][name][what]) for what in ("at", "rows"))
        if begin < 0 or begin % _ALIGN or rows < 0:
            raise UntrustedFile(f"the array {name} lies outside")
        # Raises ValueError for an array that is longer than the file.
        arrays[name] = np.frombuffer(data, dtype, rows * columns, begin).reshape(
            (rows, columns) if columns > 1 else rows
        )
    info = {name: int(stored["info"][name]) for name in INFO}
    if (info["longest"], info["fold_spaces"]) != (rule.longest_only, rule.fold_spaces):
        raise UntrustedFile("it is of another text rule")
    machine = Machine(arrays, info)
    if fault := load().mc_check(machine.struct, n_entries):
        raise UntrustedFile(f"its arrays are damaged (check {fault})")
    return machine


def open_automaton(metadata: Metadata, rule: TextRule = PAPER, folder: Path | None = None) -> Automaton:
    """Open the automaton of a list under a rule from `folder` (default: `cache_folder`), or build and save it.

    A file that cannot be trusted is built again. Failing to read or write the cache never fails the run.
    """
    path = (folder or cache_folder()) / f"{key(metadata, rule)}.automaton"
    with contextlib.suppress(OSError, UntrustedFile):
        return read(path, metadata, rule)
    automaton = build(metadata, rule)
    with contextlib.suppress(OSError, MetaclipError, UntrustedFile):
        write(automaton, path)
        return read(path, metadata, rule)
    return automaton
