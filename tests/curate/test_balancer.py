"""The Balancer decides as the run did, anywhere: in another process, another order, one by one or in batches."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import multiprocessing
import pickle
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curation import naive
from metaclip import (
    Counts,
    Matcher,
    MatchSettings,
    MetaclipError,
    Metadata,
    Run,
    TextRule,
    balance,
    curate,
    match,
)
from metaclip.curate.balancer import Balancer, count_texts
from metaclip.curate.draw import choice, uniform
from metaclip.matching.text_rule import PAPER
from metaclip.pool.uid import uid_of
from tests import oracle

ROOT = Path(__file__).parents[2]
POOL, LIST = ROOT / "curation" / "toy_pool.jsonl", ROOT / "metadata" / "toy.txt"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The toy pool, balanced."""
    return curate(POOL, LIST, out=tmp_path_factory.mktemp("online") / "run", t=20, seed=3)


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, str]]:
    """The toy pool's pairs that have a text, each with the uid that the law gives it."""
    rows = [json.loads(line) for line in POOL.read_text(encoding="utf-8").splitlines()]
    return [{**row, "uid": uid_of(row["text"], row["url"])} for row in rows if row["text"] is not None]


def columns(pairs: list[dict[str, str]]) -> tuple[list[str], list[str], list[str]]:
    return tuple([pair[name] for pair in pairs] for name in ("text", "url", "uid"))  # type: ignore[return-value]


def kept_uids(run: Run) -> set[str]:
    return set(run.curated["uid"].to_pylist())


def test_epoch_0_is_the_offline_subset(run: Run, pairs: list[dict[str, str]]) -> None:
    """At epoch 0 a Balancer keeps just the pairs that the run kept, in batches and one by one."""
    texts, urls, uids = columns(pairs)
    balancer = Balancer(run)
    kept = balancer.keep(texts, uids)
    assert {uid for uid, stays in zip(uids, kept, strict=True) if stays} == kept_uids(run)
    assert 0 < kept.sum() < len(kept)
    assert (
        balancer.keep(texts, urls=urls).tolist() == kept.tolist()
    )  # a uid that is missing is made as offline
    assert [balancer.keep_one(text, uid) for text, uid in zip(texts, uids, strict=True)] == kept.tolist()
    assert [
        balancer.keep_one(text, url=url) for text, url in zip(texts, urls, strict=True)
    ] == kept.tolist()


@pytest.mark.slow
def test_epoch_0_is_the_offline_subset_of_real_pairs(data_folder: Path, tmp_path: Path) -> None:
    """10,000 real pairs, 500,000 real entries, uids by md5: pair by pair what the run kept."""
    pool, entries = data_folder / "alt_text_10k.parquet", data_folder / "entries_500k.txt.gz"
    run = curate(pool, entries, out=tmp_path / "run", t=20)
    table = pq.read_table(pool)
    kept = Balancer(run).keep(table["TEXT"], urls=table["URL"])
    texts, urls = table["TEXT"].to_pylist(), table["URL"].to_pylist()
    names = [uid_of(text, url) for text, url in zip(texts, urls, strict=True)]
    assert sorted(name for name, stays in zip(names, kept, strict=True) if stays) == sorted(
        run.curated["uid"].to_pylist()
    )
    assert kept.sum() == run.balance["kept"]


@pytest.mark.parametrize("epoch", [0, 1, 17])
def test_it_is_the_law(run: Run, pairs: list[dict[str, str]], epoch: int) -> None:
    """Each epoch's pairs are those that the law in plain Python keeps."""
    texts, _, uids = columns(pairs)
    entries = LIST.read_text(encoding="utf-8").splitlines()
    matches = [naive.match(entries, text) for text in texts]
    p = [naive.probability(count, 20) for count in naive.counts(matches, len(entries))]
    wanted = [
        naive.draw(3, epoch, uid) < naive.keep_probability(ids, p)
        for ids, uid in zip(matches, uids, strict=True)
    ]
    assert Balancer(run).keep(texts, uids, epoch=epoch).tolist() == wanted
    assert Balancer(run, epoch=epoch).keep(texts, uids).tolist() == wanted


