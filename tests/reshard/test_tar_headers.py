"""Tars looked through at once: what is found is what the walk finds header by header; what is not plain is left to it."""

from __future__ import annotations

import dataclasses
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaclip.errors import MetaclipError
from metaclip.pool.files import find_files
from metaclip.pool.tar_format import header, padded
from metaclip.reshard import tar_headers
from metaclip.reshard.index import Index, Names, index_at_once, index_by_walking, make_index
from tests.training.shards import Content, jpeg, sample, uid, write_shards, write_tar


def quick(path: Path, names: Names | None = None) -> Index | None:
    """Make an index at once; None where the tar is left to the walk."""
    with path.open("rb") as tar:
        return index_at_once(tar, find_files(path)[0], names or Names())


def assert_same(one: Index, other: Index) -> None:
    for field in dataclasses.fields(Index):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert np.array_equal(a, b), field.name
        assert getattr(a, "dtype", None) == getattr(b, "dtype", None), field.name


def outcome(make: Callable[..., Index], path: Path, names: Names | None) -> Index | tuple[type, str]:
    """Return an index, or the error in its place."""
    try:
        return make(find_files(path)[0], names or Names())
    except MetaclipError as error:
        return type(error), str(error)


def assert_same_as_walked(path: Path, names: Names | None = None) -> Index | tuple[type, str]:
    expected, found = outcome(index_by_walking, path, names), outcome(make_index, path, names)
    if isinstance(expected, Index) and isinstance(found, Index):
        assert_same(found, expected)
    else:
        assert found == expected
    return expected


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("window", [512, 3 * 512, 1 << 20])
def test_tars_as_they_are_written(
    form: int, window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tar as img2dataset writes it is plain, whoever wrote it, and is found in windows of any size."""
    monkeypatch.setattr(tar_headers, "_WINDOW", window)
    path = write_tar(tmp_path / "x.tar", [file for n in range(50) for file in sample(n)], form)
    found = quick(path)
    assert found is not None
    assert len(found) == 50
    assert_same(found, index_by_walking(find_files(path)[0], Names()))


BITS = [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r", b"\t", b"\0", b"\xff", b"\xc3", b"\\ud800", b"\\x", b"1", b"-",
        b".", b"e", b"NaN", b"null", b" ", b"//", b"\xef\xbb\xbf", b'"uid":"0",', b'"uid": null,', b'"a":' + b"[" * 101 + b"]" * 101 + b","]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw fields as they are written, with some bytes put in, replaced or cut out."""
    row = {
        "uid": uid(draw(st.integers(0, 9))),
        "caption": 'a "é"',
        "width": 3.5,
        "exif": "{}",
        "more": [None, {"uid": 1}],
    }
    data = json.dumps(
        row, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 4]))
    ).encode()
    for _ in range(draw(st.integers(1, 3))):
        at, cut = draw(st.integers(0, len(data))), draw(st.sampled_from([0, 0, 1, 2, 5]))
        data = data[:at] + draw(st.sampled_from([b"", *BITS])) + data[at + cut :]
    return data


