"""What can never match is found exactly, and what looks wrong is pointed at."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import naive
from metaclip import Metadata
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata import lint
from tests import oracle


def strings(alphabet: str, longest: int) -> Iterator[str]:
    """Yield every string over an alphabet of 1 to `longest` characters."""
    for length in range(1, longest + 1):
        yield from map("".join, itertools.product(alphabet, repeat=length))


def dead_by_the_book(entry: str) -> bool:
    """Return whether an entry is dead by REFERENCE.md: a tab or line end, a mark inside a longer token, or two mark tokens in a row."""
    if re.search("[\t\n\r]", entry):
        return True
    tokens = entry.split(" ")
    marked = [any(mark in token for mark in ",.;:?!`") for token in tokens]
    inside = any(is_marked and len(token) > 1 for token, is_marked in zip(tokens, marked, strict=True))
    return inside or any(a and b for a, b in itertools.pairwise(marked))


# The law --------------------------------------------------------------------------------------------------------------


def test_dead_is_what_no_text_matches() -> None:
    """An entry is alive exactly if the naive algorithm finds it in some text, among all texts up to two characters longer."""
    padded = [naive.pad_text(text) for text in ("", *strings("a .\t,", 6))]
    for entry in strings("a .\t,", 4):
        form = naive.pad_entry(entry)
        assert lint.alive(entry, PAPER) == any(form in text for text in padded), repr(entry)


def test_dead_is_what_the_book_says() -> None:
    """Under the paper's rule the dead entries are those of REFERENCE.md's three cases, for every short entry."""
    for entry in strings("ab .!\n", 6):
        assert lint.alive(entry, PAPER) != dead_by_the_book(entry), repr(entry)


RULES = [
    TextRule(space_entries=a, fold_spaces=b, unicode_separators=c, unspaced_scripts=d)
    for a, b, c, d in itertools.product((False, True), (False, True), (False, True), ("none", "fixed"))
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_dead_under_other_rules(rule: TextRule) -> None:
    """Under each rule an entry is alive exactly if it is found in some text, among all texts up to one character longer."""
    alphabet = "a (.カ"
    padded = [rule.text(text) for text in ("", *strings(alphabet, 4))]
    for entry in strings(alphabet, 3):
        form = rule.entry(entry)
        found = form is not None and any(form in text for text in padded)
        assert lint.alive(entry, rule) == found, repr(entry)


FLAGS = [field.name for field in dataclasses.fields(TextRule) if field.type == "bool"]
WORDS = st.text("aÉé\u0301 .,&;#(ß\u037e\u00a0-t", min_size=1, max_size=8)


@given(WORDS, st.lists(WORDS, max_size=8), st.sets(st.sampled_from(FLAGS)))
def test_nothing_matches_the_dead(entry: str, texts: list[str], flags: set[str]) -> None:
    """No text, made of an entry's own characters or others, matches an entry that is said to be dead, under any rule."""
    rule = TextRule(**dict.fromkeys(flags, True))
    if lint.alive(entry, rule):
        return
    for text in (entry, entry.replace(" ", ""), entry.replace(".", " . "), *texts, entry.join(texts)):
        assert not oracle.match([entry], text, rule)


@given(WORDS)
def test_spaced_entries_are_never_dead(entry: str) -> None:
    """Where entries are set apart as texts are, every entry can match, at least itself."""
    assert lint.alive(entry, TextRule(space_entries=True))


def test_the_examples() -> None:
    """The entries that REFERENCE.md says can never match, and those it says match as written."""
    for entry in ("St. Louis", "U.S.", "Yahoo!", "3.5", ". .", "a\tb"):
        assert not lint.alive(entry, PAPER)
    for entry in ("T-shirt", "rock & roll", "o'clock", "a . b", ".", "hot dog", "R&B"):
        assert lint.alive(entry, PAPER)
    assert lint.alive("&amp", TextRule(unescape_html=True))  # the text "&amp;amp" matches it
    assert not lint.alive("   ", TextRule(fold_spaces=True))


# The findings ---------------------------------------------------------------------------------------------------------


def kinds(*entries: str, rule: TextRule = PAPER) -> dict[str, list[int]]:
    """Return the rows found, by kind."""
    found: dict[str, list[int]] = {}
    for finding in lint.findings(Metadata(list(entries)), rule, {}):
        found.setdefault(finding.kind, []).append(finding.row)
    return found


def test_the_rule_that_helps_is_named() -> None:
    """A dead entry comes with the first rule, of those offered, under which it matches."""
    offered = {"--nfc": TextRule(nfc=True), "--space-entries": TextRule(space_entries=True)}
    (finding,) = lint.findings(Metadata(["St. Louis", "dog"]), PAPER, offered)
    assert (finding.row, finding.entry, finding.kind) == (0, "St. Louis", "dead")
    assert finding.note == "matches with --space-entries"
    (finding,) = lint.findings(Metadata(["St. Louis", "dog"]), PAPER, {"--nfc": TextRule(nfc=True)})
    assert finding.note == "matches under no rule"


