"""Samples under new names: overwritten where that is possible or written member by member, the bytes are the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaclip.pool.files import find_files
from metaclip.pool.tar_format import END, ForwardReader, header
from metaclip.reshard import copy_samples as copying
from metaclip.reshard.copy_samples import NOT_SIMPLE, SampleCopies, copy_samples, make_headers
from metaclip.reshard.index import make_index
from tests.training.shards import read_tar, sample, uid, write_tar


@given(
    uids=st.lists(st.integers(0, (1 << 128) - 1), min_size=1, max_size=5),
    size=st.integers(0, 1 << 20) | st.integers(8**11 - 9, 8**11 - 5),
    suffix=st.sampled_from([b"jpg", b"webp", b"json"]),
    number=st.integers(0, 9),
)
def test_headers_are_those_made_one_by_one(
    uids: list[int], size: int, suffix: bytes, number: int
) -> None:
    """Headers made by array operations have the bytes of the one that is made by itself."""
    halves = np.array([divmod(n, 1 << 64) for n in uids], np.uint64)
    sizes = np.arange(len(uids)) + size
    made = make_headers(halves, np.full(len(uids), number), suffix, sizes)
    assert [row.tobytes() for row in made] == [
        header(b"%032x-%d.%b" % (n, number, suffix), int(s)) for n, s in zip(uids, sizes, strict=True)
    ]


@settings(max_examples=40)
@given(chosen=st.lists(st.booleans(), min_size=20, max_size=20), window=st.integers(2000, 30_000))
def test_both_ways_give_the_same_bytes(
    chosen: list[bool], window: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever samples are taken, in windows of any size: overwriting and renaming agree, and `tarfile` reads the result."""
    path = write_tar(
        tmp_path_factory.mktemp("tar") / "x.tar", [file for n in range(20) for file in sample(n)]
    )
    index = make_index(find_files(path)[0])
    rows = np.flatnonzero(chosen)
    members = np.stack([index.image, index.txt, index.json], axis=1)[rows]
    copies = SampleCopies(
        index.uids[rows], np.column_stack([index.begin[rows], index.end[rows]]), index.kind[rows].astype(np.uint64), members,
        np.arange(len(rows)) % 10, np.ones(len(rows), np.int64),
    )  # fmt: skip
    slow = dataclasses.replace(copies, kind=np.full(len(rows), NOT_SIMPLE, np.uint64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying, "_WINDOW", window)
        results = []
        for one in (copies, slow):
            counts = {"samples": 0, "members": 0, "odd_suffix": 0}
            with path.open("rb") as file:
                results.append(
                    (
                        b"".join(
                            bytes(block) for block in copy_samples(ForwardReader(file), one, counts)
                        ),
                        counts,
                    )
                )
    assert results[0] == results[1]
    assert results[0][1] == {"samples": len(rows), "members": 3 * len(rows), "odd_suffix": 0}
    out = Path(path.with_name("out.tar"))
    out.write_bytes(results[0][0] + END)
    names = {f"{n:09d}": f"{uid(n)}-{place % 10}" for place, n in enumerate(rows.tolist())}
    assert read_tar(out) == [
        (f"{names[name[:9]]}{name[9:]}", data) for name, data in read_tar(path) if name[:9] in names
    ]


def test_other_members_and_headers(tmp_path: Path) -> None:
    """A sample with further members, or long names, is written member by member, all of it."""
    import tarfile

    files = [
        *sample(0),
        ("d" * 120 + "/1.jpg", b"1"),
        ("d" * 120 + "/1.json", {"uid": uid(1)}),
        ("d" * 120 + "/1.txt", "a"),
        ("2.json", {"uid": uid(2)}),
        ("2.cls", b"7"),
    ]
    path = write_tar(tmp_path / "x.tar", files, tarfile.PAX_FORMAT)
    from tests.reshard.test_reshard import reshard

    made = reshard(path, [uid(n) for n in range(3)], tmp_path / "out")
    found = [name for name, _ in read_tar(made.path / "00000000.tar")]
    assert found == [
        f"{uid(n)}-0.{s}"
        for n, suffixes in (
            (0, ("jpg", "json", "txt")),
            (1, ("jpg", "json", "txt")),
            (2, ("json", "cls")),
        )
        for s in suffixes
    ]
