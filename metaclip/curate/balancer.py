"""The Balancer: the balance of a run inside a data loader, pair by pair, without torch.

    balancer = Balancer("run/")                     # counts, list, text rule, t and seed of a balanced run, or a card
    balancer.keep(texts, uids)                      # bool[n]; at epoch 0 just the pairs that the run kept
    balancer.keep_one(text, uid, epoch=3)           # another draw each epoch: head entries show other texts
    webdataset.WebDataset(tars).compose(balancer.kept)      # many at a time; .select(balancer.takes) one by one

The law is the offline one (`metaclip.curate.draw`): a hash of seed, epoch and uid, no state. So any number of loader
workers decide alike, in any order, and a loader that is resumed goes on as if it had never stopped.

A Balancer is picklable and safe under fork and spawn: it travels as list, rule and probabilities (12 MB for 500,000
entries), and the automaton is mapped from the machine's cache.
Cost, one thread, 500,000 entries: 0.6 us a pair in batches, 10 us one by one, and 140 us alone between two images, which
leave nothing of it in the processor's caches: 4% of the loader's time, where 256 decided together take 0.2%
(tests/bench/bench_online.py). On a new machine the first process compiles the kernel in 3 s.
"""

from __future__ import annotations

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
import pyarrow.parquet as pq

from metaclip.curate.draw import (
    choice,
    keep_probabilities,
    keep_probability,
    probabilities,
    uniform,
    uniforms,
)
from metaclip.curate.run import Run, counts_digest
from metaclip.curate.settings import DEFAULT_TAIL_SHARE
from metaclip.curate.threshold import solve_tail_share
from metaclip.errors import MetaclipError, one_line
from metaclip.matching.count import Counts, count_matches
from metaclip.matching.matcher import Matcher, Texts
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata.entries import Metadata
from metaclip.pool.uid import Uids, uid_of, uids_of
from metaclip.storage.files import read_json

Ids: TypeAlias = pa.Array | pa.ChunkedArray | Sequence[str | None] | Uids
"""Uids as they were given upstream (strings, 16 bytes), or as uint64[n, 2]."""

AHEAD: Final = 256
"""Samples that are read ahead, to decide on them together: 7 MB of images of 256 pixels."""

Sample = TypeVar("Sample", bound=Mapping[str, Any])

NO_UID: Final = (
    "sample {key} has no uid in its .json, so the draw uses md5(text + url). That is what the offline run used only if "
    "its pool had no uid either; download with img2dataset --save_additional_columns '[\"uid\"]' to carry it along"
)


class Balancer:
    """Decides which pairs stay, by the counts of a run."""

    def __init__(
        self,
        source: Run | Counts | str | os.PathLike[str],
        t: float | None = None,
        seed: int | None = None,
        *,
        metadata: Metadata | None = None,
        rule: TextRule = PAPER,
        epoch: int | Callable[[], int] = 0,
        cache: str | os.PathLike[str] | bool = True,
    ) -> None:
        """Take the counts of a run or a card (the object or its folder), or Counts with their `metadata` and `rule`.

        `t` and `seed` are the source's where it has them, else t for a tail share of 0.06, and seed 0. `epoch` is a
        number, or what gives it (a value that the loader's processes share). `cache` as in `Matcher`. Raise
        MetaclipError for a source that cannot be read, for counts of another list or rule, and for t <= 0.
        """
        found = _of_counts(source, metadata, rule) if isinstance(source, Counts) else _opened(source)
        if t is None:
            t = found.t or solve_tail_share(found.counts, DEFAULT_TAIL_SHARE)
        if not t > 0:
            raise MetaclipError(f"t is {t:g}, must be above 0")
        self.t, self.seed, self.epoch = float(t), found.seed if seed is None else int(seed), epoch
        self.matcher = Matcher(found.metadata, found.rule, cache=cache)
        self.probability: npt.NDArray[np.float64] = probabilities(found.counts, self.t)
        self._warned = False

    def __repr__(self) -> str:
        """Show t, seed and the list."""
        return f"Balancer(t = {self.t:g}, seed {self.seed}, {self.matcher.metadata!r})"

    def p_keep(self, texts: Texts) -> npt.NDArray[np.float64]:
        """Give P(keep) of each text: float64[n]; 0 for a text that matches nothing, and for a null."""
        matches = self.matcher.match(texts)
        if isinstance(matches, pa.ChunkedArray):
            matches = matches.combine_chunks()
        offsets = np.asarray(matches.offsets).astype(np.int64)
        return keep_probabilities(np.asarray(matches.values), offsets, self.probability)

    def keep(
        self,
        texts: Texts,
        uids: Ids | None = None,
        *,
        urls: pa.Array | Sequence[str | None] | None = None,
        epoch: int | None = None,
    ) -> npt.NDArray[np.bool_]:
        """Decide on a batch of pairs: bool[n]. Where a uid is missing it is md5(text + url), as offline."""
        array = _strings(texts)
        given = uids if isinstance(uids, np.ndarray) else None if uids is None else _strings(uids)
        links = None if urls is None else _strings(urls)
        for name, column in (("uids", given), ("urls", links)):
            if column is not None and len(column) != len(array):
                raise ValueError(f"{len(column)} {name} beside {len(array)} texts")
        if not isinstance(given, np.ndarray):
            given = uids_of(array.fill_null("") if array.null_count else array, links, given)
        return uniforms(self.seed, self._at(epoch), given) < self.p_keep(array)

    def keep_one(self, text: str, uid: str | None = None, *, url: str | None = None, epoch: int | None = None) -> bool:
        """Decide on one pair, as `keep` does."""
        p = keep_probability(self.matcher.find(text), self.probability)
        return p > 0.0 and uniform(self.seed, self._at(epoch), uid_of(text, url, uid)) < p

    def choose(self, texts: Sequence[str], uid: str, *, epoch: int | None = None) -> int | None:
        """Draw one of an image's texts for this visit, then keep it by its own P: its index, or None."""
        at = self._at(epoch)
        index = choice(self.seed, at, uid_of("", uid=uid), len(texts)) if texts else 0
        return index if texts and self.keep_one(texts[index], uid, epoch=at) else None

    def takes(self, sample: Mapping[str, Any]) -> bool:
        """Decide on a sample of a webdataset pipeline, decoded or not: its text in "txt", uid and url in "json".

        A sample without a text, or whose text is not UTF-8, is not taken. Warn once if a sample has no uid.
        """
        pair = self._pair(sample)
        return pair is not None and self.keep_one(pair[0], pair[1], url=pair[2])

    def kept(self, samples: Iterable[Sample], ahead: int = AHEAD) -> Iterator[Sample]:
        """Give those of the samples that `takes` takes, in their order: a stage of a pipeline, before it decodes.

        `ahead` of them are read and decided on together, which takes a twentieth of the time: alone, a decision finds
        nothing of its own in the processor's caches after an image was decoded. The epoch is asked for once for all.
        """
        source = iter(samples)
        while block := list(itertools.islice(source, ahead)):
            found = [(sample, pair) for sample in block if (pair := self._pair(sample)) is not None]
            texts, uids, urls = ([pair[i] for _, pair in found] for i in range(3))
            stay = self.keep(texts, uids, urls=urls) if found else ()
            yield from (sample for (sample, _), stays in zip(found, stay, strict=True) if stays)

    def _pair(self, sample: Mapping[str, Any]) -> tuple[str, str | None, str | None] | None:
        """Give a sample's text, uid and url; None where it has no text."""
        try:
            text, fields = sample.get("txt"), sample.get("json") or {}
            text = text.decode() if isinstance(text, bytes) else text
            fields = json.loads(fields) if isinstance(fields, bytes | str) else fields
            text = fields.get("caption") if text is None else text
            uid, url = fields.get("uid"), fields.get("url")
            uid, url = None if uid is None else str(uid), url if isinstance(url, str) else None
            for part in (text, uid, url):  # JSON can hold half a surrogate
                if part is not None:
                    part.encode()
        except (ValueError, AttributeError):
            return None
        if text is None:
            return None
        if not uid and not self._warned:
            self._warned = True
            warnings.warn(NO_UID.format(key=sample.get("__key__", "?")), stacklevel=3)
        return text, uid, url

    def _at(self, epoch: int | None) -> int:
        if epoch is not None:
            return epoch
        return self.epoch() if callable(self.epoch) else self.epoch


