"""robots.txt: the rules of RFC 9309 against a naive reading of them, an index made of WARC files, and what it leaves out."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import pickle
import re
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaclip import ExtractSettings, curate, extract
from metaclip.errors import BrokenInput, MetaclipError
from metaclip.extract import robots_index
from metaclip.extract.extract import MEMORY, extract_part
from metaclip.extract.extract_file import ExtractStep
from metaclip.extract.robots import MAX_FILE, Rules, host_of_file, path_of, robots_host, rules_of
from metaclip.extract.robots_index import build_index
from metaclip.stage.folder import Folder, Part
from metaclip.stage.runner import RunOptions
from tests.crawls import image, packed, record, wat

pytest.importorskip("isal", reason="needs metaclip[crawl]")
HERE = RunOptions(1, progress=False)
AGENTS = frozenset({"ccbot", "img2dataset"})


def allowed(text: str | bytes, url: str, agents: frozenset[str] = AGENTS) -> bool:
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    lists = [part.split("\n") for part in rules_of(data, agents).split("\n\n") if part]
    return all(Rules(lines).allow(path_of(url)) for lines in lists)


# The law ---------------------------------------------------------------------------------------------------------------


def naive_match(pattern: str, path: str) -> bool:
    """Match by trying every length of every wildcard."""
    if pattern in ("", "$"):
        return pattern == "" or path == ""
    if pattern[0] == "*":
        return any(naive_match(pattern[1:], path[i:]) for i in range(len(path) + 1))
    return path[:1] == pattern[0] and naive_match(pattern[1:], path[1:])


def naive_allowed(lines: list[tuple[str, str]], path: str, agent: str) -> bool:
    """Follow section 2.2 of the RFC step by step, for (key, value) lines."""
    groups: list[tuple[list[str], list[tuple[str, str]]]] = []
    for key, value in lines:
        if key == "user-agent":
            if not groups or groups[-1][1]:
                groups.append(([], []))
            groups[-1][0].append(value)
        elif key in ("allow", "disallow") and groups:
            groups[-1][1].append((key, value))
    named = [rules for names, rules in groups if agent in names]
    used = (
        named
        if any(agent in names for names, _ in groups)
        else [rules for names, rules in groups if "*" in names]
    )
    matching = [
        (len(value), key == "allow")
        for rules in used
        for key, value in rules
        if value and naive_match(value, path)
    ]
    return max(matching)[1] if matching else True


PATH = st.text("ab/*.", max_size=6).map(lambda text: "/" + text)
PATTERN = st.one_of(PATH, st.text("ab/*", max_size=5).map(lambda text: f"*{text}")).flatmap(
    lambda text: st.sampled_from([text, text, f"{text}$"])
)
LINE = st.one_of(
    st.tuples(st.just("user-agent"), st.sampled_from(["*", "ccbot", "other", "img2dataset"])),
    st.tuples(st.sampled_from(["allow", "disallow", "disallow"]), st.one_of(PATTERN, st.just(""))),
    st.tuples(st.sampled_from(["crawl-delay", "sitemap"]), st.just("10")),
)
FORM = st.sampled_from(["{}: {}", "{}:{}", " {} :  {}\t", "{} {}", "{}: {} # a comment"])
END = st.sampled_from(["\n", "\r\n", "\r", "\n\n"])
CASE = st.sampled_from([str.lower, str.title, str.upper])


@settings(max_examples=250)
@given(st.lists(LINE, max_size=10), st.text("ab/.", max_size=6), st.data())
def test_the_rules_are_those_of_the_rfc(
    lines: list[tuple[str, str]], path: str, data: st.DataObject
) -> None:
    """Groups, longest match, wildcards and ends agree with a naive reading, in any case, spacing and line ends."""
    text = "".join(
        data.draw(FORM).format(data.draw(CASE)(key), value) + data.draw(END) for key, value in lines
    )
    expected = all(naive_allowed(lines, f"/{path}", agent) for agent in AGENTS)
    assert allowed(text, f"https://e.org/{path}") is expected


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        # The examples of RFC 9309, section 2.2.2 and 2.2.3 and 5.
        ("/foo/bar?baz=quz", "/foo/bar?baz=quz", False), ("/foo/bar?baz=https://foo.bar", "/foo/bar?baz=https://foo.bar", False),
        ("/foo/bar/\U0001f63a", "/foo/bar/%F0%9F%98%BA", False), ("/foo/bar/%F0%9F%98%BA", "/foo/bar/\U0001f63a", False),
        ("/foo/bar/%62%61%7A", "/foo/bar/baz", False), ("/foo/bar/baz", "/foo/bar/%62az", False), ("/a%2fb", "/a%2Fb", False), ("/a/b", "/a%2Fb", True),
        ("*.gif$", "/a/b.gif", False), ("*.gif$", "/a/b.gif?c", True), ("/example/page/disallowed.gif", "/example/page/", True),
        ("/path/file-with-a-%2A.html", "/path/file-with-a-*.html", True), ("/a$b", "/a$b", False), ("/a%24", "/a", True),
        # Other forms.
        ("/", "", False), ("/a", "/A", True), ("a", "/a", True), ("*", "/x", False), ("/*/", "/a", True), ("/*/", "/a/", False), ("/a\xff", "/a%C3%BF", False),
        ("/a b", "/a%20b", False), ("https://e.org/a", "/a", True), ("/\x0b", "/%0B", False), ("/a#b", "/a", False), ("/a?", "/a?", False), ("/a?", "/a", True),
    ],
)  # fmt: skip
def test_patterns(text: str, path: str, expected: bool) -> None:
    """Both sides are escaped alike, except what is reserved; the query is part of the path, the fragment is not."""
    assert allowed(f"user-agent: *\ndisallow: {text}", f"https://e.org{path}#f") is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"\xef\xbb\xbfUser-agent: *\nDisallow: /", False), (b"disallow: /\nuser-agent: *\n", True), (b"", True), (b"\xff\xfe\x00", True),
        (b"User-Agent: CCBot/2.0 (x)\nDisallow: /\n\nUser-agent: *\nAllow: /", False), (b"user-agent: ccbots\ndisallow: /", True),
        (b"user-agent: *\ndisallow: /\nuser-agent: ccbot\nuser-agent: img2dataset\ndisallow:", True), (b"user-agent: ccbot\ndisallow: /x\nuser-agent: a\ndisallow: /", True),
        (b"User agent *\nDissallow /", False), (b"user-agent:\ndisallow: /", True), (b"user-agent: ccbot\ncrawl-delay: 1\nuser-agent: x\ndisallow: /", False),
        (b"<html><body>Disallow: /</body></html>", True), (b"user-agent: *\ndisallow: /\n" + b"#" * MAX_FILE + b"\nallow: /\n", False),
        (b"#" * (MAX_FILE - 26) + b"\nuser-agent: *\ndisallow: /ab", True),
    ],
)  # fmt: skip
def test_files(text: bytes, expected: bool) -> None:
    """Marks, errors, several groups of an agent, other groups; of a long file the first 500 KiB count, in whole lines."""
    assert allowed(text, "https://e.org/abc") is expected


def test_the_agents() -> None:
    """What one of the agents may not have is left out; without names, the rules for all hold."""
    text = "user-agent: a\ndisallow: /x\n\nuser-agent: *\ndisallow: /y"
    for agents, expected in (
        ("a", [False, True]),
        ("b", [True, False]),
        ("a b", [False, False]),
        ("", [True, False]),
        ("*", [True, False]),
    ):
        names = frozenset(agents.split())
        assert [allowed(text, f"https://e.org/{path}", names) for path in "xy"] == expected


@pytest.mark.parametrize(
    "text",
    [
        b"".join(b"user-agent: a%d\n" % i for i in range(15_000)) + b"disallow: /x\n" * 20_000,
        b"user-agent: ccbot\n" * 15_000 + b"disallow: /x*y\n" * 9_000,
        b"user-agent: *\n" + b"disallow: /" + b"*a" * 200_000,
        b"user-agent: *\n" + b"".join(b"disallow: /%s\n" % (b"*a" * i) for i in range(1, 100)),
        b"user-agent: *\n" + b"".join(b"disallow: /%s\n" % (b"a" * i) for i in range(1, 900)),
        b"user-agent: *\n" + b"".join(b"disallow: /*a*a*a*a*b%d\n" % i for i in range(2_000)),
        b"user-agent: *\n" * 4_000_000, b"\xe2\x80\xa8user-agent" * 100_000, b"user-agent" + b" " * 600_000 + b"*", b" " * 500_000,
        b"disallow" + b" \t" * 250_000 + b"x",
    ],
    ids=map(str, range(11)),
)  # fmt: skip
def test_hostile_files(text: bytes) -> None:
    """However a file is made, reading it and asking it takes little time and memory."""
    tracemalloc.start()
    begin = time.process_time()
    lists = rules_of(text, AGENTS)
    rules = [Rules(part.split("\n")) for part in lists.split("\n\n") if part]
    for path in ("/" + "a" * 8_000, "/" + "ab" * 4_000, "/"):
        for one in rules:
            one.allow(path)
    seconds, (_, peak) = time.process_time() - begin, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 10, seconds
    assert peak < 60 << 20, peak


def test_too_many_wildcards() -> None:
    """A file with more than 10,000 wildcards disallows everything, so that no url takes long."""
    text = "user-agent: *\n" + "disallow: /*x\n" * 10_001
    assert not allowed(text, "https://e.org/")
    assert allowed(text[:-14], "https://e.org/")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://e.org/robots.txt", "e.org"), ("HTTPS://E.org:443/robots.txt", "e.org"), ("http://e.org:80/robots.txt#x", "e.org"), ("http://u:80@e.org./robots.txt", "e.org"),
        ("http://e.org:8080/robots.txt", ""), ("https://e.org:80/robots.txt", ""), ("http://e.org/Robots.txt", ""), ("http://e.org/robots.txt?a", ""), ("http://e.org/a/robots.txt", ""),
        ("ftp://e.org/robots.txt", ""), ("http:///robots.txt", ""), ("http://bücher.example/robots.txt", "xn--bcher-kva.example"), ("http://" + "ü" * 70 + "/robots.txt", ""), ("", ""),
    ],
)  # fmt: skip
def test_addresses(url: str, host: str) -> None:
    """A file holds for its host, if it is at the usual port; names are compared in ASCII."""
    assert host_of_file(url) == host


# The index -------------------------------------------------------------------------------------------------------------


def answer(url: str, body: bytes | str = b"", status: int = 200, *headers: str) -> bytes:
    """Return the record of a robots.txt file."""
    data = body.encode() if isinstance(body, str) else body
    head = "\r\n".join([f"HTTP/1.1 {status} X", "Content-Type: text/plain", *headers]).encode()
    return record(
        "response",
        head + b"\r\n\r\n" + data,
        WARC_Target_URI=url,
        Content_Type="application/http; msgtype=response",
    )


NO = "user-agent: *\ndisallow: /no"
ALL = "user-agent: *\ndisallow: /"
RECORDS = [
    record("warcinfo", b"x"),
    answer("http://a.org/robots.txt", NO), answer("https://a.org/robots.txt", "", 301, "Location: http://a.org/robots.txt"),
    answer("http://b.org/robots.txt", NO), answer("http://b.org/robots.txt", "x", 404), answer("http://c.org/robots.txt", "", 503),
    answer("http://d.org/robots.txt", "", 302, "location: https://www.d.org/robots.txt"), answer("https://www.d.org/robots.txt", ALL),
    answer("http://l0.org/robots.txt", "", 301, "Location: //l1.org/robots.txt"), answer("http://l1.org/robots.txt", "", 301, "Location: http://l0.org/robots.txt"),
    *(answer(f"http://r{i}.org/robots.txt", "", 301, f"Location: http://r{i + 1}.org/robots.txt") for i in range(6)), answer("http://r6.org/robots.txt", ALL),
    answer("http://f.org/robots.txt", ALL), answer("http://f.org/robots.txt", "", 302, "Location: /login"), answer("http://g.org/robots.txt", gzip.compress(ALL.encode()), 200, "Content-Encoding: gzip"),
    answer("http://h.org/robots.txt", gzip.compress(bytes(100 << 20)), 200, "Content-Encoding: gzip"), answer("http://i.org:8080/robots.txt", ALL),
    answer("http://j.org/other.txt", ALL), answer("http://k.org/robots.txt", ALL, 0), record("request", b"x", WARC_Target_URI="http://m.org/robots.txt"),
    answer("http://n.org/robots.txt", "", 301, "Location: http://[/robots.txt"), answer("http://o.org/robots.txt", ALL, 429),
    answer("http://xn--bcher-kva.example/robots.txt", ALL),
]  # fmt: skip
EXPECTED = {
    "http://a.org/no.jpg": False, "https://a.org/yes.jpg": True, "http://b.org/no.jpg": True, "http://c.org/x": False, "http://d.org/x": False, "http://l0.org/x": True,
    "http://r1.org/x": False, "http://r0.org/x": True, "http://f.org/x": True, "http://g.org:8080/x": False, "http://h.org/x": False, "http://i.org/x": True, "http://j.org/x": True,
    "http://k.org/x": True, "http://m.org/x": True, "http://n.org/x": True, "http://o.org/x": True, "http://unknown.org/no": True, "http://bücher.example/": False, "http:///": True,
}  # fmt: skip


def write_robots(folder: Path, *files: list[bytes]) -> Path:
    folder.mkdir()
    for i, records in enumerate(files):
        (folder / f"{i}.warc.gz").write_bytes(packed(records))
    return folder


@pytest.mark.parametrize(("memory", "run_bytes"), [(MEMORY, 1 << 25), (2_000, 100)])
def test_the_index(tmp_path: Path, memory: int, run_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last record of a host counts, by its status; in one range or many, held or forgotten, here or in a worker."""
    monkeypatch.setattr(robots_index, "_RUN_BYTES", run_bytes)
    monkeypatch.setattr(robots_index, "_HELD_BYTES", run_bytes)
    folder = write_robots(tmp_path / "robots", RECORDS[:5], RECORDS[5:])
    wanted = ExtractSettings(robots=str(folder))
    index = build_index(Folder(tmp_path / "pool"), wanted, AGENTS, memory, HERE)
    assert (index.ranges > 1) is (memory < MEMORY)
    sent = pickle.loads(pickle.dumps(index))
    for _ in range(2):
        assert {url: index.allows(url) for url in EXPECTED} == EXPECTED
        assert {url: sent.allows(url) for url in reversed(EXPECTED)} == EXPECTED
    again = build_index(Folder(tmp_path / "pool"), wanted, AGENTS, memory, HERE)
    assert (again.ranges, again.identity) == (index.ranges, index.identity)
    left = sorted(
        path.suffix for path in (tmp_path / "pool" / ".state" / "robots" / ".state" / "robots").glob("*")
    )
    assert set(left) == {".json"}


