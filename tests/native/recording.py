"""Recording of the calls that the library gets and of what they return, so that a machine without Python can repeat them.

A file of calls holds little-endian int64 numbers and the bytes of arrays, padded to 8 bytes:

    call      name[32]  number of arguments  argument ...  the number that it returns
    argument  0  number
    argument  1  size  bytes before the call  0, or 1  size  bytes after the call if these are others

replay.c makes the calls and compares. An array in a struct is an argument of its own, and memory that the library returns is
one with the bytes that must be there. A workspace is the number of the `mc_workspace_new` that made it.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from metaclip.matching.automaton import ARRAYS, INFO
from metaclip.native import READABLE, WIDTH, MachineStruct, RowsStruct, StringsStruct


class Number(int):
    """An argument that is a number."""


class Array:
    """An argument that is the address of an array; None is the address NULL."""

    def __init__(self, start: int | None, size: int) -> None:
        self.start, self.size = start, int(size) if start else 0

    def read(self) -> bytes:
        return ctypes.string_at(self.start, self.size) if self.start else b""


class Returned:
    """A pointer to which the library writes the address of an array of as many ids as the call returns."""

    def __init__(self, pointer: Any) -> None:
        self.pointer = pointer

    def read(self, n: int) -> bytes:
        start = ctypes.cast(self.pointer, ctypes.c_void_p).value
        return ctypes.string_at(start, 4 * n) if n else b""


Argument = Number | Array | Returned


def _numbers(start: Any, count: int, dtype: Any) -> Any:
    return np.frombuffer(Array(start, count * np.dtype(dtype).itemsize).read(), dtype)


def _strings(x: StringsStruct | None) -> Iterator[Argument]:
    if x is None:
        x = StringsStruct()
    yield Array(x.data, x.n_data)
    yield Array(x.offsets, 8 * (x.n + 1))
    yield Array(x.validity, (x.first_bit + x.n + 7) // 8)
    yield Number(x.first_bit)
    yield Number(x.n)


def _machine(x: MachineStruct) -> Iterator[Argument]:
    for name, (dtype, columns) in ARRAYS.items():
        rows = getattr(x, f"n_{name}")
        yield Array(getattr(x, name), rows * columns * np.dtype(dtype).itemsize)
        yield Number(rows)
    yield from (Number(getattr(x, name)) for name in INFO)


def _rows(x: RowsStruct) -> Iterator[Argument]:
    yield Array(x.values, 4 * _numbers(x.offsets, x.n + 1, np.int64)[-1])
    yield Array(x.offsets, 8 * (x.n + 1))
    yield Number(x.n)


def _entries_of(x: RowsStruct) -> int:
    """The number of entries that arrays by entry have at least."""
    return (
        int(_numbers(x.values, _numbers(x.offsets, x.n + 1, np.int64)[-1], np.uint32).max(initial=0)) + 1
    )


def _symbol_keys(
    blob: int, symbols: int, n: int, seed: int, heads: int, tails: int, hashes: int
) -> list[Argument]:
    size = int(_numbers(symbols, 2 * (n + 2), np.uint32)[2 * (n + 1)]) + READABLE
    return [Array(blob, size), Array(symbols, 8 * (n + 2)), Number(n), Number(seed),
            Array(heads, 8 * (n + 1)), Array(tails, 4 * (n + 1)), Array(hashes, 8 * (n + 1))]  # fmt: skip


def _displace(
    hashes: int, order: int, starts: int, buckets: int, n_buckets: int, n_slots: int, displacements: int, used: int, slots: int
) -> list[Argument]:  # fmt: skip
    n = int(_numbers(starts, n_buckets + 1, np.int64)[-1])
    return [Array(hashes, 8 * n), Array(order, 8 * n), Array(starts, 8 * (n_buckets + 1)), Array(buckets, 8 * n_buckets),
            Number(n_buckets), Number(n_slots), Array(displacements, n_buckets), Array(used, n_slots), Array(slots, 8 * n)]  # fmt: skip


def _build_trie(
    symbols: int, starts: int, ids: int, n: int, n_symbols: int, longest: int, nodes: int, edges: int, n_nodes: Any, most: Any
) -> list[Argument]:  # fmt: skip
    total = int(_numbers(starts, n + 1, np.int64)[-1])
    return [Array(symbols, 4 * total), Array(starts, 8 * (n + 1)), Array(ids, 4 * n), Number(n), Number(n_symbols),
            Number(longest), Array(nodes, 16 * (1 + n_symbols + total)), Array(edges, 16 * (total - n)),
            Array(ctypes.addressof(n_nodes), 8), Array(ctypes.addressof(most), 8)]  # fmt: skip


def _unite(
    first: int, bounds: int, second: int, other: int, n: int, offsets: Any, values: Any
) -> list[Argument]:
    sizes = [4 * int(_numbers(at, n + 1, np.int32)[-1]) for at in (bounds, other)]
    return [Array(first, sizes[0]), Array(bounds, 4 * (n + 1)), Array(second, sizes[1]), Array(other, 4 * (n + 1)), Number(n),
            Array(offsets, 4 * (n + 1)), Returned(values)]  # fmt: skip


def _draw(rows: RowsStruct, probability: int, uids: int, key: int, *more: int) -> list[Argument]:
    n, by_entry = rows.n, 8 * _entries_of(rows)
    sizes = (8 * n, n, by_entry, by_entry, 24)
    return [
        *_rows(rows),
        Array(probability, by_entry),
        Array(uids, 16 * n),
        Number(key),
        *map(Array, more, sizes),
    ]


def _expect(
    rows: RowsStruct,
    slopes: int,
    thresholds: int,
    n_t: int,
    sums: int,
    by_entry: int | None,
    n_by_entry: int,
    scratch: int,
) -> list[Argument]:
    n, room = _entries_of(rows), -(-n_t // WIDTH) * WIDTH
    return [*_rows(rows), Array(slopes, 8 * n), Array(thresholds, 8 * room), Number(n_t), Array(sums, 8 * n_t),
            Array(by_entry, 8 * n_by_entry * n_t), Number(n_by_entry), Array(scratch, 16 * room)]  # fmt: skip


_ARGUMENTS: Final[dict[str, Callable[..., Any]]] = {
    "mc_check": lambda machine, n: [*_machine(machine), Number(n)],
    "mc_symbol_keys": _symbol_keys,
    "mc_fill_bloom": lambda hashes, n, bloom, size: [Array(hashes, 8 * n), Number(n), Array(bloom, 8 * size), Number(size)],
    "mc_displace": _displace,
    "mc_build_trie": _build_trie,
    "mc_fill_edges": lambda edges, n, table, n_table, bits, n_bits: [
        Array(edges, 16 * n), Number(n), Array(table, 16 * n_table), Number(n_table), Array(bits, n_bits), Number(n_bits)],
    "mc_workspace_new": _machine,
    "mc_match": lambda _, workspace, x, bounds, values: [
        Number(workspace), *_strings(x), Array(bounds, 4 * (x.n + 1)), Returned(values)],
    "mc_find": lambda _, workspace, text, size, found: [
        Number(workspace), Array(ctypes.cast(text, ctypes.c_void_p).value, size), Number(size), Returned(found)],
    "mc_unite": _unite,
    "mc_hex": lambda x, uids, kinds: [*_strings(x), Array(uids, 16 * x.n), Array(kinds, x.n)],
    "mc_md5": lambda x, y, uids: [*_strings(x), *_strings(y), Array(uids, 16 * x.n)],
    "mc_keep_probabilities": lambda rows, probability, result: [
        *_rows(rows), Array(probability, 8 * _entries_of(rows)), Array(result, 8 * rows.n)],
    "mc_draw": _draw,
    "mc_expect": _expect,
    "mc_count": lambda ids, n, counts: [
        Array(ids, 4 * n), Number(n), Array(counts, 8 * (int(_numbers(ids, n, np.uint32).max(initial=0)) + 1))],
}  # fmt: skip
"""The arguments of each function, given what Python passes to it."""


class Recorder:
    """A library that writes the calls it gets to a file."""

    def __init__(self, library: Any, path: Path) -> None:
        self._library, self._file = library, path.open("wb")
        self._workspaces: dict[int, int] = {}
        self._n_workspaces = 0

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, name)
        if name not in _ARGUMENTS:
            return function

        def call(*given: Any) -> Any:
            return self._call(name, function, given)

        return call

    def _call(self, name: str, function: Any, given: tuple[Any, ...]) -> Any:
        described = list(given)
        if name in ("mc_match", "mc_find"):
            described[1] = self._workspaces[given[1]]
        arguments = list(_ARGUMENTS[name](*described))
        before = [argument.read() if isinstance(argument, Array) else b"" for argument in arguments]
        result = function(*given)
        if name == "mc_workspace_new":
            self._workspaces[result], self._n_workspaces = self._n_workspaces, self._n_workspaces + 1
        self._file.write(struct.pack("<32sq", name.encode(), len(arguments)))
        for argument, old in zip(arguments, before, strict=True):
            if isinstance(argument, Number):
                self._number(0, argument)
                continue
            new = argument.read(result) if isinstance(argument, Returned) else argument.read()
            self._number(1, len(old))
            self._bytes(old)
            self._number(int(new != old))
            if new != old:
                self._number(len(new))
                self._bytes(new)
        self._number(0 if name == "mc_workspace_new" or result is None else result)
        return result

    def _number(self, *numbers: int) -> None:
        for number in numbers:
            self._file.write((number % 2**64).to_bytes(8, "little"))

    def _bytes(self, data: bytes) -> None:
        self._file.write(data + bytes(-len(data) % 8))

    def close(self) -> None:
        """Finish the file."""
        self._file.close()
