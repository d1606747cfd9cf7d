"""The stream beside webdataset's own pipeline, on the same tars, with the same decoding and the same transform.

    METACLIP_DATA=... python -m tests.bench.bench_stream [--samples 2000] [--side 256] [--rounds 5] [--workers 0 2]

The images are those of xm3600, enlarged to `side` pixels. Three pieces of work: reading without decoding (texts only),
decoding to RGB, and decoding with RandomResizedCrop(224) to a tensor. A third is kept by a subset at the end: what the
stream does not read then, webdataset reads and throws away. The sides take turns, the one that begins too; the ratios are
medians of the rounds' own, of wall time and of CPU time (workers included), which what else the machine does touches less.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from metaclip.pool.sorted_uids import SUBSET
from metaclip.pool.subset import Subset
from metaclip.reshard.index import open_index
from metaclip.training.models import import_torchvision
from metaclip.training.stream import Batch, Loader, Stream
from tests.bench.bench_reshard import write_tars

BATCH = 64


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def as_size(image: Any) -> tuple[int, int]:
    """Return so little of a decoded image that sending it to the loader costs nothing."""
    return image.size  # type: ignore[no-any-return]


def stacked(samples: Any) -> Batch:
    """Put samples of webdataset together as our loader does."""
    from metaclip.training.stream import Sample
    from metaclip.training.stream.loader import collate

    return collate([Sample(row["uid"], text, image) for image, text, row in samples])


def webdataset(
    tars: Path, workers: int, transform: Callable[[Any], Any], subset: Subset | None
) -> Iterable[Batch]:
    """Return webdataset's pipeline: shuffled shards, a buffer of 1,000, decoded to RGB."""
    import webdataset as wds
    from torch.utils.data import DataLoader

    urls = sorted(map(str, tars.glob("*.tar")))
    data = wds.WebDataset(urls, shardshuffle=100).shuffle(1000)
    if subset is not None:
        import json

        wanted = {tuple(pair) for pair in subset.uids.tolist()}
        data = data.select(lambda s: divmod(int(json.loads(s["json"])["uid"], 16), 1 << 64) in wanted)
    data = (
        data.decode("pilrgb")
        .to_tuple("jpg", "txt", "json")
        .map_tuple(transform, lambda t: t, lambda r: r)
    )
    return DataLoader(data.batched(BATCH, collation_fn=stacked), batch_size=None, num_workers=workers)


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    import_torchvision()
    import torch
    from torchvision import transforms

    torch.set_num_threads(1)
    bicubic = transforms.InterpolationMode.BICUBIC
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    crop = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, (0.9, 1.0), interpolation=bicubic),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    with tempfile.TemporaryDirectory() as name:
        tars, cache, third = Path(name) / "tars", Path(name) / "cache", Path(name) / "third.npy"
        uids = write_tars(tars, arguments.samples, arguments.side, size=1000)
        np.save(third, np.array(sorted(uids[::3]), SUBSET))
        begin = time.perf_counter()
        files = Stream(str(tars), cache=cache).files
        print(
            f"the index of {arguments.samples:,} samples: {time.perf_counter() - begin:.2f} s at first",
            end=", ",
        )
        begin = time.perf_counter()
        for file in files:
            open_index(file, folder=cache)
        print(f"{time.perf_counter() - begin:.3f} s from then on\n")
        print(
            "| work | workers | webdataset, images/s | metaclip, images/s | ratio | ratio of CPU time |"
        )
        print("|---|---:|---:|---:|---:|---:|")
        works: list[tuple[str, Callable[[Any], Any], Subset | None]] = [
            ("decode", as_size, None), ("decode, crop, normalise", crop, None), ("decode a third", as_size, Subset(third)),
        ]  # fmt: skip
        for what, transform, subset in works:
            for workers in arguments.workers:

                def ours(
                    workers: int = workers, transform: Any = transform, subset: Any = subset
                ) -> Iterable[Batch]:
                    stream = Stream(str(tars), keep=subset, transform=transform, cache=cache)
                    return Loader(stream, BATCH, workers=workers, epochs=1)

                def theirs(
                    workers: int = workers, transform: Any = transform, subset: Any = subset
                ) -> Iterable[Batch]:
                    return webdataset(tars, workers, transform, subset)

                took: dict[str, list[tuple[float, float]]] = {"theirs": [], "ours": []}
                seen: dict[str, list[str]] = {}
                sides = [("theirs", theirs), ("ours", ours)]
                for turn in range(arguments.rounds):
                    for side, make in sides if turn % 2 else reversed(sides):
                        wall, cpu = time.perf_counter(), cpu_seconds()
                        seen[side] = sorted(uid for batch in make() for uid in batch.uids)
                        took[side].append((time.perf_counter() - wall, cpu_seconds() - cpu))
                assert seen["ours"] == seen["theirs"], "both sides must give the same samples"
                rates = [
                    len(seen["ours"]) / statistics.median(wall for wall, _ in took[side]) for side in took
                ]
                ratios = [
                    statistics.median(
                        one[which] / other[which] for one, other in zip(*took.values(), strict=True)
                    )
                    for which in (0, 1)
                ]
                cells = [
                    what,
                    str(workers),
                    *(f"{rate:,.0f}" for rate in rates),
                    *(f"{ratio:.2f} x" for ratio in ratios),
                ]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
