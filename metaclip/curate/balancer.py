"""The Balancer: balance a run inside a data loader, pair by pair, without torch.

    balancer = Balancer("run/")                     # counts, list, text rule, t and seed of a balanced run, or of a card
    balancer.keep(texts, uids)                      # bool[n]; at epoch 0 exactly the pairs that the run kept
    balancer.keep_one(text, uid, epoch=3)           # another draw in each epoch: head entries show other texts
    balancer.set_epoch(3)                           # for all decisions, also those of workers that live on
    webdataset.WebDataset(tars).compose(balancer.kept)      # many samples at a time; .select(balancer.takes) one by one
    pairs.filter(balancer.keep_table, batched=True)         # Hugging Face datasets; frame.filter(balancer.keep_table(frame))
    balancer.kept_pairs("pool/", worker=0, workers=4)       # the pairs of a pool

With a list with languages, give those of the texts too (``languages=``); in tables, pools and samples they are found as in a
pool, and if the run identified them, so does its Balancer.

The law is the offline one (`metaclip.curate.draw`): a hash of seed, epoch and uid, without state. So any number of loader
workers decide alike, in any order, and a loader that is resumed continues as if it had never stopped.

A Balancer can be pickled, and is safe under fork and spawn: list, rule and probabilities are pickled (12 MB for 500,000
entries), and the automaton is memory-mapped from the machine's cache.
Cost, one thread, 500,000 entries: 0.6 us a pair in batches and 10 us one by one. Alone between two decoded images, which
leave nothing of it in the processor's caches, a pair takes 140 us: 4% of the loader's time, where 256 pairs decided together
take 0.2% (tests/bench/bench_online.py).
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.arguments import ArrowTable, Column, as_column, check_type, check_types
from metaclip.curate.balancer_source import open_source
from metaclip.curate.draw import (
    choice,
    keep_probabilities,
    keep_probability,
    probabilities,
    uniform,
    uniforms,
)
from metaclip.curate.run import Run
from metaclip.curate.samples import PairFinder
from metaclip.curate.settings import DEFAULT_TAIL_SHARE, split_codes
from metaclip.curate.shared_epoch import MAX_EPOCH, SharedEpoch
from metaclip.curate.weights import EntryWeights, WeightsLike
from metaclip.errors import BadSetting, MetaclipError
from metaclip.matching import Counts, count_matches
from metaclip.matching.matcher import Matcher, Texts
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata import Metadata
from metaclip.pool.files import Paths
from metaclip.pool.uid import Uids, uid_of, uids_of

UidsLike: TypeAlias = Column | Sequence[str | None] | Uids
"""Uids as they were given upstream (strings, 16 bytes), or as uint64[n, 2]."""

AHEAD: Final = 256
"""Number of samples that `kept` reads ahead and decides on together: 7 MB of encoded images of 256 pixels."""

Sample = TypeVar("Sample", bound=Mapping[str, Any])


class Balancer:
    """Decides which pairs to keep, with the probabilities that follow from the counts of a run.

    Methods with an `epoch` use that of the Balancer unless they are given one. Call `set_epoch` before each epoch of a loader:
    worker processes that this one started with a copy of the Balancer, by fork or by spawn, have the same epoch, also if
    they live on from epoch to epoch (``persistent_workers``). A Balancer that is pickled otherwise (Ray, a file) keeps the
    epoch of that moment, until it is set there.

    Give it the pairs of the pool. Of a set that `curate` wrote it keeps all at epoch 0, because the draw is the same; in
    later epochs it thins the set a second time, and the rest of the pool is never seen. If the run was matched with a subset,
    give it the pairs of that subset (`metaclip.reshard` writes them): it knows the counts of these, and not which they are.

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
        epoch: int = 0,
        least: float = 0.0,
        weights: WeightsLike | None = None,
        cache: str | os.PathLike[str] | bool = True,
    ) -> None:
        """Take the counts from a run, a run's folder, a card's folder, or from `Counts` with their `metadata` and `rule`.

        `t` and `seed` default to those of the source, for Counts and for a run that is not balanced to the t of a tail share of
        0.06 and to 0; a warning then names the t of a run. `epoch` is the first one. `least` is the smallest P(keep) of a text
        that matches: with 1 / r, no such pair is dropped for good, and a rare pair is seen at most r times as often as a
        frequent one. `cache` is as in `Matcher`. `weights` are factors on t by entry, as in `balance`. Without them, a source
        that was balanced with weights keeps its own; another `t` then moves the thresholds of all entries by one factor, t[e] *
        (t / the source's t). Raise MetaclipError for a source that is something else or cannot be read, for counts of another
        list or rule, for t <= 0, for `least` outside of [0, 1], and for weights that cannot be used.
        """
        check_types(t=(t, float | None), seed=(seed, int | None))
        found = open_source(source, metadata, rule)
        if t is not None and not t > 0:
            raise MetaclipError(f"t is {t:g}, must be above 0")
        if not 0 <= least <= 1:
            raise MetaclipError(f"least is {least:g}, must be a probability, from 0 to 1")
        self.least = least
        weight = None if weights is None else EntryWeights.of(weights).by_entry(found.metadata)
        self.t, thresholds = found.thresholds_at(None if t is None else float(t), weight)
        if t is None and found.t is None and not isinstance(source, Counts):
            path = source.path if isinstance(source, Run) else source
            warnings.warn(
                f"{path} is matched but not balanced: t = {self.t:g} is used, by the default tail share of "
                f"{DEFAULT_TAIL_SHARE:g}; give another `t=...`, or balance the run first",
                stacklevel=2,
            )
        self.seed = found.seed if seed is None else int(seed)
        self._shared_epoch = SharedEpoch()
        self.set_epoch(epoch)
        only, also = (
            None if codes is None else split_codes(codes)
            for codes in (found.settings.languages, found.settings.also)
        )
        self.matcher = Matcher(found.metadata, found.rule, languages=only, also=also or (), cache=cache)
        self.routing = found.settings.routing
        """How languages are found and chosen, as far as the run's settings say so."""
        self._identify = bool(found.settings.identify)
        self.probability: npt.NDArray[np.float64] = probabilities(found.counts, thresholds)
        self._finder = PairFinder(found.columns, found.settings.language_column, self.needs_languages)

    def __repr__(self) -> str:
        """Show t, seed and the list."""
        return f"Balancer(t = {self.t:g}, seed {self.seed}, {self.matcher.metadata!r})"

    @property
    def needs_languages(self) -> bool:
        """Whether the languages of texts must be given: the list has languages, and the run did not identify those of texts."""
        return self.matcher.routing is not None and not self._identify

    @property
    def epoch(self) -> int:
        """The epoch, for this process and its workers; assigning to it is `set_epoch`."""
        return self._shared_epoch.get()

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of this process and of the workers that it started; each rank of several sets its own.

        Call it before each epoch of a loader: a decision belongs to the epoch that is set when it is made.
        """
        check_type("epoch", epoch, int)
        if not 0 <= epoch <= MAX_EPOCH:
            raise BadSetting(f"epoch is {epoch}, must be from 0 to 2**63 - 1")
        self._shared_epoch.set(int(epoch))

    def p_keep(self, texts: Texts, languages: Texts | None = None) -> npt.NDArray[np.float64]:
        """Return P(keep) of each text: float64[n]; 0 for a null and for a text that matches nothing.

        `languages` are the codes of the texts' languages, for a list with languages whose run did not identify them.
        """
        array = _strings("texts", texts)
        matches = self.matcher.match(array, self._languages_of(array, languages))
        offsets = np.asarray(matches.offsets).astype(np.int64)
        p = keep_probabilities(np.asarray(matches.values), offsets, self.probability)
        return np.maximum(p, self.least, where=p > 0.0, out=p)

    def _languages_of(self, texts: pa.Array, languages: Texts | None) -> Texts | None:
        """Return the languages of texts: the given ones, or those that are identified as the run did."""
        return _identified(texts) if languages is None and self._identify else languages

    def keep(
        self,
        texts: Texts,
        uids: UidsLike | None = None,
        *,
        urls: Texts | None = None,
        languages: Texts | None = None,
        epoch: int | None = None,
    ) -> npt.NDArray[np.bool_]:
        """Return which of n pairs to keep: bool[n].

        `texts` are n strings, as a list or a column of any library that speaks Arrow; a null is never kept. `uids` and
        `urls` are n values or None; a missing uid is md5(text + url), as offline. `languages` are n codes, as in `p_keep`.
        Raise ValueError if their numbers differ.
        """
        array = _strings("texts", texts)
        given = uids if uids is None or isinstance(uids, np.ndarray) else _strings("uids", uids)
        links = None if urls is None else _strings("urls", urls)
        for name, column in (("uids", given), ("urls", links)):
            if column is not None and len(column) != len(array):
                raise ValueError(f"{len(column)} {name} beside {len(array)} texts")
        if not isinstance(given, np.ndarray):
            given = uids_of(array.fill_null("") if array.null_count else array, links, given)
        return uniforms(self.seed, self.epoch if epoch is None else epoch, given) < self.p_keep(
            array, languages
        )

    def keep_table(
        self, table: ArrowTable | Mapping[str, Any], *, epoch: int | None = None
    ) -> npt.NDArray[np.bool_]:
        """Return which rows of a table to keep: bool[n].

        `table` is one of any library that speaks Arrow, or a mapping of columns, as Hugging Face datasets pass them to
        ``.filter(balancer.keep_table, batched=True)``. Text, url and uid are found as in a pool, under the names that were
        given when the run's pool was matched; rows that img2dataset failed to download are not kept. Raise MetaclipError,
        with the names that were found, for a table without a text column.
        """
        epoch = self.epoch if epoch is None else epoch
        pairs = self._finder.of_table(table, epoch > 0)
        return self.keep(pairs.texts, pairs.uids, languages=pairs.languages, epoch=epoch)

    def kept_pairs(self, pool: Paths, *, worker: int = 0, workers: int = 1) -> Iterator[pa.RecordBatch]:
        """Yield the pairs of a pool that are kept, in batches: text, url (null if there is none) and uid.

        `pool` is anything that `curate` reads. Of several `workers` each yields the pairs of its own shards: files, or runs
        of row groups of parquet files. A batch is decided on when it is read, in the epoch that is set then.
        """
        if not 0 <= worker < workers:
            raise BadSetting(f"worker is {worker}, must be from 0, below the {workers} workers")
        for pairs in self._finder.of_pool(pool, worker, workers, self.epoch > 0):
            stay = self.keep(pairs.texts, pairs.uids, languages=pairs.languages)
            yield pairs.to_batch().filter(pa.array(stay))

    def keep_one(
        self, text: str, uid: str | None = None, *, url: str | None = None, language: str | None = None,
        epoch: int | None = None,
    ) -> bool:  # fmt: skip
        """Return whether to keep one pair, as `keep` decides."""
        epoch = self.epoch if epoch is None else epoch
        if language is None and self._identify:
            language = _identified(pa.array([text]))[0].as_py()
        p = keep_probability(self.matcher.find(text, language), self.probability)
        return p > 0.0 and uniform(self.seed, epoch, uid_of(text, url, uid)) < max(p, self.least)

    def choose(
        self, texts: Sequence[str], uid: str, *, languages: Sequence[str | None] | None = None,
        epoch: int | None = None,
    ) -> int | None:  # fmt: skip
        """Draw one of the texts of an image for this epoch; return its index if it is to be kept, else None.

        `languages` are those of the texts, as in `keep`.
        """
        if not texts:
            return None
        epoch = self.epoch if epoch is None else epoch
        index = choice(self.seed, epoch, uid_of("", uid=uid), len(texts))
        language = None if languages is None else languages[index]
        return index if self.keep_one(texts[index], uid, language=language, epoch=epoch) else None

    def takes(self, sample: Mapping[str, Any]) -> bool:
        """Return whether to keep a sample of a webdataset pipeline, as a predicate for ``.select``.

        The sample may be decoded or not: its text is "txt", else text, caption or alt, of the sample or of its "json", and
        so are its url and uid; a run that was matched with names of columns knows those. The case of letters does not
        matter. A sample without a text, or whose text is not UTF-8, is not kept. Warn once if a sample has no text, and
        once if one has no uid.
        """
        pair = self._finder.of_sample(sample)
        return pair is not None and self.keep_one(
            pair.text, pair.uid, url=pair.url, language=pair.language
        )

    def text_of(self, sample: Mapping[str, Any]) -> str | None:
        """Return the text by which `takes` decides on a sample; None if it has none."""
        pair = self._finder.of_sample(sample)
        return None if pair is None else pair.text

    def kept(self, samples: Iterable[Sample], ahead: int = AHEAD) -> Iterator[Sample]:
        """Yield the samples that `takes` keeps, in their order, as a stage for ``.compose`` before images are decoded.

        `ahead` samples are read and decided on together, which takes a twentieth of the time: a single decision finds
        nothing of its own in the processor's caches after an image was decoded. They all belong to the same epoch.
        """
        if ahead < 1:
            raise BadSetting(f"ahead is {ahead}, must be at least 1")
        source = iter(samples)
        while block := list(itertools.islice(source, ahead)):
            found = [
                (sample, pair) for sample in block if (pair := self._finder.of_sample(sample)) is not None
            ]
            texts, uids, urls, languages = ([pair[i] for _, pair in found] for i in range(4))
            by_column = None if self._identify else languages
            stay = self.keep(texts, uids, urls=urls, languages=by_column) if found else ()
            yield from (sample for (sample, _), stays in zip(found, stay, strict=True) if stays)


def count_texts(texts: Iterable[Texts], matcher: Matcher) -> Counts:
    """Count the texts that match each entry, from batches of texts: the first pass if there is no run yet.

    It takes 0.3 us a text. Counts that grow while the loader runs are not offered: they keep too many of the texts of
    entries that they have rarely seen so far.
    """
    values = np.zeros(len(matcher.metadata), np.uint64)
    for batch in texts:
        values += count_matches(matcher.match(batch), len(values))
    return Counts(values, matcher.metadata.digest, matcher.rule.identity)


def _identified(texts: pa.Array) -> pa.Array:
    from metaclip.extract.languages import identify_languages

    return identify_languages(texts.cast(pa.large_string()))[0]


def _strings(name: str, values: Any) -> Any:
    """Return a column as one Arrow array."""
    if isinstance(values, str):
        raise TypeError(f"{name} is one string, {values!r:.80}; give a list of strings, or use keep_one")
    column = as_column(name, values, pa.string())
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
