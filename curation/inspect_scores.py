"""An example of hooks: leave out or blur images by the scores of another tool, which metaclip does not ship.

    python curation/inspect_scores.py TARS SCORES OUT

SCORES is a parquet file, or a folder of these, with the columns uid, nsfw (0 to 1) and faces (a number), as a detector of
your choice writes them: run it on the images of `metaclip.training.stream.Stream(TARS)`, whose samples have uids. The same
without Python is a recipe:

    [[inspect.hooks]]
    name = "nudity"
    scores = "SCORES"
    column = "nsfw"
    at_least = 0.5

    [[inspect.hooks]]
    name = "faces"
    scores = "SCORES"
    column = "faces"
    at_least = 1
    action = "blur"

What no file of scores can say, a function of rows can: here, images of more than 20:1 are banners.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pyarrow as pa

from metaclip import InspectSettings, inspect
from metaclip.inspect.settings import ScoreHook


def banners(rows: pa.RecordBatch) -> Sequence[str | None]:
    """Return "remove" for images that are more than 20 times as wide as high."""
    sizes = zip(rows.column("width").to_pylist(), rows.column("height").to_pylist(), strict=True)
    return ["remove" if width and height and width > 20 * height else None for width, height in sizes]


def main(tars: str, scores: str, out: str) -> None:
    """Inspect tars, and print what became of their images."""
    hooks = (
        ScoreHook("nudity", scores, column="nsfw", at_least=0.5),
        ScoreHook("faces", scores, column="faces", at_least=1, action="blur"),
    )
    made = inspect(tars, out=out, settings=InspectSettings(hooks=hooks), functions={"banners": banners})
    for step, samples in made.funnel.items():
        if samples:
            print(f"{samples:>12,}  {step}")
    print(f"{made.record['blurred']['faces']:>12,}  to be blurred, listed in {out}/blur.npy")


if __name__ == "__main__":
    main(*sys.argv[1:])
