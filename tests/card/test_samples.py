"""Sample captions: five an entry, the same for any files, and none that a page must not show."""

from __future__ import annotations

import collections
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaclip import Matcher, Run, TextRule, curate
from metaclip.card.samples import (
    SAMPLES_PER_ENTRY,
    draw_samples,
    merge_samples,
    samples_by_entry,
    showable,
)
from metaclip.matching import MATCHES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The toy pool, balanced."""
    out = tmp_path_factory.mktemp("samples") / "run"
    return curate(ROOT / "curation" / "toy_pool.jsonl", ROOT / "metadata" / "toy.txt", out=out, t=20)


def samples_of(folder: Path) -> pa.Table:
    return merge_samples(draw_samples(path, None, None) for path in sorted(folder.glob("*.parquet")))


def test_samples_are_captions_of_their_entry(run: Run) -> None:
    """Each entry has up to five different kept captions that match it, and all of them if there are no more."""
    found = samples_by_entry(samples_of(run.path / "curated"), len(run.metadata)).to_pylist()
    captions = collections.defaultdict(set)
    for pair in run.curated.to_pylist():
        for entry in pair["matches"]:
            if showable(pa.array([pair["text"]], pa.large_string()), None)[0]:
                captions[entry].add(pair["text"])
    assert len(found) == len(run.metadata)
    for entry, texts in enumerate(found):
        assert len(texts) == len(set(texts)) == min(SAMPLES_PER_ENTRY, len(captions[entry]))
        assert set(texts) <= captions[entry]
    assert any(len(captions[entry]) > SAMPLES_PER_ENTRY for entry in captions)


def test_samples_do_not_depend_on_shards_or_order(run: Run, tmp_path: Path) -> None:
    """Other files and another order of rows give the same captions in the same order."""
    table = run.curated
    for i in range(5):
        pq.write_table(
            table.take(list(range(i, len(table), 5))[::-1]),
            tmp_path / f"{9 - i}.parquet",
            row_group_size=7,
        )
    mine, other = samples_of(run.path / "curated"), samples_of(tmp_path)
    assert samples_by_entry(mine, len(run.metadata)).equals(samples_by_entry(other, len(run.metadata)))


def test_entries_of_one_caption_show_different_ones() -> None:
    """The draw depends on the entry: two entries with the same captions do not show the same five."""
    texts = [f"a dog {i}x" for i in range(200)]
    table = pa.table({"text": texts, "matches": pa.array([[0, 1]] * 200, MATCHES)})
    shown = []
    for entries in ([0], [1]):
        part = table.set_column(1, "matches", pa.array([entries] * 200, MATCHES))
        shown.append(samples_by_entry(_sampled(part), 2).to_pylist()[entries[0]])
    assert set(shown[0]) != set(shown[1])
    assert samples_by_entry(_sampled(table), 2).to_pylist() == shown


def _sampled(table: pa.Table) -> pa.Table:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.parquet"
        pq.write_table(table, path)
        return draw_samples(path, None, None)


@pytest.mark.parametrize(
    "text",
    [
        "see http://example.org/x", "HTTPS://EXAMPLE.ORG", "ftp://a", "www.example", "at www2.example", "Photo by example.com",
        "shop.example.CO.UK", "write to someone@example.org", "a@b", "call 555-123-4567", "+49 (0)89 1234567", "0171 2345678",
        "tel 555 1234", "12345678", "2019-07-12", "tab\there", "line\nend", "\x1b[31mred", "bell\x07", "x\x85y", "é" * 151,
    ],
)  # fmt: skip
def test_what_is_not_shown(text: str) -> None:
    """Urls, addresses, telephone numbers, control characters and long captions are not shown."""
    assert showable(pa.array([text], pa.large_string()), None).tolist() == [False]


@pytest.mark.parametrize(
    "text",
    [
        "a dog", "", "A dog, 2019", "1/200 s at f/2.8", "<b>bold</b> & 'quoted'", "3.5 in", "No. 123456", "e.g. this",
        "été à la plage", "犬の写真", "x" * 300, "St. Louis", "12 345 apples",
    ],
)  # fmt: skip
def test_what_is_shown(text: str) -> None:
    """All other captions are shown; the page escapes them."""
    assert showable(pa.array([text], pa.large_string()), None).tolist() == [True]


def test_blocked_words() -> None:
    """Captions with a blocked word, in any case and at any mark, are not shown."""
    blocked = Matcher(
        ["bad", "very bad thing"], TextRule(fold_case=True, unicode_separators=True), cache=False
    )
    texts = pa.array(["a BAD dog", "bad.", "(bad)", "badger", "very good thing", None], pa.large_string())
    assert showable(texts, blocked).tolist() == [False, False, False, True, True, False]


def test_an_entry_whose_captions_are_all_hidden_has_none(tmp_path: Path) -> None:
    """If no caption may be shown, an entry has no samples."""
    pq.write_table(
        pa.table({"text": ["dog http://x", "dog a@b"], "matches": pa.array([[0], [0]], MATCHES)}),
        tmp_path / "a.parquet",
    )
    assert samples_by_entry(samples_of(tmp_path), 3).to_pylist() == [[], [], []]
    assert json.dumps(samples_by_entry(samples_of(tmp_path), 1).to_pylist()) == "[[]]"
