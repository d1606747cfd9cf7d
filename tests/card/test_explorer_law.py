"""The page's JavaScript computes the same matches, P(keep), draws and uids as Python, for any text."""

from __future__ import annotations

import dataclasses
import html.entities
import json
import math
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaclip import Matcher, Metadata, TextRule
from metaclip.card.explorer.rule_tables import rule_tables
from metaclip.curate.draw import keep_probability, probabilities, uniform
from metaclip.curate.threshold import entry_thresholds, scaled
from metaclip.matching.text_rule import PAPER
from metaclip.pool.uid import uid_of
from tests import oracle
from tests.bench import corpus
from tests.cases.matching import CASES

LAW = Path(__file__).parents[2] / "metaclip" / "card" / "explorer" / "page" / "law.js"

# Answers a line of JSON with a line of JSON: [function, arguments] with its result; an index is kept by `list`.
SERVER = """
const law = require(process.argv[1]);
let index, rule, tables, characters = {};
const functions = {
  ...law,
  list: (entries, itsRule, itsTables) => {
    [rule, tables] = [itsRule, { ...characters, ...itsTables }];
    index = law.makeIndex(entries, tables.forms);
    return null;
  },
  characters: (all) => { characters = all; return null; },
  pads: (texts) => texts.map((text) => law.pad(text, rule, tables)),
  matches: (texts) => texts.map((text) => law.match(text, index, rule, tables)),
  unsure: (texts) => texts.map((text) => law.mayComposeOtherwise(text, tables.unassigned)),
};
require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const [name, ...rest] = JSON.parse(line);
  console.log(JSON.stringify(functions[name](...rest)));
});
"""


