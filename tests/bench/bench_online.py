"""The Balancer's cost: alone, and in a loader of 256-pixel JPEGs.

    METACLIP_DATA=... python -m tests.bench.bench_online [--images 500] [--rounds 20]

Needs the extra train. Both loaders read, decode, crop (RandomResizedCrop) and normalise the same images in one worker
process; one of them asks the Balancer for each, with a t at which it keeps all, so that the work behind it is the same.
They take turns, the one that begins too: of many short rounds, each with its own ratio, the median counts. CPU time of the
workers, which what else the machine does touches less than the clock.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from metaclip import Balancer, Matcher, Metadata
from metaclip.curation.online import count_texts
from metaclip.training.vision import import_torchvision
from tests.bench import corpus
from tests.bench.bench_stream import cpu_seconds


def photos(number: int) -> list[bytes]:
    """Give real photos at 256 pixels as JPEG, repeated as often as needed."""
    from PIL import Image

    made = []
    with zipfile.ZipFile(corpus.data_folder() / "images" / "xm3600_128px.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][: min(number, 500)]
        for name in names:
            out = io.BytesIO()
            Image.open(io.BytesIO(archive.read(name))).convert("RGB").resize((256, 256)).save(out, "JPEG", quality=90)
            made.append(out.getvalue())
    return [made[i % len(made)] for i in range(number)]


def loader(images: list[bytes], texts: list[str], uids: list[str], balancer: Balancer | None) -> Any:
    """Make a DataLoader of one worker process."""
    import torch
    from PIL import Image
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, (0.9, 1.0)),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.3] * 3),
        ]
    )

    class Pairs(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            for image, text, uid in zip(images, texts, uids, strict=True):
                if balancer is None or balancer.keep_one(text, uid):
                    yield transform(Image.open(io.BytesIO(image)).convert("RGB")), text

    return torch.utils.data.DataLoader(Pairs(), batch_size=64, num_workers=1)


def seconds(run: Any) -> float:
    """Time one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def main() -> None:
    """Run and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    import_torchvision()
    import torch

    torch.set_num_threads(1)
    metadata, texts = Metadata(corpus.entries()), corpus.texts(200_000)
    with tempfile.TemporaryDirectory() as folder:
        matcher = Matcher(metadata, cache=Path(folder))
        counts = count_texts([texts], matcher)
        balancer = Balancer(counts, 20, metadata=metadata, cache=Path(folder))
        uids = [f"{i:032x}" for i in range(len(texts))]
        strings = texts.to_pylist()
        some = [i for i, p in enumerate(balancer.p_keep(texts)) if p > 0][: arguments.images]
        balancer.keep_one("a dog", "0")
        singles = [
            seconds(lambda: [balancer.keep_one(text, uid) for text, uid in zip(strings[:20_000], uids, strict=False)])
            for _ in range(5)
        ]
        batches = [
            seconds(
                lambda: [balancer.keep(texts[i : i + 4096], uids[i : i + 4096]) for i in range(0, len(texts), 4096)]
            )
            for _ in range(5)
        ]
        print("| Balancer alone, 500,000 entries | texts/s | us a text |\n|---|---:|---:|")
        for name, values, n in (("one by one", singles, 20_000), ("batches of 4,096", batches, len(texts))):
            each = statistics.median(values) / n
            print(f"| {name} | {1 / each:,.0f} | {1e6 * each:.2f} |")

        everything = Balancer(counts, 1e30, metadata=metadata, cache=Path(folder))
        images = photos(len(some))
        chosen = [strings[i] for i in some], [uids[i] for i in some]
        sides = {"without": loader(images, *chosen, None), "with": loader(images, *chosen, everything)}
        times: dict[str, list[float]] = {name: [] for name in sides}
        everything.keep_one("a dog", "0")  # the worker is forked with the kernel compiled
        for turn in range(arguments.rounds):
            for name, side in list(sides.items())[:: 1 if turn % 2 else -1]:
                begin = cpu_seconds()
                shown = sum(len(batch) for batch, _ in side)
                times[name].append(cpu_seconds() - begin)
                assert shown == len(some)
        print("\n| loader of 256-pixel JPEGs, one worker | images/s of CPU | us an image |\n|---|---:|---:|")
        for name, values in times.items():
            each = statistics.median(values) / len(some)
            print(f"| {name} Balancer | {1 / each:,.0f} | {1e6 * each:,.0f} |")
        ratios = sorted(b / a - 1 for a, b in zip(times["without"], times["with"], strict=True))
        low, added, high = (100 * one for one in statistics.quantiles(ratios, n=4))
        print(f"\nadded CPU time, median of pairs: {added:+.2f}%, half of them from {low:+.2f}% to {high:+.2f}%")
        alone = statistics.median(singles) / 20_000
        share = alone * len(some) / statistics.median(times["without"])
        print(f"the decision alone: {100 * share:.2f}% of an image's time")


if __name__ == "__main__":
    main()
