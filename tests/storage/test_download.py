"""Downloads from a real server that has bad days: what arrived is kept, and what is kept is what is published."""

from __future__ import annotations

import hashlib
import json
import random
import socket
from pathlib import Path
from typing import Any

import pytest

from metaclip.errors import MetaclipError
from metaclip.storage.download import PublishedFile, fetch
from metaclip.storage.retries import RetryPolicy
from tests.http_servers import Asked, files, serving

DATA = random.Random(0).randbytes(300_000)
QUICK = RetryPolicy(tries=4, first_wait=0.001, longest_wait=0.2, timeout=10)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A publisher's folder with one file."""
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "a.bz2").write_bytes(DATA)
    return tmp_path / "published"


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_file_arrives_whole(published: Path, tmp_path: Path) -> None:
    """It gets its name when it is whole and checked, and nothing else is left; the asker says who it is."""
    with serving(files(published)) as server:
        for algorithm in ("md5", "sha1", "sha256"):
            digest = hashlib.new(algorithm, DATA).hexdigest()
            remote = PublishedFile(f"{server.address}/a.bz2", "a.bz2", len(DATA), digest.upper())
            fetch(remote, tmp_path / algorithm / "a.bz2", contact="me@example.org", retry=QUICK)
            assert (tmp_path / algorithm / "a.bz2").read_bytes() == DATA
            assert left(tmp_path / algorithm) == ["a.bz2"]
        agent = server.asked[0].headers["User-Agent"]
        assert agent.startswith("metaclip/")
        assert "me@example.org" in agent
        asked = len(server.asked)
        fetch(remote, tmp_path / "sha256" / "a.bz2")
        assert len(server.asked) == asked  # what is there is not asked for


def test_a_connection_that_ends_is_taken_up_where_it_ended(published: Path, tmp_path: Path) -> None:
    """A server that hangs up every 40,000 bytes is asked for the rest, each time for what is missing and no more."""
    with serving(files(published, drop_after=40_000)) as server:
        remote = PublishedFile(f"{server.address}/a.bz2", "a.bz2", None, hashlib.sha1(DATA).hexdigest())
        fetch(remote, tmp_path / "a.bz2", retry=QUICK)
        assert (tmp_path / "a.bz2").read_bytes() == DATA
        begins = [asked.headers.get("Range", "bytes=0-") for asked in server.asked]
        assert begins == [f"bytes={begin}-" for begin in range(0, 300_000, 40_000)]
        assert all("If-Range" in asked.headers for asked in server.asked[1:])


def test_a_killed_download_goes_on(published: Path, tmp_path: Path) -> None:
    """What an earlier process left is the beginning of the next one's."""
    out = tmp_path / "out" / "a.bz2"
    with serving(files(published, drop_after=100_000)) as server:
        remote = PublishedFile(f"{server.address}/a.bz2", "a.bz2", len(DATA))
        with pytest.raises(MetaclipError, match="the bytes that arrived are kept"):
            fetch(remote, out, retry=RetryPolicy(tries=1, timeout=10))
        assert left(out.parent) == [".a.bz2.part", ".a.bz2.part.json"]
        fetch(remote, out, retry=QUICK)
    assert out.read_bytes() == DATA
    assert left(out.parent) == ["a.bz2"]


def test_a_part_that_is_all_of_it_is_done(published: Path, tmp_path: Path) -> None:
    """Killed after the last byte and before the rename: nothing is fetched twice."""
    with serving(files(published)) as server:
        (tmp_path / ".a.bz2.part").write_bytes(DATA)
        tag = f'"{hashlib.md5(DATA).hexdigest()}"'
        about = {"url": f"{server.address}/a.bz2", "version": tag}
        (tmp_path / ".a.bz2.part.json").write_text(json.dumps(about))
        fetch(
            PublishedFile(f"{server.address}/a.bz2", "a.bz2", len(DATA)), tmp_path / "a.bz2", retry=QUICK
        )
        assert [asked.headers.get("Range") for asked in server.asked] == ["bytes=300000-"]
    assert (tmp_path / "a.bz2").read_bytes() == DATA


def test_a_file_that_changed_begins_anew(published: Path, tmp_path: Path) -> None:
    """Two versions of a file are never joined, whether or not the server knows ranges."""
    for number, ranges in enumerate((True, False)):
        out = tmp_path / str(number) / "a.bz2"
        (published / "a.bz2").write_bytes(DATA)
        with serving(files(published, drop_after=100_000, ranges=ranges)) as server:
            remote = PublishedFile(f"{server.address}/a.bz2", "a.bz2")
            with pytest.raises(MetaclipError):
                fetch(remote, out, retry=RetryPolicy(tries=1, timeout=10))
        address = server.address
        (published / "a.bz2").write_bytes(DATA[::-1])
        about = out.with_name(".a.bz2.part.json")
        with serving(files(published, ranges=ranges)) as server:
            about.write_text(about.read_text().replace(address, server.address))
            fetch(PublishedFile(f"{server.address}/a.bz2", "a.bz2"), out, retry=QUICK)
        assert out.read_bytes() == DATA[::-1]


def test_a_part_of_another_address_begins_anew(published: Path, tmp_path: Path) -> None:
    """A part of which nothing tells what it is of is not gone on with."""
    (tmp_path / ".a.bz2.part").write_bytes(b"something else")
    with serving(files(published)) as server:
        fetch(PublishedFile(f"{server.address}/a.bz2", "a.bz2"), tmp_path / "a.bz2", retry=QUICK)
    assert (tmp_path / "a.bz2").read_bytes() == DATA


