"""Pools and lists on web servers: with ranges or without, with lengths or in chunks, with good days and bad ones."""

from __future__ import annotations

import collections
import gzip
import json
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaclip import curate, plan
from metaclip.errors import BrokenInput, LostInputs, MetaclipError, StoreError
from metaclip.pool.columns import DroppedRows
from metaclip.pool.files import find_files
from metaclip.pool.shards import read_batches, schema_and_shards
from metaclip.stage.runner import RunOptions
from metaclip.storage import web
from metaclip.storage.files import as_path, read_lines
from metaclip.storage.object_store import file_system
from metaclip.storage.retries import RetryPolicy
from metaclip.storage.web import readable
from tests.http_servers import Asked, folder_pages, serving

ROOT = Path(__file__).parents[2]
TEXTS = [f"a photo of dog {i} " + "x" * 50 for i in range(400)]
SERVERS: dict[str, dict[str, bool]] = {
    "ranges": {},
    "no ranges": {"ranges": False},
    "chunks": {"ranges": False, "length": False},
    "folders without a slash": {"slash": False},
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no second between tries."""
    monkeypatch.setattr(web, "RETRY", RetryPolicy(tries=3, first_wait=0.001, timeout=10))


def write_pool(folder: Path, form: str) -> None:
    """Write a pool of two files, one of them in a folder below; names have characters that addresses encode."""
    (folder / "below [*]").mkdir(parents=True)
    for path, texts in (
        (folder / "a b#%20é?", TEXTS[:200]),
        (folder / "below [*]" / "猫+", TEXTS[200:]),
    ):
        if form == "parquet":
            pq.write_table(pa.table({"text": texts}), f"{path}.parquet", row_group_size=20)
        elif form == "tar":
            with tarfile.open(f"{path}.tar", "w") as tar:
                for i, text in enumerate(texts):
                    (folder / "txt").write_text(text)
                    tar.add(folder / "txt", f"{i:06d}.txt")
            (folder / "txt").unlink()
        else:
            lines = ["text", *texts] if form == "csv" else [json.dumps({"text": text}) for text in texts]
            data = "\n".join([*lines, ""]).encode()
            (path.parent / f"{path.name}.{form}").write_bytes(
                gzip.compress(data) if form.endswith("gz") else data
            )


def read_texts(pool: str) -> list[str]:
    return [
        text
        for file in find_files(pool)
        for shard in schema_and_shards(file)[1]
        for batch in read_batches(shard, ["text"], DroppedRows())
        for text in batch.column(0).to_pylist()
    ]


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl", "jsonl.gz", "tar"])
def test_a_pool_is_read_as_on_this_machine(tmp_path: Path, form: str, kind: str) -> None:
    """A folder, a file and a glob give the rows that the same files give here, whatever the server can do."""
    write_pool(tmp_path, form)
    with serving(folder_pages(tmp_path, **SERVERS[kind])) as server:
        assert read_texts(server.address) == TEXTS
        (first,) = (path.name for path in tmp_path.glob("a b*"))
        assert read_texts(f"{server.address}/{readable('a%20b%23%2520é%3F')}.{form}") == TEXTS[:200]
        assert read_texts(f"{server.address.upper()}/below*/*.{form}") == TEXTS[200:]
        assert read_texts(f"{server.address}/below%20%5B%2A%5d/") == TEXTS[200:]
        names = [file.name for file in find_files(server.address)]
        assert names == [f"a b%23%2520é%3F.{form}", f"below [*]/猫%2B.{form}"]
        assert first.startswith("a b#%20é?")


def answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def test_the_plain_server_of_python(tmp_path: Path) -> None:
    """`python -m http.server`, which has no ranges: the command curates the file and the folder like the local file."""
    (tmp_path / "pool").mkdir()
    shutil.copy(ROOT / "curation" / "toy_pool.jsonl", tmp_path / "pool" / "a b.jsonl")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "-d", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 30
        while not answers(port):
            assert time.monotonic() < end
            time.sleep(0.05)
        digests = set()
        address = f"http://127.0.0.1:{port}/pool"
        for number, pool in enumerate(
            [tmp_path / "pool", address, f"{address}/", f"{address}/a%20b.jsonl"]
        ):
            out = tmp_path / f"run{number}"
            arguments = [
                "curate",
                str(pool),
                "--metadata",
                str(ROOT / "metadata" / "toy.txt"),
                "--t",
                "20",
            ]
            done = subprocess.run(
                [sys.executable, "-m", "metaclip", *arguments, "--out", str(out)],
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            digests.add(pq.read_table(out / "curated").num_rows)
        assert len(digests) == 1
    finally:
        process.kill()
        process.wait()


def test_lists_are_read(tmp_path: Path) -> None:
    """A list of one item a line, from a server as from a file."""
    (tmp_path / "words.txt").write_text("dog\ncat\n")
    with serving(folder_pages(tmp_path, ranges=False)) as server:
        assert read_lines(f"{server.address}/words.txt", "words") == ["dog", "cat"]
        with pytest.raises(MetaclipError, match="there is no file .*none.txt"):
            read_lines(f"{server.address}/none.txt", "words")


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    """A server refuses a range of an empty file; it is a file of 0 bytes all the same."""
    (tmp_path / "a.bin").touch()
    for kind in SERVERS.values():
        with serving(folder_pages(tmp_path, **kind)) as server:
            assert as_path(f"{server.address}/a.bin").read_bytes() == b""
            assert as_path(f"{server.address}/a.bin").size() == 0


def test_blocks_are_read_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of many blocks is read from its end, its beginning and its middle, and no answer is longer than a block."""
    data = bytes(range(256)) * 400
    (tmp_path / "a.bin").write_bytes(data)
    monkeypatch.setattr(web, "_BLOCK", 5000)
    with serving(folder_pages(tmp_path)) as server, as_path(f"{server.address}/a.bin").open("rb") as file:
        for begin, length in ((len(data) - 8, 8), (0, 3), (50_000, 9999), (len(data), 5), (1, 20)):
            file.seek(begin)
            assert file.read(length) == data[begin : begin + length]
        assert len(server.asked) < 20


# --- bad days


def sick(folder: Path, answer: Callable[[Any, Asked, bytes], None]) -> Any:
    """Serve a folder whose files one function answers for."""
    whole = folder_pages(folder)

    def choose(handler: Any, request: Asked) -> None:
        path = folder / urllib.parse.unquote(request.path).lstrip("/")
        if path.is_file():
            answer(handler, request, path.read_bytes())
        else:
            whole(handler, request)

    return serving(choose)


def refuse(code: int) -> Callable[[Any, Asked, bytes], None]:
    return lambda handler, request, data: handler.give(b"", code)


def cut(handler: Any, request: Asked, data: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[:100])
    handler.hang_up()


def cut_chunks(handler: Any, request: Asked, data: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"64\r\n" + data[:50])
    handler.hang_up()


def states(length: int) -> Callable[[Any, Asked, bytes], None]:
    def answer(handler: Any, request: Asked, data: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.write(data)
        handler.hang_up()

    return answer


def states_range(total: str) -> Callable[[Any, Asked, bytes], None]:
    def answer(handler: Any, request: Asked, data: bytes) -> None:
        handler.give(data[:1], 206, Content_Range=f"bytes 0-0/{total}")

    return answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (refuse(404), "there is no pool at .*; check the path"),
        (refuse(403), "the server answers 403 Forbidden; check the address"),
        (
            refuse(500),
            r"3 tries in a row failed \(500 Internal Server Error\); the server is busy or broken: try again later",
        ),
        (cut, "the server states 10,000 bytes, and 100 or more arrived"),
        (cut_chunks, "3 tries in a row failed"),
        (states(20_000), "the server states 20,000 bytes, and 10,000 or more arrived"),
        (states(500), "the server states 500 bytes, and 501 or more arrived"),
        (states(10**30), "states a size of 10+ bytes, which cannot be"),
        (states_range("9" * 4000), "states a size of 9{40} bytes, which cannot be"),
        (states_range("20000"), "20,000 bytes were requested, and 1 arrived"),
    ],
    ids=[
        "404",
        "403",
        "500",
        "cut",
        "cut chunks",
        "too long",
        "too short",
        "absurd",
        "absurd range",
        "short range",
    ],
)
def test_a_bad_day_is_one_line(tmp_path: Path, answer: Callable[..., None], message: str) -> None:
    """Whatever a server does, the error is one line that names the address, and no traceback."""
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "dog"}\n' * 625)
    with (
        sick(tmp_path, answer) as server,
        pytest.raises((MetaclipError, BrokenInput), match=message) as caught,
    ):
        read_texts(f"{server.address}/a.jsonl")
    assert "\n" not in str(caught.value)
    assert f"{server.address}/a.jsonl" in str(caught.value)


