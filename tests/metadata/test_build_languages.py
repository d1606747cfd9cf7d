"""Lists of several languages: each language is built as a list of its own, in the recipe's order, and checked against it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip import Metadata, build
from metaclip.errors import MetaclipError
from metaclip.matching.text_rule import PAPER
from metaclip.metadata import list_digest
from metaclip.metadata.build_languages import run_languages
from metaclip.metadata.build_recipe import read
from metaclip.metadata.candidates import Candidates, SourceLimits, merge, merge_languages
from tests.commands import done, refused

HEAD = """\
[build]

[build.languages]
th = {{ entries = 4, digest = "{th}" }}
en = {{}}
de = {{}}

[[build.sources]]
source = "number"
kind = "numbers"
last = 1

[[build.sources]]
source = "word"
kind = "list"
path = "{{language}}.txt"
licence = "CC0 1.0"

[[build.sources]]
source = "more"
kind = "list"
path = "more.txt"
skip = ["th"]
up_to = 5
"""
THAI = ["0", "1", "แมว", "หมา"]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Write a recipe of three languages."""
    for language, words in {
        "th": ["แมว", "หมา", "แมว.หมา"],
        "en": ["cat"],
        "de": ["cat", "Katze"],
    }.items():
        (tmp_path / f"{language}.txt").write_text("\n".join(words))
    (tmp_path / "more.txt").write_text("cat\ntaxi\nradio\nhotel\n")
    (tmp_path / "r.toml").write_text(HEAD.format(th=list_digest(pa.array(THAI))))
    return tmp_path / "r.toml"


def rows(table: pa.Table) -> list[tuple[str, str, str]]:
    return list(zip(*(table[name].to_pylist() for name in ("language", "entry", "source")), strict=True))


EXPECTED = [
    *(("th", entry, "number" if entry in "01" else "word") for entry in THAI),
    ("en", "0", "number"), ("en", "1", "number"), ("en", "cat", "word"), ("en", "taxi", "more"), ("en", "radio", "more"),
    ("de", "0", "number"), ("de", "1", "number"), ("de", "cat", "word"), ("de", "Katze", "word"), ("de", "taxi", "more"),
]  # fmt: skip


def test_a_list_of_languages(recipe: Path) -> None:
    """Languages in the recipe's order, sources in theirs; a string may be of several languages; up_to counts a language."""
    table, contributions = run_languages(read(recipe), PAPER)
    assert rows(table) == EXPECTED
    more = contributions[2]
    assert (more.source, more.candidates, more.new) == ("more", 8, 3)
    assert more.left_out == {"an earlier source has it": 2}
    assert contributions[1].left_out == {"can never match under the rule": 1}


def test_the_file_is_the_list(recipe: Path) -> None:
    """Metadata reads the file that build writes, with its languages and the digest that the table shows."""
    made = build(recipe, out=recipe.parent / "list.parquet")
    metadata = Metadata.read(made.path)
    assert metadata.languages == {"th": range(4), "en": range(4, 9), "de": range(9, 14)}
    assert metadata.entries.to_pylist() == [entry for _, entry, _ in EXPECTED]
    assert f"digest {metadata.digest}" in repr(made)
    assert pq.read_schema(made.path).names == ["entry", "language", "source", "score", "rank"]


def test_the_table(recipe: Path) -> None:
    """The table has entries by language and source, the largest language first, what is short, and licences by language."""
    lines = repr(build(recipe, out=recipe.parent / "list.parquet")).splitlines()
    assert [line.split() for line in lines[:5]] == [
        ["language", "entries", "number", "word", "more"],
        ["de", "5", "2", "2", "1"],
        ["en", "5", "2", "1", "2"],
        ["th", "4", "2", "2"],
        ["total", "14", "6", "5", "3"],
    ]
    assert "0 languages have 10,000 entries or more" in lines
    assert lines.count("short of that, with number, word, more only: de, en") == 2
    assert lines.count("short of that, with number, word only: th") == 2
    assert "licence of word (th, en, de): CC0 1.0" in lines


@pytest.mark.parametrize("languages", [["de"], ["en", "th"], ["th"]])
def test_some_languages(recipe: Path, languages: list[str]) -> None:
    """A build of some languages has their rows of the whole list, in the recipe's order."""
    table, _ = run_languages(read(recipe).of_languages(languages), PAPER)
    assert rows(table) == [row for row in EXPECTED if row[0] in languages]


def test_some_languages_by_command(recipe: Path) -> None:
    """--languages builds some of the languages; one that the recipe does not have is named with those that it has."""
    out = str(recipe.parent / "list.parquet")
    done("build", recipe, "--languages", "de, th", "--out", out)
    assert list(Metadata.read(out).languages) == ["th", "de"]
    message = refused("build", recipe, "--languages", "dw", "--out", out)
    assert "the recipe has no language 'dw'; languages: th, en, de" in message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "entries = 4",
            "entries = 5",
            "the number of entries of the language 'th' is 4, the recipe says 5",
        ),
        ('digest = "', 'digest = "0', "the digest of the language 'th' is "),
        ('skip = ["th"]', 'skip = ["tz"]', "the language 'tz' is not in the table"),
        ("up_to = 5", "budget = 5", "budget and gives are for a list without languages"),
        ("[build]", "[build]\ntotal = 3", "total is for a list without languages"),
        ('"more"\n', '"more"\nfor_language = "de"\n', "for_language and skip are given"),
        ('"word"\n', '"word"\nfor_language = "de"\n', "remove the key for_language"),
        ("en = {}", "en = { size = 3 }", "unknown key 'size'"),
        ("en = {}", "en = {}\nfr = {}", "fr.txt"),
        ("en = {}", '"a b" = {}', "'a b' is no code such as en or zh-Hant"),
        ("[build]\n", "[build]\nextends = 3\n", "extends is 3, must be the path of a recipe"),
        ("[build]\n", '[build]\nextends = "no.toml"\n', "there is no recipe"),
        ("[build]\n", '[build]\ndigest = "0"\n', "the list's digest is "),
    ],
)
def test_refused(recipe: Path, old: str, new: str, message: str) -> None:
    """What a recipe gets wrong about languages is one line that names it; a check that fails writes nothing."""
    assert old in recipe.read_text()
    recipe.write_text(recipe.read_text().replace(old, new, 1))
    with pytest.raises(MetaclipError, match=message.replace("(", r"\(")):
        build(recipe, out=recipe.parent / "list.parquet")
    assert not (recipe.parent / "list.parquet").exists()


