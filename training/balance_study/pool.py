"""A pool whose faults are known: a pair's class and kind are written down beside it.

Of the images of a labelled set, in the sizes that `PoolSettings` names:

    class        an image with one of several captions of its class; the class of rank r has about head / r ** exponent
    unmatched    an image with a caption that matches no entry: a camera's file name, a number
    junk         an image with a text of the page around it: it matches entries, and says nothing about the image

Law: the pool is a pure function of the set, the settings and the seed; which class has which rank too. No image comes
twice, so the rarer classes have images among the noise, as in a crawl.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from metaclip.errors import MetaclipError
from metaclip.storage.files import atomic_write, read_json, write_json
from metaclip.training.evaluation.sets import EvaluationSet

Kind = Literal["class", "unmatched", "junk"]
KINDS: Final[tuple[Kind, ...]] = ("class", "unmatched", "junk")

NAMES: Final = {
    "airplane": ("airplane", "plane", "jet"), "automobile": ("automobile", "car", "sedan"),
    "bird": ("bird", "songbird"), "cat": ("cat", "kitten"), "deer": ("deer", "doe"), "dog": ("dog", "puppy"),
    "frog": ("frog", "toad"), "horse": ("horse", "pony"), "ship": ("ship", "boat"), "truck": ("truck", "lorry"),
}  # fmt: skip
"""What people call the classes of CIFAR-10, the class's own name first; another class is called as it is."""
MAIN: Final = 0.6
"""The part of captions with the class's own name."""
SENTENCES: Final = (
    "{}", "a {}", "photo of a {}", "a photo of a {}", "my {} last summer", "the {} next door", "{} for sale",
    "an old {}", "picture of a small {}", "one more {}, seen on the way home", "look at this {}!", "{} in the morning",
)  # fmt: skip
JUNK: Final = (
    "click here to enlarge the image", "free shipping on all orders", "sign in to see the price", "share this page",
    "photo of the day", "add to cart", "read more about our company", "no image available",
)  # fmt: skip
_PER_TAR: Final = 1_000


@dataclasses.dataclass(frozen=True)
class PoolSettings:
    """How large a pool is, and how bad."""

    head: int
    """Pairs of the most frequent class."""
    exponent: float = 1.5
    unmatched: float = 0.3
    """The part of all pairs without a match."""
    junk: float = 0.2
    """The part of all pairs that are junk."""

    def pairs(self, classes: int) -> list[int]:
        """Return the pairs of each rank."""
        return [max(1, round(self.head / rank**self.exponent)) for rank in range(1, classes + 1)]


class Pair(NamedTuple):
    """A pair of the pool: an image's place in the set, its class, the text, and what kind it is."""

    image: int
    label: int
    text: str
    kind: Kind


class Pool(NamedTuple):
    """A pool on disk."""

    tars: Path
    ranked: tuple[str, ...]
    """The classes, the most frequent first."""
    of: Mapping[str, tuple[str, Kind]]
    """The class and the kind of each pair, by uid."""


def plan(
    labels: Sequence[int], classes: Sequence[str], settings: PoolSettings, seed: int
) -> tuple[list[int], list[Pair]]:
    """Return the classes by rank, and the pairs in the pool's order. Raise MetaclipError if there are too few images."""
    chance = random.Random(f"balance study {seed}")
    ranked = list(range(len(classes)))
    chance.shuffle(ranked)
    images: dict[int, list[int]] = collections.defaultdict(list)
    for place, label in enumerate(labels):
        images[label].append(place)
    pairs: list[Pair] = []
    rest: list[int] = []
    for label, wanted in zip(ranked, settings.pairs(len(classes)), strict=True):
        own = images[label]
        if len(own) < wanted:
            raise MetaclipError(
                f"there are {len(own):,} images of {classes[label]}, {wanted:,} are wanted; give a smaller head"
            )
        chance.shuffle(own)
        pairs += [Pair(place, label, _caption(classes[label], chance), "class") for place in own[:wanted]]
        rest += own[wanted:]
    chance.shuffle(rest)
    total = len(pairs) / (1 - settings.unmatched - settings.junk)
    noise: tuple[tuple[Kind, int, Callable[[random.Random], str]], ...] = (
        ("unmatched", round(total * settings.unmatched), _unmatched),
        ("junk", round(total * settings.junk), lambda chance: chance.choice(JUNK)),
    )
    for kind, wanted, text in noise:
        if len(rest) < wanted:
            raise MetaclipError(
                f"there are {len(rest):,} images left for {wanted:,} {kind} pairs; give a smaller head"
            )
        pairs += [Pair(place, labels[place], text(chance), kind) for place in rest[:wanted]]
        del rest[:wanted]
    chance.shuffle(pairs)
    return ranked, pairs


def _caption(name: str, chance: random.Random) -> str:
    own, *others = NAMES.get(name, (name,))
    called = own if not others or chance.random() < MAIN else chance.choice(others)
    return chance.choice(SENTENCES).format(called)


def _unmatched(chance: random.Random) -> str:
    number = chance.randrange(10**6)
    return chance.choice(("DSC_{:06d}", "IMG_{:06d}", "P{:07d}", "scan{:06d}x")).format(number)


def uid_of(seed: int, image: int) -> str:
    """Return the uid of a pair, 32 hex digits."""
    return hashlib.md5(f"balance study {seed} {image}".encode()).hexdigest()


def write_pool(folder: Path, opened: EvaluationSet, settings: PoolSettings, seed: int) -> Pool:
    """Write a pool as tars in img2dataset's form, or open the one that is there.

    Raise MetaclipError where another pool is there.
    """
    ranked, pairs = plan(opened.labels, opened.classes, settings, seed)
    of = {uid_of(seed, pair.image): (opened.classes[pair.label], pair.kind) for pair in pairs}
    made = {
        "images": opened.digest,
        "settings": dataclasses.asdict(settings),
        "seed": seed,
        "pairs": len(pairs),
    }
    pool = Pool(folder / "tars", tuple(opened.classes[label] for label in ranked), of)
    if (before := read_json(folder / "pool.json")) is not None:
        if before != made:
            raise MetaclipError(
                f"{folder} holds the pool of another study ({before} and not {made}); choose another --out"
            )
        return pool
    for first in range(0, len(pairs), _PER_TAR):
        with atomic_write(pool.tars / f"{first // _PER_TAR:05d}.tar") as temporary:
            _write_tar(temporary, opened, pairs[first : first + _PER_TAR], first, seed)
    write_json(folder / "pool.json", made)
    return pool


def _write_tar(path: Path, opened: EvaluationSet, pairs: Sequence[Pair], first: int, seed: int) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, pair in enumerate(pairs, first):
            suffix = str(opened.images[pair.image]).rpartition(".")[2]
            fields: dict[str, Any] = {
                "uid": uid_of(seed, pair.image),
                "caption": pair.text,
                "status": "success",
            }
            for ending, data in (
                (suffix, opened.images[pair.image].read()),
                ("json", json.dumps(fields).encode()),
                ("txt", pair.text.encode()),
            ):
                info = tarfile.TarInfo(f"{number:09d}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