class Node:
    """law.js in a node process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def __call__(self, name: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def match(
        self, entries: Sequence[str], texts: Sequence[str], rule: TextRule = PAPER
    ) -> list[list[int]]:
        self("list", list(entries), dataclasses.asdict(rule), rule_tables(rule, entries))
        found: list[list[int]] = self("matches", list(texts))
        return found


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A node process with law.js."""
    if (found := shutil.which("node")) is None:
        pytest.skip("needs node: it is not on the path")
    command = [found, "-e", SERVER, str(LAW)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        yield Node(process)
        process.terminate()


def bits(x: float) -> bytes:
    return struct.pack("<d", x)


@pytest.fixture(scope="module")
def node_with_tables(node: Node) -> Node:
    """A node process that holds all tables of characters, made once."""
    node(
        "characters",
        rule_tables(TextRule(unicode_separators=True, nfc=True, unescape_html=True, fold_case=True), []),
    )
    return node


def test_the_table_of_matching(node_with_tables: Node) -> None:
    """The page passes every case of the matcher's table, with all options of the rule."""
    node, wrong = node_with_tables, []
    for case in CASES:
        forms = [[i, case.rule.entry(entry)] for i, entry in enumerate(case.entries)]
        node("list", case.entries, dataclasses.asdict(case.rule), {"forms": forms})
        if node("matches", [case.text])[0] != case.ids:
            wrong.append(case.name)
    assert len(CASES) > 200
    assert not wrong


TOKENS = [
    "a", "b", "dog", "Dog", "hot dog", "hot", ",", ".", "!", "`", " ", "  ", "\t", "\n", "\r", "a.b", "(dog)", "dog's", "\u00a0", "\u2028",
    "é", "e\u0301", "ß", "İ", "ΐ", "Σς", "猫", "カメラ", "か\u3099", "가", "𠮷", "🐕", "👩\u200d🚀", "\u202e", "\0", "\x1b", "&amp;", "&#100;", "&ampD",
    "&#x80;", "&#0;", "&notit;", "&ltx", "<x", "𐐀", "𐐨", "。", "「", "ﬁ", "\ufeff", "<script>", "__proto__", "constructor",
]  # fmt: skip
ANY = st.characters(exclude_categories=["Cs"])
STRINGS = st.lists(st.one_of(st.sampled_from(TOKENS), ANY), max_size=8).map("".join)
ENTRIES = st.lists(
    STRINGS.map(lambda s: s.replace("\n", " ")).filter(bool), min_size=1, max_size=12, unique=True
)


@settings(max_examples=100)
@given(entries=ENTRIES, texts=st.lists(STRINGS, min_size=10, max_size=20), data=st.data())
def test_the_papers_rule(node: Node, entries: list[str], texts: list[str], data: st.DataObject) -> None:
    """Under the paper's rule the page finds what ``in`` finds, in thousands of texts of any characters."""
    planted = data.draw(st.lists(st.sampled_from(entries), max_size=5))
    texts = [*texts, " ".join(planted), ".".join(planted), "".join(planted)]
    assert node.match(entries, texts) == [oracle.match(entries, text) for text in texts]


def rules() -> st.SearchStrategy[TextRule]:
    flags = {f.name: st.booleans() for f in dataclasses.fields(TextRule) if f.name != "unspaced_scripts"}
    return st.builds(TextRule, **flags, unspaced_scripts=st.sampled_from(["none", "published", "fixed"]))


def test_any_rule(node_with_tables: Node) -> None:
    """Under any combination of options the page finds what the oracle finds, or says that it cannot know."""
    node, compared, doubted = node_with_tables, 0, 0

    @settings(max_examples=150)
    @given(
        entries=ENTRIES, texts=st.lists(STRINGS, min_size=10, max_size=20), rule=rules(), data=st.data()
    )
    def holds(entries: list[str], texts: list[str], rule: TextRule, data: st.DataObject) -> None:
        nonlocal compared, doubted
        planted = data.draw(st.lists(st.sampled_from(entries), max_size=5))
        texts = [*texts, " ".join(planted), "".join(planted)]
        forms = [[i, rule.entry(entry)] for i, entry in enumerate(entries)]
        node("list", entries, dataclasses.asdict(rule), {"forms": forms})
        doubts = node("unsure", texts) if rule.nfc else [False] * len(texts)
        for text, ids, padded, doubt in zip(
            texts, node("matches", texts), node("pads", texts), doubts, strict=True
        ):
            if doubt:
                doubted += 1
                continue
            compared += 1
            assert padded == rule.text(text), rule
            assert ids == oracle.match(entries, text, rule), (text, rule)

    holds()
    assert compared > 1000
    assert doubted < compared / 4


def test_html_references(node_with_tables: Node) -> None:
    """Every name of HTML, with and without its semicolon and with letters behind, and numbers of every kind."""
    node, rule = node_with_tables, TextRule(unescape_html=True)
    names = [name.removesuffix(";") for name in html.entities.html5]
    numbers = [
        *range(0x180),
        0xD7FF,
        0xD800,
        0xDFFF,
        0xE000,
        0xFDD0,
        0xFFFE,
        0xFFFF,
        0x1F600,
        0x10FFFF,
        0x110000,
        10**30,
    ]
    texts = [f"&{name}{end}" for name in names for end in ("", ";", "x", "&")]
    texts += [
        f"&#{form}{end}"
        for i in numbers
        for form in (f"{i}", f"000000000{i}", f"x{i:x}", f"X{i:X}")
        for end in (";", "")
    ]
    node("list", [], dataclasses.asdict(rule), {})
    assert node("pads", texts) == [rule.text(text) for text in texts]


def test_tables_say_what_differs() -> None:
    """The paper's rule needs no table; each option adds its own, and forms only of entries where they differ."""
    assert rule_tables(PAPER, ["dog", "a.b"]) is None
    assert rule_tables(TextRule(space_entries=True), ["dog", "a.b"]) == {"forms": [[1, " a . b "]]}
    assert rule_tables(TextRule(fold_spaces=True), [" ", "dog"]) == {"forms": [[0, None]]}
    folded = rule_tables(TextRule(fold_case=True), ["Dog"])
    assert folded is not None
    assert folded["folded"]["ß"] == "ss"
    assert set(folded) == {"forms", "folded"}


def test_an_unknown_option_is_named(node: Node) -> None:
    """An option of a later version is named and not guessed at; all options of this version are known."""
    known = dataclasses.asdict(TextRule()) | {name: True for name in dataclasses.asdict(TextRule())}
    assert node("unknownOptions", known) == []
    assert node(
        "unknownOptions", {"stem_words": True, "fold_case": True, "other": False, "kind": "none"}
    ) == ["stem_words"]


@pytest.mark.parametrize(
    ("seed", "epoch", "uid", "u"),
    [
        (0, 0, "0" * 32, 0.20310281705476096),
        (0, 0, "0" * 31 + "1", 0.1676358450582638),
        (0, 1, "0" * 31 + "1", 0.7861625711858553),
        (7, 0, "91efd8562038d219f5099b42bcee1346", 0.20051838183955695),
        (2**64 - 1, 3, "f" * 32, 0.3716060502464247),
    ],
)
def test_the_published_draws(node: Node, seed: int, epoch: int, uid: str, u: float) -> None:
    """The test vectors of the frozen draw."""
    assert node("uniform", str(seed), epoch, uid) == u


@given(seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 100), uid=st.integers(0, 2**128 - 1))
def test_draws(node: Node, seed: int, epoch: int, uid: int) -> None:
    """U equals Python's to the last bit."""
    assert bits(node("uniform", str(seed), epoch, f"{uid:032x}")) == bits(uniform(seed, epoch, uid))


