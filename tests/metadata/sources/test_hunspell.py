"""Spelling dictionaries: stems that are words, forms that one affix makes, an unbiased sample under a limit."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip.errors import MetaclipError
from metaclip.metadata.sources.hunspell import Affixes, HunspellSettings, candidates
from tests.metadata.sources.conftest import Shelve

AFF = """\
SET UTF-8
FORBIDDENWORD !
ONLYINCOMPOUND ?
NEEDAFFIX +
SFX S Y 3
SFX S y ies [^aeiou]y
SFX S 0 s [aeiou]y
SFX S 0 s/+ [^y]
SFX D 0 ed .   # past
PFX U N 1
PFX U 0 un .
"""


def words(shelve: Shelve, aff: str, dic: str, **settings: bool | int) -> set[str]:
    package = shelve("dictionary-xx", {"package/index.aff": aff, "package/index.dic": dic})
    return set(candidates(HunspellSettings(package, **settings)).entries.to_pylist())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "stems", "forms"),
    [
        ("cat/S", {"cat"}, set()),  # what the suffix makes needs another affix
        ("city/S", {"city"}, {"cities"}),
        ("boy/SD", {"boy"}, {"boys", "boyed"}),
        ("do/U", {"do"}, {"undo"}),
        ("walk/D+", set(), {"walked"}),
        ("teh/D!", set(), set()),
        ("part/D?", set(), set()),
        ("and\\/or", {"and/or"}, set()),
        ("mouse po:noun is:plural", {"mouse"}, set()),
        ("geese/D\tst:goose", {"geese"}, {"geeseed"}),
        ("New York/U", {"New York"}, {"unNew York"}),
        ("cafe\u0301", {"café"}, set()),
        ("", set(), set()),
    ],
)
def test_words(shelve: Shelve, line: str, stems: set[str], forms: set[str]) -> None:
    """A line gives its stem, and with `forms` what each affix makes of it, but for what is no word by itself."""
    assert words(shelve, AFF, f"1\n{line}\n") == stems
    assert words(shelve, AFF, f"1\n{line}\n", forms=True) == stems | forms


@pytest.mark.parametrize(
    ("aff", "flags", "read"),
    [
        ("", "ab", {"a", "b"}),
        ("FLAG long", "aabb", {"aa", "bb"}),
        ("FLAG num", "1,22,333", {"1", "22", "333"}),
        ("FLAG UTF-8", "éñ", {"é", "ñ"}),
        ("AF 2\nAF ab # 1\nAF c", "1", {"a", "b"}),
        ("FLAG num\nAF 1\nAF 4,5", "1", {"4", "5"}),
        ("AF 1\nAF ab", "2", {"2"}),
    ],
)
def test_flags(aff: str, flags: str, read: set[str]) -> None:
    """Flags are characters, pairs of characters, or numbers, or the number of an alias for them."""
    assert Affixes.parse(aff).flags(flags) == read


@pytest.mark.parametrize("condition", ["[^]", "[", "]", "[]", "(a", "a)", "*", "\\", "[^^]", "[\\]"])
def test_conditions_that_are_no_regular_expressions(condition: str) -> None:
    """Whatever stands in a condition is its characters, a class of them, or a point."""
    affixes = Affixes.parse(f"SFX A 0 s {condition}")
    plain = re.sub(r"\[\^?(.+)\]", r"\1", condition)
    assert set(affixes.forms(f"x{plain}", frozenset("A"))) <= {f"x{plain}s"}


def test_homonyms(shelve: Shelve) -> None:
    """A stem that stands twice has the forms of both."""
    assert words(shelve, AFF, "2\ndo/U\ndo/D\n", forms=True) == {"do", "undo", "doed"}


SMALL = st.text("ab", max_size=2)
RULES = st.lists(
    st.tuples(st.sampled_from(["SFX", "PFX"]), st.sampled_from("XY"), SMALL, SMALL.filter(bool), st.sampled_from([".", "a", "[ab]", "[^a]b", ".b"])),
    max_size=5,
)  # fmt: skip


@given(RULES, st.text("ab", min_size=1, max_size=4), st.sampled_from(["X", "Y", "XY", ""]))
def test_forms_against_a_naive_reading(
    rules: list[tuple[str, str, str, str, str]], stem: str, flags: str
) -> None:
    """Forms are what reading the rules one by one gives."""
    lines = [
        f"{kind} {flag} {strip or 0} {add} {condition}" for kind, flag, strip, add, condition in rules
    ]
    expected = set()
    for kind, flag, strip, add, condition in rules:
        if flag not in flags:
            continue
        for cut in range(len(stem) + 1):
            if kind == "SFX" and stem[cut:] == strip and re.search(f"{condition}$", stem):
                expected.add(stem[:cut] + add)
            if kind == "PFX" and stem[:cut] == strip and re.match(condition, stem):
                expected.add(add + stem[cut:])
    assert set(Affixes.parse("\n".join(lines)).forms(stem, frozenset(flags))) == expected


@pytest.mark.parametrize("limit", [1, 5, 17, 100])
def test_the_limit(shelve: Shelve, limit: int) -> None:
    """A limit keeps the words with the smallest SHA-256, in its order, whatever the order of the file."""
    stems = [f"w{number}" for number in range(60)]
    expected = sorted(stems, key=lambda stem: hashlib.sha256(stem.encode()).digest())[:limit]
    for order in (stems, stems[::-1]):
        package = shelve("d", {"package/index.aff": "", "package/index.dic": "\n".join(["60", *order])})
        found = candidates(HunspellSettings(package, limit=limit))
        assert found.entries.to_pylist() == expected


def test_broken(shelve: Shelve) -> None:
    """What cannot be read is an error that names file and line."""
    package = shelve("d", {"package/index.aff": "", "package/index.dic": b"1\n\xff"})
    with pytest.raises(MetaclipError, match=r"d@1\.0, index\.dic, line 2: not valid UTF-8"):
        candidates(HunspellSettings(package))


def test_no_dictionary(shelve: Shelve, cache: Path) -> None:
    """A package without a dictionary is an error."""
    with pytest.raises(MetaclipError, match=r"d-1\.0\.tgz: .*index\.aff"):
        candidates(HunspellSettings(shelve("d", {"package/readme.md": "x"})))
