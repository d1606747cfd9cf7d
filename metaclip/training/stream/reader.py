"""The samples of a page: read, one text chosen, kept or not, decoded; or the reason why not.

Of several texts one is drawn for the visit, and the pair stays if the Balancer (or subset, or predicate) keeps it with
that text. Texts are asked for page by page, in one batch, and an image is read only where its pair stays. The transform
sees generators (torch's and `random`'s) that are set by (seed, epoch, uid), so an image is cropped alike whoever
decodes it, and otherwise in the next epoch.

Local tars are read where the index says; from a store, a page's runs of samples are asked for at once.
"""

from __future__ import annotations

import collections
import contextlib
import io
import json
import multiprocessing
import os
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import fsspec
import numpy as np
import numpy.typing as npt

from metaclip.curate.draw import choice, mix, stream_key
from metaclip.errors import MetaclipError, one_line
from metaclip.reshard.index import FLAWS, TXT, Index, open_index
from metaclip.reshard.subset import Subset
from metaclip.training.stream.order import Ints
from metaclip.training.stream.plan import At, Plan
from metaclip.training.stream.stream import Stream

REASONS: Final = (*FLAWS[1:], "invalid_utf8", "not_kept", "oversized_image", "broken_image")
"""Why a sample does not come through; the rest are `yielded`."""

MAX_BYTES: Final = 1 << 26
_OPEN: Final = 32  # tars and indexes held open; an order mixes 16 at a time
_FORMATS: Final = ("JPEG", "PNG", "WEBP")
_AUGMENT: Final = 0xA0761D6478BD642F  # sets the transform's draws apart from others of the same visit


class Sample(NamedTuple):
    """A sample that came through."""

    uid: str
    """32 hex digits."""
    text: str
    image: Any
    """What the transform made of a PIL image in RGB; that image where there is none."""


class Visited(NamedTuple):
    """A sample, or None at the end of the lane; where the lane is after it; what did not come through since the last one."""

    sample: Sample | None
    at: At
    reasons: Mapping[str, int]


