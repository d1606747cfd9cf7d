"""Kernels: compiled by numba once per machine, then loaded as machine code from the user's cache.

    compiled("pair_kernel", "draw")(values, offsets, ...)

A kernel is a function of numbers and arrays; the `KERNELS` of its module holds its signature. Compiling a kernel takes 0.2
to 3 s, and importing numba another 0.5 s: so the machine code is cached, and other processes load it in milliseconds,
without numba. Numba's own cache is not used: it is pickled, and it does not notice changes in other modules than the
kernel's.

Law: the name of a cached file depends on the bytes of all modules in which kernels are written, the versions of numba and
llvmlite, and the processor with its features. The file holds the digest of its code. A file that belongs to another user,
or that other users may write to, is not loaded. A cache that is damaged, or cannot be read or written, never fails a run.

Arrays are checked against the signature at each call; kernels raise nothing. The check takes microseconds per array: call
kernels on batches, or bind the arguments once if they are always the same (`Kernel.bind`).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib
import importlib.metadata
import json
import os
import re
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import llvmlite.binding as llvm
import numpy as np

from metaclip.storage.files import atomic_write, cache_folder

if sys.byteorder != "little":
    raise ImportError("metaclip's kernels need a little-endian machine")

MODULES: Final = ("kernel", "pair_kernel", "split_kernel", "symbol_kernel", "walk_kernel")
"""The modules of `metaclip.native` that define kernels."""
_SOURCES: Final = (*MODULES, "layout", "raw", "compiling")
_LIBC: Final = {"memcpy", "memmove", "memset", "bzero"}
"""The functions that cached machine code may call: the C library is in every process."""
_PACKED: Final = "metaclip_packed"
# Numba would free an array with its last reference. Python owns all arrays here, so none is freed.
_FREE: Final = re.compile(r"^declare void @NRT_MemInfo_call_dtor\((.*?)\).*$", re.MULTILINE)

_lock = threading.RLock()


def compiled(module: str, name: str) -> Kernel:
    """Return a kernel, loaded from the cache or compiled; the same object each time. Threads may share it."""
    with _lock:
        return _compiled(module, name)


def is_cached(module: str, name: str) -> bool:
    """Return whether a kernel is in the cache, so that it need not be compiled."""
    return _file(module, name).exists()


@functools.cache
def _compiled(module: str, name: str) -> Kernel:
    path = _file(module, name)
    # Failing to read or write the cache must never fail the run.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RuntimeError):
        return Kernel.from_file(_read_trusted(path))
    header, code, is_portable = _compile(module, name)
    if is_portable:
        with contextlib.suppress(OSError), atomic_write(path) as temporary:
            temporary.write_bytes(json.dumps(header).encode() + b"\n" + code)
            temporary.chmod(0o644)
    return Kernel(header, code)


@functools.cache
def _identity() -> str:
    found = hashlib.sha256()
    for module in _SOURCES:
        found.update(Path(__file__).with_name(f"{module}.py").read_bytes())
    versions = [importlib.metadata.version(package) for package in ("numba", "llvmlite")]
    found.update("\0".join([*versions, *_target()]).encode())
    return found.hexdigest()


@functools.cache
def _target() -> tuple[str, str, str]:
    """Return the triple, the name and the features of this machine's processor."""
    for prepare in (llvm.initialize_native_target, llvm.initialize_native_asmprinter):
        prepare()
    return llvm.get_process_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


def _file(module: str, name: str) -> Path:
    return cache_folder() / "kernels" / f"{module}-{name}-{_identity()[:32]}.bin"


