"""The samples of a page: read, one text chosen, kept or not, decoded; or the reason why not.

Of several texts one is drawn for each epoch, and the pair is kept if the Balancer (or subset, or function) keeps it with
that text. It decides on the texts of a page in one batch, and only images of kept pairs are read. The transform draws from
generators (torch's and `random`'s) seeded by (seed, epoch, uid), so an image is cropped the same way whichever worker
decodes it, and differently in the next epoch.

Local tars are read at the places that the index holds; of a store, all runs of samples of a page are requested at once.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import random
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from metaclip.curate.draw import choice, mix, stream_key
from metaclip.errors import MetaclipError, one_line
from metaclip.pool.files import PoolFile
from metaclip.pool.subset import Subset
from metaclip.reshard.index import FLAWS, TXT, Index, open_index
from metaclip.storage.files import is_remote
from metaclip.storage.object_store import file_system
from metaclip.training.stream.decode import MAX_BYTES, OVERSIZED, decode_image, parse_texts
from metaclip.training.stream.sample_order import Ints
from metaclip.training.stream.stream import Stream

_OPEN_TARS: Final = 32  # an order mixes 16 at a time
_TRANSFORM: Final = (
    0xA0761D6478BD642F  # separates the draws of the transform from others of the same sample and epoch
)


class Sample(NamedTuple):
    """A sample that came through."""

    uid: str
    """32 hex digits."""
    text: str
    image: Any
    """What the transform returned for a PIL image in RGB; that image if there is no transform."""


class _Tar:
    """A tar with its index; its file is opened at the first read."""

    def __init__(self, file: PoolFile, index: Index) -> None:
        self.file, self.index, self.is_remote = file, index, is_remote(file.path)
        self._descriptor = -1

    def read(self, begin: int, size: int) -> bytes:
        with _naming(self.file):
            if self._descriptor < 0:
                self._descriptor = os.open(self.file.path, os.O_RDONLY)
            data = os.pread(self._descriptor, size, begin)
            while len(data) < size:
                if not (more := os.pread(self._descriptor, size - len(data), begin + len(data))):
                    raise OSError(f"it ends after {begin + len(data)} bytes")
                data += more
        return data

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _Item(NamedTuple):
    """A sample of a page: its place in the page, its tar, and its row there."""

    place: int
    tar: _Tar
    row: int

    @property
    def begin(self) -> int:
        """The first byte of the sample in the tar."""
        return int(self.tar.index.begin[self.row])

    @property
    def end(self) -> int:
        """The end of the sample in the tar."""
        return int(self.tar.index.end[self.row])

    @property
    def text_span(self) -> Any:
        """Where the text begins, or the fields that hold it, and how many bytes these have."""
        index = self.tar.index
        return (index.txt if index.text == TXT else index.json)[self.row]


class Reader:
    """Reads the samples of a stream in one process, and keeps up to 32 tars open."""

    def __init__(self, stream: Stream) -> None:
        """Set the stream; nothing is opened yet."""
        self._stream = stream
        self._tars: collections.OrderedDict[int, _Tar] = collections.OrderedDict()
        self._needs_texts = stream.keep is not None and not hasattr(stream.keep, "contains")
        self._seed = int(getattr(stream.keep, "seed", stream.seed))

    def close(self) -> None:
        """Close the open tars."""
        while self._tars:
            self._tars.popitem()[1].close()

    def read(
        self, tars: Ints, rows: Ints, places: Sequence[int], epoch: int, reasons: collections.Counter[str]
    ) -> Iterator[tuple[int, Sample]]:
        """Yield (place, sample) for the samples at `places` of a page that come through.

        Outcomes are counted in `reasons` one by one, those of skipped samples before the next one is yielded: "yielded", a
        flaw of the index, "not_kept", "invalid_utf8", "oversized_image" or "broken_image".
        """
        items = [_Item(place, self._tar(int(tars[place])), int(rows[place])) for place in places]
        uids = np.array([item.tar.index.uids[item.row] for item in items], np.uint64).reshape(-1, 2)
        why = [FLAWS[item.tar.index.flaw[item.row]] for item in items]
        keep = self._stream.keep
        if isinstance(keep, Subset):
            for i in np.flatnonzero(~keep.contains(uids)).tolist():
                why[i] = why[i] or "not_kept"
        held = _fetch([item for item, reason in zip(items, why, strict=True) if not reason])
        texts: list[str | None] = [None] * len(items)
        if self._needs_texts:
            for i, item in enumerate(items):
                if not why[i]:
                    texts[i], why[i] = self._text(item, held, uids[i], epoch)
            asked = [i for i, reason in enumerate(why) if not reason]
            for i, kept in zip(
                asked, self._kept([texts[i] for i in asked], uids[asked], epoch), strict=True
            ):
                why[i] = "" if kept else "not_kept"
        for i, item in enumerate(items):
            reason, text, image = why[i], texts[i], None
            if not reason and text is None:  # one read for text and image
                held[item.place] = held.get(item.place) or item.tar.read(
                    item.begin, item.end - item.begin
                )
                text, reason = self._text(item, held, uids[i], epoch)
            if not reason:
                image, reason = self._image(item, held)
            held.pop(item.place, None)
            reasons[reason or "yielded"] += 1
            if not reason:
                yield item.place, self._transformed(uids[i], epoch, text or "", image)

    def _tar(self, number: int) -> _Tar:
        if number not in self._tars:
            file = self._stream.files[number]
            index = open_index(file, self._stream.names, self._stream.cache)
            if len(index) != self._stream.order.sizes[number]:
                raise MetaclipError(f"{file.path} has changed while it was read; begin anew")
            if len(self._tars) == _OPEN_TARS:
                self._tars.popitem(last=False)[1].close()
            self._tars[number] = _Tar(file, index)
        self._tars.move_to_end(number)
        return self._tars[number]

    def _text(
        self, item: _Item, held: dict[int, bytes], uid: npt.NDArray[np.uint64], epoch: int
    ) -> tuple[str | None, str]:
        """Return a sample's text in this epoch, or the reason why there is none."""
        texts, reason = parse_texts(_read(item, item.text_span, held), item.tar.index.text)
        if reason:
            return None, reason
        return texts[choice(self._seed, epoch, _number(uid), len(texts)) if len(texts) > 1 else 0], ""

    def _kept(
        self, texts: Sequence[str | None], uids: npt.NDArray[np.uint64], epoch: int
    ) -> Sequence[bool]:
        keep: Any = self._stream.keep
        if texts and hasattr(keep, "keep"):
            return [bool(kept) for kept in keep.keep(list(texts), uids, epoch=epoch)]
        return [bool(keep(text, f"{_number(uid):032x}")) for text, uid in zip(texts, uids, strict=True)]

    def _image(self, item: _Item, held: dict[int, bytes]) -> tuple[Any, str]:
        """Return a sample's image decoded to RGB, or the reason why there is none."""
        span = item.tar.index.image[item.row]
        if span[1] > MAX_BYTES:
            return None, OVERSIZED
        decoded = decode_image(_read(item, span, held), self._stream.max_pixels)
        return decoded.image, decoded.reason

    def _transformed(self, uid: npt.NDArray[np.uint64], epoch: int, text: str, image: Any) -> Sample:
        if self._stream.transform is not None:
            key = mix(stream_key(self._stream.seed ^ _TRANSFORM, epoch) ^ int(uid[0]))
            with _seeded_generators(mix(key ^ int(uid[1]))):
                image = self._stream.transform(image)
        return Sample(f"{_number(uid):032x}", text, image)