def test_what_is_not_what_is_published_is_removed(published: Path, tmp_path: Path) -> None:
    """Another digest or another length: one line with both values, and nothing is left under the file's name."""
    with serving(files(published)) as server:
        url = f"{server.address}/a.bz2"
        with pytest.raises(
            MetaclipError, match=f"has the sha1 {hashlib.sha1(DATA).hexdigest()}, published is {'0' * 40}"
        ):
            fetch(PublishedFile(url, "a.bz2", None, "0" * 40), tmp_path / "out" / "a.bz2", retry=QUICK)
        with pytest.raises(MetaclipError, match="has 300,000 bytes, 17 are published"):
            fetch(PublishedFile(url, "a.bz2", 17), tmp_path / "out" / "a.bz2", retry=QUICK)
        assert left(tmp_path / "out") == []
        (tmp_path / "out" / "a.bz2").write_bytes(b"short")
        with pytest.raises(MetaclipError, match="has 5 bytes, .* has 300,000; remove it"):
            fetch(PublishedFile(url, "a.bz2", 300_000), tmp_path / "out" / "a.bz2", retry=QUICK)


def test_a_part_that_was_not_asked_for_is_not_taken(published: Path, tmp_path: Path) -> None:
    """A server that gives another range than was asked for, or does not say which, is not believed."""

    def answer(handler: Any, request: Asked) -> None:
        if "Range" not in request.headers:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(DATA)))
            handler.send_header("ETag", '"x"')
            handler.end_headers()
            handler.wfile.write(DATA[:1000])
            handler.hang_up()
        elif len(server.asked) % 2:
            handler.give(DATA[500:], 206, Content_Range=f"bytes 500-{len(DATA) - 1}/{len(DATA)}")
        else:
            handler.give(DATA[1000:], 206)

    with (
        serving(answer) as server,
        pytest.raises(MetaclipError, match="began at 500|without its position"),
    ):
        fetch(PublishedFile(f"{server.address}/a.bz2", "a.bz2"), tmp_path / "a.bz2", retry=QUICK)
    assert (tmp_path / ".a.bz2.part").read_bytes() == DATA[:1000]


def busy(published: Path, times: int, code: int, **headers: str) -> Any:
    """A server that is busy some times, then answers."""
    usual, left_over = files(published), [times]

    def answer(handler: Any, request: Asked) -> None:
        left_over[0] -= 1
        if left_over[0] >= 0:
            handler.give(b"later", code, **headers)
        else:
            usual(handler, request)

    return answer


def test_a_busy_server_is_asked_again_later(published: Path, tmp_path: Path) -> None:
    """After waits that double, or as long as the server says, and no more often than patience allows."""
    for number, (code, headers, least) in enumerate([(503, {}, 0.05), (429, {"Retry_After": "0"}, 0.0)]):
        with serving(busy(published, 3, code, **headers)) as server:
            retry = RetryPolicy(tries=4, first_wait=0.05, longest_wait=0.2, timeout=10)
            fetch(PublishedFile(f"{server.address}/a.bz2", "a.bz2"), tmp_path / f"{number}", retry=retry)
            waits = [b.at - a.at for a, b in zip(server.asked, server.asked[1:], strict=False)]
            assert len(waits) == 3
            assert all(wait >= least * 2**i for i, wait in enumerate(waits))
    with (
        serving(busy(published, 4, 503)) as server,
        pytest.raises(MetaclipError, match="4 tries in a row failed"),
    ):
        fetch(PublishedFile(f"{server.address}/a.bz2", "a.bz2"), tmp_path / "x", retry=QUICK)
    assert len(server.asked) == 4


def test_a_server_that_refuses_is_not_asked_again(published: Path, tmp_path: Path) -> None:
    """What will not change by asking again is told at once."""
    with (
        serving(files(published)) as server,
        pytest.raises(MetaclipError, match="the server answers 404 Not Found; check") as caught,
    ):
        fetch(PublishedFile(f"{server.address}/b.bz2", "b.bz2"), tmp_path / "b.bz2", retry=QUICK)
    assert len(server.asked) == 1
    assert "\n" not in str(caught.value)


def test_offline_is_said_clearly(tmp_path: Path) -> None:
    """No server there, no such host: one line that asks whether this machine is offline, and where to put the file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/a.bz2", "http://no-such-host.invalid/a.bz2"):
        with pytest.raises(
            MetaclipError,
            match=r"cannot be fetched: 4 tries in a row failed .* is this machine offline\?",
        ) as caught:
            fetch(PublishedFile(url, "a.bz2"), tmp_path / "a.bz2", retry=QUICK)
        assert f"put the file at {tmp_path / 'a.bz2'}" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(MetaclipError, match="no address of the form https://"):
        fetch(PublishedFile("file:///etc/passwd", "a.bz2"), tmp_path / "a.bz2", retry=QUICK)


def test_two_processes_do_not_write_one_file(published: Path, tmp_path: Path) -> None:
    """Who comes second is told."""
    import fcntl

    with serving(files(published)) as server, (tmp_path / ".a.bz2.part").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(MetaclipError, match="is being fetched by another process"):
            fetch(PublishedFile(f"{server.address}/a.bz2", "a.bz2"), tmp_path / "a.bz2", retry=QUICK)