class Reader:
    """Reads the samples of a stream; holds its tars open, in one process."""

    def __init__(self, stream: Stream) -> None:
        """Take the stream; nothing is opened yet."""
        self._stream = stream
        self._indexes: collections.OrderedDict[int, Index] = collections.OrderedDict()
        self._open: collections.OrderedDict[int, int] = collections.OrderedDict()
        keep = stream.keep
        self._needs_texts = keep is not None and not hasattr(keep, "contains")
        self._seed = int(getattr(keep, "seed", stream.seed))

    def close(self) -> None:
        """Close the tars that are open."""
        while self._open:
            os.close(self._open.popitem()[1])

    def read(
        self, tars: Ints, rows: Ints, places: Sequence[int], epoch: int, reasons: collections.Counter[str]
    ) -> Iterator[tuple[int, Sample]]:
        """Give the samples at some places of a page that come through; count the others, one by one, on the way."""
        items = [_Item(place, int(tars[place]), self._index(int(tars[place])), int(rows[place])) for place in places]
        uids = np.array([item.of.uids[item.row] for item in items], np.uint64).reshape(-1, 2)
        why = [FLAWS[item.of.flaw[item.row]] for item in items]
        keep = self._stream.keep
        if isinstance(keep, Subset):
            for i in np.flatnonzero(~keep.contains(uids)).tolist():
                why[i] = why[i] or "not_kept"
        held = self._from_store([item for item, reason in zip(items, why, strict=True) if not reason])
        texts: list[str | None] = [None] * len(items)
        if self._needs_texts:
            for i, item in enumerate(items):
                if not why[i]:
                    texts[i], why[i] = self._text(item, self._bytes(item, item.text_span, held), uids[i], epoch)
            asked = [i for i, reason in enumerate(why) if not reason]
            for i, kept in zip(asked, self._kept([texts[i] for i in asked], uids[asked], epoch), strict=True):
                why[i] = "" if kept else "not_kept"
        for i, item in enumerate(items):
            reason, text, image = why[i], texts[i], None
            if not reason:
                data = held.get(item.place)
                if text is None:
                    data = data or self._bytes(item, item.whole, held)
                    text, reason = self._text(item, _part(data, item, item.text_span), uids[i], epoch)
            if not reason:
                span = item.of.image[item.row]
                if span[1] > MAX_BYTES:
                    reason = "oversized_image"
                else:
                    image, reason = self._decoded(_part(data, item, span) if data else self._bytes(item, span, held))
            if reason:
                reasons[reason] += 1
                continue
            reasons["yielded"] += 1
            yield item.place, self._made(uids[i], epoch, text or "", image)

    def _index(self, tar: int) -> Index:
        if tar not in self._indexes:
            file = self._stream.files[tar]
            index = open_index(file, self._stream.names, self._stream.cache)
            if len(index) != self._stream.order.sizes[tar]:
                raise MetaclipError(f"{file.path} has changed while it was read; begin anew")
            _bounded(self._indexes, tar, index)
        self._indexes.move_to_end(tar)
        return self._indexes[tar]

    def _bytes(self, item: _Item, span: Any, held: Mapping[int, bytes]) -> bytes:
        """Read a span of a tar."""
        if item.place in held:
            return _part(held[item.place], item, span)
        begin, size = int(span[0]), int(span[1])
        if item.tar not in self._open:
            with self._naming(item.tar):
                closed = _bounded(self._open, item.tar, os.open(self._stream.files[item.tar].path, os.O_RDONLY))
            if closed is not None:
                os.close(closed)
        self._open.move_to_end(item.tar)
        with self._naming(item.tar):
            data = os.pread(self._open[item.tar], size, begin)
            while len(data) < size:
                if not (more := os.pread(self._open[item.tar], size - len(data), begin + len(data))):
                    raise OSError(f"it ends after {begin + len(data)} bytes")
                data += more
        return data

    def _from_store(self, items: Sequence[_Item]) -> dict[int, bytes]:
        """Read samples whose tars are not on this machine: those that stand side by side as one range."""
        far = sorted((i for i in items if "://" in self._stream.files[i.tar].path), key=lambda i: (i.tar, i.row))
        ranges: list[list[_Item]] = []
        for item in far:
            last = ranges[-1][-1] if ranges else None
            if last is not None and last.tar == item.tar and sum(last.whole) == item.whole[0]:
                ranges[-1].append(item)
            else:
                ranges.append([item])
        held: dict[int, bytes] = {}
        if not ranges:
            return held
        with self._naming(ranges[0][0].tar):
            fs, _ = fsspec.core.url_to_fs(self._stream.files[ranges[0][0].tar].path)
            paths = [fs._strip_protocol(self._stream.files[part[0].tar].path) for part in ranges]
            found = fs.cat_ranges(
                paths, [part[0].whole[0] for part in ranges], [sum(part[-1].whole) for part in ranges], on_error="raise"
            )
        for part, data in zip(ranges, found, strict=True):
            for item in part:
                begin = item.whole[0] - part[0].whole[0]
                held[item.place] = data[begin : begin + item.whole[1]]
        return held

    @contextlib.contextmanager
    def _naming(self, tar: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path = self._stream.files[tar].path
            raise MetaclipError(
                f"{path} cannot be read ({one_line(error)}); put it back and go on from the state"
            ) from None

    def _text(self, item: _Item, data: bytes, uid: npt.NDArray[np.uint64], epoch: int) -> tuple[str | None, str]:
        """Give a sample's text of this visit, or why there is none."""
        try:
            if item.of.text == TXT:
                return data.decode(), ""
            value = json.loads(data)[item.of.text]
            texts = [text for text in value if isinstance(text, str)] if isinstance(value, list) else [value]
        except UnicodeDecodeError:
            return None, "invalid_utf8"
        except (KeyError, TypeError, ValueError):
            return None, "missing_text"
        if not texts or texts == [None]:
            return None, "missing_text"
        text = texts[choice(self._seed, epoch, _number(uid), len(texts)) if len(texts) > 1 else 0]
        return (text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)), ""

    def _kept(self, texts: Sequence[str | None], uids: npt.NDArray[np.uint64], epoch: int) -> Sequence[bool]:
        keep: Any = self._stream.keep
        if not texts:
            return []
        if hasattr(keep, "keep"):
            return [bool(kept) for kept in keep.keep(list(texts), uids, epoch=epoch)]
        return [bool(keep(text, f"{_number(uid):032x}")) for text, uid in zip(texts, uids, strict=True)]

    def _decoded(self, data: bytes) -> tuple[Any, str]:
        """Decode an image to RGB, or say why not."""
        from PIL import Image

        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                if image.width * image.height > self._stream.max_pixels:
                    return None, "oversized_image"
                return image.convert("RGB"), ""
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            return None, "oversized_image"
        except Exception:  # decoders raise whatever they come upon
            return None, "broken_image"

    def _made(self, uid: npt.NDArray[np.uint64], epoch: int, text: str, image: Any) -> Sample:
        number = _number(uid)
        transform = self._stream.transform
        if transform is not None:
            high, low = divmod(number, 1 << 64)
            with _generators(mix(mix(stream_key(self._stream.seed ^ _AUGMENT, epoch) ^ high) ^ low)):
                image = transform(image)
        return Sample(f"{number:032x}", text, image)


