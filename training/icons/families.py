"""Which sets belong together, which are held out, and the classes of the held-out images.

Law. Two sets are of one family if they name the same author, if their names begin with the same word (up to the first
hyphen, without digits: fa6-solid, fa7-brands), or if SHARED of the smaller one's images are in the other, byte for byte.
Families stand in the order of their sizes; every fifth is held out. So the people who drew and named what a model is
tested on are not those whose icons it was trained on. Held-out images that training has, byte for byte, are left out too.

The base name of an icon is its caption without style words (STYLES, and numbers) at either end. A class is a base name of
one to three words that stands in the training captions of at least SETS sets, and on at least IMAGES held-out images; the
images with this base name are its images, at most MOST of them (the first by uid).

A class is as rare as its rarest word, counted in pairs of the training pool. The tail is the rarer half of the classes,
the head the most frequent tenth, the middle what is between.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from training.icons.render import IconSet

SHARED: Final = 0.1
EVERY: Final = 5
SETS: Final = 2
IMAGES: Final = 2
MOST: Final = 20
GROUPS: Final = ("head", "middle", "tail")
STYLES: Final = frozenset((
    "alt", "baseline", "bold", "broken", "color", "colored", "duo", "duotone", "fill", "filled", "flat", "light", "line",
    "linear", "outline", "outlined", "regular", "remix", "round", "rounded", "sharp", "solid", "thin", "tone", "two", "twotone",
))  # fmt: skip


class Class(NamedTuple):
    """A class of the evaluation set."""

    name: str
    pairs: int
    """Training pairs with this base name."""
    rarity: int
    """Training pairs with its rarest word."""
    group: str


def families_of(sets: Mapping[str, IconSet], images: Mapping[str, Collection[bytes]]) -> dict[str, str]:
    """Return the family of each set, named by its first set, from the digests of each set's images."""
    parent = {name: name for name in sorted(sets)}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    def join(one: str, other: str) -> None:
        first, last = sorted((root(one), root(other)))
        parent[last] = first

    same: dict[tuple[str, str], str] = {}
    for name in parent:
        for key in (("author", sets[name].author), ("word", _first_word(name))):
            join(name, same.setdefault(key, name))
    holders: dict[bytes, list[str]] = collections.defaultdict(list)
    for name in parent:
        for image in set(images[name]):
            holders[image].append(name)
    shared = collections.Counter(
        (one, other) for found in holders.values() for i, one in enumerate(found) for other in found[:i]
    )
    for (one, other), number in shared.items():
        if number >= SHARED * min(len(images[one]), len(images[other])):
            join(one, other)
    return {name: root(name) for name in parent}


def _first_word(name: str) -> str:
    return re.sub("[0-9]+$", "", name.partition("-")[0]) or name


def held_out(families: Mapping[str, str], sizes: Mapping[str, int]) -> set[str]:
    """Return the sets that are held out: those of every fifth family, the largest first."""
    total: collections.Counter[str] = collections.Counter()
    for name, family in families.items():
        total[family] += sizes[name]
    ranked = sorted(total, key=lambda family: (-total[family], family))
    chosen = set(ranked[EVERY - 1 :: EVERY])
    return {name for name, family in families.items() if family in chosen}


def base_name(caption: str) -> str:
    """Return a caption without style words and numbers at its ends; a caption of nothing else stays as it is."""
    words = caption.split()
    begin, end = 0, len(words)
    while end - begin > 1 and _is_style(words[end - 1]):
        end -= 1
    while end - begin > 1 and _is_style(words[begin]):
        begin += 1
    return " ".join(words[begin:end])


def _is_style(word: str) -> bool:
    return word in STYLES or re.fullmatch("[0-9]+(px|x[0-9]+)?", word) is not None


def classes_of(train: Mapping[str, Sequence[str]], tested: Iterable[str]) -> list[Class]:
    """Return the classes by name, from the training captions of each set and the held-out captions."""
    words: collections.Counter[str] = collections.Counter()
    pairs: collections.Counter[str] = collections.Counter()
    sets: collections.Counter[str] = collections.Counter()
    for captions in train.values():
        words.update(word for caption in captions for word in set(caption.split()))
        bases = [base_name(caption) for caption in captions]
        pairs.update(bases)
        sets.update(set(bases))
    images = collections.Counter(map(base_name, tested))
    names = [
        name
        for name, number in images.items()
        if number >= IMAGES and sets[name] >= SETS and name.count(" ") < 3 and not _is_style(name)
    ]
    rarity = {name: min(words[word] for word in name.split()) for name in names}
    ranked = sorted(names, key=lambda name: (-rarity[name], name))
    ends = (len(ranked) // 10, len(ranked) // 2)
    group = {name: GROUPS[sum(place >= end for end in ends)] for place, name in enumerate(ranked)}
    return [Class(name, pairs[name], rarity[name], group[name]) for name in sorted(names)]
