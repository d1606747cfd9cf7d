"""Laws of the matcher: on any list, text, rule and form of column, the library gives what the naive algorithm gives."""

from __future__ import annotations

import concurrent.futures
import ctypes
import dataclasses
import itertools
import mmap
import random
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curation import naive
from metaclip.errors import MetaclipError
from metaclip.matching import MATCHES, Counts, count_matches
from metaclip.matching.automaton import seed_of
from metaclip.matching.matcher import Matcher
from metaclip.matching.text_rule import MARKS, PAPER, TextRule
from metaclip.native import READABLE, address, load
from tests import oracle
from tests.backends import BACKENDS, needs_library

CHUNK = 4096
"""Symbols that the library processes at a time: CHUNK in match.c."""


def found(entries: Sequence[str], texts: Any, rule: TextRule = PAPER, backend: Any = None) -> Any:
    return Matcher(entries, rule, backend=backend, cache=False).match(texts).to_pylist()


# --- any list, any text, any rule

# Few symbols, so that matches, overlaps and near misses are frequent; the last has one of every kind.
ALPHABETS = (
    ["a", "b", " "],
    ["a", " ", "!", "\t"],
    ["dog", "Dog", "a", " ", " ", ".", "elevenbytes", "twelve_bytes", "thirteenbytes"],
    ["猫", "犬", "カ", "か", "\u3099", "가", "a", " ", "。", ","],
    [
        *"aAbé \t\r\n\v\0\u00a0\u3000\u0301猫𠮷カﾒ가ßİſ🐶-'_(&",
        *MARKS, " ", " ", "&amp;", "&#32;", "&nbsp;", "e\u0301", "\u1100\u1161", "👩\u200d🚀",
    ],
)  # fmt: skip

FIXED = TextRule(unspaced_scripts="fixed")
RULES = st.builds(
    TextRule,
    **{option: st.booleans() for option in vars(PAPER) if option != "unspaced_scripts"},
    unspaced_scripts=st.sampled_from(["none", "published", "fixed"]),
) | st.just(PAPER)


@st.composite
def problems(
    draw: Any, rules: st.SearchStrategy[TextRule] = RULES
) -> tuple[TextRule, list[str], list[str]]:
    """A rule, a list and texts; half of the entries are planted: slices of a text's words or characters."""
    alphabet = draw(st.sampled_from(ALPHABETS))
    strings = st.lists(st.sampled_from(alphabet), max_size=24).map("".join)
    texts = draw(st.lists(strings, min_size=1, max_size=6))
    entries = draw(
        st.lists(st.lists(st.sampled_from(alphabet), max_size=5).map("".join), min_size=1, max_size=6)
    )
    for text in draw(st.lists(st.sampled_from(texts), max_size=8)):
        units, glue = draw(
            st.sampled_from([(naive.pad_text(text)[1:-1].split(" "), " "), (list(text), "")])
        )
        begin = draw(st.integers(0, len(units)))
        entries.append(glue.join(units[begin : draw(st.integers(begin, min(len(units), begin + 6)))]))
    # A list's entries are different, and hold no line feed.
    return draw(rules), list(dict.fromkeys(entry.replace("\n", "\r") for entry in entries)), texts


@given(problems())
@settings(max_examples=400)
def test_backends_agree(problem: tuple[TextRule, list[str], list[str]]) -> None:
    """The library and pyahocorasick find exactly what the naive algorithm finds, under every rule."""
    rule, entries, texts = problem
    wanted = [oracle.match(entries, text, rule) for text in texts]
    for backend in BACKENDS:
        assert found(entries, texts, rule, backend) == wanted


@given(problems(st.just(PAPER)))
@settings(max_examples=200)
def test_both_views_of_the_paper_rule_agree(problem: tuple[TextRule, list[str], list[str]]) -> None:
    """A padded entry is a substring of the padded text if and only if its words are consecutive words of the text."""
    _, entries, texts = problem
    for text in texts:
        words = naive.pad_text(text)[1:-1].split(" ")
        in_a_row = []
        for entry_id, entry in enumerate(entries):
            own = entry.split(" ")
            if any(words[i : i + len(own)] == own for i in range(len(words))):
                in_a_row.append(entry_id)
        assert in_a_row == naive.match(entries, text)


def test_all_short_texts() -> None:
    """On every text of up to six symbols out of four, with every entry of up to three, nothing differs."""
    symbols = ["a", "b", " ", "."]
    entries = ["".join(p) for n in range(4) for p in itertools.product(symbols, repeat=n)]
    texts = ["".join(p) for n in range(6) for p in itertools.product(symbols, repeat=n)]
    wanted = [naive.match(entries, text) for text in texts]
    for backend in BACKENDS:
        assert found(entries, texts, backend=backend) == wanted


