"""The Balancer's cost: alone, and in a loader of 256-pixel JPEGs.

    METACLIP_DATA=... python -m tests.bench.bench_online [--images 500] [--rounds 20]

Needs the extra train. A loader reads, decodes, crops (RandomResizedCrop) and normalises images in one worker process, and
asks the Balancer for every other one, or for every other block of several at once, with a t at which it keeps all, so that the
work behind it is the same. In a round each image is taken twice, once with and once without: what else the machine does meets
both alike. CPU time; the decision's own, and the median of the rounds' ratios.
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

import numpy as np

from metaclip import Balancer, Matcher, Metadata
from metaclip.curate.balancer import AHEAD, count_texts
from metaclip.training.models import import_torchvision
from tests.bench import corpus


def photos(number: int) -> list[bytes]:
    """Return real photos at 256 pixels as JPEG, repeated as often as needed."""
    from PIL import Image

    made = []
    with zipfile.ZipFile(corpus.data_folder() / "images" / "xm3600_128px.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][: min(number, 500)]
        for name in names:
            out = io.BytesIO()
            Image.open(io.BytesIO(archive.read(name))).convert("RGB").resize((256, 256)).save(
                out, "JPEG", quality=90
            )
            made.append(out.getvalue())
    return [made[i % len(made)] for i in range(number)]


def loader(images: list[bytes], texts: list[str], uids: list[str], balancer: Balancer) -> Any:
    """Make a DataLoader of one worker process, and the dataset in it, which asks for every other image."""
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
        ahead, rounds = 1, 1

        def __iter__(self) -> Any:
            for turn in range(2 * self.rounds):
                for first in range(0, len(images), self.ahead):
                    yield from self.block(
                        slice(first, first + self.ahead), turn, (first // self.ahead + turn) % 2 == 1
                    )

        def block(self, block: slice, turn: int, asks: bool) -> Any:
            begin = time.process_time()
            stay = [True] * len(images[block])
            if asks and self.ahead == 1:
                stay = [balancer.keep_one(texts[block.start], uids[block.start])]
            elif asks:
                stay = balancer.keep(texts[block], uids[block]).tolist()
            decided = time.process_time() - begin if asks else 0.0
            for image, text, stays in zip(images[block], texts[block], stay, strict=True):
                if stays:
                    made = transform(Image.open(io.BytesIO(image)).convert("RGB"))
                    yield made, text, turn // 2, asks, time.process_time() - begin, decided
                begin, decided = time.process_time(), 0.0

    pairs = Pairs()
    return torch.utils.data.DataLoader(pairs, batch_size=64, num_workers=1), pairs


def seconds(run: Any) -> float:
    """Time one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def main() -> None:
    """Run and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
            seconds(
                lambda: [
                    balancer.keep_one(text, uid)
                    for text, uid in zip(strings[:20_000], uids, strict=False)
                ]
            )
            for _ in range(5)
        ]
        batches = [
            seconds(
                lambda: [
                    balancer.keep(texts[i : i + 4096], uids[i : i + 4096])
                    for i in range(0, len(texts), 4096)
                ]
            )
            for _ in range(5)
        ]
        print("| Balancer alone, 500,000 entries | texts/s | us a text |\n|---|---:|---:|")
        for name, values, n in (
            ("one by one", singles, 20_000),
            ("batches of 4,096", batches, len(texts)),
        ):
            each = statistics.median(values) / n
            print(f"| {name} | {1 / each:,.0f} | {1e6 * each:.2f} |")

        everything = Balancer(counts, 1e30, metadata=metadata, cache=Path(folder))
        images = photos(len(some))
        chosen = [strings[i] for i in some], [uids[i] for i in some]
        both, pairs = loader(images, *chosen, everything)
        everything.keep_one("a dog", "0")  # the worker is forked with the kernel loaded
        print(
            "\n| loader of 256-pixel JPEGs, one worker | us an image | of it the decision | all that it adds | half of the rounds |"
        )
        print("|---|---:|---:|---:|---:|")
        for name, ahead in (("one by one", 1), ("32 at a time", 32), (f"{AHEAD} at a time", AHEAD)):
            pairs.ahead, pairs.rounds = ahead, arguments.rounds + 1
            took = np.zeros((pairs.rounds, 3))  # CPU seconds of all images: without, with, deciding
            for _, _, turns, asks, cpu, decided in both:
                for side, seconds_of in enumerate((cpu * ~asks, cpu * asks, decided)):
                    np.add.at(took[:, side], turns.numpy(), seconds_of.numpy())
            without, asked, deciding = took[1:].T / len(
                some
            )  # a new worker's first round maps its memory
            low, added, high = (
                100 * one
                for one in statistics.quantiles(
                    [b / a - 1 for a, b in zip(without, asked, strict=True)], n=4
                )
            )
            share = 100 * statistics.median(
                one / all_ for one, all_ in zip(deciding, without, strict=True)
            )
            cells = [
                name,
                f"{1e6 * statistics.median(without):,.0f} + {1e6 * statistics.median(deciding):,.1f}",
            ]
            cells += [f"{share:.2f}%", f"{added:+.2f}%", f"{low:+.2f}% to {high:+.2f}%"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
