"""Titles get their case back, lists are unpacked, places come largest first."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from metaclip.errors import MetaclipError
from metaclip.metadata.sources import casing, titles
from metaclip.metadata.sources.packages import Package


def shelve(folder: Path, files: dict[str, str]) -> Package:
    """Put an archive of these files into the cache `folder`."""
    path = folder / "sources" / "w-1.0.tgz"
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for member, text in files.items():
            info = tarfile.TarInfo(member)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return Package("npm", "w", "1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Use a cache of its own."""
    monkeypatch.setenv("METACLIP_CACHE", str(tmp_path))
    return tmp_path


# Packed lists ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packed", "unpacked"),
    [
        ("true¦dog", ["dog"]),
        ("true¦cat,dog", ["cat", "dog"]),
        ("true¦c0do0;at,ow;g", ["cat", "cow", "doat", "doow"]),  # 0 is the next node
        ("true¦c1do0;g;at,ow", ["cat", "cow", "dog"]),  # 1 the one behind it
        ("true¦car0;!s,t", ["car", "cars", "cart"]),
        (
            "true¦0:1;new c0old h0;ar,at",
            ["new car", "new cat", "old har", "old hat"],
        ),  # 0 is a symbol, of node 1
    ],
)
def test_unpack(packed: str, unpacked: list[str]) -> None:
    """A trie gives its words: pieces, ends, relative references and symbols."""
    assert titles.unpack_trie(packed) == unpacked


def test_references() -> None:
    """References count 0 to Z, then 00 to ZZ, then 000."""
    codes = ["0", "9", "A", "Z", "00", "01", "10", "ZZ", "000"]
    assert [titles.trie_reference(code) for code in codes] == [
        0,
        9,
        10,
        35,
        36,
        37,
        72,
        36 + 36**2 - 1,
        36 + 36**2,
    ]


@pytest.mark.parametrize(
    "packed", ["", "dog", "false¦dog", "true¦dog|cat¦mouse", "true¦dog5", "true¦0:0;dog0"]
)
def test_what_is_not_packed(packed: str) -> None:
    """Text of another form, a reference out of the list, or one that never ends, is refused."""
    with pytest.raises(ValueError, match=r"begins|refers"):
        titles.unpack_trie(packed)


# Case -----------------------------------------------------------------------------------------------------------------

TEXT = [
    "The nautical mile is used by sailors. A nautical mile is long. The NBA season of the Houston Rockets began.",
    "The United States and the NBA, said McGregor. He lives in Paris with an iPhone. It is a village of people.",
    "In 1066 the village was small. Carl Gustaf Mannerheim met Rees there.",
]


@pytest.mark.parametrize(
    ("title", "restored"),
    [
        ("taj mahal", "Taj Mahal"),  # known
        ("nautical mile", "Nautical mile"),  # the text has it small
        ("houston rockets", "Houston Rockets"),  # the text has it
        ("nba finals", "NBA Finals"),  # a word the text writes so
        ("village people", "Village People"),  # common words, unseen together
        ("heart of darkness", "Heart of Darkness"),
        ("the art of war", "The Art of War"),
        ("conor mcgregor", "Conor McGregor"),
        ("paul mccartney", "Paul McCartney"),
        ("charli d'amelio", "Charli D'Amelio"),
        ("shaquille o'neal", "Shaquille O'Neal"),
        ("jacob rees-mogg", "Jacob Rees-Mogg"),
        ("lee hye-ri", "Lee Hye-ri"),
        ("iphone", "iPhone"),
        ("super bowl xlvii", "Super Bowl XLVII"),
        ("henry viii", "Henry VIII"),
        ("liv tyler", "Liv Tyler"),
        ("bruce li", "Bruce Li"),
        ("kgb", "KGB"),
        ("élan", "Élan"),
        ("20 fenchurch street", "20 Fenchurch Street"),
    ],
)
def test_restore(title: str, restored: str) -> None:
    """A title gets the case that is known, else that of the text, else that of a name."""
    phrases, words = casing.usual_forms(TEXT, [title, "nautical mile"])
    assert casing.restore(title, {"taj mahal": "Taj Mahal"}, phrases, words) == restored
    assert restored.lower() == title


