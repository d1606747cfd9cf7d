"""Reads and writes at raw addresses for the kernels: C's pointers as numba intrinsics.

An address is an int64. Loads need no alignment; the caller keeps every address inside a live buffer. The byte order is
little-endian (`metaclip.native.compiling` refuses others). Array arguments would work, too, but numba counts
references to them at every call: measured, this took seven times as long in the tokeniser.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

inner: Any = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)  # type: ignore[call-overload]  # not in numba's stubs
"""Decorator of functions that only kernels call: without wrappers for Python they compile in two thirds of the time."""

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_LANES = ir.VectorType(_I8, 64)


def _get(width: ir.Type, result: Any = types.int64) -> Any:
    @intrinsic
    def get(typing_context: Any, base: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = builder.load(_pointer(builder, width, *arguments))
            value.align = 1
            return value if width is _I64 else builder.zext(value, _I64)

        return result(types.int64, types.int64), generate

    return get


def _put(width: ir.Type) -> Any:
    @intrinsic
    def put(typing_context: Any, base: Any, index: Any, item: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            low = arguments[2] if width is _I64 else builder.trunc(arguments[2], width)
            done = builder.store(low, _pointer(builder, width, *arguments[:2]))
            done.align = 1
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.unliteral(item)), generate

    return put


def _pointer(builder: Any, width: ir.Type, base: Any, index: Any) -> Any:
    return builder.gep(builder.inttoptr(base, width.as_pointer()), [index])


get8, get32, at64, get64 = _get(_I8), _get(_I32), _get(_I64), _get(_I64, types.uint64)
"""``base[index]`` of unsigned integers of 8 or 32 bits as int64, of int64, and of uint64."""
put8, put32, put64 = _put(_I8), _put(_I32), _put(_I64)
"""``base[index] = item`` for the same; `item` is an int64 or uint64, of which the low bits are written."""


def _layers(n: int) -> Iterator[dict[int, int]]:
    """Yield the layers of Batcher's odd-even merge sort of `n` values, a power of two: {index: index to compare with}."""
    run = 1
    while run < n:
        step = run
        while step:
            lows = [low for first in range(step % run, n - step, 2 * step) for low in range(first, first + step)]
            pairs = [(low, low + step) for low in lows if low // (2 * run) == (low + step) // (2 * run)]
            yield dict(pairs) | {high: low for low, high in pairs}
            step //= 2
        run *= 2


def _sort(room: int) -> Any:
    lanes, bits = ir.VectorType(_I32, room), ir.IntType(room)
    absent, undefined = ir.Constant(lanes, [0xFFFFFFFF] * room), ir.Constant(lanes, ir.Undefined)

    def shuffle(builder: Any, values: Any, others: Any, places: Sequence[int]) -> Any:
        return builder.shuffle_vector(values, others, ir.Constant(lanes, list(places)))

    @intrinsic
    def sort(typing_context: Any, source: Any, n: Any, target: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            source, n, target = arguments
            values = builder.load(builder.inttoptr(source, lanes.as_pointer()))
            values.align = 1
            size = builder.insert_element(undefined, builder.trunc(n, _I32), _I32(0))
            size = shuffle(builder, size, undefined, [0] * room)
            there = builder.icmp_signed("<", ir.Constant(lanes, list(range(room))), size)
            values = builder.select(there, values, absent)
            for layer in _layers(room):
                others = shuffle(builder, values, undefined, [layer.get(i, i) for i in range(room)])
                below = builder.icmp_unsigned("<", values, others)
                least, most = builder.select(below, values, others), builder.select(below, others, values)
                values = shuffle(builder, least, most, [i + room * (layer.get(i, i) < i) for i in range(room)])
            before = shuffle(builder, values, absent, [room, *range(room - 1)])
            new = builder.and_(builder.icmp_unsigned("!=", values, before), builder.icmp_unsigned("!=", values, absent))
            new = builder.zext(builder.bitcast(new, bits), _I64)
            size = _I64(0)
            for i in range(room):
                # Always written, kept if it is new: cheaper than an unpredictable branch.
                done = builder.store(builder.extract_element(values, _I32(i)), _pointer(builder, _I32, target, size))
                done.align = 1
                size = builder.add(size, builder.and_(builder.lshr(new, _I64(i)), _I64(1)))
            return size

        return types.int64(types.int64, types.int64, types.int64), generate

    return sort


sort8, sort16 = _sort(8), _sort(16)
"""Write the sorted set of the up to 8 (16) uint32 at `source` to `target`, and return its size.

A sorting network in one vector: the order of a text's matches is unpredictable, so there are no branches. All 8 (16)
values are read and written, whatever `n` is; no value may be 2^32 - 1.
"""


@intrinsic
def prefetch(typing_context: Any, address: Any) -> Any:
    """Prefetch the cache line at `address`; never faults."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [_I8.as_pointer()], kind)
        flags = [ir.Constant(_I32, flag) for flag in (0, 3, 1)]  # read, keep in all levels, data
        builder.call(function, [builder.inttoptr(arguments[0], _I8.as_pointer()), *flags])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def lowest_bit(typing_context: Any, word: Any) -> Any:
    """Return the index of the lowest set bit of a word that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@intrinsic
def separators64(typing_context: Any, address: Any) -> Any:
    """Find the separators among the 64 bytes at `address`: (bits of blanks and marks, bits of marks alone).

    Blanks are space, tab, line feed and carriage return; marks are the paper's ``, . ; : ? ! ` ``. One vector comparison
    for each class replaces 64 branches; LLVM lowers it to the instructions of the machine.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block = builder.load(builder.inttoptr(arguments[0], _LANES.as_pointer()))
        block.align = 1

        def splat(byte: int) -> Any:
            return ir.Constant(_LANES, [byte] * 64)

        def among(lanes: Any, *wanted: str) -> Any:
            found = None
            for char in wanted:
                equal = builder.icmp_unsigned("==", lanes, splat(ord(char)))
                found = equal if found is None else builder.or_(found, equal)
            return found

        # ':' and ';' differ only in the lowest bit, ',' and '.' only in the second: one comparison finds both.
        marks = builder.or_(
            among(block, "!", "?", "`"),
            builder.or_(
                among(builder.and_(block, splat(0xFE)), ":"),
                among(builder.and_(block, splat(0xFD)), ","),
            ),
        )
        marks = builder.bitcast(marks, _I64)
        blanks = builder.bitcast(among(block, " ", "\t", "\n", "\r"), _I64)
        return context.make_tuple(builder, signature.return_type, [builder.or_(marks, blanks), marks])

    return types.UniTuple(types.uint64, 2)(types.int64), generate
