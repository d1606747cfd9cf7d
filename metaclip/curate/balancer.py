"""The Balancer: balance a run inside a data loader, pair by pair, without torch.

    balancer = Balancer("run/")                     # counts, list, text rule, t and seed of a balanced run, or of a card
    balancer.keep(texts, uids)                      # bool[n]; at epoch 0 exactly the pairs that the run kept
    balancer.keep_one(text, uid, epoch=3)           # another draw in each epoch: head entries show other texts
    webdataset.WebDataset(tars).compose(balancer.kept)      # many samples at a time; .select(balancer.takes) one by one

The law is the offline one (`metaclip.curate.draw`): a hash of seed, epoch and uid, without state. So any number of loader
workers decide alike, in any order, and a loader that is resumed continues as if it had never stopped.

A Balancer can be pickled, and is safe under fork and spawn: list, rule and probabilities are pickled (12 MB for 500,000
entries), and the automaton is memory-mapped from the machine's cache.
Cost, one thread, 500,000 entries: 0.6 us a pair in batches and 10 us one by one. Alone between two decoded images, which
leave nothing of it in the processor's caches, a pair takes 140 us: 4% of the loader's time, where 256 pairs decided together
take 0.2% (tests/bench/bench_online.py).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.arguments import PATH, Column, as_column, check_type, check_types
from metaclip.curate.draw import (
    choice,
    keep_probabilities,
    keep_probability,
    probabilities,
    uniform,
    uniforms,
)
from metaclip.curate.run import COUNTED, Run, counts_digest, read_table
from metaclip.curate.settings import DEFAULT_TAIL_SHARE, solve_tail_share
from metaclip.errors import BadSetting, MetaclipError, one_line
from metaclip.matching import Counts, count_matches
from metaclip.matching.matcher import Matcher, Texts
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata import Metadata
from metaclip.pool.columns import TEXT_NAMES, UID_NAMES, URL_NAMES
from metaclip.pool.uid import Uids, uid_of, uids_of
from metaclip.storage.files import read_json

UidsLike: TypeAlias = Column | Sequence[str | None] | Uids
"""Uids as they were given upstream (strings, 16 bytes), or as uint64[n, 2]."""

AHEAD: Final = 256
"""Number of samples that `kept` reads ahead and decides on together: 7 MB of encoded images of 256 pixels."""

_NAMES: Final = {"text": ("txt", *TEXT_NAMES), "url": URL_NAMES, "uid": UID_NAMES}
"""Where samples have their text, url and uid."""

Sample = TypeVar("Sample", bound=Mapping[str, Any])

NO_TEXT: Final = (
    "sample {key} has no caption: looked for {names}, found {found}; it and others like it are dropped. A run whose "
    "pool was matched with --text-column knows another name"
)
MIXED: Final = (
    "the runs that this one combines have their texts, urls and uids in different columns, and a sample does not say of which "
    "pool it is: the first of {names} that it has is used. For the same pairs as offline, make a Balancer of each run, with "
    "the t of the combined one, for the samples of its pool"
)
NO_UID: Final = (
    "sample {key} has no uid in its .json, so the draw uses md5(text + url). That is what the offline run used only if "
    "its pool had no uid either; download with img2dataset --save_additional_columns '[\"uid\"]' to carry it along"
)


class Balancer:
    """Decides which pairs to keep, with the probabilities that follow from the counts of a run.

    Methods with an `epoch` use that of the Balancer unless they are given one.

    >>> from metaclip import Balancer
    >>> balancer = Balancer("tests/golden/run")
    >>> balancer
    Balancer(t = 20, seed 0, Metadata(157 entries: 'a', 'of', 'the', ...; digest 5a422d2f35bc))
    >>> balancer.keep(["a photo of a dog", "no entry here"], urls=["https://a.example", "https://b.example"])
    array([ True, False])
    """

    def __init__(
        self,
        source: Run | Counts | str | os.PathLike[str],
        t: float | None = None,
        seed: int | None = None,
        *,
        metadata: Metadata | None = None,
        rule: TextRule = PAPER,
        epoch: int | Callable[[], int] = 0,
        least: float = 0.0,
        cache: str | os.PathLike[str] | bool = True,
    ) -> None:
        """Take the counts from a run, a run's folder, a card's folder, or from `Counts` with their `metadata` and `rule`.

        `t` and `seed` default to those of the source, for Counts and for a run that is not balanced to the t of a tail
        share of 0.06 and to 0. `epoch` is a number, or a function that returns it, for example from a value that the
        processes of a loader share. `least` is the smallest P(keep) of a text that matches: with 1 / r, no such pair is
        dropped for good, and a rare pair is seen at most r times as often as a frequent one. `cache` is as in `Matcher`.
        Raise MetaclipError for a source that cannot be read, for counts of another list or rule, for t <= 0, and for
        `least` outside of [0, 1].
        """
        check_types(source=(source, Run | Counts | PATH), t=(t, float | None), seed=(seed, int | None))
        if not callable(epoch):
            check_type("epoch", epoch, int)
        found = (
            _from_counts(source, metadata, rule) if isinstance(source, Counts) else _open_source(source)
        )
        if t is None:
            t = found.t or solve_tail_share(found.counts, DEFAULT_TAIL_SHARE)
        if not t > 0:
            raise MetaclipError(f"t is {t:g}, must be above 0")
        if not 0 <= least <= 1:
            raise MetaclipError(f"least is {least:g}, must be a probability, from 0 to 1")
        self.least = least
        self.t, self.seed, self.epoch = float(t), found.seed if seed is None else int(seed), epoch
        self.matcher = Matcher(found.metadata, found.rule, cache=cache)
        self.probability: npt.NDArray[np.float64] = probabilities(found.counts, self.t)
        # The runs that a run combines may have had different names.
        self._names: dict[str, tuple[str, ...]] = {
            role: tuple(
                dict.fromkeys(name for given in found.columns for name in _names(role, given.get(role)))
            )
            for role in _NAMES
        }
        self._mixed = len(found.columns) > 1
        self._warned = set[str]()

    def __repr__(self) -> str:
        """Show t, seed and the list."""
        return f"Balancer(t = {self.t:g}, seed {self.seed}, {self.matcher.metadata!r})"

    def p_keep(self, texts: Texts) -> npt.NDArray[np.float64]:
        """Return P(keep) of each text: float64[n]; 0 for a null and for a text that matches nothing."""
        matches = self.matcher.match(_strings("texts", texts))
        offsets = np.asarray(matches.offsets).astype(np.int64)
        p = keep_probabilities(np.asarray(matches.values), offsets, self.probability)
        return np.maximum(p, self.least, where=p > 0.0, out=p)

    def keep(
        self,
        texts: Texts,
        uids: UidsLike | None = None,
        *,
        urls: Texts | None = None,
        epoch: int | None = None,
    ) -> npt.NDArray[np.bool_]:
        """Return which of n pairs to keep: bool[n].

        `texts` are n strings, as a list or a column of any library that speaks Arrow; a null is never kept. `uids` and
        `urls` are n values or None; a missing uid is md5(text + url), as offline. Raise ValueError if their numbers differ.
        """
        array = _strings("texts", texts)
        given = uids if uids is None or isinstance(uids, np.ndarray) else _strings("uids", uids)
        links = None if urls is None else _strings("urls", urls)
        for name, column in (("uids", given), ("urls", links)):
            if column is not None and len(column) != len(array):
                raise ValueError(f"{len(column)} {name} beside {len(array)} texts")
        if not isinstance(given, np.ndarray):
            given = uids_of(array.fill_null("") if array.null_count else array, links, given)
        return uniforms(self.seed, self._epoch(epoch), given) < self.p_keep(array)

    def keep_one(
        self, text: str, uid: str | None = None, *, url: str | None = None, epoch: int | None = None
    ) -> bool:
        """Return whether to keep one pair, as `keep` decides."""
        p = keep_probability(self.matcher.find(text), self.probability)
        return p > 0.0 and uniform(self.seed, self._epoch(epoch), uid_of(text, url, uid)) < max(
            p, self.least
        )

    def choose(self, texts: Sequence[str], uid: str, *, epoch: int | None = None) -> int | None:
        """Draw one of the texts of an image for this epoch; return its index if it is to be kept, else None."""
        if not texts:
            return None
        epoch = self._epoch(epoch)
        index = choice(self.seed, epoch, uid_of("", uid=uid), len(texts))
        return index if self.keep_one(texts[index], uid, epoch=epoch) else None

    def takes(self, sample: Mapping[str, Any]) -> bool:
        """Return whether to keep a sample of a webdataset pipeline, as a predicate for ``.select``.

        The sample may be decoded or not: its text is "txt", else text, caption or alt, of the sample or of its "json", and
        so are its url and uid; a run that was matched with names of columns knows those. The case of letters does not
        matter. A sample without a text, or whose text is not UTF-8, is not kept. Warn once if a sample has no text, and
        once if one has no uid.
        """
        pair = self._pair(sample)
        return pair is not None and self.keep_one(pair[0], pair[1], url=pair[2])

    def kept(self, samples: Iterable[Sample], ahead: int = AHEAD) -> Iterator[Sample]:
        """Yield the samples that `takes` keeps, in their order, as a stage for ``.compose`` before images are decoded.

        `ahead` samples are read and decided on together, which takes a twentieth of the time: a single decision finds
        nothing of its own in the processor's caches after an image was decoded. They all belong to the same epoch.
        """
        if ahead < 1:
            raise BadSetting(f"ahead is {ahead}, must be at least 1")
        source = iter(samples)
        while block := list(itertools.islice(source, ahead)):
            found = [(sample, pair) for sample in block if (pair := self._pair(sample)) is not None]
            texts, uids, urls = ([pair[i] for _, pair in found] for i in range(3))
            stay = self.keep(texts, uids, urls=urls) if found else ()
            yield from (sample for (sample, _), stays in zip(found, stay, strict=True) if stays)

    def _pair(self, sample: Mapping[str, Any]) -> tuple[str, str | None, str | None] | None:
        """Return the text, uid and url of a sample; None if it has no text, or if one of them is not valid."""
        if self._mixed:
            self._warn_once(MIXED, names=self._names)
        try:
            fields = sample.get("json") or {}
            fields = json.loads(fields) if isinstance(fields, bytes | str) else fields
            values = {name.lower(): value for name, value in (*sample.items(), *fields.items())}
            text, uid, url = (self._value(values, role) for role in ("text", "uid", "url"))
            url = url if isinstance(url, str) else None
            uid = None if uid is None else str(uid)
            for value in (text, uid, url):
                if value is not None:
                    value.encode()  # raises for half a surrogate, which JSON can hold
        except (ValueError, AttributeError):
            return None
        if text is None:
            if values.keys().isdisjoint(self._names["text"]):
                names = " or ".join(map(repr, self._names["text"]))
                found = ", ".join(map(repr, values)) or "nothing"
                self._warn_once(NO_TEXT, key=sample.get("__key__", "?"), names=names, found=found)
            return None
        if not uid:
            self._warn_once(NO_UID, key=sample.get("__key__", "?"))
        return text, uid, url

    def _value(self, values: Mapping[str, Any], role: str) -> Any:
        """Return the first value of a role that is there, decoded."""
        for name in self._names[role]:
            if (value := values.get(name)) is not None:
                return value.decode() if isinstance(value, bytes) else value
        return None

    def _warn_once(self, message: str, **found: Any) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message.format(**found), stacklevel=4)

    def _epoch(self, epoch: int | None) -> int:
        if epoch is not None:
            return epoch
        return self.epoch() if callable(self.epoch) else self.epoch


def count_texts(texts: Iterable[Texts], matcher: Matcher) -> Counts:
    """Count the texts that match each entry, from batches of texts: the first pass if there is no run yet.

    It takes 0.3 us a text. Counts that grow while the loader runs are not offered: they keep too many of the texts of
    entries that they have rarely seen so far.
    """
    values = np.zeros(len(matcher.metadata), np.uint64)
    for batch in texts:
        values += count_matches(matcher.match(batch), len(values))
    return Counts(values, matcher.metadata.digest, matcher.rule.identity)


@dataclasses.dataclass(frozen=True)
class _Source:
    """What a Balancer is made from."""

    counts: npt.NDArray[np.uint64]
    metadata: Metadata
    rule: TextRule
    t: float | None = None
    seed: int = 0
    columns: Sequence[Mapping[str, str | None]] = ({},)
    """The names of columns that were given when the pool, or those of several runs, were matched, by role; each once."""


def _from_counts(counts: Counts, metadata: Metadata | None, rule: TextRule) -> _Source:
    if metadata is None:
        raise MetaclipError(
            "counts alone do not say what was counted: give their metadata too (and rule)"
        )
    for name, mine, theirs in (
        ("list", counts.list_digest, metadata.digest),
        ("text rule", counts.rule_identity, rule.identity),
    ):
        if mine != theirs:
            raise MetaclipError(
                f"the counts are of the {name} {mine}, not of {theirs}; count again, or give that {name}"
            )
    return _Source(counts.values, metadata, rule)


def _open_source(source: Run | str | os.PathLike[str]) -> _Source:
    if not isinstance(source, Run):
        folder = Path(source)
        if not (folder / "manifest.json").exists() and (folder / "card.json").exists():
            return _read_card(folder)
        source = Run(source)
    t, seed = (None, 0) if source.balance is None else (source.t, source.seed)
    columns: list[Mapping[str, str | None]] = []
    for given in source.shard_columns.values():
        if given not in columns:
            columns.append(given)
    return _Source(source.counts.values, source.metadata, source.rule, t, seed, columns)


def _read_card(folder: Path) -> _Source:
    """Read a published card: card.json and entries.parquet, whose digests must agree."""
    card, path = read_json(folder / "card.json"), folder / "entries.parquet"
    try:
        assert card is not None
        table = read_table(path, COUNTED)
        metadata = Metadata(table["entry"].combine_chunks(), table["source"].combine_chunks())
        counts = table["count"].to_numpy()
        balance, rule = card["balance"], TextRule(**card["rule"])
        found = _Source(counts, metadata, rule, float(balance["t"]), int(balance["seed"]))
        stated = card["list"]["digest"], card["digests"]["counts"]
    except (AssertionError, MetaclipError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise MetaclipError(
            f"{folder} is no card that can be read ({one_line(error)}); fetch it again"
        ) from None
    if (metadata.digest, counts_digest(counts)) != stated:
        raise MetaclipError(
            f"{path} does not hold the counts that {folder / 'card.json'} names; fetch both again"
        )
    return found


def _names(role: str, given: str | None) -> tuple[str, ...]:
    """Return where samples have a value, if its column was `given` by name for the pool, or else None."""
    if given is None:
        return _NAMES[role]
    # The column text of a pool of tars is the .txt, and a field of that name in the .json is json.text.
    name = given.lower()
    return ("txt", name) if name == "text" else (name.removeprefix("json."),)


def _strings(name: str, values: Any) -> Any:
    """Return a column as one Arrow array."""
    if isinstance(values, str):
        raise TypeError(f"{name} is one string, {values!r:.80}; give a list of strings, or use keep_one")
    column = as_column(name, values, pa.string())
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