def test_the_begin_of_a_sentence_is_no_evidence() -> None:
    """A capital that every sentence begins with does not make a name."""
    phrases, words = casing.usual_forms(
        ["Gamma rays burn. We saw gamma. Gamma rays pass."], ["gamma rays"]
    )
    assert words["gamma"] == "gamma"
    assert phrases["gamma rays"] == "gamma rays"


def test_tails() -> None:
    """The tail in brackets goes; brackets elsewhere stay."""
    assert casing.without_parentheses("Table (furniture)") == "Table"
    assert casing.without_parentheses("F(x) theorem") == "F(x) theorem"
    assert casing.without_parentheses("Dog") == "Dog"


# Sources --------------------------------------------------------------------------------------------------------------


def test_vital(cache: Path) -> None:
    """The keys of the file are the titles, in order, without tails, each once."""
    made = shelve(
        cache,
        {"t.json": json.dumps({"Dog": "x", "Crane (bird)": "x", "Crane (machine)": "x", "Ant": "y"})},
    )
    found = titles.vital(titles.VitalSettings(made, "t.json"))
    assert found.entries.to_pylist() == ["Dog", "Crane", "Ant"]
    assert found.scores.null_count == 3
    assert found.facts["left_out"] == {"repeated": 1}


def test_popular(cache: Path) -> None:
    """The packed titles come out with their case restored by the text and the titles beside it."""
    articles = {
        str(i): {"title": title, "extract": text}
        for i, (title, text) in enumerate(zip(["NBA", "x", "y"], TEXT, strict=True))
    }
    made = shelve(
        cache,
        {
            "m.js": "export default `true¦houston rockets,nautical mile,nba`",
            "s.json": json.dumps(articles),
        },
    )
    found = titles.popular(titles.PopularSettings(made, "m.js", made, "s.json"))
    assert found.entries.to_pylist() == ["Houston Rockets", "Nautical mile", "NBA"]


def test_places(cache: Path) -> None:
    """Countries, states, then cities by population; one name has its largest, and its first kind's."""
    files = {
        "c": {"1": {"name": "York", "population": 5}, "2": {"name": "Zürich", "population": 9}, "3": {"name": "York", "population": 7},
              "4": {"name": "Peru", "population": 1}, "5": {"name": "Halle (Saale)", "population": 6}},
        "n": {"PE": {"name": "Peru", "population": 30}, "CH": {"name": "Switzerland", "population": 8}},
        "s": {"TX": {"name": "Texas"}, "AK": {"name": "Alaska"}},
    }  # fmt: skip
    made = shelve(cache, {name: json.dumps(places) for name, places in files.items()})
    found = titles.places(titles.PlaceSettings(made, "c", "n", "s"))
    assert found.entries.to_pylist() == [
        "Peru",
        "Switzerland",
        "Alaska",
        "Texas",
        "Zürich",
        "York",
        "Halle",
    ]
    assert found.scores.to_pylist() == [30, 8, None, None, 9, 7, 6]
    assert found.facts["rows"] == 9


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ("[1]", "a JSON list"),
        ('{"a": 1}', "a place without"),
        ('{"a": {}}', "'name'"),
    ],
)
def test_bad_places(text: str, says: str, cache: Path) -> None:
    """A file of another form is named, with what is wrong."""
    made = shelve(cache, {"c": text})
    with pytest.raises(MetaclipError, match=says):
        titles.places(titles.PlaceSettings(made, "c", "c", "c"))


def test_bad_titles(cache: Path) -> None:
    """So is a list that is not packed, and an article without its text."""
    made = shelve(
        cache, {"m.js": "export default 1", "ok.js": "`true¦a`", "s.json": '{"a": {"title": "b"}}'}
    )
    with pytest.raises(MetaclipError, match="no list packed by efrt"):
        titles.popular(titles.PopularSettings(made, "m.js", made, "s.json"))
    with pytest.raises(MetaclipError, match="'extract'"):
        titles.popular(titles.PopularSettings(made, "ok.js", made, "s.json"))
