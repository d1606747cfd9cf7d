"""Removal of pairs: no other pair changes, the list can be applied to copies, a killed removal can be resumed."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaclip import (
    Balancer,
    MatchSettings,
    MetaclipError,
    Metadata,
    Run,
    RunOptions,
    balance,
    curate,
)
from metaclip.card.hosts import url_hosts
from metaclip.card.publish import CardInfo, make_card
from metaclip.card.removal.remove import remove
from metaclip.card.removal.removed_list import (
    LIST_SCHEMA,
    REMOVED_LIST,
    apply_removal,
    list_rows,
    write_list,
)
from metaclip.card.removal.request import RemovalRequest, read_request
from metaclip.card.verify import verify
from metaclip.pool.sorted_uids import SUBSET
from metaclip.storage import files
from tests import commands
from tests.runs import forget_checksums

ROOT = Path(__file__).parents[2]
WORDS = ["a", "a", "a", "the", "of", "dog", "cat", "ski", "none", "nothing"]
METADATA = Metadata(["a", "the", "of", "dog", "cat", "ski", "a dog", "unseen"])
HOSTS = ["example.org", "img.example.org", "www.example.com", "cdn.example.net"]
ONE = RunOptions(workers=1)


def pool_of(folder: Path, n: int = 600, uid: bool = False) -> list[dict[str, Any]]:
    """Write pairs of four hosts to three files; some urls have several pairs, some pairs occur twice."""
    rng = np.random.default_rng(5)
    pairs = [
        {"text": " ".join(rng.choice(WORDS, 4)), "url": f"https://{HOSTS[i % 4]}/{i // 3}.jpg"}
        for i in range(n)
    ]
    for i in range(0, n - 1, 40):
        pairs[i + 1] = dict(pairs[i])
    if uid:
        pairs = [{**pair, "uid": f"pair {i // 2}"} for i, pair in enumerate(pairs)]
    folder.mkdir(parents=True)
    for i in range(3):
        pq.write_table(pa.Table.from_pylist(pairs[i::3]), folder / f"{i}.parquet")
    return pairs


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one pool: with url and text in matched/ and without, and one whose uids are given."""
    home = tmp_path_factory.mktemp("removal")
    pool_of(home / "pool")
    pool_of(home / "named", uid=True)
    for name, pool, text in (
        ("with_text", "pool", True),
        ("without", "pool", False),
        ("given", "named", True),
    ):
        curate(
            home / pool,
            METADATA,
            out=home / name,
            t=40,
            settings=MatchSettings(with_text=text),
            options=ONE,
        )
    return home


def rows_of(run: Run) -> list[dict[str, Any]]:
    """Read all matched rows of a run."""
    found = [pq.read_table(path) for path in sorted((run.matched / "matched").glob("*.parquet"))]
    return pa.concat_tables(found).to_pylist()


def request(**lines: list[str]) -> RemovalRequest:
    uids = [int(uid, 16) for uid in lines.get("uids", [])]
    table = np.array([(uid >> 64, uid & (1 << 64) - 1) for uid in uids], np.uint64).reshape(-1, 2)
    return RemovalRequest(
        np.unique(table, axis=0), frozenset(lines.get("urls", [])), frozenset(lines.get("domains", []))
    )


# --- the law, against plain Python


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(data=st.data(), name=st.sampled_from(["with_text", "given"]))
def test_what_is_asked_goes_and_nothing_else(
    home: Path, tmp_path_factory: Any, data: st.DataObject, name: str
) -> None:
    """Pairs are removed by uid; all others keep the parent's P and draw; counts are the parent's, with corrected counts beside."""
    run = Run(home / name)
    parent = rows_of(run)
    uids = [row["uid"].hex() for row in parent]
    asked = {
        "uids": data.draw(st.lists(st.sampled_from(uids), max_size=4, unique=True)),
        "urls": data.draw(
            st.lists(st.sampled_from([row["url"] for row in parent]), max_size=4, unique=True)
        ),
        "domains": data.draw(
            st.lists(
                st.sampled_from(["example.org", "img.example.org", "net", "example.com"]), max_size=1
            )
        ),
    }
    if not any(asked.values()):
        return

    # The oracle: what somebody with a list and the law would do.
    def host_of(url: str) -> str:
        return url.split("/")[2].removeprefix("www.")

    def hit(url: str) -> bool:
        return url in asked["urls"] or any(
            f".{host_of(url)}".endswith(f".{domain}") for domain in asked["domains"]
        )

    going = {
        uid for uid, row in zip(uids, parent, strict=True) if uid in asked["uids"] or hit(row["url"])
    }
    after = remove(run, request(**asked), tmp_path_factory.mktemp("next") / "run", ONE)
    assert rows_of(after) == [row for uid, row in zip(uids, parent, strict=True) if uid not in going]
    before_kept, after_kept = run.curated.to_pylist(), after.curated.to_pylist()
    hexed = [uid_hex(row["uid"]) for row in before_kept]
    assert after_kept == [row for uid, row in zip(hexed, before_kept, strict=True) if uid not in going]
    subset = np.load(run.path / "curated.npy")
    stays = [row for row in subset.tolist() if f"{row[0]:016x}{row[1]:016x}" not in going]
    assert np.load(after.path / "curated.npy").tolist() == stays
    counts = np.zeros(len(METADATA), np.int64)
    for row in rows_of(after):
        counts[row["matches"]] += 1
    table = pq.read_table(after.path / "counts.parquet")
    assert table["count_corrected"].to_pylist() == counts.tolist()
    assert table["count"].to_pylist() == run.counts.values.tolist() == after.counts.values.tolist()
    assert after.entries["probability"].equals(run.entries["probability"])
    said = after.account["removed"]
    assert said["versions"][0]["parent"] == run.account["result_digest"]
    assert said["pairs"] == len(parent) - len(rows_of(after)) == after.account["funnel"]["removed"]
    assert said["versions"][0]["kept"] == len(before_kept) - len(after_kept)
    assert said["count"] == counts.sum()
    listed = pq.read_table(after.path / REMOVED_LIST).to_pylist()
    assert {row["uid"] for row in listed} == going & set(uids)
    kept = {uid for uid in hexed if uid in going}
    assert {row["uid"] for row in listed if row["kept"]} == kept
    urls = {sha(row["url"]) for uid, row in zip(uids, parent, strict=True) if uid in going}
    assert {row["url_sha256"] for row in listed} == urls


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def uid_hex(uid: str) -> str:
    return uid if len(uid) == 32 else hashlib.md5(uid.encode()).hexdigest()


def test_the_law_does_not_depend_on_workers(home: Path, tmp_path: Path) -> None:
    """The result does not depend on the number of threads."""
    asked = request(domains=["example.net"])
    made = [remove(home / "with_text", asked, tmp_path / str(n), RunOptions(workers=n)) for n in (1, 3)]
    assert made[0].account["result_digest"] == made[1].account["result_digest"]


def test_urls_of_kept_pairs_alone(home: Path, tmp_path: Path) -> None:
    """Without urls in matched/, urls are searched among the kept pairs, all rows of their uids go, and the account says so."""
    run = Run(home / "without")
    kept = run.curated.to_pylist()
    after = remove(run, request(urls=[kept[0]["url"]]), tmp_path / "next", ONE)
    version = after.account["removed"]["versions"][0]
    gone = {row["uid"] for row in kept if row["url"] == kept[0]["url"]}
    assert version["urls"] == "kept"
    assert version["kept"] == sum(row["uid"] in gone for row in kept)
    assert {row["uid"] for row in after.curated.to_pylist()} == {row["uid"] for row in kept} - gone


def test_no_url_is_left_anywhere(home: Path, tmp_path: Path) -> None:
    """Neither the run nor its list contains a requested url or domain in clear."""
    url, domain = "https://example.org/4.jpg", "example.net"
    after = remove(home / "with_text", request(urls=[url], domains=[domain]), tmp_path / "next", ONE)
    assert after.account["removed"]["versions"][0]["found"] == {"uids": 0, "urls": 1, "domains": 1}
    for path in (tmp_path / "next").rglob("*"):
        if path.suffix == ".parquet":
            data = json.dumps(pq.read_table(path).to_pylist(), default=str).encode()
        else:
            data = path.read_bytes() if path.is_file() else b""
        assert url.encode() not in data, path
        assert f"{domain}/".encode() not in data, path


def test_the_next_version_is_a_run(home: Path, tmp_path: Path) -> None:
    """A next version can be balanced at another t, decides as the parent does, and can have next versions of its own."""
    run = Run(home / "with_text")
    second = remove(run, request(domains=["example.net"]), tmp_path / "v2", ONE)
    whole = balance(run, out=tmp_path / "whole", t=5, options=ONE).curated.to_pylist()
    less = balance(second, out=tmp_path / "less", t=5, options=ONE)
    assert less.curated.to_pylist() == [row for row in whole if "example.net" not in row["url"]]
    assert less.account["removed"] == second.account["removed"]
    texts, uids = ["a dog", "the cat of a ski"], ["0" * 32, "f" * 32]
    assert (Balancer(second).p_keep(texts) == Balancer(run).p_keep(texts)).all()
    assert (Balancer(second).keep(texts, uids) == Balancer(run).keep(texts, uids)).all()
    third = remove(second, request(domains=["example.com"]), tmp_path / "v3", ONE)
    versions = third.account["removed"]["versions"]
    digests = [of.account["result_digest"] for of in (run, second)]
    assert [version["parent"] for version in versions] == digests
    assert third.account["removed"]["pairs"] == sum(version["pairs"] for version in versions)
    assert {host for row in third.curated.to_pylist() for host in [row["url"].split("/")[2]]} == set(
        HOSTS[:2]
    )
    # In one step or in two: the same pairs.
    both = remove(run, request(domains=["example.net", "example.com"]), tmp_path / "both", ONE)
    assert both.curated.to_pylist() == third.curated.to_pylist()
    assert both.counts.values.tolist() == third.counts.values.tolist()


# --- killed anywhere


class Kill(BaseException):
    """Stands for a signal that kills the process here."""


def test_killed_at_any_write_it_goes_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before any rename of a file, the same command continues and ends with the same run."""
    asked = request(domains=["example.net"], urls=["https://example.org/4.jpg"])
    whole = remove(home / "with_text", asked, tmp_path / "whole", ONE).account
    really, left = files.os.replace, itertools.count()

    def countdown(n: int) -> Callable[..., None]:
        calls: Iterator[int] = itertools.count()

        def replace(source: Any, target: Any) -> None:
            if next(calls) == n:
                raise Kill
            really(source, target)

        return replace

    for n in left:
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", countdown(n))
            try:
                remove(home / "with_text", asked, tmp_path / "again", ONE)
            except Kill:
                if n % 3 == 0:  # killed in turn, over and over, and then begun anew
                    continue
            else:
                break
        made = remove(home / "with_text", asked, tmp_path / "again", ONE).account
        assert made["result_digest"] == whole["result_digest"], n
        assert not list((tmp_path / "again").rglob("*.tmp"))
        shutil.rmtree(tmp_path / "again")
    assert n > 10


def test_another_request_is_refused(home: Path, tmp_path: Path) -> None:
    """A folder of another request is refused; --overwrite replaces it."""
    remove(home / "with_text", request(domains=["example.net"]), tmp_path / "next", ONE)
    with pytest.raises(
        MetaclipError,
        match="holds another run: what is asked to be taken out has changed; .* `RunOptions.overwrite=True.`",
    ):
        remove(home / "with_text", request(domains=["example.org"]), tmp_path / "next", ONE)
    made = remove(
        home / "with_text",
        request(domains=["example.org"]),
        tmp_path / "next",
        RunOptions(overwrite=True),
    )
    assert made.account["removed"]["versions"][0]["found"]["domains"] == 1
    with pytest.raises(MetaclipError, match="is the run itself"):
        remove(home / "with_text", request(domains=["example.net"]), home / "with_text", ONE)
    with pytest.raises(MetaclipError, match=r"none of what is asked to be taken out \(1 domains\) is in"):
        remove(home / "with_text", request(domains=["example.edu"]), tmp_path / "none", ONE)


# --- applying it


def test_a_copy_without_what_went(home: Path, tmp_path: Path) -> None:
    """The list turns the parent's subset, curated folder or a table of urls into those of the next version."""
    run = Run(home / "with_text")
    after = remove(run, request(domains=["example.net"]), tmp_path / "next", ONE)
    listed = after.path / REMOVED_LIST
    went, stay = apply_removal(listed, run.path / "curated.npy", tmp_path / "subset.npy")
    assert (tmp_path / "subset.npy").read_bytes() == (after.path / "curated.npy").read_bytes()
    assert (went, stay) == (len(run.curated) - len(after.curated), len(after.curated))
    assert apply_removal(listed, run.path / "curated", tmp_path / "curated") == (went, stay)
    for path in (after.path / "curated").iterdir():
        assert pq.read_table(tmp_path / "curated" / path.name).equals(pq.read_table(path))
    pq.write_table(
        run.curated.select(["URL" if "URL" in run.curated.column_names else "url", "text"]),
        tmp_path / "urls.parquet",
    )
    assert apply_removal(listed, tmp_path / "urls.parquet", tmp_path / "left.parquet") == (went, stay)
    assert pq.read_table(tmp_path / "left.parquet")["url"].equals(after.curated["url"])


def test_a_missing_uid_goes_by_its_url(home: Path, tmp_path: Path) -> None:
    """The uid of a row decides if it has one, else its url."""
    row = list_rows(request(uids=["1"]).uids, pa.array(["http://x/1"]), kept=True)
    write_list(tmp_path / "r.parquet", row)
    table = pa.table(
        {
            "uid": ["1", "2", None, "", None],
            "URL": ["http://x/0", "http://x/1", "http://x/1", "http://x/1", None],
        }
    )
    pq.write_table(table, tmp_path / "copy.parquet")
    assert apply_removal(tmp_path / "r.parquet", tmp_path / "copy.parquet", tmp_path / "out.parquet") == (
        3,
        2,
    )
    assert pq.read_table(tmp_path / "out.parquet")["uid"].to_pylist() == ["2", None]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "r.parquet").unlink(), "there is no list"),
        (lambda f: (f / "r.parquet").write_bytes(b"PAR1"), r"r\.parquet cannot be read"),
        (lambda f: shutil.copy(f / "copy" / "a.parquet", f / "r.parquet"), r"has the columns uid, a removed\.parquet has uid, url_sha256, kept"),
        (lambda f: shutil.rmtree(f / "copy"), "holds no .parquet and no .npy"),
        (lambda f: (f / "copy" / "a.parquet").write_bytes(b"PAR1"), r"a\.parquet cannot be read"),
        (lambda f: pq.write_table(pa.table({"text": ["x"]}), f / "copy" / "a.parquet"), "neither a column uid nor url; found text"),
        (lambda f: np.save(f / "copy" / "a.npy", np.zeros(3)), r"it holds float64 in shape \(3,\), must hold u8,u8"),
        (lambda f: (f / "out").mkdir(), "is there already"),
    ],
)  # fmt: skip
def test_copies_that_are_refused(tmp_path: Path, spoil: Callable[[Path], Any], message: str) -> None:
    """Broken lists and copies are refused in one line, and nothing is written."""
    (tmp_path / "copy").mkdir()
    write_list(tmp_path / "r.parquet", list_rows(request(uids=["1"]).uids, None, kept=True))
    pq.write_table(pa.table({"uid": ["1"]}), tmp_path / "copy" / "a.parquet")
    spoil(tmp_path)
    line = commands.refused(
        "card", "apply", tmp_path / "r.parquet", tmp_path / "copy", "--out", tmp_path / "out"
    )
    assert pytest.importorskip("re").search(message, line), line
    assert not list(tmp_path.glob("out/*"))


# --- the request


def test_reading_what_is_request(tmp_path: Path) -> None:
    """Files have one item a line; uids are read as a pool's, domains in any case, with or without www. or *. in front."""
    (tmp_path / "uids").write_text("\ufeff1F\n\n  an upstream id \r\n1f\n", encoding="utf-8")
    (tmp_path / "urls").write_text("http://x/a#b\nhttp://x/a#b\n")
    (tmp_path / "domains").write_text("WWW.Example.ORG.\n*.example.net\n")
    found = read_request(*(str(tmp_path / name) for name in ("uids", "urls", "domains")))
    assert found.sizes == {"uids": 2, "urls": 1, "domains": 2}
    assert found.domains == {"example.org", "example.net"}
    named = hashlib.md5(b"an upstream id").digest()
    assert found.uids.astype(">u8").tobytes() in (
        b"\0" * 15 + b"\x1f" + named,
        named + b"\0" * 15 + b"\x1f",
    )
    again = RemovalRequest(found.uids, found.urls, found.domains)
    assert found.digest == again.digest != RemovalRequest(found.uids, found.urls).digest


@pytest.mark.parametrize(
    ("which", "data", "message"),
    [
        ("uids", b"\n \n", "names no uids"),
        ("urls", b"\xff", "list, line 1: not valid UTF-8"),
        ("domains", b"http://example.org/", "is no domain, such as example.org"),
        ("domains", b"..", "is no domain"),
        ("urls", None, "there is no file"),
    ],
)
def test_requests_that_are_refused(
    home: Path, tmp_path: Path, which: str, data: bytes | None, message: str
) -> None:
    """Files that are empty, missing or malformed are refused in one line with exit code 2."""
    if data is not None:
        (tmp_path / "list").write_bytes(data)
    arguments = ("--out", tmp_path / "next", f"--{which}", tmp_path / "list")
    assert message in commands.refused("card", "remove", home / "with_text", *arguments)
    assert not (tmp_path / "next").exists()


def test_nothing_asked(home: Path, tmp_path: Path) -> None:
    """At least one file is needed, and --card needs --card-out."""
    assert "give --uids, --urls or --domains" in commands.refused(
        "card", "remove", home / "with_text", "--out", tmp_path
    )
    assert "--card-out" in commands.refused(
        "card", "remove", home / "with_text", "--out", tmp_path, "--card", "x", "--urls", "y"
    )


def test_hosts_of_strange_urls() -> None:
    """Only http urls have a host; a domain does not match a longer name that ends with it."""
    urls = [
        "http://notexample.org/",
        "ftp://example.org/",
        "http://a@example.org:80/",
        "HTTP://EXAMPLE.ORG",
        None,
        "",
        "x",
    ]
    found, _, domains = request(domains=["example.org"]).find(pa.array(urls))
    assert found.tolist() == [False, False, True, True, False, False, False]
    assert domains == {"example.org"}
    assert url_hosts(pa.array(urls))[2].as_py() == "example.org"
    assert SUBSET.itemsize == 16


# --- with the card


@pytest.mark.extra
def test_the_command_makes_run_and_card(home: Path, tmp_path: Path) -> None:
    """The next card verifies, states the removal and the parent version, and has the list; the diff names the removal."""
    pytest.importorskip("altair", reason="needs the extra cards: pip install -e '.[cards]'")
    run = Run(home / "with_text")
    make_card(run, tmp_path / "v1", CardInfo("A set", "cc-by-4.0", "data@example.org"))
    (tmp_path / "urls.txt").write_text("https://example.org/4.jpg\nhttps://example.org/none.jpg\n")
    (tmp_path / "domains.txt").write_text("example.net\n")
    done = commands.done(
        "card", "remove", run.path, "--out", tmp_path / "run_2", "--urls", tmp_path / "urls.txt",
        "--domains", tmp_path / "domains.txt", "--card", tmp_path / "v1", "--card-out", tmp_path / "v2",
    ).out  # fmt: skip
    assert "2   asked, 1 found" in done
    after = Run(tmp_path / "run_2")
    assert verify(tmp_path / "v2", after) == []
    card = json.loads((tmp_path / "v2" / "card.json").read_text())
    assert (card["name"], card["license"], card["contact"]) == ("A set", "cc-by-4.0", "data@example.org")
    assert card["removed"]["versions"][0]["parent"] == run.account["result_digest"]
    assert pq.read_table(tmp_path / "v2" / REMOVED_LIST).equals(pq.read_table(after.path / REMOVED_LIST))
    table = pq.read_table(tmp_path / "v2" / "entries.parquet")
    assert table["count"].to_pylist() == run.counts.values.tolist()
    assert sum(table["count_corrected"].to_pylist()) == card["removed"]["count"]
    described = json.loads((tmp_path / "v2" / "croissant.json").read_text())["recordSet"][0]["field"]
    assert {field["name"] for field in described} == set(table.column_names)
    text = (tmp_path / "v2" / "README.md").read_text()
    assert "## What was taken out since the first version" in text
    assert run.account["result_digest"][:16] in text
    assert "| removed | taken out on request |" in text
    assert "example.net" not in text.split("## Languages and hosts")[1]
    shown = commands.done("card", "diff", tmp_path / "v1", tmp_path / "v2").out
    assert "| taken out on request | 0 |" in shown
    for spoil, message in (
        (lambda: write_list(after.path / REMOVED_LIST, LIST_SCHEMA.empty_table()), "is not the list of its record"),
        (lambda: shutil.copy(next((run.path / "matched").iterdir()), after.path / "matched" / next((run.path / "matched").iterdir()).name), "matched rows are left of pairs that removed.parquet lists"),
    ):  # fmt: skip
        forget_checksums(after.path)
        kept = shutil.copytree(tmp_path / "run_2", tmp_path / "kept", dirs_exist_ok=True)
        spoil()
        assert any(message in line for line in verify(tmp_path / "v2", after)), message
        shutil.rmtree(tmp_path / "run_2")
        shutil.copytree(kept, tmp_path / "run_2")
