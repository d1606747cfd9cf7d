"""A path in a store does what a path here does, as far as a run folder asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metaclip.curate import settings
from metaclip.errors import MetaclipError, StoreError
from metaclip.stage.folder import Folder
from metaclip.stage.stage import Stage, StageSpec
from metaclip.storage import local
from metaclip.storage.files import (
    as_path,
    atomic_write,
    is_inside,
    is_remote,
    local_copies,
    local_copy,
    read_all,
    read_bytes,
    read_json,
    relative_path,
    resolve_path,
    write_json,
)
from metaclip.storage.local import scratch
from metaclip.storage.object_store import refuse_secrets, without_secrets
from metaclip.storage.remote import RemotePath

MATCH = StageSpec("match", settings.MATCH.outputs, settings.MATCH.partials)
"""The stage's files, with any record."""


@pytest.fixture
def store(tmp_path: Path) -> RemotePath:
    """An empty folder in fsspec's store in memory."""
    found = as_path(f"memory://{tmp_path.name}")
    assert isinstance(found, RemotePath)
    return found


@pytest.fixture(autouse=True)
def _own_scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scratch folder that no other process uses."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("scratch")))


def left_in_scratch() -> list[str]:
    return os.listdir(local._scratch_base())


# --- names


def test_an_address_is_a_path_in_a_store_and_nothing_else_is() -> None:
    """Anything with a scheme but file:// is remote; slashes too many mean nothing."""
    for path in ("a/b", "/a/b", Path("a"), "file:///a/b"):
        assert not is_remote(path)
        assert isinstance(as_path(path), Path)
    for name in ("file:///a%20b/%5B1%5D", "FILE:///a b/[1]", "file://localhost/a%20b/[1]"):
        assert not is_remote(name)
        assert as_path(name) == Path("/a b/[1]")
    assert as_path("~/run") == Path.home() / "run"
    assert as_path("~nobody-has-this-name/run") == Path("~nobody-has-this-name/run")
    assert str(as_path("S3://Bucket/Run")) == "s3://Bucket/Run"
    assert str(as_path("https://h/web/http://x.org/a.csv")) == "https://h/web/http://x.org/a.csv"
    assert str(as_path("s3://b//run/")) == "s3://b/run"
    assert as_path(as_path("s3://b/run")) == as_path("s3://b/run")


def test_names_are_those_of_pathlib() -> None:
    """What joins, cuts and compares gives the same as pathlib below a common root."""
    one, other = as_path("s3://b/x/y"), Path("/b/x/y")
    for name in ("a.parquet", "a/b.json", "../z", "."):
        assert str(one / name).removeprefix("s3:/") == os.path.normpath(other / name)
    path, like = one / "000.counts.npy", other / "000.counts.npy"
    assert (path.name, path.stem) == (like.name, like.stem)
    assert str(path.parent).removeprefix("s3:/") == str(like.parent)
    assert str(path.with_name("c")).removeprefix("s3:/") == str(like.with_name("c"))
    assert str(path.relative_to(as_path("s3://b"))) == str(like.relative_to("/b"))
    assert sorted([one / "b", one / "a"]) == [one / "a", one / "b"]


@pytest.mark.parametrize(
    ("folder", "other", "way"),
    [
        ("s3://b/run", "s3://b/other/run", "../other/run"),
        ("s3://b/run", "s3://c/run", "../../c/run"),
        ("s3://b/run", "/here/run", "/here/run"),
        ("/here/run", "s3://b/run", "s3://b/run"),
        ("s3://b/run", "gs://b/run", "gs://b/run"),
        ("/a/run", "/a/other", "../other"),
    ],
)
def test_the_way_to_another_folder_leads_there(folder: str, other: str, way: str) -> None:
    """What one folder says of another leads there again, on one machine, in one store, or across."""
    assert relative_path(as_path(folder), as_path(other)) == way
    found = resolve_path(as_path(folder), way)
    assert (found.resolve() if isinstance(found, Path) else found) == as_path(other)


def test_what_lies_in_what() -> None:
    """By whole names, and never across a store and this machine."""
    assert is_inside(as_path("s3://b/run/x"), as_path("s3://b/run"))
    assert is_inside(as_path("s3://b/run"), as_path("s3://b/run"))
    assert not is_inside(as_path("s3://b/running"), as_path("s3://b/run"))
    assert not is_inside(as_path("s3://b/run"), as_path("/b/run"))
    assert not is_inside(as_path("/b/run"), as_path("s3://b/run"))
    assert is_inside(as_path("/b/run"), as_path("/b"))


