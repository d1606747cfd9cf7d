"""Titles by views: the paper's rule and plain sums against a naive sum, every line accounted for, files fetched."""

from __future__ import annotations

import dataclasses
import gzip
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaclip import recipe
from metaclip.engine import ignore_progress
from metaclip.errors import MetaclipError
from metaclip.metadata.candidates import Candidates
from metaclip.metadata.sources import pageviews
from metaclip.metadata.sources.pageviews import (
    PageviewSettings,
    candidates,
    count_file,
    sampled_days,
    title_of,
)
from metaclip.storage.retries import RetryPolicy
from tests.http_servers import files, serving

pytest.importorskip("duckdb", reason="needs metaclip[build]")

QUICK = RetryPolicy(tries=3, first_wait=0.001, longest_wait=0.1, timeout=10)

HOURS = [
    """\
de Hund 900 0
en Main_Page 5000 0
en Dog 60 0
en Cat 49 0
en Mercury_(planet) 55 0
en Special:Search 4000 0
en Caf%C3%A9 70 0
en - 9000 0
en.m Dog 800 0
""",
    """\
en Dog 70 0
en Cat 49 0
en Hound 100 0
en Doggo 51 0
en Mercury_(element) 65 0
en Mercury 80 0
en Café 50 0
en 100%_Pure 75 0
en Only_once 69 0
""",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two hourly files."""
    return hourly(tmp_path / "hours", HOURS)


def hourly(folder: Path, texts: list[str | bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for hour, text in enumerate(texts):
        data = text if isinstance(text, bytes) else text.encode()
        (folder / f"pageviews-20230105-{hour:02}0000.gz").write_bytes(gzip.compress(data))
    return folder


def rows(found: Candidates) -> list[tuple[str, float]]:
    return list(zip(found.entries.to_pylist(), found.scores.to_pylist(), strict=True))


def found_in(folder: Path, **settings: object) -> Candidates:
    return candidates(PageviewSettings(files=str(folder), **settings), workers=1)  # type: ignore[arg-type]


def test_the_papers_rule(folder: Path) -> None:
    """Cells of at least 50 views are added up, sums of at least 70 make it, most viewed first."""
    found = found_in(folder)
    assert rows(found) == [
        ("Dog", 130),
        ("Café", 120),
        ("Hound", 100),
        ("Mercury", 80),
        ("100% Pure", 75),
    ]
    assert found.facts["lines"] == {
        "lines": 18, "missing_fields": 0, "other_domain": 2, "below_min_hour": 2, "invalid_utf8": 0, "not_a_title": 1,
        "other_namespace": 1, "counted": 12,
    }  # fmt: skip
    assert found.facts["left_out"]["main page or no title"] == 1
    assert found.facts["left_out"]["lines, below min hour"] == 2
    assert found.facts["files"] == 2


def test_plain_sums(folder: Path) -> None:
    """Without a least cell, all views of a title count; without a least sum, all titles are given."""
    assert ("Cat", 98.0) in rows(found_in(folder, min_hour=0))
    assert ("Only once", 69.0) in rows(found_in(folder, min_sum=0))


def test_another_domain(folder: Path) -> None:
    """A domain is its whole first field: neither "en.m" is "en" nor the other way round."""
    assert rows(found_in(folder, domain="en.m")) == [("Dog", 800)]
    assert rows(found_in(folder, domain="de")) == [("Hund", 900)]


def test_the_main_page(folder: Path) -> None:
    """It is left out, unless it is asked for; another wiki's has another name."""
    assert rows(found_in(folder, main_page=""))[0] == ("Main Page", 5000)
    assert "Dog" not in dict(rows(found_in(folder, main_page="Dog")))


def test_tails_are_cut_off_on_request(folder: Path) -> None:
    """Articles of one name count together, before sums are compared."""
    assert ("Mercury", 200.0) in rows(found_in(folder, drop_tails=True))
    assert not [entry for entry, _ in rows(found_in(folder, drop_tails=True)) if "(" in entry]


def write_redirects(folder: Path, led: dict[str, str]) -> str:
    folder.mkdir(exist_ok=True)
    table = pa.table(
        {"title": pa.array(list(led), pa.string()), "target": pa.array(list(led.values()), pa.string())}
    )
    pq.write_table(table, folder / "redirects.parquet")
    return str(folder)


def test_redirects_are_followed(folder: Path, tmp_path: Path) -> None:
    """Views of redirects count for their articles, over two steps too; a circle ends; a redirect to the main page goes."""
    led = {
        "Hound": "Doggo",
        "Doggo": "Dog",
        "Café": "Main Page",
        "Mercury": "Mercury (element)",
        "100% Pure": "A",
        "A": "100% Pure",
    }
    found = found_in(folder, redirects=write_redirects(tmp_path / "counts", led))
    assert rows(found) == [("Dog", 281), ("Mercury (element)", 145), ("100% Pure", 75)]
    assert rows(found_in(folder, redirects=write_redirects(tmp_path / "none", {}))) == rows(
        found_in(folder)
    )
    with pytest.raises(MetaclipError, match="is no file of redirects"):
        found_in(folder, redirects=str(tmp_path / "nothing"))


def test_what_a_broken_line_is_counted_as(tmp_path: Path) -> None:
    """Every line is counted once: by what is wrong with it, or as counted."""
    lines = {
        b"en": "missing_fields", b"en Dog": "missing_fields", b"en Dog 90": "missing_fields", b"en Dog ninety 0": "missing_fields",
        b"en Dog -90 0": "missing_fields", b"en  90 0": "missing_fields", b"en Dog 90 0 0": "missing_fields", b"": "missing_fields",
        b"de Hund 90": "missing_fields", b"de Hund 90 0": "other_domain", b"en.m Dog 90 0": "other_domain",
        b"en Dog 49 0": "below_min_hour", b"en Caf\xe9 90 0": "invalid_utf8", b"en Caf%E9 90 0": "invalid_utf8",
        b"en - 90 0": "not_a_title", b"en _ 90 0": "not_a_title", b"en A%0AB 90 0": "not_a_title", b"en <script> 90 0": "not_a_title",
        b"en Talk:Dog 90 0": "other_namespace", b"en Talk%3ADog 90 0": "other_namespace", b"en Dog 90 0": "counted",
    }  # fmt: skip
    folder = hourly(tmp_path / "hours", [b"\n".join(lines) + b"\n"])
    [path] = folder.iterdir()
    _, funnel, _ = count_file(path, ignore_progress, settings=PageviewSettings(), folder=tmp_path)
    assert funnel == {
        **dict.fromkeys(pageviews.REASONS, 0),
        **Counter(lines.values()),
        "lines": len(lines),
    }
    assert rows(found_in(folder)) == [("Dog", 90)]


@pytest.mark.parametrize(
    ("written", "title"),
    [
        (b"Dog_food", "Dog food"),
        (b"Caf%C3%A9", "Café"),
        (b"Caf\xc3\xa9", "Café"),
        (b"AC%2FDC", "AC/DC"),
        (b"100%", "100%"),
        (b"100%25", "100%"),
        (b"_Dog_", "Dog"),
        (b"%ff", None),
        (b"\xff", None),
    ],
)
def test_titles_as_articles_show_them(written: bytes, title: str | None) -> None:
    """Percent-encoding, UTF-8 and underscores are resolved; what is no UTF-8 is told."""
    assert title_of(written) == title


@settings(max_examples=25)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(["en", "en.m"]), st.sampled_from(["A", "B_b", "C:c", "D_(d)", "Main_Page"]), st.integers(0, 200)), min_size=1, max_size=20),
        min_size=1, max_size=5,
    ),
    st.integers(0, 120), st.integers(0, 300),
)  # fmt: skip
def test_any_files_by_a_naive_sum(
    tmp_path_factory: pytest.TempPathFactory,
    hours: list[list[tuple[str, str, int]]],
    min_hour: int,
    min_sum: int,
) -> None:
    """Any lines, any thresholds: the naive sum."""
    folder = hourly(
        tmp_path_factory.mktemp("any"),
        ["".join(f"{d} {t} {n} 0\n" for d, t, n in hour) for hour in hours],
    )
    sums = Counter[str]()
    for hour in hours:
        for domain, title, views in hour:
            if domain == "en" and views >= min_hour and title not in ("C:c", "Main_Page"):
                sums[title.replace("_", " ")] += views
    expected = sorted(
        ((t, float(n)) for t, n in sums.items() if n >= min_sum), key=lambda row: (-row[1], row[0])
    )
    asked = PageviewSettings(files=str(folder), min_hour=min_hour, min_sum=min_sum)
    if expected:
        assert rows(candidates(asked, workers=1)) == expected
    else:
        with pytest.raises(MetaclipError, match="no title of the domain 'en'"):
            candidates(asked, workers=1)


