"""The second stage of `metaclip inspect` on ten million rows: time, memory and disk of finding duplicates.

    METACLIP_DATA=... python -m tests.bench.bench_near [--images 10000000] [--workers 2] [--memory 2000000000]

The hashes are real: windows of 32 x 32 pixels of the photos of xm3600, at full and at half size, of which neighbours are
alike; 2% of the rows repeat the bytes of another, and 5% differ from another in up to 4 bits of each hash. The rows stand in
files of 100,000, as the first stage writes them. Memory is the largest that the process had resident, above what it had
before; the pages of mapped files count.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.inspect.hashes import SIDE, hash_thumbnails
from metaclip.inspect.images import SCHEMA
from metaclip.inspect.select import SELECT, select
from metaclip.inspect.settings import InspectSettings
from metaclip.pool.uid import to_binary
from metaclip.stage.folder import Folder
from metaclip.stage.runner import RunOptions
from metaclip.stage.stage import Stage
from tests.bench.corpus import data_folder

PER_FILE = 100_000


def windows() -> Iterator[Any]:
    """Yield hashes of windows of photos: uint64[n, 2]."""
    from PIL import Image

    with zipfile.ZipFile(data_folder() / "images" / "xm3600_128px.zip") as photos:
        for name in photos.namelist():
            if not name.endswith(".jpg"):
                continue
            image = Image.open(io.BytesIO(photos.read(name))).convert("L")
            for pixels, step in ((np.asarray(image), 2), (np.asarray(image.reduce(2)), 1)):
                if min(pixels.shape) >= SIDE:
                    grid = np.lib.stride_tricks.sliding_window_view(pixels, (SIDE, SIDE))[::step, ::step]
                    some = grid.reshape(-1, SIDE, SIDE)
                    for begin in range(0, len(some), 512):
                        yield np.stack(hash_thumbnails(some[begin : begin + 512]), axis=1)


def make_hashes(images: int) -> Any:
    """Return that many hashes, of which 5% are near another."""
    found, n = [], 0
    for some in windows():
        found.append(some)
        n += len(some)
        if n >= images:
            break
    hashes = np.concatenate(found)[:images]
    rng = np.random.default_rng(0)
    rng.shuffle(hashes)
    copies = len(hashes) // 20
    hashes[-copies:] = hashes[rng.integers(0, len(hashes) - copies, copies)]
    for column in (0, 1):
        for _ in range(4):
            bits = rng.integers(0, 64, copies).astype(np.uint64)
            hashes[-copies:, column] ^= np.uint64(1) << bits
    return hashes


def write_rows(folder: Path, hashes: Any) -> dict[str, int]:
    """Write the rows of images with these hashes; return the number of each file's."""
    folder.mkdir(parents=True)
    rng, sizes = np.random.default_rng(1), {}
    for first in range(0, len(hashes), PER_FILE):
        some = hashes[first : first + PER_FILE]
        n = len(some)
        digests = rng.integers(0, 1 << 64, (n, 4), np.uint64)
        digests[: n // 50] = np.arange(n // 50)[:, None]  # the same in all files
        shas = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(32), n, [None, pa.py_buffer(digests.tobytes())]
        )
        same: dict[str, Any] = {"key": "0", "tar": "0.tar", "bytes": 20_000, "width": 256, "height": 256, "format": "JPEG",
                                "contrast": 200, "broken": None, "why": None}  # fmt: skip
        columns: dict[str, Any] = {
            name: pa.array([value] * n, SCHEMA.field(name).type) for name, value in same.items()
        }
        columns |= {
            "uid": to_binary(rng.integers(0, 1 << 64, (n, 2), np.uint64)), "sha256": shas, "phash": some[:, 0],
            "dhash": some[:, 1], "text_hash": rng.integers(0, 1 << 64, n, np.uint64),
        }  # fmt: skip
        name = f"{len(sizes):06d}"
        pq.write_table(
            pa.table([columns[c] for c in SCHEMA.names], schema=SCHEMA), folder / f"{name}.parquet"
        )
        sizes[name] = n
    return sizes


def main() -> None:
    """Run and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", type=int, default=2_000_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "seen"
        hashes = make_hashes(arguments.images)
        sizes = write_rows(out / "images", hashes)
        del hashes
        stage = Stage(Folder(out), SELECT)
        stage.begin({})
        settings = InspectSettings(exact_duplicates=True, near_duplicates=True, max_texts=1000)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        begin, cpu = time.perf_counter(), time.process_time()
        options = RunOptions(workers=arguments.workers, progress=False)
        record = select(stage, settings, (), "bench", sizes, None, arguments.memory, options, {})
        took, used = time.perf_counter() - begin, time.process_time() - cpu
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        peak = int(status["VmHWM"].split()[0]) * 1024
        print(json.dumps({reason: n for reason, n in record["funnel"].items() if n}))
        print(f"{took:,.0f} s, {used:,.0f} s of processor time, {(peak - before) / 1e9:.2f} GB of memory")


if __name__ == "__main__":
    main()