def test_what_only_a_file_here_can_do_raises() -> None:
    """A path in a store handed to the system is an error, not a folder of the name s3:."""
    with pytest.raises(TypeError):
        os.stat(as_path("s3://b/run"))


# --- secrets


@pytest.mark.parametrize(
    "url",
    [
        "https://user:password@host/pool.parquet",
        "s3://AKIA123:secret@bucket/pool",
        "https://bucket.example.org/x.parquet?X-Amz-Algorithm=A&X-Amz-Signature=secret",
        "https://account.example.org/x.csv?sv=2024&sig=secret",
    ],
)
def test_an_address_with_a_secret_is_refused(url: str) -> None:
    """It would stand in manifests; and the message does not show it either."""
    for read in (as_path, refuse_secrets, lambda url: read_bytes(url, "the list")):
        with pytest.raises(MetaclipError, match="holds a password or a signature") as caught:
            read(url)
        assert "secret" not in str(caught.value)
        assert "password@" not in str(caught.value)
    assert "secret" not in without_secrets(f"cannot reach {url} now")
    assert refuse_secrets("https://h/x.csv?page=2") == "https://h/x.csv?page=2"


# --- reading and writing


def test_a_file_is_put_when_the_block_ends(store: RemotePath) -> None:
    """Inside the block nothing is there, after it the file, and nothing is left here."""
    path = store / "a" / "file"
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert (path.is_dir(), path.size()) == (False, 3)
    assert (path.parent.is_dir(), path.parent.size()) == (True, None)
    assert left_in_scratch() == []


def test_an_exception_puts_nothing(store: RemotePath) -> None:
    """What escapes the block leaves the object that was there, and nothing here; so does a block that writes nothing."""
    (store / "file").put(b"old")

    def write_half() -> None:
        with atomic_write(store / "file") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    with pytest.raises(FileNotFoundError), atomic_write(store / "file"):
        pass
    assert (store / "file").read_bytes() == b"old"
    assert left_in_scratch() == []


def test_files_are_here_for_a_block(store: RemotePath, tmp_path: Path) -> None:
    """Files of this machine are themselves, those of a store are fetched, in order; after the block they are gone."""
    here = tmp_path / "0.npy"
    here.write_bytes(b"0")
    for i in range(1, 40):
        (store / f"{i % 2}/{i}.npy").put(b"%d" % i)
    paths = [here, *((store / f"{i % 2}/{i}.npy") for i in range(1, 40))]
    with local_copies(paths) as found:
        assert [path.read_bytes() for path in found] == [b"%d" % i for i in range(40)]
        assert found[0] == here
    assert not any(path.exists() for path in found[1:])
    with local_copy(here) as same:
        assert same == here
    with pytest.raises(FileNotFoundError), local_copy(store / "nothing"):
        pass
    assert left_in_scratch() == []


def test_what_a_killed_process_left_here_goes(store: RemotePath) -> None:
    """The next run in a store removes the scratch folders of the dead; those of the living, and new ones, stay."""
    with scratch() as alive:
        base = local._scratch_base()
        for name, age in (("dead", 3600), ("new", 0)):
            (base / name).mkdir()
            (base / f"{name}.lock").touch()
            os.utime(base / f"{name}.lock", times=(time.time() - age,) * 2)
        os.utime(alive.with_suffix(".lock"), times=(1, 1))
        store.remove_temporaries()
        assert set(left_in_scratch()) == {alive.name, f"{alive.name}.lock", "new", "new.lock"}


def test_many_are_read_listed_and_removed_at_once(store: RemotePath) -> None:
    """Those that are gone are left out; a listing has all below, with sizes; removing removes all and none is fine."""
    for i in range(100):
        (store / f"deep/{i}.json").put(b"x" * i)
    found = read_all([store / f"deep/{i}.json" for i in range(120)])
    assert {path.name: len(data) for path, data in found.items()} == {f"{i}.json": i for i in range(100)}
    assert store.sizes() == {f"deep/{i}.json": i for i in range(100)}
    assert len((store / "deep").glob("1?.json")) == 10
    assert [path.name for path in store.iterdir()] == ["deep"]
    store.remove_files([store / f"deep/{i}.json" for i in range(50, 120)])
    assert len(store.sizes()) == 50
    (store / "deep").remove()
    (store / "deep").remove()
    assert store.sizes() == {}
    assert not store.exists()
    assert (store / "deep").glob("*") == []