def test_the_epoch_is_set(run: Run, pairs: list[dict[str, str]]) -> None:
    """By the argument, by `set_epoch` and by the attribute; all methods follow it."""
    texts, _, uids = columns(pairs)
    balancer = Balancer(run, epoch=4)
    table = pa.table({"text": texts, "uid": uids})
    samples = [{"txt": text, "json": {"uid": uid}} for text, uid in zip(texts, uids, strict=True)]
    for number in (4, 5, np.int64(6)):
        if number == 5:
            balancer.set_epoch(number)
        elif number == 6:
            balancer.epoch = number
        wanted = Balancer(run).keep(texts, uids, epoch=number).tolist()
        assert balancer.epoch == number
        assert balancer.keep(texts, uids).tolist() == wanted
        assert balancer.keep_table(table).tolist() == wanted
        assert [balancer.takes(sample) for sample in samples] == wanted
        assert list(balancer.kept(samples)) == list(itertools.compress(samples, wanted))
        for text, uid in zip(texts, uids, strict=True):
            assert balancer.choose([text, "qqqq"], uid) == Balancer(run).choose(
                [text, "qqqq"], uid, epoch=number
            )
            break
    for wrong, error in ((-1, "epoch is -1, must be from 0"), (1 << 63, "must be from 0 to 2")):
        with pytest.raises(MetaclipError, match=error):
            balancer.set_epoch(wrong)
        with pytest.raises(MetaclipError, match=error):
            Balancer(run, epoch=wrong)
    with pytest.raises(TypeError, match="epoch must be a whole number"):
        balancer.epoch = 0.5  # type: ignore[assignment]
    assert balancer.epoch == 6


def test_epochs_differ_and_return(run: Run, pairs: list[dict[str, str]]) -> None:
    """Another epoch is another subset, and the same each time."""
    texts, _, uids = columns(pairs)
    balancer = Balancer(run)
    first, second = (balancer.keep(texts, uids, epoch=epoch) for epoch in (0, 1))
    assert (first != second).any()
    assert (balancer.keep(texts, uids, epoch=1) == second).all()
    tail = balancer.p_keep(texts) == 1
    assert tail.any()
    assert (first & second)[tail].all()  # what is certain stays in every epoch


def test_t_and_seed_override_the_runs(run: Run, pairs: list[dict[str, str]]) -> None:
    """A larger t keeps a superset; another seed another subset; what is not given is the run's."""
    texts, _, uids = columns(pairs)
    less, same, more = (Balancer(run, t) for t in (5, None, 40))
    assert (same.t, same.seed, more.seed) == (20, 3, 3)
    kept = [balancer.keep(texts, uids) for balancer in (less, same, more)]
    assert (kept[0] <= kept[1]).all()
    assert (kept[1] <= kept[2]).all()
    assert (kept[0] < kept[2]).any()
    assert (Balancer(run, seed=4).keep(texts, uids) != kept[1]).any()


def _keep(balancer: Balancer, texts: list[str], uids: list[str]) -> list[bool]:
    return balancer.keep(texts, uids).tolist()


def test_pickled(run: Run, pairs: list[dict[str, str]]) -> None:
    """A Balancer travels, with the epoch of that moment; afterwards each has its own."""
    texts, _, uids = columns(pairs)
    balancer = Balancer(run, epoch=2)
    wanted = _keep(balancer, texts, uids)
    for other in (pickle.loads(pickle.dumps(balancer)), copy.deepcopy(balancer)):
        balancer.set_epoch(3)
        assert _keep(other, texts, uids) == wanted != _keep(balancer, texts, uids)
        other.set_epoch(4)
        assert balancer.epoch == 3
        balancer.set_epoch(2)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_workers(run: Run, pairs: list[dict[str, str]], method: str) -> None:
    """Two worker processes at once decide as this one, under fork and under spawn."""
    texts, _, uids = columns(pairs)
    balancer = Balancer(run)
    wanted = _keep(balancer, texts, uids)  # also compiles, so that what is forked has the kernel
    with multiprocessing.get_context(method).Pool(2) as pool:
        results = [pool.apply_async(_keep, (balancer, texts[i::2], uids[i::2])) for i in range(2)]
        assert [result.get(120) for result in results] == [wanted[0::2], wanted[1::2]]