HOSTS = st.sampled_from([f"h{i}.org" for i in range(12)])


@settings(max_examples=15)
@given(
    st.lists(
        st.lists(
            st.tuples(HOSTS, st.sampled_from([200, 200, 404, 503]), st.sampled_from(["", NO, ALL])),
            max_size=8,
        ),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 5),
)
def test_the_last_record_counts(files: list[list[tuple[str, int, str]]], ranges: int) -> None:
    """Whatever the files, the runs and the ranges, an index is the dict of the last records."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(robots_index, "_RUN_BYTES", 900)
        first = record("warcinfo", b"x")
        folder = write_robots(
            Path(name, "robots"),
            *(
                [
                    first,
                    *(answer(f"http://{host}/robots.txt", text, status) for host, status, text in one),
                ]
                for one in files
            ),
        )
        index = build_index(
            Folder(Path(name, "pool")),
            ExtractSettings(robots=str(folder)),
            AGENTS,
            40_000 // ranges,
            HERE,
        )
        last = {host: (status, text) for one in files for host, status, text in one}
        for i in range(12):
            status, text = last.get(f"h{i}.org", (404, ""))
            for path in ("/no", "/yes"):
                expected = status == 404 or (status == 200 and allowed(text, f"http://x{path}"))
                assert index.allows(f"https://h{i}.org{path}") is expected


# Extraction ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def crawl(tmp_path: Path) -> Path:
    said = [{"name": "robots", "content": "noai"}]
    pages = [
        wat("https://a.org/p", [image("/yes.jpg", "one"), image("/no.jpg", "two"), image("http://c.org/x.jpg", "three"), image("//u.org/x.jpg", "four")]),
        wat("https://a.org/no/p", [image("http://b.org/1.jpg", "five"), image("x.svg", "six")]),
        wat("https://a.org/no/q", [image("http://b.org/2.jpg", "seven")], metas=said),
        wat("https://b.org/p", [image("http://bücher.example/3.jpg", "eight"), image("/4.jpg", "nine")]),
    ]  # fmt: skip
    (tmp_path / "crawl.warc.wat.gz").write_bytes(packed(pages))
    return tmp_path / "crawl.warc.wat.gz"


@pytest.mark.parametrize("native", [True, False])
def test_what_is_left_out(
    crawl: Path, tmp_path: Path, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages by the rules of their hosts, images by those of theirs; each has its reason, and the account says so."""
    if not native:
        monkeypatch.setattr(sys.modules[ExtractStep.__module__], "load", lambda: None)
    folder = write_robots(tmp_path / "robots", RECORDS)
    wanted = ExtractSettings(identify=False, robots=str(folder))
    made = extract(crawl, out=tmp_path / "pool", settings=wanted, options=HERE)
    assert sorted(pq.read_table(tmp_path / "pool" / "000000.parquet")["text"].to_pylist()) == [
        "four",
        "nine",
        "one",
    ]
    funnel = {key: made.funnel[key] for key in ("robots_page", "robots_image", "noai", "svg", "pairs")}
    assert funnel == {"robots_page": 1, "robots_image": 3, "noai": 1, "svg": 1, "pairs": 3}
    manifest = json.loads((tmp_path / "pool" / "manifest.json").read_text())
    assert re.fullmatch("[0-9a-f]{64}", manifest["robots"])
    assert manifest["settings"]["extract"]["robots"] == str(folder)
    curate(tmp_path / "pool", ["one"], out=tmp_path / "run", t=2, options=HERE)
    assert (
        "left out by robots.txt: robots_page 1, robots_image 3"
        in (tmp_path / "run" / "card.md").read_text()
    )