@pytest.mark.parametrize("kind", SERVERS)
def test_a_passing_failure_is_tried_again(tmp_path: Path, kind: str) -> None:
    """Of three requests for a file one is refused and one ends too early; the rows are all there."""
    write_pool(tmp_path, "jsonl")
    whole, asked = folder_pages(tmp_path, **SERVERS[kind]), collections.Counter[str]()

    def answer(handler: Any, request: Asked) -> None:
        asked[request.path] += 1
        if not (tmp_path / urllib.parse.unquote(request.path).lstrip("/")).is_file():
            whole(handler, request)
        elif asked[request.path] % 3 == 1:
            handler.give(b"", 503)
        elif asked[request.path] % 3 == 2:
            handler.send_response(206 if SERVERS[kind].get("ranges", True) else 200)
            handler.send_header("Content-Length", "100")
            handler.end_headers()
            handler.hang_up()
        else:
            whole(handler, request)

    with serving(answer) as server:
        assert read_texts(server.address) == TEXTS


def test_a_file_that_breaks_off_is_lost(tmp_path: Path) -> None:
    """The other files are curated, and the command ends with the exit code for lost inputs."""
    write_pool(tmp_path / "pool", "jsonl")

    def answer(handler: Any, request: Asked, data: bytes) -> None:
        cut(handler, request, data) if "below" in request.path else handler.give(data)

    with (
        sick(tmp_path / "pool", answer) as server,
        pytest.raises(LostInputs, match="1 of 2 inputs") as lost,
    ):
        curate(server.address, ["dog"], t=20, out=tmp_path / "run")
    assert lost.value.exit_code == 3
    assert "and 100 or more arrived" in str(lost.value)