@given(st.lists(st.binary(max_size=12), max_size=6), RULES)
@example(
    [b"dog \xff cat", b"\xe4 dog", b"\xe4dog", b"\xe3\x81\xe7\x8c\xab", b"\xe7\x8c\xab\x80", b"\xe7\x8c"],
    PAPER,
)
@example([b"\xe4 dog", b"\xe3\x81\xe7\x8c\xab", b"\xe7\x8c", b"\xab", b"\xe7", b"\x8c\xab"], FIXED)
@example(
    [b"DOG\xff \xc3\xa9\xff dog", b"\xe7&#1;\x8c&#1;\xab"], TextRule(fold_case=True, unescape_html=True)
)
def test_bytes_that_are_not_utf8(texts: list[bytes], rule: TextRule) -> None:
    """Bytes that are not UTF-8 are characters that no entry holds: what stands beside them matches as usual."""
    entries = ["dog", "cat", "猫", "\ufffd", "a", "é", "\u0080", "猫 dog"]
    wanted = [oracle.match(entries, text.decode("utf-8", "surrogateescape"), rule) for text in texts]
    column = pa.array(texts, pa.binary()).view(pa.string())
    for backend in BACKENDS:
        assert found(entries, column, rule, backend) == wanted


# --- any form of column

COLUMNS = st.lists(
    st.none() | st.lists(st.sampled_from(ALPHABETS[2]), max_size=12).map("".join), max_size=12
)
LIST = ["dog", "Dog", "a dog", "a", "", "elevenbytes", "twelve_bytes", "dog .", "thirteenbytes a"]