def test_two_workers_give_the_same(folder: Path) -> None:
    """Processes change nothing, digest included."""
    one, two = found_in(folder), candidates(PageviewSettings(files=str(folder)), workers=2)
    assert rows(one) == rows(two)
    assert one.facts == two.facts


def test_a_limit_keeps_the_best(folder: Path) -> None:
    """The most viewed stay; how many passed is told."""
    found = found_in(folder, limit=2)
    assert rows(found) == [("Dog", 130), ("Café", 120)]
    assert found.facts["passed"] == 5


def test_a_truncated_file_is_named(folder: Path) -> None:
    """A gzip file that is cut off, damaged or none is one clear line."""
    path = folder / "pageviews-20230105-010000.gz"
    whole = path.read_bytes()
    for broken in (whole[:-5], whole[:30], b"en Dog 90 0\n", whole[:40] + b"\0\0\0" + whole[43:]):
        path.write_bytes(broken)
        with pytest.raises(
            MetaclipError, match=r"010000\.gz is broken gzip .*; remove it and fetch it again"
        ) as caught:
            found_in(folder)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"")  # which the library reads as no text
    with pytest.raises(MetaclipError, match=r"010000\.gz has no lines"):
        found_in(folder)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    """No file, a folder without any, or some of a sample missing: said before any is read."""
    with pytest.raises(MetaclipError, match="there are no pageview files"):
        found_in(tmp_path)
    with pytest.raises(
        MetaclipError, match="lacks 48 of 48 pageview files, the first is pageviews-20230101-000000.gz"
    ):
        found_in(tmp_path, first="2023-01-01", last="2023-01-02", days=2)