def test_ignored_opt_outs_and_lists(crawl: Path, tmp_path: Path) -> None:
    """--ignore-noai keeps what pages say, not what robots.txt disallows; lists are tested first."""
    (tmp_path / "blocked.txt").write_text("c.org\nb.org\n")
    folder = write_robots(tmp_path / "robots", RECORDS)
    wanted = ExtractSettings(
        identify=False,
        robots=str(folder),
        ignore_noai=True,
        blocked_domains=str(tmp_path / "blocked.txt"),
    )
    funnel = extract(crawl, out=tmp_path / "pool", settings=wanted, options=HERE).funnel
    assert (funnel["noai"], funnel["robots_page"], funnel["robots_image"], funnel["blocked_domain"]) == (
        0,
        0,
        1,
        5,
    )


def test_parts_and_changes(crawl: Path, tmp_path: Path) -> None:
    """Parts share an index; other files or agents are refused; the pool without --robots is another one."""
    folder = write_robots(tmp_path / "robots", RECORDS)
    wanted = ExtractSettings(identify=False, robots=str(folder))
    for part in ("1/2", "2/2"):
        extract_part(
            crawl, tmp_path / "parts", wanted, dataclasses.replace(HERE, part=Part.parse(part)), MEMORY
        )
    extract(crawl, out=tmp_path / "pool", settings=wanted, options=HERE)
    assert (tmp_path / "pool" / "000000.parquet").read_bytes() == (
        tmp_path / "parts" / "000000.parquet"
    ).read_bytes()
    with pytest.raises(MetaclipError, match=r"pool holds another run: robots has changed"):
        extract(crawl, out=tmp_path / "pool", settings=ExtractSettings(identify=False), options=HERE)
    with pytest.raises(MetaclipError, match=r"robots holds another run: agents"):
        extract(
            crawl, out=tmp_path / "pool", settings=dataclasses.replace(wanted, agents="a"), options=HERE
        )
    os.utime(folder / "0.warc.gz")
    extract(crawl, out=tmp_path / "pool", settings=wanted, options=HERE)
    (folder / "1.warc.gz").write_bytes(packed([answer("http://u.org/robots.txt", ALL)]))
    with pytest.raises(
        MetaclipError, match=r'the files of robots.txt: "1.warc.gz" is new; choose another'
    ):
        extract(crawl, out=tmp_path / "pool", settings=wanted, options=HERE)
    (folder / "1.warc.gz").unlink()
    (folder / "0.warc.gz").write_bytes(packed([*RECORDS, answer("http://u.org/robots.txt", ALL)]))
    with pytest.raises(MetaclipError, match=r"0.warc.gz has changed since .*pool was begun; choose"):
        extract(crawl, out=tmp_path / "pool", settings=wanted, options=HERE)
    again = dataclasses.replace(HERE, overwrite=True)
    assert (
        extract(crawl, out=tmp_path / "pool", settings=wanted, options=again).funnel["robots_image"] == 4
    )