NAMES = st.sampled_from(["0", "1", "00000012", "a b", "é", "__x", "_y", "d/0", "", "n" * 82])
SUFFIX = st.sampled_from(
    ["jpg", "JPG", "png", "txt", "json", "cls", "seg.png", "longer.than.eight", "", "webp"]
)
ROW: st.SearchStrategy[Content] = st.one_of(
    st.builds(lambda n, **row: {"uid": uid(n), **row}, st.integers(0, 9), caption=st.sampled_from(["c", None, 5])),
    st.sampled_from([{}, {"uid": "7"}, {"uid": None}, {"uid": 3}, {"uid": uid(1).upper()}, "no json", "", '{"uid":', "[]", "{}\n{}"]),
    damaged(),
)  # fmt: skip
WHOLE = st.builds(
    lambda n, row, order, text: [
        {"jpg": (f"{n:04d}.jpg", jpeg(n)), "txt": (f"{n:04d}.txt", text), "json": (f"{n:04d}.json", row)}[kind]
        for kind in order
    ],
    st.integers(0, 60), ROW, st.permutations(["jpg", "txt", "json"]), st.text(max_size=5),
)  # fmt: skip
ODD = st.builds(
    lambda name, suffix, row, other: [(f"{name}.{suffix}" if suffix else name or "x", row if suffix == "json" else other)],
    NAMES, SUFFIX, ROW, st.sampled_from([b"", b"a text", jpeg(1), header(b"7.jpg", 100), bytes(1024)]),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    whole=st.lists(WHOLE, min_size=1, max_size=6), odd=st.lists(ODD, max_size=2), rng=st.randoms(use_true_random=False),
    form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    names=st.sampled_from([None, Names(text="caption"), Names(uid="key")]),
)  # fmt: skip
def test_what_is_found_at_once_is_what_the_walk_finds(
    whole: list[Any], odd: list[Any], rng: random.Random, form: int, names: Names | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    """Whatever is in a tar: the index that is made at once is that of the walk, or there is none; errors are the same."""
    groups = [*whole, *odd]
    rng.shuffle(groups)
    path = write_tar(
        tmp_path_factory.mktemp("t") / "x.tar", [file for group in groups for file in group], form
    )
    expected = assert_same_as_walked(path, names)
    found = quick(path, names) if isinstance(expected, Index) else None
    if found is not None:
        assert_same(found, expected)


@pytest.mark.parametrize("names", [None, Names(text="json.caption"), Names(text="caption")])
@pytest.mark.parametrize(
    "bad", [b'"\xff%s"' % uid(1)[1:].encode(), b'"%s\xc3\xa9"' % uid(1)[2:].encode(), b'"\\ud800"']
)
def test_a_uid_that_is_no_text(bad: bytes, names: Names | None, tmp_path: Path) -> None:
    """Bytes that are not UTF-8 in a uid: the walk's index, or its error."""
    files = [
        *sample(0),
        ("1.jpg", jpeg(1)),
        ("1.txt", "a"),
        ("1.json", b'{"uid": %s, "caption": "a"}' % bad),
    ]
    for path in (write_tar(tmp_path / "a.tar", files), write_tar(tmp_path / "b.tar", files[3:])):
        assert_same_as_walked(path, names)


def test_damage_is_left_to_the_walk(tmp_path: Path) -> None:
    """A tar with one byte changed, or cut off, is what the walk makes of it: the same index, or the same error."""
    path = write_shards(tmp_path, [12])[0]
    data = path.read_bytes()
    rng = random.Random(4)
    refused = 0
    for at in [*rng.sample(range(len(data)), 120), *range(100, 512, 40)]:
        for damaged in (
            data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :],
            data[:at],
        ):
            path.write_bytes(damaged)
            refused += not isinstance(assert_same_as_walked(path), Index)
    assert refused > 100


def test_an_image_that_holds_a_tar(tmp_path: Path) -> None:
    """Headers inside an image are none of the tar, wherever they stand in it."""
    inner = b"".join(header(b"%d.jpg" % n, 600) + bytes(padded(600)) for n in range(3))
    for lead in (b"", b"x" * 512, b"x" * 100):
        files = [
            *sample(0),
            ("1.jpg", lead + inner),
            ("1.json", {"uid": uid(1)}),
            ("1.txt", "a"),
            *sample(2),
        ]
        path = write_tar(tmp_path / f"{len(lead)}.tar", files)
        index = make_index(find_files(path)[0])
        assert len(index) == 3
        assert_same(index, index_by_walking(find_files(path)[0], Names()))


def test_real_photos(data_folder: Path, tmp_path: Path) -> None:
    """Tars of real photos with their titles, and one of CC12M as it was downloaded, give what the walk gives."""
    pytest.importorskip("PIL", reason="needs Pillow: pip install 'metaclip[train]'")
    from tests.bench.bench_reshard import write_tars

    write_tars(tmp_path / "tars", 600, 128, size=300)
    for path in [
        *sorted((tmp_path / "tars").glob("*.tar")),
        data_folder / "images" / "cc12m-train-0000.tar",
    ]:
        file = find_files(path)[0]
        assert_same(make_index(file), index_by_walking(file, Names()))
    assert quick(tmp_path / "tars" / "00000000.tar") is not None