def _read(item: _Item, span: Any, held: dict[int, bytes]) -> bytes:
    """Return the bytes of a span (begin, size) of a tar, taken from those that are held of the sample, if any."""
    begin, size = int(span[0]), int(span[1])
    if item.place in held:
        return held[item.place][begin - item.begin : begin - item.begin + size]
    return item.tar.read(begin, size)


def _fetch(items: Sequence[_Item]) -> dict[int, bytes]:
    """Return the bytes of the samples whose tars are in a store, by place; neighbours are fetched as one range."""
    remote = sorted(
        (item for item in items if item.tar.is_remote), key=lambda i: (i.tar.file.path, i.row)
    )
    ranges: list[list[_Item]] = []
    for item in remote:
        if ranges and ranges[-1][-1].tar is item.tar and ranges[-1][-1].end == item.begin:
            ranges[-1].append(item)
        else:
            ranges.append([item])
    held: dict[int, bytes] = {}
    if not ranges:
        return held
    with _naming(ranges[0][0].tar.file):
        fs, _ = file_system(ranges[0][0].tar.file.path)
        paths = [file_system(part[0].tar.file.path)[1] for part in ranges]
        found = fs.cat_ranges(
            paths, [part[0].begin for part in ranges], [part[-1].end for part in ranges], on_error="raise"
        )
    for part, data in zip(ranges, found, strict=True):
        first = part[0].begin
        held.update((item.place, data[item.begin - first : item.end - first]) for item in part)
    return held


@contextlib.contextmanager
def _naming(file: PoolFile) -> Iterator[None]:
    """Name the tar in what goes wrong while it is read."""
    try:
        yield
    except OSError as error:
        raise MetaclipError(
            f"{file.path} cannot be read ({one_line(error)}); put it back and resume from the state"
        ) from None


def _number(uid: npt.NDArray[np.uint64]) -> int:
    return int(uid[0]) << 64 | int(uid[1])


@contextlib.contextmanager
def _seeded_generators(seed: int) -> Iterator[None]:
    """Seed the generators of `random` and torch for a block; outside of workers, restore them after it."""
    torch = sys.modules.get("torch")
    alone = multiprocessing.parent_process() is not None
    state = (
        None
        if alone
        else (random.getstate(), None if torch is None else torch.default_generator.get_state())
    )
    random.seed(seed)
    if torch is not None:
        torch.default_generator.manual_seed(seed >> 1)
    try:
        yield
    finally:
        if state is not None:
            random.setstate(state[0])
            if torch is not None:
                torch.default_generator.set_state(state[1])
