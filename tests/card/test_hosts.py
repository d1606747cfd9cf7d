"""Hosts and languages of kept pairs: counts are exact up to a number of names, with a stated error beyond."""

from __future__ import annotations

import collections
import random
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip.card.hosts import LossyCounter, count_hosts, url_hosts


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://example.org/a.jpg", "example.org"), ("HTTPS://WWW.Example.ORG", "example.org"),
        ("https://user:pw@host.example:8080/x?y#z", "host.example"), ("http://www.com/x", "www.com"),
        ("http://[2001:db8::1]:80/x", "[2001:db8::1]"), ("http://example.org?x=/@y", "example.org"),
        ("http://例え.jp/x", "例え.jp"), ("ftp://example.org/x", None), ("//example.org/x", None), ("", None), (None, None),
        ("data:image/png;base64,AAAA", None), ("http:///x", None),
    ],
)  # fmt: skip
def test_hosts(url: str | None, host: str | None) -> None:
    """Hosts are in lower case, without user, port and "www."; null for other urls."""
    assert url_hosts(pa.array([url], pa.string())).to_pylist() == [host]


@given(
    st.from_regex(
        r"https?://[a-z0-9-]{1,9}(\.[a-z]{2,5}){1,2}(:[0-9]{1,4})?(/[a-z/]{0,9})?", fullmatch=True
    )
)
def test_hosts_are_those_of_the_standard_library(url: str) -> None:
    """Hosts are those that urllib finds, without "www."."""
    wanted = urlsplit(url).hostname or ""
    rest = wanted.removeprefix("www.")
    assert url_hosts(pa.array([url])).to_pylist() == [rest if "." in rest else wanted]


def test_counts_of_shards(tmp_path: Path) -> None:
    """Counts of files are added; a pool without urls or languages has no counts."""
    pq.write_table(
        pa.table(
            {"URL": ["http://a.b/1", "http://a.b/2", "x", None], "LANGUAGE": ["en", "de", "en", None]}
        ),
        tmp_path / "a",
    )
    pq.write_table(
        pa.table({"URL": ["http://c.d/1", "http://a.b/9"], "LANGUAGE": ["en", "fr"]}), tmp_path / "b"
    )
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "c")
    found = {"hosts": LossyCounter(), "languages": LossyCounter()}
    for name in "abc":
        for key, counter in count_hosts(tmp_path / name).items():
            found[key].add(counter.counts, counter.total, counter.floor)
    assert found["hosts"].top(9) == [{"name": "a.b", "pairs": 3}, {"name": "c.d", "pairs": 1}]
    assert found["languages"].top(2) == [{"name": "en", "pairs": 3}, {"name": "de", "pairs": 1}]
    assert (found["hosts"].total, found["languages"].total, found["hosts"].floor) == (4, 5, 0)
    assert count_hosts(tmp_path / "c") == {}


@given(st.integers(0, 1000))
def test_the_stated_error_holds(seed: int) -> None:
    """With room for 20 names, each count is too small by at most the floor, and no name above it is missing."""
    rng = random.Random(seed)
    counter, true = LossyCounter(most_names=20), collections.Counter[str]()
    for _ in range(30):
        batch = collections.Counter(str(int(rng.expovariate(0.02))) for _ in range(rng.randrange(40)))
        true += batch
        counter.add(batch, sum(batch.values()))
    assert len(counter.counts) <= 20
    assert counter.total == sum(true.values())
    for name, number in true.items():
        assert number - counter.floor <= counter.counts.get(name, 0) <= number