def test_damage(crawl: Path, tmp_path: Path) -> None:
    """A file that is cut off or no WARC file ends the command: nobody knows what it disallows. Mended, it continues there."""
    folder = write_robots(tmp_path / "robots", RECORDS[:6], RECORDS[6:])
    wanted = ExtractSettings(identify=False, robots=str(folder))
    data = (folder / "1.warc.gz").read_bytes()
    for damaged, says in (
        (data[:-20], "1.warc.gz ends in the middle of a record, at byte"),
        (b"hello", "1.warc.gz is no WARC file"),
    ):
        (folder / "1.warc.gz").write_bytes(damaged)
        with pytest.raises(BrokenInput, match=f"{says}.*; fetch it again"):
            extract(crawl, out=tmp_path / "pool", settings=wanted, options=HERE)
    state = tmp_path / "pool" / ".state" / "robots" / ".state" / "robots"
    first = (state / "000000.json").stat().st_mtime_ns
    (folder / "1.warc.gz").write_bytes(data)
    assert (
        extract(crawl, out=tmp_path / "pool", settings=wanted, options=HERE).funnel["robots_image"] == 3
    )
    assert (state / "000000.json").stat().st_mtime_ns == first
    other = dataclasses.replace(wanted, robots=str(tmp_path / "none"))
    with pytest.raises(MetaclipError, match="`robots=...`: there is no crawl at"):
        extract(crawl, out=tmp_path / "other", settings=other, options=HERE)
    assert not (tmp_path / "other").exists()


