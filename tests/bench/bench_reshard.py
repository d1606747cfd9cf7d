"""`metaclip reshard` beside `cp` of the same tars, and beside webdataset reading and writing them.

    METACLIP_DATA=... python -m tests.bench.bench_reshard [--samples 20000] [--side 256] [--rounds 3]

The images are those of xm3600, enlarged to `side` pixels, some times over under other uids. The tars come from the disk
(their pages are dropped before each run) and the time ends when all that was written is on it; with --cached they come
from memory and stay there, so that nothing but the processor is measured. The whole set is taken, and then a third.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from metaclip.curation.sorting import SUBSET
from tests.bench.bench_curate import measured
from tests.bench.corpus import data_folder

WEBDATASET = """
import sys, json, glob
import numpy as np
from webdataset import tariterators, writer
subset = {(int(a), int(b)) for a, b in np.load(sys.argv[2])}
n = 0
sink = None
for path in sorted(glob.glob(sys.argv[1] + "/*.tar")):
    with open(path, "rb") as stream:
        for s in tariterators.group_by_keys(tariterators.tar_file_expander([{"url": path, "stream": stream}])):
            uid = json.loads(s["json"])["uid"]
            if divmod(int(uid, 16), 1 << 64) in subset:
                if n % 10000 == 0:
                    sink and sink.close()
                    sink = writer.TarWriter(f"{sys.argv[3]}/{n // 10000:08d}.tar")
                sink.write({**{k: v for k, v in s.items() if not k.startswith("__")}, "__key__": uid + "-0"})
                n += 1
sink.close()
"""
"""What DataComp's resharder does, in one process."""


def write_tars(folder: Path, samples: int, side: int, size: int = 10_000) -> list[tuple[int, int]]:
    """Write tars as img2dataset does from the photos of xm3600; give the uids."""
    from PIL import Image

    folder.mkdir()
    rng = random.Random(0)
    uids = []
    with zipfile.ZipFile(data_folder() / "images" / "xm3600_128px.zip") as photos:
        pairs = [json.loads(line) for line in photos.read("pairs.jsonl").splitlines()]
        images = []
        for pair in pairs[: min(samples, 600)]:
            data = photos.read(f"{pair['id']}.jpg")
            if side != 128:
                file = io.BytesIO()
                Image.open(io.BytesIO(data)).convert("RGB").resize((side, side), Image.Resampling.BICUBIC).save(
                    file, "JPEG", quality=95
                )
                data = file.getvalue()
            images.append(data)
    for first in range(0, samples, size):
        with tarfile.open(folder / f"{first // size:08d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(first, min(samples, first + size)):
                pair = pairs[number % len(images)]
                uid = f"{rng.getrandbits(128):032x}"
                uids.append(divmod(int(uid, 16), 1 << 64))
                row = {"uid": uid, "caption": pair["text"], "url": pair["url"], "key": f"{number:09d}", "status": "success",
                       "error_message": None, "width": side, "height": side, "sha256": "ab" * 32}  # fmt: skip
                contents = (images[number % len(images)], json.dumps(row, indent=4).encode(), pair["text"].encode())
                for suffix, data in zip(("jpg", "json", "txt"), contents, strict=True):
                    info = tarfile.TarInfo(f"{number:09d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return uids


def drop(folder: Path) -> None:
    """Put what is in a folder on the disk and out of memory."""
    os.sync()
    for path in folder.glob("*"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cached", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tars, out, subset = folder / "tars", folder / "out", folder / "subset.npy"
        uids = write_tars(tars, arguments.samples, arguments.side)
        size = sum(path.stat().st_size for path in tars.glob("*.tar"))
        print(f"{arguments.samples:,} samples of {size / arguments.samples / 1000:.1f} kB, {size / 1e9:.2f} GB")

        def run(what: list[str], make: bool) -> Callable[[], float]:
            def once() -> float:
                shutil.rmtree(out, ignore_errors=True)
                if make:
                    out.mkdir()
                if arguments.cached:
                    return measured(what)[0]
                drop(tars)
                begin = time.perf_counter()
                measured(what)
                os.sync()
                return time.perf_counter() - begin

            return once

        command = [sys.executable, "-m", "tests.bench.call_reshard", str(tars), str(subset), str(out)]
        for share in (1, 3):
            chosen = sorted(uids[::share])
            np.save(subset, np.array(chosen, SUBSET))
            sides = {
                "cp -r of all tars": run(["cp", "-r", str(tars), str(out)], make=False),
                "metaclip reshard, one process": run([*command, "1"], make=False),
                "metaclip reshard, two processes": run([*command, "2"], make=False),
                "webdataset, read and written": run([sys.executable, "-c", WEBDATASET, str(tars), str(subset), str(out)], make=True),
            }  # fmt: skip
            times = {side: statistics.median(once() for _ in range(arguments.rounds)) for side, once in sides.items()}
            copy = times["cp -r of all tars"]
            print(f"\n| {len(chosen):,} of {arguments.samples:,} | s | against cp |\n|---|---:|---:|")
            for side, seconds in times.items():
                print(f"| {side} | {seconds:.2f} | {seconds / copy:.2f} x |", flush=True)


if __name__ == "__main__":
    main()