def _guarded(data: bytes, at_end: bool) -> pa.Buffer:
    """Put bytes at the end (or the start) of memory that has unreadable pages on both sides."""
    page = mmap.PAGESIZE
    room = -(-max(len(data), 1) // page) * page
    memory = mmap.mmap(-1, room + 2 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for guard in (address, address + page + room):
        assert (
            ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0)
            == 0
        )
    begin = page + (room - len(data) if at_end else 0)
    memory[begin : begin + len(data)] = data
    return pa.foreign_buffer(address + begin, len(data), memory)


def _with_data(column: pa.Array, data: pa.Buffer) -> pa.Array:
    validity, offsets, _ = column.buffers()
    return pa.Array.from_buffers(
        column.type, len(column), [validity, offsets, data], column.null_count, column.offset
    )


@given(
    COLUMNS,
    st.sampled_from([PAPER, TextRule(fold_case=True), TextRule(nfc=True, unspaced_scripts="fixed")]),
)
@settings(max_examples=100)
def test_forms_of_a_column(texts: list[str | None], rule: TextRule) -> None:
    """A column gives the same rows as string, large_string, dictionary, slice, chunks; null stays null."""
    wanted = [None if text is None else oracle.match(LIST, text, rule) for text in texts]
    matcher = Matcher(LIST, rule, cache=False)
    padded = pa.array(["a dog", None, *texts, "dog", None, "x" * 99])
    for kind in (pa.string(), pa.large_string()):
        plain = pa.array(texts, kind)
        sliced = padded.cast(kind)[2 : 2 + len(texts)]
        repeated = pa.concat_arrays([plain, plain])
        for column, rows in (
            (plain, wanted),
            (sliced, wanted),
            (sliced[1:], wanted[1:]),
            (plain.dictionary_encode(), wanted),
            (sliced.dictionary_encode(), wanted),
            (padded.cast(kind).dictionary_encode()[2 : 2 + len(texts)], wanted),
            (pa.chunked_array([plain, sliced, plain[:0]], kind), wanted * 2),
            (pa.chunked_array([], kind), []),
            (pa.chunked_array([repeated.dictionary_encode()]), wanted * 2),
        ):
            matches = matcher.match(column)
            matches.validate(full=True)
            assert matches.type == MATCHES
            assert isinstance(matches, pa.ChunkedArray) == isinstance(column, pa.ChunkedArray)
            assert matches.null_count == rows.count(None)
            assert matches.to_pylist() == rows
    assert matcher.match(texts).to_pylist() == wanted


def test_empty_and_null_columns() -> None:
    """A column without rows, of nulls only, or without a type gives the same number of rows."""
    matcher = Matcher(LIST, cache=False)
    for column, rows in (
        (pa.array([], pa.string()), []),
        (pa.array([], pa.large_string()), []),
        (pa.array(["dog"])[1:], []),
        (pa.array([], pa.dictionary(pa.int8(), pa.string())), []),
        (pa.array([None, None], pa.string()), [None, None]),
        (pa.nulls(2), [None, None]),
        (pa.array([None, None], pa.string()).dictionary_encode(), [None, None]),
        (pa.array(["", ""]), [[4], [4]]),
        (pa.array(["", None, ""], pa.large_string()), [[4], None, [4]]),
        ([], []),
        ([None], [None]),
    ):
        matches = matcher.match(column)
        assert matches.type == MATCHES
        assert matches.to_pylist() == rows


def test_dictionary_with_null_values() -> None:
    """A null among a dictionary's values is a null text, as is a null index."""
    column = pa.DictionaryArray.from_arrays(
        pa.array([1, 0, None, 1, 2], pa.int8()), pa.array([None, "a dog", "cat"])
    )
    assert found(LIST, column) == [[0, 2, 3], None, None, [0, 2, 3], []]


def test_bytes_under_a_null_match_nothing() -> None:
    """What stands in the buffer under a null is not a text."""
    validity = pa.py_buffer(bytes([0b101]))
    offsets = pa.py_buffer(np.array([0, 3, 6, 9], np.int32))
    column = pa.Array.from_buffers(pa.string(), 3, [validity, offsets, pa.py_buffer(b"dogdogdog")])
    for rule in (PAPER, TextRule(fold_case=True), FIXED, TextRule(longest_only=True)):
        matches = Matcher(["dog", "猫"], rule, cache=False).match(column)
        assert matches.to_pylist() == [[0], None, [0]]
        assert matches.values.to_pylist() == [0, 0]


@needs_library
@pytest.mark.parametrize("at_end", [True, False], ids=["end", "begin"])
@pytest.mark.parametrize("scripts", ["none", "fixed"])
def test_nothing_is_read_beside_the_buffer(at_end: bool, scripts: Any) -> None:
    """A buffer may begin or end where memory begins or ends: reading one byte more would kill the process."""
    rng = random.Random(0)
    rule = TextRule(unspaced_scripts=scripts)
    matcher = Matcher([*LIST, "猫"], rule, cache=False)
    pieces = ["a", " ", ".", "dog", "猫", "é", "elevenbytes", "twelve_bytes", "thirteenbytes"]
    for size in [*range(40), 62, 63, 64, 65, 300]:
        texts = ["".join(rng.choices(pieces, k=rng.randrange(8))) for _ in range(3)] + [
            "d" * size,
            "x" * size + " dog",
        ]
        rng.shuffle(texts)
        for last in (texts, [*texts, ""], [*texts, "dog"], [*texts, "twelve_bytes"], [*texts, "猫"]):
            column = pa.array(last)
            data = b"".join(text.encode() for text in last)
            guarded = _with_data(column, _guarded(data, at_end))
            wanted = [oracle.match([*LIST, "猫"], text, rule) for text in last]
            assert matcher.match(guarded).to_pylist() == wanted
            assert matcher.match(guarded[1:3]).to_pylist() == wanted[1:3]


@given(st.lists(st.integers(0, 3000), max_size=6), st.integers(0, 2**32))
@settings(max_examples=15)
def test_batches_do_not_matter(cuts: list[int], seed: int) -> None:
    """Texts give the same rows however they are cut into batches."""
    rng = random.Random(seed)
    words = ["a", "dog", "Dog", "x", "elevenbytes", "", "."]
    texts = [" ".join(rng.choices(words, k=rng.randrange(9))) for _ in range(3000)]
    column = pa.array(texts)
    matcher = Matcher(LIST, cache=False)
    whole = matcher.match(column).to_pylist()
    assert whole == [naive.match(LIST, text) for text in texts]
    edges = [0, *sorted(cuts), len(texts)]
    assert [
        row for a, b in itertools.pairwise(edges) for row in matcher.match(column[a:b]).to_pylist()
    ] == whole


def test_threads() -> None:
    """Four threads may use one matcher at once."""
    rng = random.Random(0)
    entries = [" ".join(rng.choices("abcdefgh", k=rng.randrange(1, 4))) for _ in range(200)]
    entries = list(dict.fromkeys([*entries, "猫", "猫犬", "a猫"]))
    texts = pa.array(
        [" ".join(rng.choices([*"abcdefgh", "猫犬", "é."], k=rng.randrange(12))) for _ in range(20_000)]
    )
    for rule in (PAPER, TextRule(unspaced_scripts="fixed", fold_case=True), TextRule(longest_only=True)):
        matcher = Matcher(entries, rule, cache=False)
        wanted = matcher.match(texts)
        assert wanted[:200].to_pylist() == [
            oracle.match(entries, text.as_py(), rule) for text in texts[:200]
        ]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert all(matches.equals(wanted) for matches in pool.map(matcher.match, [texts] * 16))


@needs_library
def test_result_holds_no_more_than_itself() -> None:
    """The matches of one text do not keep the memory alive that was allocated for many."""
    nested = [" ".join(["a"] * n) for n in range(1, 300)]  # room for 1.2 million ids per chunk
    matcher = Matcher(nested, cache=False)
    matcher.match(["a"])
    before = resident()
    results = [matcher.match(["a a"]) for _ in range(100)]
    assert len(results) == 100
    assert resident() - before < 50_000_000


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


# --- chunks: the library works on CHUNK symbols at a time


@needs_library
@pytest.mark.parametrize(
    ("rule", "filler", "symbols", "middle", "entries"),
    [
        (PAPER, "w ", 1, "x y z ", ["x y z", "y z", "z w", "w x", "x y", "w w w x", "z w w w"]),
        (PAPER, "unknown ", 1, "x y z ", ["x y z", "y z", "x y unknown"]),
        (PAPER, "u ", 1, "x u y ", ["x y", "y", "x"]),
        (PAPER, "!", 2, "x y z", ["! x y z !", "y", "! x", "! y"]),
        (PAPER, " ", 1, "x y z ", [" x y z ", " x", "z  ", "  y"]),
        (TextRule(fold_spaces=True), "   w", 1, " x y  z", ["w x y z w", "y z", "z w", "x z"]),
        (TextRule(longest_only=True), "w ", 1, "x y z ", ["x y z", "y", "y z", "x", "z w w", "w w x", "w"]),
        (TextRule(longest_only=True, fold_spaces=True), "!! ", 2, "x y z ", ["x y z", "y", "y z", "! x", "x"]),
        (TextRule(longest_only=True), "u ", 1, "x u y ", ["x y", "y"]),
        (FIXED, "猫", 1, "x 東京 都 ", ["x", "x 東京", "東京", "猫", "東京都", "猫猫"]),
        (FIXED, "!", 3, "x 東京 都", ["! x 東", "東京 都", "! x", "東京都"]),
        (dataclasses.replace(FIXED, longest_only=True), "猫", 1, "東京都 x", ["東京都", "京", "京都", "猫猫東", "x"]),
        (dataclasses.replace(FIXED, fold_spaces=True), " 猫  ", 2, " 東京  都 ", ["猫 東京 都 猫", "京 都", "都猫"]),
    ],
)  # fmt: skip
def test_rows_go_on_over_the_end_of_a_chunk(
    rule: TextRule, filler: str, symbols: int, middle: str, entries: list[str]
) -> None:
    """Consecutive symbols are found anywhere in a long text, also across the end of a chunk."""
    wanted = oracle.match(entries, filler * 9 + middle + filler * 9, rule)
    assert wanted
    matcher = Matcher(entries, rule, cache=False)
    # A chunk closes within two blocks of 64 bytes before it is full.
    first = range((CHUNK - 200) // symbols, (CHUNK + 20) // symbols)
    second = range((2 * CHUNK - 400) // symbols, (2 * CHUNK + 20) // symbols)
    texts = [filler * count + middle + filler * 9 for count in (*first, *second)]
    assert [matcher.match([text]).to_pylist() for text in texts] == [[wanted]] * len(texts)
    assert matcher.match(texts).to_pylist() == [wanted] * len(texts)


@needs_library
@pytest.mark.parametrize("rule", [PAPER, FIXED, TextRule(longest_only=True), TextRule(fold_spaces=True)])
def test_chunks_end_anywhere(rule: TextRule) -> None:
    """Random texts of many lengths give what the naive algorithm gives, wherever in them chunks end."""
    rng = random.Random(0)
    units = ["a ", "b ", "c ", "u ", "unknown ", ".", " ", "猫", "犬"]
    for _ in range(12):
        entries = {"".join(rng.choices(units, k=rng.randrange(1, 5))).strip() for _ in range(12)} - {""}
        texts = ["".join(rng.choices(units, k=rng.randrange(16))) for _ in range(2000)]
        texts.insert(1000, "".join(rng.choices(units, k=9000)) if not rule.longest_only else "a b u")
        ordered = sorted(entries)
        assert found(ordered, texts, rule) == [oracle.match(ordered, text, rule) for text in texts]


@pytest.mark.parametrize("rule", [PAPER, FIXED, TextRule(longest_only=True), TextRule(fold_spaces=True)])
def test_a_row_ends_with_its_text(rule: TextRule) -> None:
    """The last symbol of a text and the first of the next are not consecutive, wherever in a chunk the texts meet."""
    texts = ["a", "b", None, "", "a", "", "b", "猫", "犬", "a 猫"] * 3000
    entries = ["a b", "猫犬", "猫 犬", "a  b", "b a", "a", "猫"]
    rows = [None if text is None else oracle.match(entries, text, rule) for text in texts[:10]]
    assert found(entries, texts, rule) == rows * 3000


def test_longest_only_after_other_texts() -> None:
    """Matches of a text before the end of a chunk are kept, whatever earlier texts matched in that chunk."""
    rule = TextRule(longest_only=True)
    entries = ["a", "b", "c", "b u", "u c"]
    for before in (0, 1, 1000, 3000, 3900):
        for within in (1, 100, 1500, 4000):
            texts = [
                "u " * before + "a",
                "a",
                "b v " + "u " * within + "c",
                "v c b " + "w " * within + "b u",
                "c",
            ]
            wanted = [[0], [0], [1, 4], [1, 2, 3], [2]]
            assert found(entries, texts, rule) == wanted
            assert found(entries, texts[::-1], rule) == wanted[::-1]


def test_many_texts_in_a_chunk() -> None:
    """Texts without symbols, and more texts than a chunk has symbols, all get a row."""
    n = 3 * CHUNK + 7
    assert found(["dog", ""], [""] * n) == [[1]] * n
    assert found(["dog"], [None] * n) == [None] * n
    assert found(["dog"], [" "] * n, TextRule(fold_spaces=True)) == [[]] * n
    assert found(["dog", "猫"], [""] * n, FIXED) == [[]] * n
    assert found(["dog"], [None, "dog"] * n) == [None, [0]] * n


@needs_library
def test_an_entry_longer_than_a_chunk() -> None:
    """An entry may have more words than a chunk."""
    words = [f"w{i % 89}" for i in range(3 * CHUNK)]
    entry = " ".join(words)
    texts = [entry, entry + " w0", "w5 " + entry, " ".join(words[1:]), " ".join(words[:-1]), entry + "x"]
    for rule in (PAPER, TextRule(longest_only=True)):
        assert found([entry, "no"], texts, rule) == [[0], [0], [0], [], [], []]


# --- texts of 2 MB

LONG = 2_000_000


def found_soon(entries: Sequence[str], texts: list[str | None], rule: TextRule = PAPER) -> Any:
    """Do as `found` and check the time: 2 MB take about 0.2 s, but would take minutes in quadratic time."""
    matcher = Matcher(entries, rule, cache=False)
    begin = time.thread_time()
    matches = matcher.match(texts)
    assert time.thread_time() - begin < 5
    return matches.to_pylist()


@needs_library
@pytest.mark.parametrize(
    "rule", [PAPER, TextRule(fold_spaces=True), FIXED], ids=["paper", "fold", "fixed"]
)
@pytest.mark.parametrize(
    ("unit", "entries"),
    [
        ("x", ["x", "x" * 64, "x" * 1000]),
        ("a b ", ["b", "a b a", "b b", "c"]),
        ("unknown ", ["b", "a b a", "known"]),
        ("hot dog, ", ["hot", "dog", "hot dog", "dog , ", "dog ,  hot", "hot dog ,  hot dog ,  hot"]),
        (".", [".", ".  .", ". .", ".  .  .  ."]),
        (" ", ["", " ", "  ", "a"]),
        ("\t", ["", "    ", "\t"]),
        ("猫", ["猫", "猫猫", "猫 猫", "犬"]),
        ("é🐶 ", ["é", "é🐶", "🐶 é"]),
    ],
)
def test_two_megabytes(rule: TextRule, unit: str, entries: list[str]) -> None:
    """A text of 2 MB is one text like any other: one huge word, millions of words, few matches or many."""
    # The naive algorithm folds spaces slowly.
    text = unit * (LONG // len(unit.encode()) // (5 if rule.fold_spaces else 1))
    wanted = oracle.match(entries, text, rule)
    assert found_soon(entries, ["a", text, "b c", None], rule)[1] == wanted


@needs_library
def test_a_megabyte_of_combining_marks() -> None:
    """Ordering combining marks takes linear time, and its result is Unicode's."""
    rule = TextRule(nfc=True)
    for marks in ("\u0301\u0323", "\u0345\u0f71\u0344", "\u0f73", "e\u0301\u0323"):
        for n in (10, 400, 600):  # by Python, and by ours
            assert rule.text("q" + marks * n) == f" {unicodedata.normalize('NFC', 'q' + marks * n)} "
    text = "q" + "\u0301\u0323" * (LONG // 40) + " dog"
    assert found_soon(["q" + "\u0323" * (LONG // 40) + "\u0301" * (LONG // 40), "dog"], [text], rule) == [
        [0, 1]
    ]


@needs_library
def test_two_megabytes_longest_only() -> None:
    """Hiding shorter matches takes linear time, too."""
    rule = TextRule(longest_only=True)
    entries = ["a", "b", "a b", "b a", "b a b", "c"]
    assert found_soon(entries, ["a b " * (LONG // 4) + "c"], rule) == [[2, 4, 5]]
    assert found_soon(["x", "x" * 64], ["x" * LONG], rule) == [[]]
    # Nested to any depth: each new occurrence hides the one before.
    nested = [" ".join(["a"] * n) for n in range(1, 50)]
    assert found_soon(nested, ["a " * (LONG // 2)], rule) == [[48]]
    # As long a text that begins and ends by the only place where the short ones stand alone.
    assert found_soon(["a", "a a"], ["a b" + " a a" * (LONG // 4)], rule) == [[0, 1]]


@needs_library
def test_two_megabytes_of_different_matches() -> None:
    """A text may match twenty thousand entries, each many times."""
    entries = [f"w{i}" for i in range(20_000)] + [f"w{i + 7} w{i}" for i in range(0, 20_000, 2)]
    text = " ".join(f"w{-i * 7 % 40_000}" for i in range(300_000))
    assert len(text) > 0.9 * LONG
    wanted = [*range(20_000), *(20_000 + i // 2 for i in range(0, 20_000, 2))]
    assert found_soon(entries, [text, "w9 w2"]) == [wanted, [2, 9, 20_001]]


def test_many_outputs_at_one_word() -> None:
    """A word may end hundreds of entries at once, over many chunks."""
    nested = [" ".join(["a"] * n) for n in range(1, 301)]
    matcher = Matcher(nested, cache=False)
    assert matcher.match(["a " * 20_000, "a a", "b"]).to_pylist() == [list(range(300)), [0, 1], []]


def _thread_time(matcher: Matcher, text: str) -> float:
    begin = time.thread_time()
    matcher.match([text])
    return time.thread_time() - begin


def seconds_to_match(entries: list[str], text: str, rule: TextRule) -> float:
    """Return the least processor time of this thread in five matches of a text."""
    matcher = Matcher(entries, rule, cache=False)
    return min(_thread_time(matcher, text) for _ in range(5))


@needs_library
@pytest.mark.parametrize(
    "rule", [PAPER, FIXED, TextRule(longest_only=True)], ids=["paper", "fixed", "longest"]
)
@pytest.mark.parametrize(("unit", "glue"), [("a", " "), ("猫", " "), ("猫", "")])
def test_nested_entries_cost_no_more_than_two(rule: TextRule, unit: str, glue: str) -> None:
    """Entries nested 1,000 deep take up to 1.5 times as long as two; output at every word again, they took 1,000 times."""
    nested = [glue.join([unit] * n) for n in range(1, 1001)]
    text = (unit + glue) * 200_000
    assert seconds_to_match(nested, text, rule) < 5 * seconds_to_match(nested[:2], text, rule)


@needs_library
@pytest.mark.slow
def test_a_long_text_takes_the_same_time_whatever_it_matches() -> None:
    """The ids of a long text are not sorted in every chunk, however many different ones just fit into the room for them."""
    entries = [f"w{i}" for i in range(150_000)]
    matcher, times = Matcher(entries, cache=False), []
    for n in range(100_000, 150_000, 2500):
        text = " ".join(entries[:n] * (1_500_000 // n))
        times.append(min(_thread_time(matcher, text) for _ in range(2)))
    assert max(times) < 4 * min(times)


def test_twins_without_number() -> None:
    """Hundreds of entries that a rule makes equal are all found, in order."""
    entries = ["".join(p) for p in itertools.product(*zip("photos dog", "PHOTOS DOG", strict=True))]
    entries = list(dict.fromkeys(entries))
    texts = ["a Photos DOG", "dog", "photos dog " * 9000]
    for rule in (TextRule(fold_case=True), TextRule(fold_case=True, longest_only=True)):
        assert found(entries, texts, rule) == [list(range(len(entries))), [], list(range(len(entries)))]


# --- planted collisions of the hash

MASK = 2**64 - 1
A = 0xD6E8FEB86659FD93  # MULTIPLIER in metaclip.h
LETTERS = [c for c in range(0x21, 0x7F) if chr(c) not in MARKS]
ASCII = 0x8080808080808080  # the bits that are clear in eight bytes of ASCII


def _folded(x: int) -> int:
    return x ^ x >> 32


def _pair(difference: bytes) -> tuple[bytes, bytes] | None:
    """Find two strings of letters that differ by XOR in just this."""
    chosen = [next((c for c in LETTERS if c ^ d in LETTERS), None) for d in difference]
    if None in chosen:
        return None
    return bytes(chosen), bytes(c ^ d for c, d in zip(chosen, difference, strict=True))  # type: ignore[arg-type]


def _keys(words: Sequence[str], attempt: int = 0) -> list[tuple[int, int, int]]:
    """The library's own (head, tail, hash) of words."""
    encoded = [word.encode() for word in words]
    blob = np.frombuffer(b"".join(encoded) + bytes(READABLE), np.uint8)
    symbols = np.zeros((len(words) + 2, 2), np.uint32)
    symbols[2:, 0] = np.cumsum([len(word) for word in encoded])
    heads, tails, hashes = (np.zeros(len(words) + 1, kind) for kind in (np.uint64, np.uint32, np.uint64))
    load().mc_symbol_keys(
        address(blob, np.uint8), address(symbols, np.uint32), len(words), seed_of(attempt),
        address(heads, np.uint64), address(tails, np.uint32), address(hashes, np.uint64),
    )  # fmt: skip
    return list(zip(heads[1:].tolist(), tails[1:].tolist(), hashes[1:].tolist(), strict=True))


def _same_long_keys_24() -> list[str]:
    """Pairs of words of 24 bytes with one key: the second eight bytes undo what the first eight change."""
    rng = random.Random(0)
    first = rng.choices(b"abcdefghij", k=8)
    base = _folded(int.from_bytes(bytes(first), "little") * A & MASK)
    words: list[bytes] = []
    while len(words) < 6:
        other = bytes(rng.choices(b"klmnopqrst", k=8))
        difference = base ^ _folded(int.from_bytes(other, "little") * A & MASK)
        if not difference & ASCII and (pair := _pair(difference.to_bytes(8, "little"))):
            words += [bytes(first) + pair[0] + b"the_same", other + pair[1] + b"the_same"]
    return [word.decode() for word in words]


def _same_long_keys_12() -> list[str]:
    """Pairs of words of 12 bytes with one key, by a birthday search over 2^20 beginnings of eight letters."""
    rng = np.random.default_rng(0)
    begin = rng.integers(ord("a"), ord("z") + 1, (1 << 20, 8), dtype=np.uint8).view(np.uint64)[:, 0]
    product = begin * np.uint64(A)
    product ^= product >> np.uint64(32)
    # The two windows of eight bytes overlap in bytes 4 to 8: their low halves must agree, the high ones can be chosen.
    low = (product ^ (begin >> np.uint64(32))) & np.uint64(0xFFFFFFFF)
    order = np.argsort(low, kind="stable")
    words = []
    for i in np.flatnonzero(low[order[1:]] == low[order[:-1]]):
        one, two = order[i], order[i + 1]
        difference = int(product[one] ^ product[two]) >> 32
        if (
            begin[one] != begin[two]
            and not difference & ASCII
            and (pair := _pair(difference.to_bytes(4, "little")))
        ):
            words += [begin[one].tobytes() + pair[0], begin[two].tobytes() + pair[1]]
    return [word.decode() for word in words]


@needs_library
@pytest.mark.parametrize("craft", [_same_long_keys_12, _same_long_keys_24])
def test_long_words_with_one_key(craft: Any) -> None:
    """Words over 11 bytes whose keys are equal are told apart by their bytes, in the list and in the text."""
    words = craft()
    assert len(words) >= 2
    for one, two in zip(words[::2], words[1::2], strict=True):
        assert one != two
        assert _keys([one])[0][:2] == _keys([two])[0][:2], "the hash has changed: craft for the new one"
        for rule in (PAPER, TextRule(longest_only=True)):
            assert found([one, two], [one, two, f"{two} {one}", "x"], rule) == [[0], [1], [0, 1], []]
            assert found([one], [two, one], rule) == [[], [0]]
            assert found([two], [two, one], rule) == [[0], []]
            # The one that is not in the list breaks a row of words.
            assert found([f"a {one} b", "b", "a"], [f"a {two} b", f"a {one} b"], rule)[0] == [1, 2]
    entries = [*words, "dog"]
    texts = [*words, " ".join(words[1:]), " ".join(words)]
    assert found(entries, texts) == [naive.match(entries, text) for text in texts]


@needs_library
def test_many_long_words_with_one_key() -> None:
    """A chain of words that share a key is searched to its end."""
    words = _same_long_keys_24()
    one = [word for word in words if _keys([word])[0][:2] == _keys([words[0]])[0][:2]]
    texts = [*words, words[0][:-1] + "x", " ".join(reversed(words))]
    for entries in (words, words[::-1], words[1:], [words[0], words[3], words[5]], one):
        assert found(entries, texts) == [naive.match(entries, text) for text in texts]


def _same_short_hashes(attempt: int, n: int) -> list[str]:
    """Pairs of words of 11 bytes whose keys differ and whose hash under a seed is one."""
    seed = np.uint64(seed_of(attempt))
    endings = [bytes(letters) for letters in itertools.product(LETTERS, repeat=3)]
    # The hash is a bijection of first eight bytes XOR tail * seed: let the first eight undo what the tails differ in.
    products = (
        np.array([int.from_bytes(ending + b"\x0b", "little") for ending in endings], np.uint64) * seed
    )
    alike = np.flatnonzero((products & np.uint64(ASCII)) == (products[0] & np.uint64(ASCII))).tolist()
    words: list[str] = []
    for one, two in itertools.combinations(alike, 2):
        if pair := _pair(int(products[one] ^ products[two]).to_bytes(8, "little")):
            words += [(pair[0] + endings[one]).decode(), (pair[1] + endings[two]).decode()]
        if len(words) == 2 * n:
            break
    return words


@needs_library
def test_short_words_with_one_hash() -> None:
    """No displacement separates words with equal hashes: the build takes the next seed."""
    crafted = [_same_short_hashes(attempt, 1) for attempt in range(3)]
    for attempt, (one, two) in enumerate(crafted):
        assert one != two
        assert _keys([one], attempt)[0][2] == _keys([two], attempt)[0][2], (
            "the hash has changed: craft for the new one"
        )
    words: list[str] = []
    for attempt, pair in enumerate(crafted):
        words += pair
        matcher = Matcher(words, cache=False)
        assert matcher._backend.automaton.machines[0].info["seed"] == seed_of(attempt + 1)
        texts = [*words, " ".join(words), " ".join(words[1:]), words[0][:-1], words[0] + "x"]
        assert matcher.match(texts).to_pylist() == [naive.match(words, text) for text in texts]


@needs_library
def test_text_word_with_the_hash_of_an_entry() -> None:
    """A word of a text that has an entry's hash, and so its slot, is not the entry."""
    for one, two in zip(*[iter(_same_short_hashes(0, 20))] * 2, strict=True):
        assert _keys([one])[0][2] == _keys([two])[0][2]
        assert found([one], [two, one, f"{two} {one}"]) == [[], [0], [0]]


@needs_library
def test_text_words_with_the_slot_of_an_entry() -> None:
    """Of many thousand words that share few slots, only the entries themselves match."""
    for entries in (["dog"], ["", "a", "\0"], ["dog", "cat", "a dog", "elevenbytes", "x" * 12]):
        words = ["".join(p) for n in range(4) for p in itertools.product("abcdgot\0x", repeat=n)]
        words += [entry + tail for entry in entries for tail in ("\0", "\0\0", "x", "é")]
        words += [word + "bytes_and_more" for word in words[:200]]
        assert found(entries, words) == [naive.match(entries, word) for word in words]


@needs_library
def test_words_that_the_bloom_filter_lets_through() -> None:
    """The filter knows each word of the list, lets few others through, and those match nothing."""
    entries = [f"w{i}" for i in range(3000)] + ["w1 w2", "a_word_of_more_than_eleven_bytes", ""]
    matcher = Matcher(entries, cache=False)
    arrays = matcher._backend.automaton.machines[0].arrays
    bloom, shift = arrays["bloom"].tolist(), 65 - len(arrays["bloom"]).bit_length()

    def passes(word: str) -> bool:
        h = _keys([word])[0][2]
        return bool(bloom[h >> shift] >> (h & 63) & bloom[h >> shift] >> (h >> 6 & 63) & 1)

    others = [f"u{i}" for i in range(3000)]
    through = [word for word in others if passes(word)]
    assert all(passes(word) for entry in entries for word in entry.split(" "))
    assert 0 < len(through) < 300
    for word in through:
        texts = [word, f"w1 {word} w2", f"{word} w1 w2 {word}", f"w2 {word}", word + ".w3"]
        assert matcher.match(texts).to_pylist() == [[], [1, 2], [1, 2, 3000], [2], [3]]
    assert matcher.match(others).to_pylist() == [[]] * len(others)


# --- counts


@given(problems(), st.integers(0, 6))
@settings(max_examples=100)
def test_counts(problem: tuple[TextRule, list[str], list[str]], cut: int) -> None:
    """An entry's count is the number of texts that match it, over slices, chunks and nulls."""
    rule, entries, texts = problem
    rows = [oracle.match(entries, text, rule) for text in texts]
    wanted = naive.counts(rows, len(entries))
    matcher = Matcher(entries, rule, cache=False)
    matches = matcher.match([None, *texts, None])
    assert matcher.count(matches).tolist() == wanted
    assert matcher.count(pa.chunked_array([matches[:cut], matches[cut:]], MATCHES)).tolist() == wanted
    assert count_matches(matches[1 : 1 + cut], len(entries)).tolist() == naive.counts(
        rows[:cut], len(entries)
    )
    assert matcher.count(matches).dtype == np.uint64


def test_counts_of_nothing() -> None:
    """No texts, no matches: zero for each entry."""
    matcher = Matcher(["dog", "cat"], cache=False)
    for texts in ([], [None], ["x"]):
        assert matcher.count(matcher.match(texts)).tolist() == [0, 0]
    assert count_matches(pa.chunked_array([], MATCHES), 2).tolist() == [0, 0]


def test_counts_of_a_longer_list_are_refused() -> None:
    """An entry id beyond the list is an error, not a write beyond the counts."""
    with pytest.raises(ValueError, match=r"entry id of 7 .* 2 entries"):
        count_matches(pa.array([[0], [1, 7]], MATCHES), 2)


def test_counts_add_up() -> None:
    """Counts of parts, added in any order, are the counts of the whole; others' counts are refused by name."""
    parts = [
        Counts(np.array(values, np.uint64), "list", PAPER.identity)
        for values in ([1, 0], [2, 5], [2**63, 1])
    ]
    for order in itertools.permutations(parts):
        total = order[0] + order[1] + order[2]
        assert total.values.tolist() == [2**63 + 3, 6]
        assert total.values.dtype == np.uint64
    values = np.zeros(2, np.uint64)
    for other, named in (
        (Counts(values, "another", PAPER.identity), "lists .* list and another"),
        (Counts(values, "list", TextRule(nfc=True).identity), "text rules"),
        (Counts(np.zeros(3, np.uint64), "list", PAPER.identity), "numbers? of entries.* 2 and 3"),
    ):
        with pytest.raises(MetaclipError, match=named):
            parts[0] + other
