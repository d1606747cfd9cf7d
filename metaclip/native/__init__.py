"""The compiled library: found, checked and loaded with ctypes, which releases the GIL during calls.

    if (library := load()) is not None:
        library.mc_count(address(ids, np.uint32), len(ids), address(counts, np.uint64, written=True))

Where there is no library, every caller has another way with the same result: pyahocorasick to match, numpy for the rest.
A process that takes it says so once, on standard error. METACLIP_NATIVE=0 forces it; METACLIP_NATIVE=baseline loads the
form of the library that needs no AVX2, the vector instructions that some processors lack.

Law: a library that was not compiled from the sources that stand beside it is never used. It is compiled again, or refused.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
from collections.abc import Iterable
from ctypes import c_int32, c_int64, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.errors import MetaclipError, one_line

FOLDER: Final = Path(__file__).parent
"""The folder of the library, and of its sources in an editable installation."""

READABLE: Final = 64
"""Number of bytes behind the bytes of all symbols that the library may read."""

WIDTH: Final = 16
"""`mc_expect` takes thresholds padded to a multiple of this number."""


class MachineStruct(ctypes.Structure):
    """``mc_machine``: addresses and sizes of the tables of one alphabet."""

    _fields_ = [
        *((name, c_void_p) for name in ("slots", "displacements", "bloom", "bytes", "symbols", "nodes", "edges", "filter")),
        *((f"n_{name}", c_int64) for name in ("slots", "displacements", "bloom", "bytes", "symbols", "nodes", "edges", "filter")),
        ("seed", c_uint64), ("most_outputs", c_int64), ("words", c_int64), ("longest", c_int64), ("fold_spaces", c_int64),
    ]  # fmt: skip


class StringsStruct(ctypes.Structure):
    """``mc_strings``: a column of strings in Arrow's large_string layout."""

    _fields_ = [
        ("data", c_void_p), ("n_data", c_int64), ("offsets", c_void_p), ("validity", c_void_p), ("first_bit", c_int64),
        ("n", c_int64),
    ]  # fmt: skip

    @classmethod
    def of(cls, column: pa.Array) -> StringsStruct:
        """Return the struct of a large_string array, which must outlive it."""
        validity, offsets, data = column.buffers()
        return cls(
            None if data is None else data.address, 0 if data is None else data.size, offsets.address + 8 * column.offset,
            validity.address if column.null_count else None, column.offset, len(column),
        )  # fmt: skip


class RowsStruct(ctypes.Structure):
    """``mc_rows``: rows of matches."""

    _fields_ = [("values", c_void_p), ("offsets", c_void_p), ("n", c_int64)]


class ListStruct(ctypes.Structure):
    """``mc_list``: strings, each followed by a NUL."""

    _fields_ = [("at", ctypes.c_char_p), ("size", c_int64)]

    @classmethod
    def of(cls, items: Iterable[str]) -> ListStruct:
        """Return the struct of strings without NULs, which it holds."""
        joined = b"".join(item.encode() + b"\0" for item in items)
        return cls(joined, len(joined))


class RulesStruct(ctypes.Structure):
    """``mc_rules``: what decides whether an image gives a pair."""

    _fields_ = [
        ("min_text", c_int64), ("max_text", c_int64), ("max_url", c_int64),
        ("svg_endings", ListStruct), ("blank_names", ListStruct),
        ("blank_endings", ListStruct), ("counter_domains", ListStruct), ("counter_urls", ListStruct),
        ("meta_names", ListStruct), ("headers", ListStruct),
    ]  # fmt: skip


class SizesStruct(ctypes.Structure):
    """``mc_sizes``: how much a batch of images holds."""

    _fields_ = [(name, c_int64) for name in ("bytes", "pages", "images", "candidates", "signals")] + [
        ("counts", c_int64 * 4)
    ]


class LanguageModelStruct(ctypes.Structure):
    """``mc_language_model``: addresses and sizes of the tables of a model."""

    _fields_ = [
        *(
            (name, c_void_p)
            for name in ("vectors", "kept", "before", "words", "word_offsets", "slots", "output", "left", "right")
        ),
        *((name, c_int64) for name in ("n_words", "n_slots", "n_labels", "n_buckets", "shortest", "longest")),
    ]  # fmt: skip


