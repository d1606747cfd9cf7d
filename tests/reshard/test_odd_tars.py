"""Tars that other readers misread (order, links, ends, keys): curate, reshard and the stream refuse or count the same."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from metaclip import MatchSettings, Run, curate
from metaclip.errors import BrokenInput, MetaclipError
from metaclip.pool.files import find_files
from metaclip.reshard.index import FLAWS, index_at_once, index_by_walking, make_index
from metaclip.reshard.tar_headers import find_headers
from tests.reshard.test_reshard import reshard, samples_of
from tests.training.shards import Content, sample, uid, write_shards, write_tar

Members = list[tuple[str, Content]]


def curated(pool: Path, out: Path) -> Run:
    return curate(pool, ["dog"], out=out, t=1e9, settings=MatchSettings())


def kept(pool: Path, out: Path) -> list[str]:
    return list(curated(pool, out).curated["uid"].to_pylist())


def by_suffix(numbers: Sequence[int]) -> Members:
    """Return the members of samples, one suffix after the other, as `tar --sort=inode` may write them."""
    return [file for row in zip(*map(sample, numbers), strict=True) for file in row]


def one_apart(numbers: Sequence[int]) -> Members:
    """Return the members of samples, the last one of the first sample at the end."""
    files = [file for n in numbers for file in sample(n)]
    return [*files[:2], *files[3:], files[2]]


@pytest.mark.parametrize("arrange", [by_suffix, one_apart])
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_members_that_are_not_adjacent(
    arrange: Callable[[Sequence[int]], Members], suffix: str, tmp_path: Path
) -> None:
    """A tar in which the members of a sample are apart is refused by every reader, with the sample and what to do."""
    mode = "w:gz" if suffix.endswith("gz") else "w"
    path = write_tar(tmp_path / "tars" / f"x{suffix}", arrange(range(10)), mode=mode)
    says = r"the members of sample 000000000 are not adjacent, another one is at byte \d+; make the tar with --sort=name"
    with pytest.raises(BrokenInput, match=says):
        curated(path, tmp_path / "run")
    with pytest.raises(MetaclipError, match=says):
        reshard(path, [uid(n) for n in range(10)], tmp_path / "out")
    with pytest.raises(BrokenInput, match=says):
        make_index(find_files(path)[0])


def test_the_tars_around_one_that_is_refused(tmp_path: Path) -> None:
    """A tar that is refused costs itself and no other, if that is allowed."""
    from metaclip import RunOptions

    write_shards(tmp_path / "tars", [3])
    write_tar(tmp_path / "tars" / "99999.tar", by_suffix([5, 6]))
    made = reshard(
        tmp_path / "tars",
        [uid(n) for n in range(9)],
        tmp_path / "out",
        options=RunOptions(allow_lost=True),
    )
    assert [len(members) for _, members in samples_of(tmp_path / "out")] == [3, 3, 3]
    assert [lost["name"] for lost in made.record["lost"]] == ["99999.tar"]


def renamed(number: int, key: str) -> Members:
    """Return the members of a sample under another key."""
    return [(f"{key}.{name.partition('.')[2]}", content) for name, content in sample(number)]


def test_a_key_that_comes_again_in_a_tar(tmp_path: Path) -> None:
    """Whole samples of one key, at once or behind others, are samples of their own."""
    files = [*renamed(0, "a"), *renamed(1, "a"), *renamed(2, "b"), *renamed(3, "a")]
    path = write_tar(tmp_path / "tars" / "x.tar", files)
    uids = [uid(n) for n in range(4)]
    assert kept(path, tmp_path / "run") == uids
    made = reshard(path, uids, tmp_path / "out")
    assert made.record["written"] == 4
    assert [key for key, _ in samples_of(tmp_path / "out")] == [f"{uid}-0" for uid in uids]
    with path.open("rb") as tar:
        assert find_headers(tar) is None


def test_a_member_that_comes_twice_within_a_sample(tmp_path: Path) -> None:
    """A second .txt between the members of a sample would break it in two: the tar is refused."""
    path = write_tar(
        tmp_path / "x.tar", [("1.jpg", b"x"), ("1.txt", "a"), ("1.txt", "b"), ("1.json", {})]
    )
    with pytest.raises(BrokenInput, match="sample 1 are not adjacent"):
        curated(path, tmp_path / "run")


def test_a_key_that_occurs_in_two_tars(tmp_path: Path) -> None:
    """Keys are those of their tar: no sample is dropped or mixed up between tars."""
    for tar, numbers in enumerate(([0, 1, 2], [3, 4, 5])):
        files = [file for place, n in enumerate(numbers) for file in renamed(n, f"{place:05d}")]
        write_tar(tmp_path / "tars" / f"{tar}.tar", files)
    uids = [uid(n) for n in range(6)]
    assert kept(tmp_path / "tars", tmp_path / "run") == uids
    reshard(tmp_path / "tars", uids, tmp_path / "out")
    texts = {key: members["txt"].decode() for key, members in samples_of(tmp_path / "out")}
    assert texts == {f"{uid(n)}-0": f"a photo of dog {n}" for n in range(6)}


@pytest.mark.parametrize("zeros", [512, 1024, 10240])
def test_two_tars_in_one_file(zeros: int, tmp_path: Path) -> None:
    """What follows the zeros that close a tar is read on: another tar is no loss."""
    one, two = (path.read_bytes().rstrip(b"\0") for path in write_shards(tmp_path / "parts", [3, 2]))
    path = tmp_path / "tars" / "x.tar"
    path.parent.mkdir()
    path.write_bytes(b"".join(part + bytes(-len(part) % 512 + zeros) for part in (one, two)))
    uids = [uid(n) for n in range(5)]
    assert kept(path, tmp_path / "run") == uids
    reshard(path, uids, tmp_path / "out")
    assert [len(members) for _, members in samples_of(tmp_path / "out")] == [3] * 5


def test_what_follows_a_tar_and_is_none(tmp_path: Path) -> None:
    """Other bytes behind the zeros are damage, with their place."""
    path = write_shards(tmp_path, [2])[0]
    with path.open("ab") as file:
        file.write(b"x" * 600)
    with pytest.raises(BrokenInput, match=r"there is no tar header at byte \d+"):
        make_index(find_files(path)[0])
    with pytest.raises(BrokenInput, match=r"there is no tar header at byte \d+"):
        curated(path, tmp_path / "run")


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
@pytest.mark.parametrize("linked", ["jpg", "txt", "json"])
def test_a_sample_with_a_link(kind: bytes, linked: str, tmp_path: Path) -> None:
    """A sample with a link among its members is malformed, counted and never written in part; the others are whole."""
    path = tmp_path / "tars" / "x.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for n in range(3):
            for name, content in sample(n):
                info = tarfile.TarInfo(name)
                if n == 1 and name.endswith(linked):
                    info.type, info.linkname = kind, f"{0:09d}.{linked}"
                    tar.addfile(info)
                    continue
                write_tar(tmp_path / "one.tar", [(name, content)])
                with tarfile.open(tmp_path / "one.tar") as one:
                    member = one.next()
                    assert member is not None
                    data = one.extractfile(member)
                    assert data is not None
                    info.size = member.size
                    tar.addfile(info, io.BytesIO(data.read()))
    run = curated(path, tmp_path / "run")
    assert run.curated["uid"].to_pylist() == [uid(0), uid(2)]
    assert run.account["funnel"]["malformed_row"] == 1
    made = reshard(path, [uid(n) for n in range(3)], tmp_path / "out")
    assert made.funnel == {"samples": 3, "malformed_json": 1, "not_in_subset": 0, "picked": 2}
    assert [len(members) for _, members in samples_of(tmp_path / "out")] == [3, 3]
    index = make_index(find_files(path)[0])
    assert [FLAWS[flaw] for flaw in index.flaw] == ["", "malformed_json", ""]


def test_at_once_only_what_the_walk_reads_alike(tmp_path: Path) -> None:
    """Tars whose keys come again, or behind whose end more follows, are left to the walk; it knows the same samples."""
    files = [*renamed(0, "a"), *renamed(2, "b"), *renamed(3, "a")]
    path = write_tar(tmp_path / "x.tar", files)
    file = find_files(path)[0]
    with path.open("rb") as tar:
        from metaclip.reshard.index import USUAL_NAMES

        assert index_at_once(tar, file, USUAL_NAMES) is None
        assert len(index_by_walking(file, USUAL_NAMES)) == 3