def test_a_plan_of_a_pool_of_unknown_size(tmp_path: Path) -> None:
    """Where no file has a stated length, the pool is estimated by the number of files."""
    write_pool(tmp_path, "jsonl")
    with serving(folder_pages(tmp_path, **SERVERS["chunks"])) as server:
        assert plan(server.address, ["dog"]).pairs == 400


def test_a_file_that_is_listed_and_missing_costs_itself(tmp_path: Path) -> None:
    """The others are read; the file is lost."""
    write_pool(tmp_path / "pool", "jsonl")
    (tmp_path / "pool" / "gone.jsonl").symlink_to("nowhere")
    with serving(folder_pages(tmp_path / "pool")) as server:
        run = curate(
            server.address, ["dog"], t=20, out=tmp_path / "run", options=RunOptions(allow_lost=True)
        )
        assert run.match["funnel"]["rows"] == 400
        assert [lost["name"] for lost in run.match["lost"]] == ["gone.jsonl"]


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two versions are never joined."""
    monkeypatch.setattr(web, "_BLOCK", 5000)
    (tmp_path / "a.bin").write_bytes(b"a" * 20_000)

    def answer(handler: Any, request: Asked) -> None:
        data = (tmp_path / "a.bin").read_bytes()
        tag = f'"{data[:1].decode()}"'
        if request.headers.get("If-Range", tag) == tag:
            begin, end = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
            handler.give(
                data[begin : end + 1], 206, ETag=tag, Content_Range=f"bytes {begin}-{end}/{len(data)}"
            )
        else:
            handler.give(data, ETag=tag)

    with serving(answer) as server, as_path(f"{server.address}/a.bin").open("rb") as file:
        assert file.read(10) == b"a" * 10
        (tmp_path / "a.bin").write_bytes(b"b" * 20_000)
        file.seek(15_000)
        with pytest.raises(StoreError, match="was changed while it was read"):
            file.read(10)


# --- pages that are not trusted


def linking(page: str | bytes) -> Callable[[Any, Asked], None]:
    def answer(handler: Any, request: Asked) -> None:
        if request.path == "/pool/":
            handler.give(page if isinstance(page, bytes) else page.encode(), Content_Type="text/html")
        elif request.path.endswith("ok.jsonl"):
            handler.give(b'{"text": "dog"}\n')
        else:
            handler.give(b"", 404)

    return answer


def test_links_elsewhere_do_not_count() -> None:
    """Of a page's links, those to another host, above, deeper, to a scheme or to nothing are ignored."""
    elsewhere = [
        "../secret.jsonl", "/etc/passwd.jsonl", "..%2Fup.jsonl", "%2e%2e/up.jsonl", "%2e%2e", ".", "", "#x", "?a=b.jsonl",
        "http://example.org/pool/x.jsonl", "//example.org/pool/x.jsonl", "file:///etc/x.jsonl", "http://[bad/x.jsonl",
        "deep/er.jsonl", "javascript:x.jsonl", "data:x.jsonl",
    ]  # fmt: skip
    page = "".join(f"<a href='{link}'>x</a>" for link in [*elsewhere, "ok.jsonl", "/pool/ok.jsonl"])
    with serving(linking(page)) as server:
        assert [file.name for file in find_files(f"{server.address}/pool/")] == ["ok.jsonl"]
        asked = {request.path for request in server.asked}
        assert asked == {"/pool", "/pool/", "/pool/ok.jsonl"}