class _Item(NamedTuple):
    """A sample of a page."""

    place: int
    tar: int
    of: Index
    row: int

    @property
    def whole(self) -> tuple[int, int]:
        """Where it begins, and how many bytes it has."""
        begin = int(self.of.begin[self.row])
        return begin, int(self.of.end[self.row]) - begin

    @property
    def text_span(self) -> Any:
        """Where its text stands, or the fields that hold it."""
        return (self.of.txt if self.of.text == TXT else self.of.json)[self.row]


def _part(data: bytes, item: _Item, span: Any) -> bytes:
    """Give a span of a sample from the bytes of all of it."""
    begin = int(span[0]) - item.whole[0]
    return data[begin : begin + int(span[1])]


def _number(uid: npt.NDArray[np.uint64]) -> int:
    return int(uid[0]) << 64 | int(uid[1])


def _bounded(held: collections.OrderedDict[int, Any], key: int, value: Any) -> Any:
    """Put something in; give back what had to go for it."""
    held[key] = value
    return held.popitem(last=False)[1] if len(held) > _OPEN else None


@contextlib.contextmanager
def _generators(seed: int) -> Iterator[None]:
    """Set the generators of `random` and torch for a block; put them back, unless this is a worker, where no one else draws."""
    torch = sys.modules.get("torch")
    alone = multiprocessing.parent_process() is not None
    state = None if alone else (random.getstate(), None if torch is None else torch.default_generator.get_state())
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


def read_lane(stream: Stream, plan: Plan, lane: int, at: At, epochs: int | None = None) -> Iterator[Visited]:
    """Go through a lane's samples from where it is, to the end of the last of so many epochs (None: endless).

    Raise MetaclipError where nothing has come through for as long as ten epochs take.
    """
    reasons = collections.Counter[str]()
    idle = 0
    with contextlib.closing(Reader(stream)) as reader:
        while epochs is None or at.epoch < epochs:
            pages = plan.pages(stream.order, at.epoch, lane)
            while at.pages < len(pages):
                page = int(pages[at.pages])
                tars, rows = stream.order.page(at.epoch, page)
                taken = plan.places(at.epoch, page)
                places = [place for place in range(at.places, len(tars)) if not taken >> place & 1]
                for place, sample in reader.read(tars, rows, places, at.epoch, reasons):
                    idle = 0
                    yield Visited(sample, At(at.epoch, at.pages, place + 1), dict(reasons))
                    reasons.clear()
                idle += len(places)
                at = At(at.epoch, at.pages + 1)
                if idle > 10 * stream.order.total:
                    raise MetaclipError(
                        f"none of {idle} samples came through: {dict(reasons)}; check `keep` and the tars"
                    )
            at = At(at.epoch + 1)
        yield Visited(None, at, dict(reasons))
