"""Reads and writes at raw addresses, for the kernels: what C has as pointers, as numba intrinsics.

An address is an int64. Loads need no alignment; the caller keeps every address inside a live buffer. The byte order is
little-endian (`metaclip.curation.kernel` refuses others). Array arguments would do the same work, but numba counts
references to them at every call: seven times the tokeniser's time, measured.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_LANES = ir.VectorType(_I8, 64)


def _load(result: Any, width: ir.Type) -> Any:
    @intrinsic
    def load(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = builder.load(builder.inttoptr(arguments[0], width.as_pointer()))
            value.align = 1
            return value

        return result(types.int64), generate

    return load


def _store(value: Any, width: ir.Type) -> Any:
    @intrinsic
    def store(typing_context: Any, address: Any, item: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            done = builder.store(arguments[1], builder.inttoptr(arguments[0], width.as_pointer()))
            done.align = 1
            return context.get_dummy_value()

        return types.void(types.int64, value), generate

    return store


load8, load32, load64 = _load(types.uint8, _I8), _load(types.uint32, _I32), _load(types.uint64, _I64)
store8, store32, store64 = _store(types.uint8, _I8), _store(types.uint32, _I32), _store(types.uint64, _I64)


@intrinsic
def prefetch(typing_context: Any, address: Any) -> Any:
    """Ask for the cache line at `address`; never faults."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [_I8.as_pointer()], kind)
        flags = [ir.Constant(_I32, flag) for flag in (0, 3, 1)]  # read, keep in all levels, data
        builder.call(function, [builder.inttoptr(arguments[0], _I8.as_pointer()), *flags])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def lowest_bit(typing_context: Any, word: Any) -> Any:
    """Give the index of the lowest set bit of a word that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@intrinsic
def separators64(typing_context: Any, address: Any) -> Any:
    """Find the separators among the 64 bytes at `address`: (bits of blanks and marks, bits of marks alone).

    Blanks are space, tab, line feed and carriage return; marks are the paper's ``, . ; : ? ! ` ``. One vector comparison
    for each class instead of 64 branches; LLVM lowers it to what the machine has.
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

        # ':' and ';' differ in the lowest bit alone, ',' and '.' in the second: one comparison for each two.
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