def test_a_page_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too long a page, too many names, and folders without end are one line each."""
    monkeypatch.setattr(web, "_LONGEST_PAGE", 100_000)
    monkeypatch.setattr(web, "_MOST_NAMES", 1000)
    with serving(linking(b"<a " * 40_000)) as server:
        with pytest.raises(MetaclipError, match="has more than 100,000 bytes"):
            find_files(f"{server.address}/pool/")
    with serving(linking("".join(f"<a href='{i}/'>x</a>" for i in range(1001)))) as server:
        with pytest.raises(MetaclipError, match="lists more than 1,000 names"):
            find_files(f"{server.address}/pool/")

    def endless(handler: Any, request: Asked) -> None:
        handler.give(
            "".join(f"<a href='{i}/'>x</a>" for i in range(40)).encode(), Content_Type="text/html"
        )

    with (
        serving(linking(b"<a " * 30_000)) as server,
        pytest.raises(MetaclipError, match="there is no pool"),
    ):
        find_files(f"{server.address}/pool/")
    with serving(endless) as server, pytest.raises(MetaclipError, match="lists more than 1,000 names"):
        find_files(server.address)


def test_nothing_is_written_to_a_web_server(tmp_path: Path) -> None:
    """An address of a web server as --out is refused in one line."""
    with serving(folder_pages(tmp_path)) as server:
        with pytest.raises(
            MetaclipError, match="nothing can be written to a web server; choose a folder"
        ):
            curate(ROOT / "curation" / "toy_pool.jsonl", ["dog"], t=20, out=f"{server.address}/run")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("http://h/a%20b/%E7%8C%AB.csv", "http://h/a b/猫.csv"),
        ("http://h/a%2520b%23%3f%2B.csv", "http://h/a%2520b%23%3F%2B.csv"),
        ("http://h/%ff%2F..%2F.csv", "http://h/%ff%2F..%2F.csv"),
        ("http://h/x.csv?a=%20", "http://h/x.csv?a=%20"),
    ],
)
def test_addresses_are_shown_as_a_person_writes_them(written: str, read: str) -> None:
    """Only what would be ambiguous stays encoded; to do it twice changes nothing."""
    assert readable(written) == read
    assert readable(read) == read
    assert file_system(written)[1] == read


def test_pools_on_the_web_need_no_package(tmp_path: Path) -> None:
    """The core installation reads them: no module of another package is loaded."""
    (tmp_path / "a.jsonl").write_text('{"text": "a dog"}\n')
    code = (
        "import sys; sys.modules['aiohttp'] = sys.modules['requests'] = None\n"
        "import metaclip; print(metaclip.curate(sys.argv[1], ['dog'], t=20, out=sys.argv[2]).match['funnel']['rows'])"
    )
    with serving(folder_pages(tmp_path)) as server:
        done = subprocess.run(
            [sys.executable, "-c", code, f"{server.address}/a.jsonl", str(tmp_path / "run")],
            capture_output=True, text=True,
        )  # fmt: skip
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr
