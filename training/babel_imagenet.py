"""Babel-ImageNet as tasks: ImageNet's validation images, with names and prompts in 92 languages and English.

    pip install clip-benchmark==1.6.2
    python -m training.babel_imagenet evalsets/wds_imagenet1k_test babel/ --languages de,ja,th
    metaclip evaluate run/ --tasks babel/tasks.toml

writes a file of class names and one of templates for each language, and the file of tasks. A language names only some of the
1,000 classes, from 18 (Oromo) to 973 (Finnish); the others and their images are left out of its task.

Names and prompts are those of the package clip-benchmark, which has them from the benchmark's authors (arXiv 2306.08658). The
names come from BabelNet and may be used for non-commercial research only (BabelNet's non-commercial licence), so this
repository does not contain them; the prompts were translated by a machine (NLLB).
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from metaclip import recipe
from metaclip.errors import MetaclipError, one_line
from metaclip.storage.files import atomic_write, read_bytes
from metaclip.training.evaluate import Task
from training.commands import run_command

LABELS: Final = "babel_imagenet.json"
PROMPTS: Final = "nllb_dist13b_prompts.json"
LICENSE: Final = (
    "the class names are under BabelNet's non-commercial licence: https://babelnet.org/full-license"
)
_CLASSES: Final = 1_000
_ALONE: Final = ("{}",)  # for Breton, Latin and West Frisian, which have no prompts


def labels_folder() -> Path:
    """Return the folder of the labels in the package clip-benchmark, which is not imported. Raise MetaclipError without it."""
    found = importlib.util.find_spec("clip_benchmark")
    if found is None or found.origin is None:
        raise MetaclipError(
            "the labels are in the package clip-benchmark; pip install clip-benchmark==1.6.2, or name their folder with --labels"
        )
    return Path(found.origin).parent / "datasets"


def write_tasks(
    imagenet: str, folder: Path, labels: Path, languages: Sequence[str] = ()
) -> dict[str, int]:
    """Write the tasks of some languages, by default of all; return the number of classes of each.

    `labels` is a folder with the benchmark's two files. Raise MetaclipError if they cannot be read, or lack a language.
    """
    names, prompts = (_read(labels / name) for name in (LABELS, PROMPTS))
    known = sorted(code.lower() for code in names)
    wanted = [code.lower() for code in languages] or known
    if unknown := [code for code in wanted if code not in known]:
        raise MetaclipError(f"there are no labels in {', '.join(unknown)}; languages: {' '.join(known)}")
    tasks: dict[str, Task] = {}
    classes = {}
    for code in wanted:
        lines = [""] * _CLASSES
        try:
            for index, name in zip(*names[code.upper()], strict=True):
                if not 0 <= index < _CLASSES:
                    raise IndexError(f"class {index}")
                lines[index] = name.strip()
            templates = "".join(
                f"{' '.join(line.split())}\n" for line in prompts.get(code.upper(), _ALONE)
            )
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise MetaclipError(
                f"{labels}: the labels in {code} are damaged ({one_line(error)}); install the package again"
            ) from None
        _write(folder / f"{code}.txt", "".join(f"{line}\n" for line in lines))
        _write(folder / f"{code}_templates.txt", templates)
        classes[code] = sum(map(bool, lines))
        tasks[f"babel_imagenet_{code}"] = Task(
            os.path.abspath(imagenet),
            classes=f"{code}.txt",
            templates=f"{code}_templates.txt",
            partial=True,
        )
    _write(folder / "tasks.toml", recipe.dump(tasks))
    return classes


def _read(path: Path) -> dict[str, Any]:
    try:
        made = json.loads(read_bytes(path, "the labels"))
    except (ValueError, RecursionError) as error:
        raise MetaclipError(f"{path} cannot be read ({one_line(error)})") from None
    if not isinstance(made, dict):
        raise MetaclipError(f"{path} is no table of languages")
    return made


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@click.command(epilog="Run it from the checkout's root; it needs pip install -e '.[train]'.")
@click.argument("imagenet")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--languages", metavar="CODES", help='Languages, as "de,ja,th".  [default: all]')
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder of the benchmark's files of labels and prompts.  [default: that of clip-benchmark]",
)
def command(imagenet: str, folder: Path, languages: str | None, labels: Path | None) -> None:
    """Write the tasks of Babel-ImageNet on the validation images in IMAGENET into FOLDER."""
    codes = [code.strip() for code in languages.split(",") if code.strip()] if languages else []
    classes = write_tasks(imagenet, folder, labels or labels_folder(), codes)
    click.echo(
        f"{len(classes)} languages, {min(classes.values()):,} to {max(classes.values()):,} classes; {LICENSE}"
    )
    click.echo(f"metaclip evaluate MODEL --tasks {folder / 'tasks.toml'}")


if __name__ == "__main__":
    run_command(command, "babel_imagenet")