GIVEN = st.one_of(st.just(""), st.text("0123456789abcdefABCDEF", max_size=34), st.text(ANY, max_size=80))


@given(text=st.text(ANY, max_size=300), url=st.text(ANY, max_size=80), uid=GIVEN)
def test_uids(node: Node, text: str, url: str, uid: str) -> None:
    """A uid is the given one, or the md5 of the same bytes as in Python, at every length of a block."""
    assert node("uidOf", text, url, uid) == uid_of(text, url, uid)


def test_md5_at_the_edges_of_blocks(node: Node) -> None:
    """Each length around the padding of one block and of two."""
    for size in range(140):
        assert node("md5", "é" + "x" * size) == uid_of("é" + "x" * size)


T = st.floats(min_value=1e-9, max_value=1e12)


@given(
    entries=st.lists(st.tuples(st.integers(0, 2**53), st.floats(1e-6, 1e6)), max_size=60),
    base=T,
    t=T,
)
def test_thresholds_by_entry(node: Node, entries: list[tuple[int, float]], base: float, t: float) -> None:
    """With weights, thresholds, those at another t, and the probabilities equal Python's to the last bit."""
    counts = np.array([count for count, _ in entries], np.uint64)
    each = entry_thresholds(base, np.array([weight for _, weight in entries]))
    at_t = scaled(each, base, t)
    assert isinstance(each, np.ndarray)
    assert isinstance(at_t, np.ndarray)
    assert [bits(node("scaled", own, base, t)) for own in each.tolist()] == [*map(bits, at_t.tolist())]
    for thresholds in (each, at_t):
        found = [
            node("probability", int(count), own)
            for count, own in zip(counts, thresholds.tolist(), strict=True)
        ]
        assert [*map(bits, found)] == [*map(bits, probabilities(counts, thresholds).tolist())]


@given(
    counts=st.lists(st.integers(0, 2**53), max_size=60),
    t=st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False),
)
def test_probabilities(node: Node, counts: list[int], t: float) -> None:
    """An entry's probability and P(keep) equal Python's to the last bit."""
    expected = probabilities(np.array(counts, np.uint64), t)
    found = [node("probability", count, t) for count in counts]
    assert [*map(bits, found)] == [*map(bits, expected.tolist())]
    chance = node("keepProbability", found)
    assert bits(chance) == bits(keep_probability(range(len(counts)), expected))
    assert not math.isnan(chance)


def test_real_captions(node: Node, data_folder: Path) -> None:
    """For 10,000 real captions and the real list, the page finds the same entries as the kernel."""
    entries = corpus.entries()
    texts = pq.read_table(data_folder / "alt_text_10k.parquet")["TEXT"].to_pylist()
    expected = Matcher(Metadata(entries), cache=False).match(texts).to_pylist()
    assert node.match(entries, texts) == expected
    assert sum(map(len, expected)) > 20_000