def test_json_comes_back(store: RemotePath) -> None:
    """What is written is read; none, and what is not JSON, is as good as none."""
    write_json(store / "a.json", {"b": [1, None], "a": "猫"})
    assert read_json(store / "a.json") == {"a": "猫", "b": [1, None]}
    assert read_json(store / "b.json") is None
    (store / "a.json").put(b'{"a')
    assert read_json(store / "a.json") is None


# --- stages


def test_a_stage_in_a_store_keeps_the_contract(store: RemotePath) -> None:
    """Markers prove shards as long as their files stand; a process that begins later sees what was done."""
    folder = Folder(store)
    stage = Stage(folder, MATCH)
    stage.begin({"list": "a"})
    for name in "abc":
        with atomic_write(folder / "matched" / f"{name}.parquet") as path:
            path.write_text(name)
        stage.mark(name, {"rows": 1}, [folder / "matched" / f"{name}.parquet"])
    stage.mark_lost("d", error="broken")
    assert stage.marker("a") is not None
    assert stage.finished_or_lost() >= {"a", "b", "c", "d"}
    (folder / "matched" / "b.parquet").remove()
    (folder / "matched" / "c.parquet").put(b"longer")
    later = Stage(Folder(store), MATCH)
    assert not later.begin({"list": "a"})
    assert {name: later.marker(name) is not None for name in "abcd"} == {
        "a": True,
        "b": False,
        "c": False,
        "d": False,
    }
    assert later.lost() == {"d": {"error": "broken"}}
    later.mark("d", {"rows": 2})
    assert later.lost() == {}
    made = later.finish({"rows": 3})
    assert made["files"] == {"matched/a.parquet": 1, "matched/c.parquet": 6}
    assert Stage(Folder(store), MATCH).record == made
    with pytest.raises(MetaclipError, match=f'{store} holds another run: list: "a" -> "b"'):
        Stage(Folder(store), MATCH).begin({"list": "b"})
    assert Stage(Folder(store), MATCH).begin({"list": "b"}, overwrite=True)
    assert sorted(store.sizes()) == [".state/match/fingerprint.json", "manifest.json"]


def test_what_this_process_changes_is_seen(store: RemotePath) -> None:
    """A marker taken back, strays and partials removed: the look that was taken at the beginning follows."""
    folder = Folder(store)
    stage = Stage(folder, MATCH)
    stage.begin({})
    for name in "ab":
        (folder / f"matched/{name}.parquet").put(b"x")
        (stage.path / f"{name}.counts.npy").put(b"y")
        stage.mark(name, {}, [folder / f"matched/{name}.parquet", *stage.partials(name)])
    stage.unmark("a")
    assert stage.marker("a") is None
    stage.remove_strays("matched", {"b"})
    assert [path.name for path in (folder / "matched").glob("*")] == ["b.parquet"]
    stage.finish({})
    stage.remove_partials()
    assert [path.name for path in stage.path.glob("*")] == ["b.json", "fingerprint.json"]
    assert (
        stage.marker("b") is None
    )  # as in a folder here: until the stage is begun again, its partials prove it
    stage.begin({})
    assert stage.marker("b") is not None


# --- what is not there


def test_without_the_extra_the_command_that_installs_it_is_named(tmp_path: Path) -> None:
    """A path on S3 without s3fs is one line, as input and as output; nothing is imported for paths here."""
    pool = tmp_path / "pool.jsonl"
    pool.write_text('{"text": "a dog"}\n')
    (tmp_path / "list.txt").write_text("dog\n")
    code = "import sys; sys.modules['s3fs'] = None; from metaclip.cli import main; main(sys.argv[1:])"
    for paths in (["s3://b/pool", "--out", tmp_path / "run"], [pool, "--out", "s3://b/run"]):
        command = [sys.executable, "-c", code, "match", *paths, "--metadata", tmp_path / "list.txt"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=100)
        assert done.returncode == 2, done.stderr
        assert "pip install -e '.[s3]'" in done.stderr
        assert done.stderr.count("\n") == 1
    code = "import sys; sys.modules['fsspec'] = sys.modules['s3fs'] = None; from metaclip.cli import main; main(sys.argv[1:])"
    command = [
        sys.executable,
        "-c",
        code,
        "match",
        pool,
        "--out",
        tmp_path / "run",
        "--metadata",
        tmp_path / "list.txt",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_an_unknown_scheme_is_a_clear_line() -> None:
    """One line that names the address."""
    with pytest.raises(StoreError, match=r"nosuch://x/y .*Protocol not known"):
        as_path("nosuch://x/y").read_bytes()