def _keep_each(balancer: Balancer, texts: list[str], uids: list[str], connection: Any) -> None:
    while connection.recv():
        connection.send(_keep(balancer, texts, uids))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_worker_that_lives_on(run: Run, pairs: list[dict[str, str]], method: str) -> None:
    """It follows the epoch that is set in the process that started it."""
    texts, _, uids = columns(pairs)
    balancer = Balancer(run)
    ours, theirs = multiprocessing.Pipe()
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=_keep_each, args=(balancer, texts, uids, theirs))
    process.start()
    try:
        for epoch in (0, 1, 2, 0):
            balancer.epoch = epoch
            ours.send(True)
            assert ours.poll(120)
            assert ours.recv() == Balancer(run).keep(texts, uids, epoch=epoch).tolist()
    finally:
        ours.send(False)
        process.join(60)


def test_forms_of_a_batch(run: Run, pairs: list[dict[str, str]]) -> None:
    """Lists, Arrow arrays, chunked arrays, and uids as numbers or bytes are one batch."""
    texts, _, uids = columns(pairs)
    balancer = Balancer(run)
    wanted = balancer.keep(texts, uids).tolist()
    numbers = np.array([divmod(int(uid, 16), 2**64) for uid in uids], np.uint64)
    raw = pa.array([bytes.fromhex(uid) for uid in uids], pa.binary(16))
    chunked = pa.chunked_array([texts[:7], texts[7:]])
    assert balancer.keep(chunked, pa.chunked_array([uids[:9], uids[9:]])).tolist() == wanted
    assert balancer.keep(pa.array(texts, pa.large_string()), numbers).tolist() == wanted
    assert balancer.keep(pa.array(texts).dictionary_encode(), raw).tolist() == wanted
    assert balancer.keep(pa.array(["x", *texts])[1:], pa.array(["x", *uids])[1:]).tolist() == wanted
    assert balancer.keep([], []).tolist() == []


def test_what_matches_nothing_is_dropped(run: Run) -> None:
    """A text without a match, an empty one and a null are never kept."""
    balancer = Balancer(run, t=1e30)
    assert balancer.keep(["qqqq", "", None, "a dog"], ["0", "1", "2", "3"]).tolist() == [
        False,
        False,
        False,
        True,
    ]
    assert not balancer.keep_one("qqqq", "0")


def test_batches_must_agree(run: Run) -> None:
    """As many uids and urls as texts."""
    balancer = Balancer(run)
    with pytest.raises(ValueError, match="1 uids beside 2 texts"):
        balancer.keep(["a", "b"], ["0"])
    with pytest.raises(ValueError, match="3 urls beside 2 texts"):
        balancer.keep(["a", "b"], ["0", "1"], urls=["u"] * 3)
    with pytest.raises(TypeError, match="keep_one"):
        balancer.keep("a dog", ["0"])


# --- where a Balancer comes from


def test_a_matched_run_has_no_t(tmp_path: Path) -> None:
    """A run that is only matched gets a t for a tail share of 0.06, as the command line does."""
    matched = match(POOL, LIST, out=tmp_path / "run")
    with pytest.warns(UserWarning, match=r"run is matched but not balanced: t = "):
        balancer = Balancer(tmp_path / "run")
    assert balancer.t == balance(matched).t
    assert balancer.seed == 0


def test_counts(run: Run, pairs: list[dict[str, str]]) -> None:
    """Counts made by a pass over texts alone are the run's, and balance as the run does."""
    texts, _, uids = columns(pairs)
    matcher = Matcher(LIST)
    counts = count_texts((texts[i : i + 64] for i in range(0, len(texts), 64)), matcher)
    assert (counts.values == run.counts.values).all()
    balancer = Balancer(counts, 20, 3, metadata=matcher.metadata)
    assert (balancer.keep(texts, uids) == Balancer(run).keep(texts, uids)).all()


def test_counts_of_another_list_or_rule_are_refused(run: Run) -> None:
    """Both digests must agree, and counts alone say nothing."""
    other = Metadata(["dog", "cat"])
    with pytest.raises(MetaclipError, match="counts are of the list .* count again"):
        Balancer(run.counts, 20, metadata=other)
    with pytest.raises(MetaclipError, match="counts are of the text rule"):
        Balancer(run.counts, 20, metadata=run.metadata, rule=TextRule(fold_case=True))
    with pytest.raises(MetaclipError, match="give their metadata"):
        Balancer(run.counts, 20)
    wrong = Counts(run.counts.values, run.counts.list_digest, run.counts.rule_identity)
    assert Balancer(wrong, 20, metadata=run.metadata).t == 20


@pytest.mark.parametrize("t", [0, -1, float("nan")])
def test_t_must_be_above_0(run: Run, t: float) -> None:
    """As everywhere."""
    with pytest.raises(MetaclipError, match="must be above 0"):
        Balancer(run, t)


@pytest.mark.parametrize("least", [-0.1, 1.1, float("nan")])
def test_least_must_be_a_probability(run: Run, least: float) -> None:
    """From 0 to 1."""
    with pytest.raises(MetaclipError, match="must be a probability"):
        Balancer(run, least=least)


def test_least_drops_no_pair_for_good(run: Run, pairs: list[dict[str, str]]) -> None:
    """P(keep) is at least so much where a text matches, 0 where it does not; one by one as in batches."""
    texts, _, uids = columns(pairs)
    texts[0] = "no entry here"
    plain, bounded = Balancer(run, 2), Balancer(run, 2, least=0.5)
    p = plain.p_keep(texts)
    assert p[0] == 0.0
    assert ((p > 0) & (p < 0.5)).any()
    assert (bounded.p_keep(texts) == np.where(p > 0, np.maximum(p, 0.5), 0.0)).all()
    kept = bounded.keep(texts, uids, epoch=1)
    assert (kept >= plain.keep(texts, uids, epoch=1)).all()
    assert [bounded.keep_one(*pair, epoch=1) for pair in zip(texts, uids, strict=True)] == kept.tolist()
    seen = np.any([bounded.keep(texts, uids, epoch=epoch) for epoch in range(40)], axis=0)
    assert (seen == (p > 0)).all()


@pytest.fixture
def card(run: Run, tmp_path: Path) -> Path:
    """The account and the entries alone, without the run."""
    folder = tmp_path / "card"
    folder.mkdir()
    for name in ("card.json", "entries.parquet"):
        shutil.copy(run.path / name, folder / name)
    return folder


def test_a_card_is_enough(run: Run, card: Path, pairs: list[dict[str, str]]) -> None:
    """Whoever has the card decides as the run did."""
    texts, _, uids = columns(pairs)
    balancer = Balancer(card)
    assert (balancer.t, balancer.seed) == (20, 3)
    assert (balancer.keep(texts, uids) == Balancer(run).keep(texts, uids)).all()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "entries.parquet").unlink(), "no card that can be read"),
        (lambda folder: (folder / "card.json").write_text("{"), "no card that can be read|no run folder"),
        (lambda folder: (folder / "card.json").write_text("{}"), "no card that can be read"),
        (lambda folder: _edit(folder), "does not hold the counts"),
    ],
)
def test_a_damaged_card_is_refused(card: Path, damage: Any, message: str) -> None:
    """One line that names the file and the next step."""
    damage(card)
    with pytest.raises(MetaclipError, match=message):
        Balancer(card)


def _edit(folder: Path) -> None:
    table = pq.read_table(folder / "entries.parquet")
    counts = table["count"].to_numpy().copy()
    counts[0] += 1
    index = table.column_names.index("count")
    pq.write_table(table.set_column(index, "count", pa.array(counts)), folder / "entries.parquet")


def test_a_folder_that_is_neither_is_refused(tmp_path: Path) -> None:
    """An empty folder is no run."""
    with pytest.raises(MetaclipError, match="is no run folder"):
        Balancer(tmp_path)


# --- several texts an image


def test_choice_is_frozen() -> None:
    """The index drawn for a visit comes from the draw's hash, mixed once more; the first is the law's first vector."""
    assert [choice(0, 0, "0" * 32, n) for n in (1, 2, 3, 1000)] == [
        naive.mix(0x33FE8BD4F9C57863 ^ 0x9E3779B97F4A7C15) * n >> 64 for n in (1, 2, 3, 1000)
    ]
    assert [choice(7, 1, "91efd8562038d219f5099b42bcee1346", n) for n in (1, 2, 3, 1000)] == CHOICES


CHOICES = [0, 0, 0, 203]


@given(st.integers(0, 2**64 - 1), st.integers(0, 100), st.integers(0, 2**128 - 1), st.integers(1, 50))
def test_choice_is_one_of_them(seed: int, epoch: int, uid: int, n: int) -> None:
    """An index below n."""
    assert 0 <= choice(seed, epoch, uid, n) < n


def test_choice_is_even_and_does_not_follow_the_draw() -> None:
    """Over 30,000 images each of five texts comes as often, among images with a low u as among the others."""
    uids = [format(i * 0x9E3779B97F4A7C15 % 2**64, "032x") for i in range(30_000)]
    low: dict[bool, list[int]] = {True: [0] * 5, False: [0] * 5}
    for uid in uids:
        low[uniform(0, 0, uid) < 0.5][choice(0, 0, uid, 5)] += 1
    for counts in low.values():
        share = np.array(counts) / sum(counts)
        assert abs(share - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / 14_000)


def test_choose(run: Run) -> None:
    """The text that is drawn decides by its own P; visits of other epochs draw others."""
    balancer = Balancer(run, t=1e30)
    texts = ["a dog", "qqqq", "a cat on a mat"]
    seen = {balancer.choose(texts, "7", epoch=epoch) for epoch in range(40)}
    assert seen == {0, None, 2}
    assert all(
        balancer.choose(texts, "7", epoch=epoch) in (choice(3, epoch, "7", 3), None)
        for epoch in range(40)
    )
    assert balancer.choose([], "7") is None


# --- samples of a webdataset pipeline


def test_samples(run: Run, pairs: list[dict[str, str]]) -> None:
    """Raw and decoded samples are decided on as their pairs are; a sample without a text is not taken."""
    texts, _, uids = columns(pairs)
    balancer = Balancer(run)
    wanted = balancer.keep(texts, uids).tolist()
    raw = [
        {"__key__": "0", "txt": text.encode(), "json": json.dumps({"uid": uid}).encode()}
        for text, uid in zip(texts, uids, strict=True)
    ]
    decoded = [{"txt": text, "json": {"uid": uid}} for text, uid in zip(texts, uids, strict=True)]
    captions = [{"json": {"uid": uid, "caption": text}} for text, uid in zip(texts, uids, strict=True)]
    rows = [{"UID": uid, "TEXT": text} for text, uid in zip(texts, uids, strict=True)]
    members = [
        {"uid": uid.encode(), "caption": text.encode()} for text, uid in zip(texts, uids, strict=True)
    ]
    for samples in (raw, decoded, captions, rows, members):
        assert [balancer.takes(sample) for sample in samples] == wanted
        assert list(balancer.kept(samples)) == list(itertools.compress(samples, wanted))


@pytest.mark.filterwarnings("ignore:.*has no uid")
def test_samples_of_a_pool_with_other_names(tmp_path: Path) -> None:
    """A run that was matched with names of columns finds them in samples, too."""
    rows = [
        {"alt": "nothing", "Title": f"a dog {i}", "link": f"https://e.example/{i}"} for i in range(50)
    ]
    named = MatchSettings(text_column="title", url_column="link")
    run = curate(pa.Table.from_pylist(rows), ["dog"], t=20, out=tmp_path / "run", settings=named)
    kept = list(Balancer(run).kept([{"json": row} for row in rows]))
    assert [sample["json"]["link"] for sample in kept] == run.curated["link"].to_pylist()
    assert 0 < len(kept) < 50


def test_a_missing_caption_is_named_once(run: Run) -> None:
    """Samples whose caption is elsewhere are not dropped in silence; one whose caption is null is no surprise."""
    balancer = Balancer(run)
    wanted = "sample 12 has no caption: looked for 'txt' or 'text' or 'caption' or 'alt', found '__key__', 'jpg', 'json', 'title'"
    with pytest.warns(UserWarning, match=wanted) as caught:
        assert not list(balancer.kept([{"__key__": "12", "jpg": b"", "json": {"title": "a dog"}}] * 9))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not Balancer(run).takes({"__key__": "13", "txt": None, "json": {"uid": "1"}})


VALUES = st.sampled_from(
    [None, "", "0", "a dog", "zz", 7, b"a dog", b"\xff", "\ud800", ["a dog"], "f" * 32, "a cat on a mat"]
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    samples=st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "txt": VALUES,
                "json": st.one_of(
                    st.dictionaries(st.sampled_from(["uid", "url", "caption"]), VALUES),
                    st.sampled_from(
                        [
                            None,
                            b"{",
                            b"[]",
                            b'{"uid": "1", "caption": "a dog"}',
                            b'{"caption": "\\ud800"}',
                        ]
                    ),
                ),
            },
        ),
        max_size=9,
    ),
    ahead=st.integers(1, 4),
)
@pytest.mark.filterwarnings("ignore:.*has no (uid|caption)")
def test_many_samples_at_a_time(run: Run, samples: list[dict[str, Any]], ahead: int) -> None:
    """Whatever samples hold, those are kept that are taken one by one, in their order."""
    balancer = Balancer(run)
    taken = [sample for sample in samples if balancer.takes(sample)]
    assert list(balancer.kept(iter(samples), ahead)) == taken


def test_samples_are_read_ahead_as_far_as_asked(run: Run) -> None:
    """Not further: a pipeline's memory is bounded."""
    read = []

    def source() -> Iterator[dict[str, Any]]:
        for n in range(1000):
            read.append(n)
            yield {"txt": "a dog", "json": {"uid": str(n)}}

    kept = Balancer(run, t=1e30).kept(source(), 10)
    assert next(kept)["json"]["uid"] == "0"
    assert len(read) == 10


@pytest.mark.filterwarnings("ignore:.*has no caption")
@pytest.mark.parametrize(
    "sample",
    [
        {},
        {"txt": "a \ud800", "json": {"uid": "0"}},
        {"txt": "a dog", "json": [1]},
        {"json": {"uid": "0"}},
        {"txt": b"a dog \xff", "json": {"uid": "0"}},
        {"txt": b"a dog", "json": b"{"},
        {"txt": 7, "json": {"uid": "0"}},
    ],
)
def test_broken_samples(run: Run, sample: dict[str, Any]) -> None:
    """Never fatal."""
    assert Balancer(run, t=1e30).takes(sample) is False


def test_a_missing_uid_is_named_once(run: Run) -> None:
    """Tars that were downloaded without the uid: one warning, which says what to do; the law's uid is used."""
    balancer = Balancer(run)
    with pytest.warns(UserWarning, match="sample 12 has no uid.*save_additional_columns") as caught:
        taken = balancer.takes({"__key__": "12", "txt": "a dog", "json": {"url": "http://example.org/1"}})
    assert len(caught) == 1
    assert taken == balancer.keep_one("a dog", url="http://example.org/1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        balancer.takes({"__key__": "13", "txt": "a dog", "json": {}})


# --- tables and pools


def test_tables(run: Run, pairs: list[dict[str, str]]) -> None:
    """The names of columns are those of a pool, in any case of letters; a failed download is not kept."""
    texts, urls, uids = columns(pairs)
    balancer = Balancer(run)
    wanted = balancer.keep(texts, uids).tolist()
    ours = [f"{n:032x}" for n in range(len(texts))]
    for table in (
        {"TEXT": texts, "UID": uids},
        {"alt": texts, "url": urls},
        {"Caption": texts, "URL": urls, "uid": [None] * len(texts), "image": [object()] * len(texts)},
        pa.table({"text": pa.chunked_array([texts[:9], texts[9:]]), "url": urls}),
        pa.RecordBatch.from_pydict({"text": pa.array(texts).dictionary_encode(), "uid": uids}),
        {"__key__": ours, "txt": texts, "json": [{"uid": uid, "caption": "nothing"} for uid in uids]},
        {
            "__key__": ours,
            "json": [{"uid": uid, "caption": text} for text, uid in zip(texts, uids, strict=True)],
        },
    ):
        assert balancer.keep_table(table).tolist() == wanted
    assert (
        balancer.keep_table({"text": texts, "uid": ours}).tolist()
        == balancer.keep(texts, ours).tolist()
        != wanted
    )
    failed = {"status": ["failed"] * len(texts), "key": ours, "error_message": ours}
    assert not balancer.keep_table({"text": texts, "uid": uids, **failed}).any()
    assert balancer.keep_table({"text": [], "uid": []}).tolist() == []


def test_tables_that_are_refused(run: Run) -> None:
    """Without a text column, with several, and what is no table: the names that were found, and what to do."""
    balancer = Balancer(run)
    says = (
        r"found 'title', 'n'; name it with `MatchSettings\(text_column=\.\.\.\)` when the pool is matched, "
        r"or give the columns to Balancer\.keep$"
    )
    with pytest.raises(MetaclipError, match=says):
        balancer.keep_table({"title": ["a dog"], "n": [1]})
    with pytest.raises(MetaclipError, match="'text', 'alt' can all be the text column"):
        balancer.keep_table(pa.table({"text": ["a"], "alt": ["b"]}))
    for wrong in ("a dog", ["a dog"], 5):
        with pytest.raises(TypeError, match="table must be a table or a mapping of columns, not"):
            balancer.keep_table(wrong)
    with pytest.raises(TypeError, match="table is no table"):
        balancer.keep_table(pa.array(["a dog"]))


def test_tables_of_a_pool_with_other_names(tmp_path: Path) -> None:
    """A run that was matched with names of columns finds them in tables and pools, too."""
    rows = [
        {"alt": "nothing", "Title": f"a dog {i}", "link": f"https://e.example/{i}"} for i in range(50)
    ]
    pool = pa.Table.from_pylist(rows)
    named = MatchSettings(text_column="title", url_column="link")
    run = curate(pool, ["dog"], t=20, out=tmp_path / "run", settings=named)
    kept = pool.filter(pa.array(Balancer(run).keep_table(pool)))
    assert kept["link"].to_pylist() == run.curated["link"].to_pylist()
    assert 0 < len(kept) < 50
    pq.write_table(pool, tmp_path / "pool.parquet")
    (batch,) = Balancer(run).kept_pairs(tmp_path / "pool.parquet")
    assert batch.schema.names == ["text", "url", "uid"]
    assert batch["url"].to_pylist() == run.curated["link"].to_pylist()
    assert batch["uid"].to_pylist() == run.curated["uid"].to_pylist()


def test_pools_are_shared_out(run: Run, pairs: list[dict[str, str]], tmp_path: Path) -> None:
    """Each of several workers reads its shards; together they read the pool; without urls these are null."""
    for number in range(5):
        pq.write_table(
            pa.Table.from_pylist(pairs[number::5]).select(["text", "uid"]), tmp_path / f"{number}.parquet"
        )
    balancer = Balancer(run)
    shares = [
        [
            pair
            for batch in balancer.kept_pairs(tmp_path, worker=i, workers=3)
            for pair in batch.to_pylist()
        ]
        for i in range(3)
    ]
    assert all(shares)
    together = list(itertools.chain(*shares))
    assert sorted(pair["uid"] for pair in together) == sorted(run.curated["uid"].to_pylist())
    assert {pair["url"] for pair in together} == {None}
    with pytest.raises(MetaclipError, match="worker is 3, must be from 0, below the 3 workers"):
        next(balancer.kept_pairs(tmp_path, worker=3, workers=3))


def test_tars_without_uids_are_named(run: Run, pairs: list[dict[str, str]]) -> None:
    """A table of samples of tars without uids: one warning, which says how to carry them along."""
    texts, urls, uids = columns(pairs)
    table = {"__key__": uids, "txt": texts, "json": [{"url": url} for url in urls]}
    balancer = Balancer(run)
    with pytest.warns(UserWarning, match="has no uid.*save_additional_columns") as caught:
        kept = [balancer.keep_table(table).tolist() for _ in range(3)]
    assert len(caught) == 1
    assert kept == [balancer.keep(texts, urls=urls).tolist()] * 3


# --- a curated set that is balanced again


def test_a_curated_set_is_thinned_twice(run: Run, pairs: list[dict[str, str]]) -> None:
    """All of it is kept at epoch 0; in later epochs just what the pool's draw of that epoch shares with it.

    The two draws are independent: over many epochs a pair with P(keep) = p is seen in p of them if it is in the set, so
    in p * p on average over all pairs, and where p is 1 always.
    """
    texts, _, uids = columns(pairs)
    balancer, curated = Balancer(run), run.curated
    assert balancer.keep_table(curated).all()
    member = balancer.keep(texts, uids)
    with pytest.warns(
        UserWarning, match="balanced already .* from epoch 1 on they are thinned twice"
    ) as caught:
        shares = [balancer.keep_table(curated, epoch=epoch).mean() for epoch in range(1, 201)]
    assert len(caught) == 1
    kept = [balancer.keep(texts, uids, epoch=epoch) & member for epoch in range(1, 201)]
    assert np.allclose(
        shares, [both.sum() / member.sum() for both in kept], atol=0.02
    )  # the toy pool repeats a few
    p = balancer.p_keep(curated["text"])
    assert abs(np.mean(shares) - p.mean()) < 5 * np.sqrt((p * (1 - p)).sum() / 200) / len(p)
    assert np.mean(shares) < 0.97


def test_a_curated_set_in_files_is_named(run: Run) -> None:
    """Read as a pool it is the run's set at epoch 0, and from then on there is a warning."""
    balancer = Balancer(run)
    assert sum(map(len, balancer.kept_pairs(run.path / "curated"))) == len(run.curated)
    balancer.set_epoch(1)
    with pytest.warns(UserWarning, match="balanced already"):
        assert sum(map(len, balancer.kept_pairs(run.path / "curated"))) < len(run.curated)


def test_a_curated_set_curated_again(run: Run, tmp_path: Path) -> None:
    """With the same t and seed all of it is kept, because no count has grown; with another seed it is thinned again."""
    again = curate(run.path / "curated", LIST, out=tmp_path / "again", t=20, seed=3)
    assert sorted(again.curated["uid"].to_pylist()) == sorted(run.curated["uid"].to_pylist())
    other = curate(run.path / "curated", LIST, out=tmp_path / "other", t=20, seed=4)
    assert len(other.curated) < len(run.curated)


# --- one text at a time

RULES = [
    PAPER,
    TextRule(fold_case=True, unescape_html=True),
    TextRule(unspaced_scripts="fixed"),
    TextRule(longest_only=True),
    TextRule(longest_only=True, unspaced_scripts="fixed", fold_spaces=True),
]
ENTRIES = ["dog", "hot dog", "a", "カメラ", "写真", "a . b", "é", "x y"]


@pytest.mark.parametrize(
    "rule",
    RULES,
    ids=lambda rule: (
        ",".join(name for name, value in dataclasses.asdict(rule).items() if value and value != "none")
        or "paper"
    ),
)
@pytest.mark.parametrize("backend", ["native", "pyahocorasick"])
def test_find_is_match(rule: TextRule, backend: Any) -> None:
    """One text at a time finds what the oracle finds: short texts, long ones, those about the limit between."""
    matcher = Matcher(ENTRIES, rule, backend=backend, cache=False)

    @given(
        st.text(alphabet="dog hota.béÉカメラ写真xy&\n,", max_size=60) | st.text(max_size=20),
        st.sampled_from([1, 1, 1, 90]),
    )
    def check(text: str, times: int) -> None:
        text = text * times
        assert matcher.find(text) == oracle.match(ENTRIES, text, rule)

    check()
    for size in range(4085, 4105):
        assert matcher.find("x" * (size - 4) + " dog") == [0]
        assert matcher.find("é" * (size // 2 - 2) + " dog") == [0]
    assert matcher.find("a " * 100_000 + "dog") == matcher.match(["a " * 100_000 + "dog"])[0].as_py()


def test_find_in_threads() -> None:
    """Each thread has memory of its own."""
    from concurrent.futures import ThreadPoolExecutor

    words = [f"w{i}" for i in range(200)]
    matcher = Matcher(words, cache=False)
    texts = [" ".join(words[j] for j in range(i % 200, 200, 1 + i % 7)) for i in range(2000)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(matcher.find, texts)) == matcher.match(texts).to_pylist()
