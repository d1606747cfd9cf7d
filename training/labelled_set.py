"""The files of a labelled set in CLIP_benchmark's layout, as the commands of this folder write them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from metaclip.storage.files import atomic_write


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """Write members (name, content) to a tar, without times and owners; return its path."""
    with (
        atomic_write(path) as temporary,
        tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_texts(folder: Path, tars: int, classes: Sequence[str], templates: Sequence[str]) -> None:
    """Write the number of tars, the class names, and the templates, which have {c} in the place of the name."""
    texts = {
        "classnames.txt": classes,
        "zeroshot_classification_templates.txt": templates,
        "test/nshards.txt": [str(tars)],
    }
    for name, lines in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