def _read_trusted(path: Path) -> bytes:
    """Read a file of the cache. Raise OSError if somebody else could have written it."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if hasattr(os, "getuid") and (
            found.st_uid not in (0, os.getuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        ):
            raise PermissionError(path)
        return file.read()


def _machine() -> Any:
    triple, processor, features = _target()
    target = llvm.Target.from_triple(triple)
    return target.create_target_machine(cpu=processor, features=features, opt=3, codemodel="jitdefault", jit=True)


def _compile(module: str, name: str) -> tuple[dict[str, Any], bytes, bool]:
    """Compile a kernel; return its header, its machine code, and whether the code calls only functions of the C library."""
    from numba import njit, types

    function, signature = importlib.import_module(f"metaclip.native.{module}").KERNELS[name]
    without_wrappers: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # not in numba's stubs
    made: Any = njit(signature, **without_wrappers)(function)
    text = made.inspect_llvm(made.signatures[0])
    code = llvm.parse_assembly(_FREE.sub(r"define internal void @NRT_MemInfo_call_dtor(\1 %owner) { ret void }", text))
    symbol = made.overloads[made.signatures[0]].fndesc.llvm_func_name
    code.link_in(llvm.parse_assembly(_packed(code.get_function(symbol))))
    calls = {one.name for one in code.functions if one.is_declaration and not one.name.startswith("llvm.")}
    machine = _machine().emit_object(code)
    arrays = [
        [str(np.dtype(str(kind.dtype))), kind.ndim, kind.mutable] if isinstance(kind, types.Array) else None
        for kind in signature.args
    ]
    header = {
        "arguments": arrays, "returns": str(signature.return_type), "sha256": hashlib.sha256(machine).hexdigest(),
    }  # fmt: skip
    return header, machine, calls <= _LIBC


def _packed(kernel: Any) -> str:
    """Return LLVM code of a function that reads a kernel's arguments from memory, one word each, and calls the kernel.

    Passing a hundred numbers from Python would take longer than many calls.
    """
    kinds = [str(argument.type) for argument in kernel.arguments]
    words = "ptr" if kinds[0] == "ptr" else "i64*"
    lines = []
    for i, kind in enumerate(kinds):
        cast = "inttoptr" if kind.endswith(("ptr", "*")) else "trunc" if kind != "i64" else "bitcast"
        lines += [
            f"%at{i} = getelementptr i64, {words} %words, i64 {i}", f"%word{i} = load i64, {words} %at{i}",
            f"%v{i} = {cast} i64 %word{i} to {kind}",
        ]  # fmt: skip
    given = ", ".join(f"{kind} %v{i}" for i, kind in enumerate(kinds))
    return "\n".join([
        f'target triple = "{kernel.module.triple}"', f'target datalayout = "{kernel.module.data_layout}"',
        f'declare i32 @"{kernel.name}"({", ".join(kinds)})', f"define i32 @{_PACKED}({words} %words) {{", *lines,
        f'%code = call i32 @"{kernel.name}"({given})', "ret i32 %code", "}",
    ])  # fmt: skip


_RESULTS: Final[dict[str, Callable[[int], int | bool | None]]] = {
    "none": lambda word: None, "bool": lambda word: bool(word & 1), "int64": lambda word: word,
}  # fmt: skip


class Kernel:
    """Machine code in this process, called with numbers and numpy arrays."""

    def __init__(self, header: dict[str, Any], code: bytes) -> None:
        """Load a kernel's machine code."""
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())  # owns the code that is called
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        self._arguments = [None if one is None else (np.dtype(one[0]), *one[1:]) for one in header["arguments"]]
        self._result = _RESULTS[header["returns"]]
        kind = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)
        self._function = kind(self._engine.get_function_address(_PACKED))

    @classmethod
    def from_file(cls, data: bytes) -> Kernel:
        """Load the contents of a cached file. Raise ValueError if they are damaged."""
        first, _, code = data.partition(b"\n")
        header = json.loads(first)
        if hashlib.sha256(code).hexdigest() != header["sha256"]:
            raise ValueError("damaged")
        return cls(header, code)

    def __call__(self, *given: Any) -> int | bool | None:
        """Call the kernel without the GIL. Raise TypeError for arguments that do not fit its signature."""
        return self.bind(*given)()

    def bind(self, *given: Any) -> Callable[[], int | bool | None]:
        """Return a function that calls the kernel with these arguments, for one thread; the arrays must outlive it."""
        if len(given) != len(self._arguments):
            raise TypeError(f"a kernel takes {len(self._arguments)} arguments, not {len(given)}")
        # Numba's calling convention: the addresses of the result and of an error; then for each array its owner, its
        # parent, the number and the size of its items, its address, its shape and its strides.
        result, error = ctypes.c_int64(), ctypes.c_void_p()
        words = [ctypes.addressof(result), ctypes.addressof(error)]
        for value, array in zip(given, self._arguments, strict=True):
            if array is None:
                words.append(int(value))
                continue
            flags = value.flags
            if (value.dtype, value.ndim) != array[:2] or not flags.c_contiguous or (array[2] and not flags.writeable):
                raise TypeError(f"a kernel expects an array of {array}, not {value.dtype} in {value.ndim} dimensions")
            words += (0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides)
        packed = (ctypes.c_int64 * len(words))(*words)
        function, read, at = self._function, self._result, ctypes.c_void_p(ctypes.addressof(packed))

        def call(_held: Any = (packed, error)) -> int | bool | None:
            if function(at):
                raise RuntimeError("a kernel stopped at an error; please report it")
            return read(result.value)

        return call
