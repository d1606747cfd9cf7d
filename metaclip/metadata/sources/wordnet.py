"""WordNet 3.0's synsets as entries: the first row of the paper's Table 1.

Law (C, exact): of each synset the name of its first lemma as nltk's `synset.name()` gives it, cut at the first dot, "_" as
space; in the order of nltk's `all_synsets()`. 117,659 synsets give 86,554 names that are distinct and not empty; with the
numbers "0".."99" they are the paper's 86,654.

The names stand in the fifth field of the lines of WordNet's own data files (wndb(5WN)), so these are read, in 0.3 s; nltk
needs 19 s for the same names (a test holds the two to each other). The files come from nltk's data where they are, or are
fetched: as nltk's data, else as the copy of Princeton's archive that the recipe's package carries.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from metaclip.errors import MetaclipError, one_line
from metaclip.metadata.candidates import Candidates
from metaclip.metadata.sources import packages
from metaclip.metadata.sources.packages import Package
from metaclip.storage.files import cache_folder

FILES: Final = ("data.adj", "data.adv", "data.noun", "data.verb")
"""WordNet's data files, in the order in which nltk reads them."""
_VERSION: Final = "WordNet 3.0 Copyright"
_PATIENCE: Final = 10  # seconds; an nltk that is kept from its server waits for ever otherwise


@dataclasses.dataclass(frozen=True)
class WordnetSettings:
    """Where WordNet 3.0 is found."""

    package: Package
    """Carries Princeton's archive of the data files."""
    member: str
    """The archive's name in the package."""
    folder: str | None = None
    """A folder that holds data.noun and its kin; without it nltk's data is looked for, then fetched."""


def candidates(settings: WordnetSettings) -> Candidates:
    """Give WordNet's names, without scores. Raise MetaclipError where no WordNet 3.0 can be had."""
    files, where = _files(settings)
    synsets, found = 0, dict[str, None]()
    for name in FILES:
        for synset in names(files[name], f"{where}, {name}"):
            synsets += 1
            found[synset] = None
    empty = found.pop("", 0) is None
    facts = {
        "read": where,
        "synsets": synsets,
        "left_out": {"empty": int(empty), "repeated": synsets - len(found) - empty},
    }
    return Candidates(pa.array(list(found), pa.string()), pa.nulls(len(found), pa.float64()), facts)


def names(data: bytes, where: str) -> Iterator[str]:
    """Give the name of each synset in a data file, in its order: lower-case, cut at the first dot, "_" as space.

    An adjective's marker of its place in the sentence, as in "galore(ip)", is not part of the name. Raise MetaclipError
    for a file that is not WordNet 3.0's.
    """
    if _VERSION.encode() not in data[:4000]:
        raise MetaclipError(f"{where} does not say {_VERSION!r} in its head; the list is drawn from WordNet 3.0")
    for number, line in enumerate(io.BytesIO(data), 1):
        if line.startswith(b" "):
            continue  # the licence
        try:
            name = line.split(b" ", 5)[4].decode()
        except (IndexError, ValueError):
            raise MetaclipError(f"{where}, line {number}: {line[:40]!r} is no synset; fetch WordNet again") from None
        name = name.partition("(")[0] if name.endswith(")") else name
        yield name.lower().partition(".")[0].replace("_", " ")


def _files(settings: WordnetSettings) -> tuple[Mapping[str, bytes], str]:
    """Find the data files; give them with the words for where they were."""
    if settings.folder is not None:
        try:
            return {name: (Path(settings.folder) / name).read_bytes() for name in FILES}, settings.folder
        except OSError as error:
            raise MetaclipError(
                f"no WordNet in {settings.folder} ({one_line(error)}); it must hold {', '.join(FILES)}"
            ) from None
    if (found := _from_nltk()) is not None:
        return found, "nltk's data"
    try:
        archive = packages.read(settings.package, settings.member)
    except MetaclipError as error:
        raise MetaclipError(
            f"WordNet 3.0 is not here: {error}; or, where there is a network, python -m nltk.downloader wordnet, and copy "
            "its nltk_data/corpora/wordnet to one of the folders in nltk.data.path (~/nltk_data), or name its folder in "
            'the recipe: folder = "…/corpora/wordnet"'
        ) from None
    members = packages.members_of(archive, [f"dict/{name}" for name in FILES], settings.member)
    return {name: members[f"dict/{name}"] for name in FILES}, str(settings.package)


def _from_nltk() -> dict[str, bytes] | None:
    """Give the files of nltk's data, fetching them into our cache where they are missing; None if they cannot be had."""
    try:
        import nltk
    except ImportError:
        return None
    ours = cache_folder() / "nltk_data"
    places = [*nltk.data.path, os.fspath(ours)]
    if (found := _read_nltk(places)) is not None:
        return found
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a folder that others may write to, which it does not use then
            nltk.downloader.Downloader().download("wordnet", os.fspath(ours), quiet=True, print_error_to=io.StringIO())
    except (OSError, ValueError):
        return None
    finally:
        socket.setdefaulttimeout(before)
    return _read_nltk(places)


def _read_nltk(places: list[str]) -> dict[str, bytes] | None:
    import nltk

    for name in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        with contextlib.suppress(LookupError, OSError, ValueError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pointer: Any = nltk.data.find(name, places)
            files = {}
            for file in FILES:
                with pointer.join(file).open() as stream:
                    files[file] = stream.read()
            return files
    return None