def count_texts(texts: Iterable[Texts], matcher: Matcher) -> Counts:
    """Count the matches of texts, batch by batch: the first pass where no counts exist yet.

    A pass over texts alone takes 0.3 us each, so counts that run along with the loader, which keep too much of what
    they have not seen often yet, are not offered.
    """
    values = np.zeros(len(matcher.metadata), np.uint64)
    for batch in texts:
        values += count_matches(matcher.match(batch), len(values))
    return Counts(values, matcher.metadata.digest, matcher.rule.identity)


class _Source:
    """What a Balancer is made of."""

    def __init__(
        self, counts: npt.NDArray[np.uint64], metadata: Metadata, rule: TextRule, t: float | None, seed: int
    ) -> None:
        self.counts, self.metadata, self.rule, self.t, self.seed = counts, metadata, rule, t, seed


def _of_counts(counts: Counts, metadata: Metadata | None, rule: TextRule) -> _Source:
    if metadata is None:
        raise MetaclipError("counts alone do not say what was counted: give their metadata too (and rule)")
    for name, mine, theirs in (
        ("list", counts.list_digest, metadata.digest),
        ("text rule", counts.rule_identity, rule.identity),
    ):
        if mine != theirs:
            raise MetaclipError(
                f"the counts are of the {name} {mine}, not of {theirs}; count again, or give that {name}"
            )
    return _Source(counts.values, metadata, rule, None, 0)


def _opened(source: Run | str | os.PathLike[str]) -> _Source:
    if not isinstance(source, Run):
        folder = Path(source)
        if not (folder / "manifest.json").exists() and (folder / "card.json").exists():
            return _of_card(folder)
        source = Run(source)
    balanced = source.balance is not None
    counts, metadata = source.counted
    return _Source(counts.values, metadata, source.rule, source.t if balanced else None, source.seed if balanced else 0)


def _of_card(folder: Path) -> _Source:
    """Open a published card: card.json and entries.parquet, whose digests must agree."""
    card, path = read_json(folder / "card.json"), folder / "entries.parquet"
    try:
        assert card is not None
        table = pq.read_table(path, columns=["entry", "source", "count"])
        metadata = Metadata(table["entry"].combine_chunks(), table["source"].combine_chunks())
        counts = table["count"].to_numpy().astype(np.uint64)
        made = _Source(
            counts, metadata, TextRule(**card["rule"]), float(card["balance"]["t"]), int(card["balance"]["seed"])
        )
        wanted = card["list"]["digest"], card["digests"]["counts"]
    except (AssertionError, OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise MetaclipError(f"{folder} is no card that can be read ({one_line(error)}); fetch it again") from None
    if (metadata.digest, counts_digest(counts)) != wanted:
        raise MetaclipError(f"{path} does not hold the counts that {folder / 'card.json'} names; fetch both again")
    return made


def _strings(values: Any) -> Any:
    """Give a column as an Arrow array."""
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()
    if isinstance(values, str):
        raise TypeError("one string; pass a list of strings, or use keep_one")
    return values if isinstance(values, pa.Array) else pa.array(values, pa.string())
