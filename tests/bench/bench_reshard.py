"""`metaclip reshard` beside `cp` of the same tars, and beside webdataset reading and writing them.

    METACLIP_DATA=... python -m tests.bench.bench_reshard [--samples 60000] [--side 256] [--rounds 5] [--cold]

The images are those of xm3600, enlarged to `side` pixels (about 25 kB), some times over under other uids, 10,000 a tar.
`cp` copies all tars; the whole set is resharded, and then a third of it. The sides take turns; each round has its own
ratio, and the median of these stands in the table. The tars are in memory and what is written stays there, so that nothing
but the processor is measured: the worst case. With --cold they come from the disk (their pages are dropped before each
run), and the time ends when all that was written is on it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np

from metaclip.pool.sorted_uids import SUBSET
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
                Image.open(io.BytesIO(data)).convert("RGB").resize(
                    (side, side), Image.Resampling.BICUBIC
                ).save(file, "JPEG", quality=95)
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
                contents = (
                    images[number % len(images)],
                    json.dumps(row, indent=4).encode(),
                    pair["text"].encode(),
                )
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


def seconds(command: list[str]) -> tuple[float, float]:
    """Run a command: (wall, CPU) seconds."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"failed: {' '.join(command)}")
    return time.perf_counter() - begin, usage.ru_utime + usage.ru_stime


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tars, out, subset = folder / "tars", folder / "out", folder / "subset.npy"
        uids = write_tars(tars, arguments.samples, arguments.side)
        size = sum(path.stat().st_size for path in tars.glob("*.tar"))
        print(
            f"{arguments.samples:,} samples of {size / arguments.samples / 1000:.1f} kB, {size / 1e9:.2f} GB"
        )

        def once(what: list[str], make: bool = False) -> tuple[float, float]:
            shutil.rmtree(out, ignore_errors=True)
            if make:
                out.mkdir()
            if not arguments.cold:
                return seconds(what)
            drop(tars)
            begin = time.perf_counter()
            _, cpu = seconds(what)
            os.sync()
            return time.perf_counter() - begin, cpu

        reshard = [sys.executable, "-m", "tests.bench.call_reshard", str(tars), str(subset), str(out)]
        sides = {
            "cp -r of all tars": ["cp", "-r", str(tars), str(out)],
            "metaclip reshard, one thread": [*reshard, "1"],
            "metaclip reshard, two threads": [*reshard, "2"],
        }
        slow = "webdataset, read and written (once)"
        for share in (1, 3):
            chosen = sorted(uids[::share])
            np.save(subset, np.array(chosen, SUBSET))
            took: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
            for _ in range(arguments.rounds):
                for side, command in sides.items():
                    took[side].append(once(command))
            took[slow] = [
                once([sys.executable, "-c", WEBDATASET, str(tars), str(subset), str(out)], make=True)
            ]
            base = took["cp -r of all tars"]
            print(
                f"\n| {len(chosen):,} of {arguments.samples:,} | s | against cp | CPU s | against cp |\n|---|---:|---:|---:|---:|"
            )
            for side, times in took.items():
                cells = [side]
                for which in (0, 1):  # wall, CPU
                    ratio = statistics.median(
                        one[which] / cp[which] for one, cp in zip(times, base, strict=False)
                    )
                    cells += [f"{statistics.median(one[which] for one in times):.2f}", f"{ratio:.2f} x"]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
