"""The names of WordNet 3.0's synsets: the first row of the paper's Table 1.

Law (C, exact): an entry is the name of a synset's first lemma as nltk's `synset.name()` returns it, cut at the first dot,
with "_" as space, in the order of nltk's `all_synsets()`. 117,659 synsets give 86,554 names that are distinct and not empty;
with the numbers "0".."99" they are the paper's 86,654.

The names are the fifth field of the lines of WordNet's own data files (wndb(5WN)). Reading these takes 0.3 s; nltk needs
19 s for the same names (a test compares them). The files are those of the recipe's package, which carries Princeton's
archive, or of a folder, such as nltk's data.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from metaclip.errors import MetaclipError, one_line
from metaclip.metadata.candidates import Candidates
from metaclip.metadata.sources import packages
from metaclip.metadata.sources.packages import Package
from metaclip.storage.files import check_size

FILES: Final = ("data.adj", "data.adv", "data.noun", "data.verb")
"""WordNet's data files, in the order in which nltk reads them."""
_VERSION: Final = "WordNet 3.0 Copyright"


@dataclasses.dataclass(frozen=True)
class WordnetSettings:
    """Where WordNet 3.0 is found."""

    package: Package
    """A package with Princeton's archive of the data files."""
    member: str
    """The archive's name in the package."""
    folder: str | None = None
    """A folder with data.noun and the other data files, such as nltk_data/corpora/wordnet; None for the package's."""


def candidates(settings: WordnetSettings) -> Candidates:
    """Return WordNet's names, without scores. Raise MetaclipError if there is no WordNet 3.0."""
    files, where = _data_files(settings)
    found = [synset for name in FILES for synset in names(files[name], f"{where}, {name}")]
    distinct = dict.fromkeys(name for name in found if name)
    empty = found.count("")
    left_out = {"empty": empty, "repeated": len(found) - len(distinct) - empty}
    return Candidates.of(distinct, {"read": where, "synsets": len(found), "left_out": left_out})


def names(data: bytes, where: str) -> Iterator[str]:
    """Yield the name of each synset of a data file, in its order: in lower case, cut at the first dot, "_" as space.

    The marker of an adjective's position in a sentence, as in "galore(ip)", is not part of the name. Raise MetaclipError
    for a file that is not WordNet 3.0's.
    """
    if _VERSION.encode() not in data[:4000]:
        raise MetaclipError(
            f"{where} does not say {_VERSION!r} in its head; the list is drawn from WordNet 3.0"
        )
    for number, line in enumerate(io.BytesIO(data), 1):
        if line.startswith(b" "):
            continue  # the licence
        try:
            name = line.split(b" ", 5)[4].decode()
        except (IndexError, ValueError):
            raise MetaclipError(
                f"{where}, line {number}: {line[:40]!r} is no synset; fetch WordNet again"
            ) from None
        name = name.partition("(")[0] if name.endswith(")") else name
        yield name.lower().partition(".")[0].replace("_", " ")


def _data_files(settings: WordnetSettings) -> tuple[Mapping[str, bytes], str]:
    """Return the data files by name, and where they were found."""
    if settings.folder is not None:
        try:
            files = {name: Path(settings.folder) / name for name in FILES}
            for name, path in files.items():
                check_size(path.stat().st_size, name)
            return {name: path.read_bytes() for name, path in files.items()}, settings.folder
        except OSError as error:
            raise MetaclipError(
                f"no WordNet in {settings.folder} ({one_line(error)}); it must hold {', '.join(FILES)}"
            ) from None
    archive = packages.read(settings.package, settings.member)
    members = packages.members_of(archive, [f"dict/{name}" for name in FILES], settings.member)
    return {name: members[f"dict/{name}"] for name in FILES}, str(settings.package)