@pytest.mark.parametrize("key", ["up_to = 5", 'path = "{language}.txt"'])
def test_without_languages(recipe: Path, key: str) -> None:
    """Settings for languages are refused in a recipe that has none."""
    recipe.write_text(f'[[build.sources]]\nsource = "a"\nkind = "list"\n{key}\n')
    with pytest.raises(MetaclipError, match=r"add (the|that) table"):
        read(recipe)


def test_a_recipe_that_extends_another(recipe: Path) -> None:
    """Languages and sources of the other recipe come first, without what is known of their numbers; paths are of their recipe."""
    (recipe.parent / "sub").mkdir()
    (recipe.parent / "sub" / "more.txt").write_text("คน")
    (recipe.parent / "fr.txt").write_text("chat")
    other = recipe.parent / "sub" / "r.toml"
    other.write_text(
        '[build]\nextends = "../r.toml"\n[build.languages]\nfr = {}\n'
        '[[build.sources]]\nsource = "thai"\nkind = "list"\nfor_language = "th"\npath = "more.txt"\n'
    )
    table, _ = run_languages(read(other), PAPER)
    french = [
        ("fr", entry, source) for entry, source in (("0", "number"), ("1", "number"), ("chat", "word"))
    ]
    more = [("fr", entry, "more") for entry in ("cat", "taxi")]
    assert rows(table) == [*EXPECTED[:4], ("th", "คน", "thai"), *EXPECTED[4:], *french, *more]
    recipe.write_text(recipe.read_text().replace("[build]", '[build]\nextends = "sub/r.toml"', 1))
    with pytest.raises(MetaclipError, match="it extends a recipe too"):
        read(other)


def test_a_language_without_entries() -> None:
    """A language that no source has an entry of is an error that names it."""
    offers = [(SourceLimits("word"), {"de": Candidates.of(["Katze"], {})})]
    with pytest.raises(MetaclipError, match="no source has an entry of the language 'fr'"):
        list(merge_languages(offers, ["de", "fr"], PAPER))


def test_a_list_is_kept(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list whose digest the recipe has is built once; what is damaged in the cache is built again; other lists are not kept."""
    monkeypatch.setenv("METACLIP_CACHE", str(recipe.parent / "cache"))
    out, lists = recipe.parent / "list.parquet", recipe.parent / "cache" / "lists"
    first = build(recipe, out=out)
    assert not lists.exists()
    digest = Metadata.read(out).digest
    recipe.write_text(recipe.read_text().replace("[build]", f'[build]\ndigest = "{digest}"', 1))
    build(recipe, out=out)
    written = out.read_bytes()
    (kept,) = lists.iterdir()
    (recipe.parent / "th.txt").unlink()  # no source is read now
    assert build(recipe, out=out).table.equals(first.table)
    assert out.read_bytes() == written
    for damage in (written[:-100], b""):
        kept.write_bytes(damage)
        with pytest.raises(MetaclipError, match=r"th\.txt"):
            build(recipe, out=out)
    with pytest.raises(MetaclipError, match=r"th\.txt"):
        build(recipe, out=out, languages=["th", "de"])


ENTRIES = st.lists(st.text("abc. ", max_size=3), unique=True, max_size=8)
OFFERS = st.lists(
    st.dictionaries(st.sampled_from(["x", "y"]), ENTRIES, max_size=2), min_size=1, max_size=4
)


@given(OFFERS)
def test_each_language_is_a_list_of_its_own(offers: list[dict[str, list[str]]]) -> None:
    """Merging a language gives what merging its candidates as a list without languages gives, for any sources."""
    for language in ("x", "y"):
        of_language = [
            (SourceLimits(str(number)), {code: Candidates.of(found, {}) for code, found in offer.items()})
            for number, offer in enumerate(offers)
        ]
        try:
            ((_, table, _),) = merge_languages(of_language, [language], PAPER)
        except MetaclipError:
            table = None
        entries, sources = dict[str, str](), 0
        for limits, by_language in of_language:
            if language in by_language:
                sources += 1
                try:
                    alone, _ = merge([(limits, by_language[language])], PAPER)
                except MetaclipError:  # it gives nothing
                    continue
                for entry in alone["entry"].to_pylist():
                    entries.setdefault(entry, limits.source)
        expected = list(entries.items())
        assert expected == (
            []
            if table is None
            else list(zip(table["entry"].to_pylist(), table["source"].to_pylist(), strict=True))
        )
