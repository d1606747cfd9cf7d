"""`metaclip inspect` beside decoding alone: the images of the same tars, decoded to RGB as in training, and nothing else.

    METACLIP_DATA=... python -m tests.bench.bench_inspect [--samples 3000] [--sides 128 256 512] [--rounds 5]

The images are those of xm3600, enlarged to `side` pixels, as JPEG of quality 95; and as PNG. Both sides read the tar at the
places of its index, which exists, in one process: the step of the verb writes its parquet too. The sides take turns, the
one that begins too; the ratio is the median of the rounds' own, of CPU time, which what else the machine does touches less.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from metaclip.engine import ignore_progress
from metaclip.inspect.images import ImagesStep
from metaclip.inspect.inspect import INSPECT
from metaclip.pool.files import PoolFile, find_files, open_tar
from metaclip.pool.tar_format import ForwardReader
from metaclip.reshard.index import USUAL_NAMES, open_index
from metaclip.stage.folder import Folder
from metaclip.stage.stage import Stage
from metaclip.training.stream.decode import decode_image
from tests.bench.bench_reshard import write_tars


def decode_alone(file: PoolFile) -> int:
    """Decode the images of a tar to RGB; return how many there are."""
    index, decoded = open_index(file), 0
    with open_tar(file) as stream:
        reader = ForwardReader(stream)
        for begin, size in index.image.tolist():
            decoded += decode_image(reader.read(begin, size)).image is not None
    return decoded


def as_png(tars: Path, folder: Path) -> None:
    """Write the tars anew with PNG images."""
    from PIL import Image

    folder.mkdir()
    for path in sorted(tars.glob("*.tar")):
        with (
            tarfile.open(path) as old,
            tarfile.open(folder / path.name, "w", format=tarfile.USTAR_FORMAT) as new,
        ):
            for info in old:
                file = old.extractfile(info)
                assert file is not None
                data = file.read()
                if info.name.endswith(".jpg"):
                    png = io.BytesIO()
                    Image.open(io.BytesIO(data)).save(png, "PNG", compress_level=1)
                    data, info.name = png.getvalue(), info.name.replace(".jpg", ".png")
                info.size = len(data)
                new.addfile(info, io.BytesIO(data))


def measure(tars: Path, rounds: int) -> tuple[float, float, float]:
    """Return images per CPU second of decoding alone and of inspecting, and the ratio of the two."""
    files = find_files(str(tars))
    images = sum(len(open_index(file)) for file in files)
    with tempfile.TemporaryDirectory() as out:
        stage = Stage(Folder(out), INSPECT)
        step = ImagesStep(stage, USUAL_NAMES)

        def look() -> int:
            return sum(step(("0", file), ignore_progress)[0]["funnel"]["usable"] for file in files)

        sides: list[tuple[str, Callable[[], int]]] = [
            ("decode", lambda: sum(map(decode_alone, files))), ("inspect", look),
        ]  # fmt: skip
        took: dict[str, list[float]] = {"decode": [], "inspect": []}
        for turn in range(rounds):
            for name, run in sides if turn % 2 else reversed(sides):
                begin = time.process_time()
                assert run() == images, "both sides decode every image"
                took[name].append(time.process_time() - begin)
    ratios = [a / b for a, b in zip(took["decode"], took["inspect"], strict=True)]
    return (
        images / statistics.median(took["decode"]), images / statistics.median(took["inspect"]), statistics.median(ratios),
    )  # fmt: skip


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print("| images | decoding alone, images/s | metaclip inspect, images/s | ratio |")
    print("|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        for side in arguments.sides:
            tars = Path(name) / f"{side}"
            write_tars(tars, arguments.samples, side, size=1000)
            kinds = [("JPEG", tars)]
            if side == 256:
                as_png(tars, Path(name) / "png")
                kinds.append(("PNG", Path(name) / "png"))
            for form, folder in kinds:
                alone, ours, ratio = measure(folder, arguments.rounds)
                print(f"| {form}, {side} pixels | {alone:,.0f} | {ours:,.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
