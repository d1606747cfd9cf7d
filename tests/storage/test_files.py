"""Files are whole or not there."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaclip.errors import MetaclipError
from metaclip.storage.files import (
    as_path,
    atomic_write,
    disk_errors,
    file_digest,
    read_bytes,
    read_json,
    read_lines,
    write_json,
)
from tests.processes import largest_file


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    """Inside the block there is only a temporary, after it only the file; folders on the way are made."""
    path = tmp_path / "a" / "file"
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "new"
    assert files_below(tmp_path) == ["a", "a/file"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    """Whatever escapes the block, the file that was there stays and the temporary goes."""
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert files_below(tmp_path) == ["file"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    """There is no file to put in place, and none appears."""
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "file"):
        pass
    assert files_below(tmp_path) == []


def _write_half_and_die(path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_leaves_only_a_temporary(tmp_path: Path) -> None:
    """Kill -9 inside the block: the old file stands, and what lies beside it is taken for no other file's."""
    path = tmp_path / "file"
    path.write_text("old")
    process = multiprocessing.get_context("fork").Process(target=_write_half_and_die, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert path.read_text() == "old"
    (left,) = set(files_below(tmp_path)) - {"file"}
    assert left.startswith(".file.")
    assert left.endswith(".tmp")
    as_path(tmp_path).remove_temporaries()
    assert files_below(tmp_path) == ["file"]


def test_temporaries_go_at_any_depth_and_nothing_else(tmp_path: Path) -> None:
    """Temporary files and folders are removed below hidden folders too; a name that only looks alike stays."""
    for name in ("a.tmp", ".hidden", ".state/stage/000.json", "matched/.x.parquet"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    stay = files_below(tmp_path)
    as_path(tmp_path / ".state" / "stage" / "000.json").temporary().touch()
    gone = as_path(tmp_path / ".state" / "stage").temporary()
    (gone / "in").mkdir(parents=True)
    (gone / "in" / ".000.json.0.tmp").touch()
    as_path(tmp_path).remove_temporaries()
    assert files_below(tmp_path) == stay


def test_no_two_temporary_names_are_equal(tmp_path: Path) -> None:
    """Two processes that write one file, on one machine or on two with equal pids, do not meet in its temporary."""
    assert len({as_path(tmp_path / "file").temporary() for _ in range(1000)}) == 1000


def test_remove_takes_anything(tmp_path: Path) -> None:
    """A file, a folder with what is in it, a link but not what it points to, and nothing at all."""
    (tmp_path / "folder" / "in").mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name in ("file", "link", "nothing"):
        as_path(tmp_path / name).remove()
    assert files_below(tmp_path) == ["folder", "folder/in"]
    as_path(tmp_path / "folder").remove()
    assert files_below(tmp_path) == []


def test_json_comes_back(tmp_path: Path) -> None:
    """What is written is read, and equal values make equal bytes."""
    path, other = tmp_path / "a.json", tmp_path / "b.json"
    write_json(path, {"b": [1, None, 0.1], "a": "猫 \u2028"})
    write_json(other, {"a": "猫 \u2028", "b": [1, None, 0.1]})
    assert read_json(path) == {"b": [1, None, 0.1], "a": "猫 \u2028"}
    assert path.read_bytes() == other.read_bytes()


def test_json_that_has_no_value_is_not_written(tmp_path: Path) -> None:
    """NaN is no JSON: the file that was there stays."""
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize("content", [None, b"", b"\0" * 100, b'{"a": 1', b"[1]", b"\xff\xfe", b'"a"'])
def test_damaged_json_is_as_good_as_none(tmp_path: Path, content: bytes | None) -> None:
    """What a power cut leaves of a file, and what was never ours, is not there."""
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") is None


def test_json_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    """A folder where a file should be is named."""
    (tmp_path / "a.json").mkdir()
    with pytest.raises(MetaclipError, match=r"a\.json cannot be read"):
        read_json(tmp_path / "a.json")


def test_digest_is_that_of_sha256sum(tmp_path: Path) -> None:
    """A file of several blocks has the sha256 of its bytes."""
    data = bytes(range(256)) * 40_000
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        assert file_digest(file) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("name", "message"), [("nothing", "the list: there is no file"), (".", "the list: .* cannot be read")]
)
def test_read_bytes_says_what_was_wanted(tmp_path: Path, name: str, message: str) -> None:
    """A file that is missing or is none is named with its role."""
    with pytest.raises(MetaclipError, match=message):
        read_bytes(str(tmp_path / name), "the list")


def test_read_bytes_reads(tmp_path: Path) -> None:
    """A local file and one that fsspec opens."""
    (tmp_path / "file").write_bytes(b"\0x")
    assert read_bytes(str(tmp_path / "file"), "") == read_bytes(f"file://{tmp_path}/file", "") == b"\0x"


def test_lines_are_read_without_blanks(tmp_path: Path) -> None:
    """Lines are stripped, blank ones and a byte order mark are dropped; no line at all is an error unless it is expected."""
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbf dog \r\n\n\tcaf\xc3\xa9\nlast")
    assert read_lines(str(path), "words") == ["dog", "café", "last"]
    path.write_bytes(b" \n")
    assert read_lines(str(path), "words", may_be_empty=True) == []
    with pytest.raises(MetaclipError, match=r"list\.txt names no words; give one a line"):
        read_lines(str(path), "words")
    path.write_bytes(b"dog\ncaf\xe9\n")
    with pytest.raises(MetaclipError, match=r"list\.txt, line 2: not valid UTF-8"):
        read_lines(str(path), "words")
    with pytest.raises(MetaclipError, match=r"the words: there is no file .*none"):
        read_lines(str(tmp_path / "none"), "words")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: np.zeros(10_000).tofile(path),  # the error of a short write of numpy has no errno
        lambda path: pq.write_table(pa.table({"x": np.random.default_rng(0).random(10_000)}), path),
        lambda path: path.write_bytes(bytes(80_000)),
    ],
    ids=["numpy", "parquet", "bytes"],
)
def test_no_room_is_said_whoever_writes(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    """A file that cannot grow is one line with the next step, and no unfinished file is left."""
    one_line = r"no room left \([^\n]*\); free some and run the same command again$"
    with largest_file(10_000), pytest.raises(MetaclipError, match=one_line):
        with disk_errors(tmp_path), atomic_write(tmp_path / "file.npy") as temporary:
            write(temporary)
    assert list(tmp_path.iterdir()) == []
