"""Ways to damage a file of a run, whatever wrote it: what a disk, a copy, an editor or another program leaves in its place.

Each damage is a name and the bytes that stand there afterwards.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

OTHERS: tuple[Any, ...] = (
    None, True, -1, 1 << 70, 1e308, float("nan"), "", "x", "../../x", [], [[]], ["x"], {}, {"x": {}}, "DEEP",
)  # fmt: skip
"""What stands in JSON where something else belongs; DEEP becomes a list of 100,000 levels."""
_DEEP = "[" * 100_000 + "]" * 100_000
_HEADERS = (
    {"descr": "<u8", "fortran_order": False, "shape": (1 << 60, 2)},
    {"descr": "<u8", "fortran_order": False, "shape": (-1,)},
    {"descr": "<u8", "fortran_order": True, "shape": (3, 5)},
    {"descr": "|O", "fortran_order": False, "shape": (3,)},
    {"descr": "<u8", "fortran_order": False, "shape": "x"},
    {"descr": "x", "fortran_order": False, "shape": ()},
    {"descr": "<u8"},
)


def damages(path: Path, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield damaged contents of a file, by what was done: first those of any file, then those of its form."""
    data = path.read_bytes()
    yield "empty", b""
    for size in {1, len(data) // 3, len(data) // 2, len(data) - 1} - {0, len(data)}:
        yield f"the first {size} bytes", data[:size]
    for _ in range(6):
        at, bit = rng.randrange(max(1, len(data))), rng.randrange(8)
        yield f"bit {bit} of byte {at}", flipped(data, at, bit)
    yield "zeros", bytes(len(data))
    yield "other bytes", rng.randbytes(len(data))
    forms = {".json": _json, ".npy": _npy, ".parquet": _parquet}
    if path.suffix in forms:
        yield from forms[path.suffix](data)


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    """Return the bytes with one bit flipped."""
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] if data else b"x"


def _json(data: bytes) -> Iterator[tuple[str, bytes]]:
    whole = json.loads(data)
    for other in OTHERS:
        yield f"{other!r:.20} for all", _dump(other)
    for path, place, key in list(_places(whole)):
        before = place[key]
        for other in OTHERS:
            place[key] = other
            yield f"{other!r:.20} for {path}", _dump(whole)
        if isinstance(before, int | float):
            place[key] = before + 1
            yield f"one more for {path}", _dump(whole)
        if isinstance(place, dict):
            del place[key]
            yield f"no {path}", _dump(whole)
        place[key] = before


def _places(value: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield every value below another one: its path, what holds it, and its key there."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield f"{path}/{key}", value, key
        if isinstance(inner, dict | list):
            yield from _places(inner, f"{path}/{key}")


def _dump(value: Any) -> bytes:
    return json.dumps(value).replace('"DEEP"', _DEEP).encode()


def _npy(data: bytes) -> Iterator[tuple[str, bytes]]:
    array = np.load(io.BytesIO(data))
    plain = array.view(np.uint64).reshape(len(array), -1) if len(array) else np.zeros((0, 2), np.uint64)
    others = (
        plain.astype(np.float32), plain.astype(np.int8), plain.reshape(-1), plain[:, :1], plain[:-1], plain[::-1],
        np.concatenate([plain, plain]), plain.reshape(-1, 1, 1), np.full_like(plain, 2**64 - 1), np.array(7),
        np.array(["x"]), array[:0],
    )  # fmt: skip
    for other in others:
        written = io.BytesIO()
        np.save(written, other)
        yield f"{other.dtype} of {other.shape}", written.getvalue()
    for header in _HEADERS:
        text = repr(header).encode().ljust(117) + b"\n"
        yield (
            f"a header {header}",
            b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data[128:],
        )
    yield "a header that is no Python", data[:10] + b"{'descr': '<u8', (((" + data[30:]


def _parquet(data: bytes) -> Iterator[tuple[str, bytes]]:
    table = pq.read_table(io.BytesIO(data))
    for name in table.column_names:
        yield f"no column {name}", _written(table.drop_columns([name]))
        for kind in (pa.string(), pa.float32(), pa.int8(), pa.list_(pa.int64())):
            place = table.column_names.index(name)
            if table.schema.field(name).type != kind:
                other = pa.array([None if kind != pa.int8() else -1] * len(table), kind)
                yield f"{kind} for {name}", _written(table.set_column(place, name, other))
        nulls = pa.nulls(len(table), table.schema.field(name).type)
        yield f"nulls for {name}", _written(table.set_column(table.column_names.index(name), name, nulls))
    yield "no rows", _written(table.slice(0, 0))
    yield "a row less", _written(table.slice(1))
    yield "rows twice", _written(pa.concat_tables([table, table]))
    yield "another order", _written(table.take(pa.array(range(len(table) - 1, -1, -1))))
    yield "one more column", _written(table.append_column("more", pa.nulls(len(table))))


def _written(table: pa.Table) -> bytes:
    written = io.BytesIO()
    pq.write_table(table, written)
    return written.getvalue()