def test_doubles() -> None:
    """Entries that differ in Unicode form or spaces are doubles; in case, they are said to be so and nothing else."""
    assert kinds("cafe\u0301", "dog", "café", "DOG", "Dog") == {"double": [2], "case": [3, 4]}
    found = kinds("hot dog", "hot  dog")
    assert found["double"] == [1]


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ("dog", None), ("hot dog", None), ("o'clock", None), ("R&B", None), ("C++", None), ("Xi\u2019an", None), ("日本", None),
        ("rock & roll", None), ("AC/DC", None), ("a.b", None), ("5'", "quote"), ("the dogs'", "quote"), ("'dogs' home", "quote"), ("5s' a", "quote"), ("Hawai\u02bbi", None), ("C#", None),
        ("lt;br&gt", "markup"), ("&lt;br&gt", "markup"), ("r&amp;b", "markup"), ("colspan=2", "markup"), ("[[dog", "markup"),
        ('style="', "markup"), ("<b>", "markup"), ("a|b", "markup"), ("https://a", "markup"), ("''dog''", "markup"),
        ('"dog', "quote"), ("dog'", "quote"), ("the 'hood", "quote"), ("\u201cdog\u201d", "quote"), ("dog \u2018cat", "quote"),
        ("Dar\u2018ā", "quote"), ("a\u200bb", "hidden"), ("a\u00a0b", "hidden"), ("a\x07b", "hidden"), (" dog", "edge"),
        ("hot  dog", "edge"), ("--", "sign"), ("&", "sign"),
        ("می\u200cخواهم", None), ("ශ්\u200dරී ලංකා", None), ("ന്\u200d", None), ("می\u200c", "hidden"), ("a\u200db", "hidden"),
        ("\u200dක", "hidden"), ("می\u200c\u200cخ", "hidden"),
    ],
)  # fmt: skip
def test_what_looks_wrong(entry: str, fault: str | None) -> None:
    """Markup, glued quotes, hidden characters, stray spaces and bare signs are told apart from what words really hold."""
    assert lint.fault(entry) == fault
    assert (fault is None) or (fault in kinds(entry))


RULES = [
    PAPER,
    TextRule(space_entries=True),
    TextRule(unspaced_scripts="fixed"),
    TextRule(nfc=True, fold_case=True),
    TextRule(unicode_separators=True, unescape_html=True),
]


@given(st.text(min_size=1, max_size=3).filter(str.isalnum), st.sampled_from(RULES))
def test_words_of_any_script_need_no_witness(word: str, rule: TextRule) -> None:
    """Letters and digits alone match themselves under every rule, and nothing is wrong with them."""
    form = rule.entry(word)
    assert form is None or form in rule.text(word)
    assert lint.alive(word, rule) == (form is not None)
    assert lint.fault(word) is None


@pytest.mark.parametrize("entry", ["bayes' theorem", "rock 'n' roll", "all saints\u2019 day"])
def test_an_apostrophe_of_a_word_is_no_quote(entry: str) -> None:
    """A list may hold plural possessives; from a source that is not trusted they are left out like other quotes."""
    assert kinds(entry) == {}
    assert lint.fault(entry) == "quote"


def test_one_character_and_very_long() -> None:
    """Entries of one character and of over a hundred are pointed at."""
    assert kinds("a", "ab", "b" * 100, "c" * 101) == {"one character": [0], "long": [3]}


def test_findings_come_in_one_order() -> None:
    """Findings come by kind, the gravest first, and by row within a kind."""
    found = lint.findings(Metadata(["&", "a", "b.c", "b.d", "B.c"]), PAPER, {})
    assert [(one.kind, one.row) for one in found] == [
        ("dead", 2), ("dead", 3), ("dead", 4), ("case", 4), ("sign", 0), ("one character", 1),
    ]  # fmt: skip


def test_as_json_and_as_table() -> None:
    """The forms for programs and for readers say the same numbers."""
    metadata = Metadata(["a", "b.c", "b.d", "dog"])
    found = lint.findings(metadata, PAPER, {})
    shown = lint.as_json(metadata, dataclasses.asdict(PAPER), found)
    assert shown["list"] == metadata.digest
    assert shown["entries"] == 4
    assert {kind: count for kind, count in shown["counts"].items() if count} == {
        "dead": 2,
        "one character": 1,
    }
    assert shown["findings"][0] == {
        "row": 1,
        "entry": "b.c",
        "kind": "dead",
        "note": "matches under no rule",
    }
    table = lint.render(metadata, found)
    assert re.search(r"^dead +2 ", table, re.M)
    assert "'b.c'" in table


def test_languages_are_checked_one_by_one() -> None:
    """Doubles and case are sought within a language; the report has a table of languages."""
    lists = Metadata(["dog", "Dog", "St. Louis", "dog", "猫"], language=["en", "en", "en", "de", "ja"])
    found = lint.lint(lists)
    assert [(one["language"], one["kind"], one["row"]) for one in found.to_pylist()] == [
        ("en", "dead", 2), ("en", "case", 1), ("ja", "one character", 4),
    ]  # fmt: skip
    findings = lint.findings(lists, PAPER, lint.wider_rules(PAPER))
    report = lint.render(lists, findings)
    assert "language     entries       dead       case  one character\nen                 3" in report
    assert "row 1       en 'Dog'  row 0, 'dog'" in report
    as_json = lint.as_json(lists, {}, findings)
    assert as_json["languages"]["en"] == {"entries": 3, "dead": 1, "case": 1, "one character": 0}
    assert as_json["findings"][0]["language"] == "en"
    one = Metadata(["St. Louis"])
    assert "language" not in lint.lint(one).column_names
    plain = lint.as_json(one, {}, lint.findings(one, PAPER, {}))
    assert "languages" not in plain
    assert "language" not in plain["findings"][0]
