"""Rendered shapes with captions: data for a first training run, without a download.

    python -m training.shapes shapes/

    shapes/pairs/00000.tar ...    6,000 pairs to train on, as img2dataset writes them
    shapes/held_out/              2,400 other labelled images, in CLIP_benchmark's layout

Image n of a set is a pure function of (seed, n): one of 6 shapes in one of 8 colours, of any size, position and rotation,
on any ground, among specks. Captions name colour and shape in one of several ways. So pairs made from one seed and a
labelled set made from another share the 48 classes and no image.
Cost: 0.4 ms and 1 kB per image, 4 seconds in all.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from metaclip.errors import MetaclipError, import_extra
from metaclip.storage.files import disk_errors
from training.labelled_set import write_tar, write_texts

PAIRS: Final = 6_000
HELD_OUT: Final = 2_400
"""50 images of each class."""

COLOURS: Final = {
    "red": (205, 40, 40), "green": (45, 160, 60), "blue": (40, 70, 205), "yellow": (235, 215, 50),
    "purple": (135, 50, 165), "pink": (245, 130, 190), "white": (248, 248, 248), "black": (12, 12, 12),
}  # fmt: skip
SHAPES: Final = ("circle", "square", "triangle", "star", "cross", "ring")
CLASSES: Final = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
TEMPLATES: Final = ("a {}.", "a picture of a {}.", "a drawing of a {}.")
"""For zero-shot classification; captions use others too."""

SIDE: Final = 32
_CAPTIONS: Final = (
    "a {}", "a {}.", "a picture of a {}", "a drawing of a {}.", "the {}", "{} on a plain ground", "a small {}",
    "one {}, nothing else", "{}",
)  # fmt: skip
_FINE: Final = 4  # pixels are drawn this many times finer, then averaged
_PER_TAR: Final = 1000
_DARK, _LIGHT = 0.35, 0.75


def draw(seed: int, number: int, side: int = SIDE) -> tuple[Any, int, str]:
    """Return an image (a PIL image in RGB of side x side pixels), its class (an index in CLASSES) and its caption."""
    import_extra("PIL", "train", "drawing shapes")
    from PIL import Image, ImageDraw

    chance = random.Random(f"shapes {seed} {number}")
    colour, shape = chance.choice(list(COLOURS)), chance.choice(SHAPES)
    size = side * _FINE
    ground = tuple(int(255 * chance.uniform(_DARK, _LIGHT)) for _ in range(3))
    image = Image.new("RGB", (size, size), ground)
    pen = ImageDraw.Draw(image)
    for _ in range(chance.randrange(6)):
        x, y, r = chance.uniform(0, size), chance.uniform(0, size), size * chance.uniform(0.01, 0.03)
        pen.ellipse((x - r, y - r, x + r, y + r), tuple(chance.randrange(256) for _ in range(3)))
    radius = size * chance.uniform(0.2, 0.38)
    centre = tuple(chance.uniform(radius, size - radius) for _ in range(2))
    _fill(
        pen,
        shape,
        (centre[0], centre[1]),
        radius,
        chance.uniform(0, 2 * math.pi),
        COLOURS[colour],
        ground,
    )
    caption = chance.choice(_CAPTIONS).format(f"{colour} {shape}")
    return image.resize((side, side), Image.Resampling.BOX), CLASSES.index(f"{colour} {shape}"), caption


def _fill(
    pen: Any,
    shape: str,
    centre: tuple[float, float],
    radius: float,
    turn: float,
    colour: Any,
    ground: Any,
) -> None:
    """Draw a shape. Corners are given in polar coordinates: (share of the radius, share of a full turn)."""
    x, y = centre
    if shape in ("circle", "ring"):
        for r, ink in ((radius, colour), (0.55 * radius, ground))[: 1 + (shape == "ring")]:
            pen.ellipse((x - r, y - r, x + r, y + r), ink)
        return
    corners = {
        "square": [(1.0, k / 4) for k in range(4)],
        "triangle": [(1.0, k / 3) for k in range(3)],
        "star": [(0.42 if k % 2 else 1.0, k / 10) for k in range(10)],
        "cross": [
            (r, k / 4 + d)
            for k in range(4)
            for r, d in ((0.38, 0.125), (1.0, 0.25 - 0.04), (1.0, 0.25 + 0.04))
        ],
    }[shape]
    pen.polygon(
        [
            (
                x + radius * r * math.cos(turn + math.tau * at),
                y + radius * r * math.sin(turn + math.tau * at),
            )
            for r, at in corners
        ],
        colour,
    )


def write_pairs(folder: Path, n: int, seed: int = 0) -> list[Path]:
    """Write n image-text samples to tars, as img2dataset writes them; tars that exist are kept. Return their paths."""

    def members(first: int) -> Iterator[tuple[str, bytes]]:
        for number in range(first, min(n, first + _PER_TAR)):
            image, _, caption = draw(seed, number)
            uid = hashlib.md5(f"shapes {seed} {number}".encode()).hexdigest()
            fields = {"uid": uid, "caption": caption, "key": f"{number:09d}", "status": "success"}
            yield f"{number:09d}.json", json.dumps(fields).encode()
            yield f"{number:09d}.png", png(image)
            yield f"{number:09d}.txt", caption.encode()

    firsts = range(0, n, _PER_TAR)
    paths = {folder / f"{first // _PER_TAR:05d}.tar": first for first in firsts}
    return [path if path.exists() else write_tar(path, members(first)) for path, first in paths.items()]


def write_classes(folder: Path, n: int, seed: int = 1) -> Path:
    """Write n labelled images as a set in CLIP_benchmark's layout, unless it exists; return the folder."""

    def members() -> Iterator[tuple[str, bytes]]:
        for number in range(n):
            image, label, _ = draw(seed, number)
            yield f"{number:06d}.cls", str(label).encode()
            yield f"{number:06d}.png", png(image)

    if not (folder / "test" / "0.tar").exists():
        write_tar(folder / "test" / "0.tar", members())
    write_texts(folder, 1, CLASSES, [template.replace("{}", "{c}") for template in TEMPLATES])
    return folder


def png(image: Any) -> bytes:
    """Return a PIL image as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def command(folder: Path) -> None:
    """Write pairs to train on, and a labelled set of other images, into FOLDER; tars that exist are kept."""
    try:
        with disk_errors(folder):
            write_pairs(folder / "pairs", PAIRS)
            write_classes(folder / "held_out", HELD_OUT)
    except MetaclipError as error:
        raise click.UsageError(str(error)) from None
    click.echo(
        f"{PAIRS:,} pairs in {folder / 'pairs'}, {HELD_OUT:,} labelled images in {folder / 'held_out'}"
    )


if __name__ == "__main__":
    command(prog_name="python -m training.shapes")