def test_real_pages(data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every third host of a thousand real pages disallows something, both ways to extract leave out the same."""
    path = data_folder / "wat" / "web-pages.warc.wat.gz"
    plain = ExtractSettings(identify=False)
    extract(path, out=tmp_path / "all", settings=plain, options=HERE)
    rows = pq.read_table(tmp_path / "all" / "000000.parquet").to_pylist()
    hosts = sorted({robots_host(row[name]) for row in rows for name in ("url", "page_url")} - {""})
    text = "user-agent: *\ndisallow: /*a*.jpg\ndisallow: /w\nallow: /wp-content/\ndisallow: *?"
    made = [answer(f"http://{host}/robots.txt", text) for host in hosts[::3]]
    folder = write_robots(tmp_path / "robots", made)
    wanted = dataclasses.replace(plain, robots=str(folder))
    found = []
    for name in ("columns", "plain"):
        pool = tmp_path / name
        funnel = extract(path, out=pool, settings=wanted, options=HERE).funnel
        found.append((funnel, (pool / "000000.parquet").read_bytes()))
        monkeypatch.setattr(sys.modules[ExtractStep.__module__], "load", lambda: None)
    assert found[0] == found[1]
    disallowed = set(hosts[::3])

    def left_out(url: str) -> bool:
        return robots_host(url) in disallowed and not allowed(text, url)

    kept = [row["uid"] for row in rows if not left_out(row["page_url"]) and not left_out(row["url"])]
    assert pq.read_table(tmp_path / "plain" / "000000.parquet")["uid"].to_pylist() == kept
    assert found[0][0]["robots_image"] > 100
