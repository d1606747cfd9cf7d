"""Let It Wag! as a set to evaluate on: 290 rare concepts with 450 images each, the tail to ImageNet's head.

    huggingface-cli download bethgelab/Let-It-Wag --repo-type dataset --local-dir let_it_wag/     # 5 GB of parquet, MIT
    python -m training.let_it_wag let_it_wag/ evalsets/
    metaclip evaluate run/ --suite datacomp --data evalsets/

writes evalsets/wds_let_it_wag_test. The images were put on the web after January 2023, so that pools of earlier crawls do not
have them (arXiv 2404.04125). Prompts are those of its authors: the 80 templates of OpenAI for ImageNet, and the names of the
classes with their underscores ("African_rock_python"), without a kind at the end ("_bird", "_flowers", "_aircraft", "_food").

Expected accuracy, as published: ViT-B-32 33.5 (OpenAI), 40.5 (MetaCLIP 400M); ViT-B-16 37.9 (OpenAI), 46.5 (MetaCLIP 400M), 52.9
(DataComp-1B). `metaclip evaluate` prints ImageNet's accuracy minus this one, the gap between head and tail, if both are there.
Cost: one pass over the files; 64 images are in memory at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import pyarrow.parquet as pq

from metaclip.errors import MetaclipError, one_line
from metaclip.training.models import import_open_clip
from training.commands import run_command
from training.labelled_set import write_tar, write_texts

NAME: Final = "wds_let_it_wag_test"
KINDS: Final = re.compile(r"_(bird|flowers|aircraft|food)$")
_SUFFIXES: Final = {b"\x89PNG": "png", b"RIFF": "webp"}  # all others are JPEG
_BATCH: Final = 64


def write_set(parquets: Path, folder: Path) -> tuple[int, int]:
    """Write the images of parquet files to a set in `folder`; return the numbers of images and of classes.

    Raise MetaclipError if there are no such files, if one is missing, or if one cannot be read.
    """
    files = sorted(parquets.rglob("*.parquet"))
    pieces = re.search(r"-of-(\d+)", files[0].name) if files else None
    if not files or (pieces is not None and int(pieces[1]) != len(files)):
        raise MetaclipError(
            f"{parquets} has {len(files)} of {pieces[1] if pieces else 'the'} parquet files; download all of them"
        )
    names: list[str] = []
    images = 0

    def members(file: Any, number: int) -> Iterator[tuple[str, bytes]]:
        nonlocal images
        rows = (
            row
            for batch in file.iter_batches(_BATCH, columns=["image", "label"])
            for row in batch.to_pylist()
        )
        for i, row in enumerate(rows):
            data, label = row["image"]["bytes"], row["label"]
            if not 0 <= label < len(names):
                raise ValueError(f"a label is {label}, must be below the {len(names)} classes")
            key = f"s{number:03d}{i:06d}"
            yield f"{key}.{_SUFFIXES.get(data[:4], 'jpg')}", data
            yield f"{key}.cls", str(label).encode()
            images += 1

    for number, path in enumerate(files):
        try:
            with pq.ParquetFile(path) as file:
                described = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])
                own = described["info"]["features"]["label"]["names"]
                if names and names != own:
                    raise ValueError("its classes are not those of the files before it")
                names = own
                write_tar(folder / NAME / "test" / f"{number}.tar", members(file, number))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MetaclipError(f"{path} cannot be read ({one_line(error)}); download it again") from None
    templates = import_open_clip().OPENAI_IMAGENET_TEMPLATES
    write_texts(
        folder / NAME,
        len(files),
        [KINDS.sub("", name) for name in names],
        [fill("{c}") for fill in templates],
    )
    return images, len(names)


@click.command(epilog="Run it from the checkout's root; it needs pip install -e '.[train]'.")
@click.argument("parquets", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
def command(parquets: Path, folder: Path) -> None:
    """Write Let It Wag! into FOLDER, in CLIP_benchmark's layout, from the PARQUETS of its authors."""
    images, classes = write_set(parquets, folder)
    click.echo(f"{images:,} images of {classes:,} classes in {folder / NAME}")


if __name__ == "__main__":
    run_command(command, "let_it_wag")