_MACHINE, _STRINGS, _ROWS = map(ctypes.POINTER, (MachineStruct, StringsStruct, RowsStruct))
_A, _N = c_void_p, c_int64  # the address of an array, a number
_SIGNATURES: Final[dict[str, tuple[Any, list[Any]]]] = {
    "mc_has_avx2": (c_int32, []),
    "mc_free": (None, [_A]),
    "mc_check": (_N, [_MACHINE, _N]),
    "mc_symbol_keys": (None, [_A, _A, _N, c_uint64, _A, _A, _A]),
    "mc_fill_bloom": (None, [_A, _N, _A, _N]),
    "mc_displace": (_N, [_A, _A, _A, _A, _N, _N, _A, _A, _A]),
    "mc_build_trie": (_N, [_A, _A, _A, _N, _N, _N, _A, _A, ctypes.POINTER(_N), ctypes.POINTER(_N)]),
    "mc_fill_edges": (None, [_A, _N, _A, _N, _A, _N]),
    "mc_workspace_new": (c_void_p, [_MACHINE]),
    "mc_workspace_free": (None, [c_void_p]),
    "mc_match": (_N, [_MACHINE, c_void_p, _STRINGS, _A, ctypes.POINTER(c_void_p)]),
    "mc_find": (_N, [_MACHINE, c_void_p, ctypes.c_char_p, _N, ctypes.POINTER(ctypes.POINTER(c_uint32))]),
    "mc_unite": (_N, [_A, _A, _A, _A, _N, _A, ctypes.POINTER(c_void_p)]),
    "mc_hex": (None, [_STRINGS, _A, _A]),
    "mc_md5": (None, [_STRINGS, _STRINGS, _A]),
    "mc_keep_probabilities": (None, [_ROWS, _A, _A]),
    "mc_draw": (None, [_ROWS, _A, _A, c_uint64, _A, _A, _A, _A, _A]),
    "mc_expect": (None, [_ROWS, _A, _A, _N, _A, _A, _N, _A]),
    "mc_count": (None, [_A, _N, _A]),
    "mc_languages": (None, [ctypes.POINTER(LanguageModelStruct), _STRINGS, _A, _A]),
    "mc_shouted": (None, [_STRINGS, _A]),
    "mc_find_member": (_N, [_A, _N]),
    "mc_images_new": (c_void_p, [ctypes.POINTER(RulesStruct)]),
    "mc_images_free": (None, [c_void_p]),
    "mc_images_clear": (None, [c_void_p]),
    "mc_images_sizes": (ctypes.POINTER(SizesStruct), [c_void_p]),
    "mc_images_scan": (_N, [c_void_p, ctypes.c_char_p, _N, _N, _N]),
    "mc_images_add": (_N, [c_void_p, ctypes.c_char_p, _N, _A, _N]),
    "mc_images_split_bases": (None, [c_void_p]),
    "mc_images_set_base": (_N, [c_void_p, _N, ctypes.c_char_p, _N, ctypes.c_char_p, _N, _N]),
    "mc_images_truncate": (None, [c_void_p, _N]),
    "mc_images_judge": (_N, [c_void_p, _N, _N]),
    "mc_images_decide": (_N, [c_void_p, _N, _N, *[ctypes.c_char_p, _N] * 3]),
    "mc_images_numbers": (None, [c_void_p, _N, _N, _N, _A]),
    "mc_images_offsets": (None, [c_void_p, _N, _A, _N, _A]),
    "mc_images_bytes": (None, [c_void_p, _N, _A, _N, _A]),
}


_lock = threading.Lock()


def load() -> Any:
    """Return the library, the same object each time; None, after a line on standard error, if there is none."""
    with _lock:
        return _load()


@functools.cache
def _load() -> Any:
    wanted = os.environ.get("METACLIP_NATIVE", "")
    if wanted not in ("", "0", "1", "baseline"):
        raise MetaclipError(f"METACLIP_NATIVE is {wanted!r}, must be 0, 1 or baseline")
    found, why = (
        (None, "METACLIP_NATIVE=0") if wanted == "0" else _open(FOLDER, avx2=wanted != "baseline")
    )
    if found is None:
        print(
            f"metaclip: the compiled library is not used ({why}); matching with pyahocorasick instead: same result, about "
            "40 times slower",
            file=sys.stderr,
        )
    return found


def _open(folder: Path, *, avx2: bool) -> tuple[Any, str]:
    """Return the library and why there is none. Compile it first if it is not of the sources beside it."""
    path = next(folder.glob("libmetaclip.*"), None)
    if path is None:
        return None, "it is not installed"
    if (folder / "src").exists():  # an editable installation
        from metaclip.native import build

        try:
            build.update(folder)
        except build.BuildError as error:
            raise MetaclipError(f"{path} was not compiled from the sources beside it: {error}") from None
    try:
        library = ctypes.CDLL(os.fspath(path))
        faster = path.with_stem(f"{path.stem}-avx2")
        if avx2 and faster.exists() and library.mc_has_avx2():
            library = ctypes.CDLL(os.fspath(faster))
    except OSError as error:
        return None, f"{path.name} cannot be loaded: {one_line(error)}"
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library, ""


def address(array: npt.NDArray[Any], dtype: npt.DTypeLike, *, written: bool = False) -> int:
    """Return the address of an array's items. Raise TypeError for another dtype, or for items that are not contiguous."""
    if array.dtype != dtype or not array.flags.c_contiguous or (written and not array.flags.writeable):
        raise TypeError(
            f"the library takes a contiguous array of {np.dtype(dtype)}, not {array.dtype}, {array.flags}"
        )
    return array.ctypes.data


class Memory:
    """Memory that the library allocated; freed with this object."""

    def __init__(self, library: Any, start: int) -> None:
        """Take over the memory at an address."""
        self._library, self.start = library, start

    def __del__(self) -> None:
        """Free it."""
        self._library.mc_free(self.start)