def test_the_sample_is_the_same_everywhere() -> None:
    """26 of 365 days, frozen; another seed draws others; too few days are an error."""
    year = PageviewSettings(first="2023-01-01", last="2023-12-31")
    days = [str(day) for day in sampled_days(year)]
    assert len(set(days)) == 26
    assert days == sorted(days)
    assert days[:4] == FROZEN
    assert days != [str(day) for day in sampled_days(dataclasses.replace(year, seed=1))]
    names = [
        file.url for file in pageviews.hourly_files(dataclasses.replace(year, url="https://x/pageviews/"))
    ]
    assert len(names) == 26 * 24
    day = days[0].replace("-", "")
    assert names[5] == f"https://x/pageviews/2023/{days[0][:7]}/pageviews-{day}-050000.gz"
    with pytest.raises(MetaclipError, match="26 days are wanted, 2023-01-01 to 2023-01-03 has 3"):
        sampled_days(PageviewSettings(first="2023-01-01", last="2023-01-03"))


FROZEN = ["2023-02-10", "2023-03-11", "2023-03-29", "2023-04-15"]


def test_sampled_files_are_fetched(tmp_path: Path) -> None:
    """What is missing is fetched from where Wikimedia keeps it, over a bad line; what is there is not; offline is said."""
    published = tmp_path / "published" / "2023" / "2023-01"
    published.mkdir(parents=True)
    for hour in range(24):
        (published / f"pageviews-20230105-{hour:02}0000.gz").write_bytes(
            gzip.compress(f"en Dog {50 + hour} 0\n".encode() * 40)
        )
    folder = tmp_path / "pageviews"
    with serving(files(tmp_path / "published", drop_after=40)) as server:
        asked_for = PageviewSettings(
            files=str(folder),
            first="2023-01-05",
            last="2023-01-05",
            days=1,
            url=server.address,
            contact="me@example.org",
        )
        found = candidates(asked_for, workers=1, retry=QUICK)
        assert rows(found) == [("Dog", 40.0 * sum(50 + hour for hour in range(24)))]
        assert "me@example.org" in server.asked[0].headers["User-Agent"]
        asked = len(server.asked)
        assert rows(candidates(asked_for, workers=1)) == rows(found)
        assert len(server.asked) == asked
    (folder / "pageviews-20230105-070000.gz").unlink()
    with pytest.raises(MetaclipError, match=r"is this machine offline\?"):
        candidates(asked_for, workers=1, retry=QUICK)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"first": "2023-01-01"}, "first and last go together"),
        ({"first": "1.1.2023", "last": "2023-01-02"}, "first is '1.1.2023', must be a day such as"),
        ({"days": 0}, "days is 0, must be at least 1"),
        ({"min_hour": -1}, "min_hour is -1, must be at least 0"),
        ({"limit": 0}, "limit is 0"),
        ({"min_houre": 1}, "did you mean 'min_hour'"),
    ],
)
def test_settings_are_checked(table: dict[str, object], message: str) -> None:
    """A recipe's table with a mistake is one clear line."""
    with pytest.raises(MetaclipError, match=message):
        recipe.settings(PageviewSettings, table, "x.toml, [titles]")
