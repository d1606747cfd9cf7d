"""The table of images: a row for each sample, with what training would make of it, whatever the image is."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL", reason="needs Pillow: pip install '.[images]'")

from PIL import Image

from metaclip import MetaclipError, RunOptions, inspect
from metaclip.engine import Engine
from metaclip.inspect.hashes import SIDE, hash_images, hash_thumbnails, make_thumbnail
from metaclip.inspect.settings import REASONS
from metaclip.pool.files import find_files
from metaclip.reshard.index import make_index
from tests import commands
from tests.inspect.pictures import encoded, pair, photo, rows_of
from tests.training.shards import sample, uid, write_shards, write_tar

ONE = RunOptions(workers=1)


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that claims these sides."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


SIXTEEN = Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 20)
ODD = {
    "jpeg": (encoded(photo(), "JPEG"), "", "JPEG", (64, 48)),
    "png": (encoded(photo()), "", "PNG", (64, 48)),
    "webp": (encoded(photo(), "WEBP"), "", "WEBP", (64, 48)),
    "grey": (encoded(photo().convert("L"), "JPEG"), "", "JPEG", (64, 48)),
    "cmyk": (encoded(photo().convert("CMYK"), "JPEG"), "", "JPEG", (64, 48)),
    "sixteen_bits": (encoded(SIXTEEN), "", "PNG", (64, 48)),
    "transparent": (encoded(photo().convert("RGBA")), "", "PNG", (64, 48)),
    "palette": (encoded(photo().convert("P")), "", "PNG", (64, 48)),
    "animated": (
        encoded(photo(), "WEBP", save_all=True, append_images=[photo(1), photo(2)]), "", "WEBP", (64, 48),
    ),
    "long": (encoded(photo(0, (30_000, 40)), "JPEG"), "", "JPEG", (30_000, 40)),
    "one_pixel": (encoded(photo(0, (1, 1)), "JPEG"), "", "JPEG", (1, 1)),
    "truncated": (encoded(photo(), "JPEG")[:-200], "broken_image", "JPEG", (64, 48)),
    "no_image": (b"<html>not found</html>", "broken_image", None, None),
    "empty": (b"", "broken_image", None, None),
    "gif": (encoded(photo(), "GIF"), "broken_image", None, None),
    "large": (bomb(9000, 9000), "oversized_image", "PNG", (9000, 9000)),
    "bomb": (bomb(30_000, 30_000), "oversized_image", None, None),
}  # fmt: skip
"""Images by name: bytes, why training cannot use them, and the format and size that the row has."""


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar of all odd images."""
    files = [file for n, one in enumerate(ODD.values()) for file in pair(n, one[0])]
    return write_tar(tmp_path_factory.mktemp("odd") / "tars" / "odd.tar", files)


@pytest.fixture(scope="module")
def odd_rows(odd: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The rows of the odd images, by name."""
    out = tmp_path_factory.mktemp("odd_rows") / "seen"
    made = inspect(odd, out=out, options=ONE)
    rows = dict(zip(ODD, rows_of(out), strict=True))
    usable = sum(not reason for _, reason, _, _ in ODD.values())
    assert made.funnel == {
        **dict.fromkeys(REASONS, 0), "samples": len(ODD), "kept": usable,
        "broken_image": sum(one[1] == "broken_image" for one in ODD.values()),
        "oversized_image": sum(one[1] == "oversized_image" for one in ODD.values()),
    }  # fmt: skip
    return rows


@pytest.mark.parametrize("name", ODD)
def test_an_odd_image(name: str, odd_rows: dict[str, dict[str, Any]]) -> None:
    """A row says what the image is, and why it cannot be used; only an image that can be has hashes."""
    data, reason, form, size = ODD[name]
    row = odd_rows[name]
    number = list(ODD).index(name)
    assert (row["uid"].hex(), row["key"], row["tar"]) == (uid(number), f"{number:09d}", "odd.tar")
    assert (row["bytes"], row["sha256"]) == (len(data), hashlib.sha256(data).digest())
    assert (row["broken"] or "", row["format"]) == (reason, form)
    assert (row["width"], row["height"]) == (size or (None, None))
    assert (row["phash"] is None) == (row["dhash"] is None) == (row["contrast"] is None) == bool(reason)
    assert bool(row["why"]) == bool(reason)


def test_copies_in_other_modes_look_alike(odd_rows: dict[str, dict[str, Any]]) -> None:
    """The same picture has nearly the same hashes whatever its format and mode; of an animation the first frame counts."""
    for name in ("png", "webp", "grey", "cmyk", "transparent", "palette", "animated"):
        for kind in ("phash", "dhash"):
            distance = (odd_rows["jpeg"][kind] ^ odd_rows[name][kind]).bit_count()
            assert distance <= 4, (name, kind, distance)


def test_training_agrees(odd: Path) -> None:
    """What is broken here is broken in training, and nothing else."""
    pytest.importorskip("torch", reason="needs torch: pip install '.[train]'")
    from metaclip.training.stream import Loader, Stream

    loader = Loader(Stream(str(odd)), 4, epochs=1)
    assert sum(len(batch.uids) for batch in loader) == sum(not one[1] for one in ODD.values())
    for reason in ("broken_image", "oversized_image"):
        assert loader.reasons[reason] == sum(one[1] == reason for one in ODD.values())


def test_samples_that_are_broken(tmp_path: Path) -> None:
    """A sample without an image, without a text, or with an unreadable one has its reason; its uid is that of reshard."""
    files = [
        *sample(0), ("1.json", {"uid": uid(1)}), ("1.txt", "a"), *sample(2)[:2], ("3.jpg", b"x"), ("3.json", "{"),
        ("3.txt", "a"), *sample(4)[:2], ("000000004.txt", b"\xff"),
    ]  # fmt: skip
    tar = write_tar(tmp_path / "tars" / "0.tar", files)
    made = inspect(tar, out=tmp_path / "seen", options=ONE)
    rows = rows_of(tmp_path / "seen")
    reasons = [None, "missing_image", "missing_text", "malformed_json", "invalid_utf8"]
    assert [row["broken"] for row in rows] == reasons
    assert made.funnel["samples"] == 5
    assert all(made.funnel[reason or "kept"] == 1 for reason in reasons)
    index = make_index(find_files(tar)[0])
    assert [row["uid"] for row in rows] == [
        b"".join(int(half).to_bytes(8) for half in u) for u in index.uids
    ]
    assert rows[0]["text_hash"] is not None


def test_the_hashes_are_those_of_the_law() -> None:
    """Both hashes follow their definitions, computed here pixel by pixel in whole numbers."""
    grey = np.stack([np.asarray(photo(n).convert("L").resize((SIDE, SIDE))) for n in range(5)])
    phash, dhash = hash_thumbnails(grey)
    for n, pixels in enumerate(grey.astype(int).tolist()):
        cosines = [
            [round(4096 * np.cos(np.pi * (2 * x + 1) * k / 64)) for x in range(32)] for k in range(8)
        ]
        found = [
            sum(cosines[k][y] * cosines[m][x] * pixels[y][x] for y in range(32) for x in range(32))
            for k in range(8)
            for m in range(8)
        ]
        low, high = sorted(found)[31:33]
        bits = "".join("01"[bool(2 * one > low + high)] for one in found)
        assert int(phash[n]) == int(bits, 2)
        # Each pixel as 9 x 1 parts of its own, of which each column of the 9 takes 32.
        fine = np.repeat(np.array(pixels), 9, axis=1).reshape(8, 4, 9, 32).sum(axis=(1, 3))
        bits = "".join("01"[int(fine[y][x + 1] > fine[y][x])] for y in range(8) for x in range(8))
        assert int(dhash[n]) == int(bits, 2)


def test_a_batch_changes_nothing() -> None:
    """A thumbnail has the same hashes alone and among others."""
    grey = np.random.default_rng(0).integers(0, 256, (300, SIDE, SIDE), np.uint8)
    whole = hash_thumbnails(grey)
    for n in range(0, 300, 37):
        assert [int(h[0]) for h in hash_thumbnails(grey[n : n + 1])] == [int(h[n]) for h in whole]


def test_a_single_colour_has_no_contrast() -> None:
    """The contrast of one colour is 0, as a JPEG too; a picture has more."""
    for form in ("PNG", "JPEG"):
        flat = Image.open(io.BytesIO(encoded(Image.new("RGB", (200, 100), (200, 30, 90)), form)))
        assert hash_images([make_thumbnail(flat)]).contrast == [0]
    picture = make_thumbnail(Image.open(io.BytesIO(encoded(photo()))))
    assert hash_images([picture, make_thumbnail(flat)]).contrast.tolist()[0] > 50


def test_all_engines_agree(tmp_path: Path, engine: Engine) -> None:
    """Threads, processes and Ray write the same rows, and a second call reads nothing again."""
    write_shards(tmp_path / "tars", [300, 0, 20])
    inspect(tmp_path / "tars", out=tmp_path / "one", options=ONE)
    made = inspect(tmp_path / "tars", out=tmp_path / "seen", options=RunOptions(engine=engine))
    assert made.funnel["samples"] == 320
    for path in (tmp_path / "one" / "images").glob("*"):
        assert path.read_bytes() == (tmp_path / "seen" / "images" / path.name).read_bytes()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "seen").rglob("*.parquet")}
    inspect(tmp_path / "tars", out=tmp_path / "seen", options=ONE)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "seen").rglob("*.parquet")}


def test_a_compressed_tar_and_a_broken_one(tmp_path: Path) -> None:
    """A gzipped tar has the rows of the tar; one that is cut off is named with exit code 3, and the others are there."""
    (path,) = write_shards(tmp_path / "tars", [30])
    import gzip

    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
    (tmp_path / "more" / "b.tar").write_bytes(path.read_bytes()[:20_000])
    inspect(tmp_path / "tars", out=tmp_path / "one", options=ONE)
    result = commands.call("inspect", tmp_path / "more", "--out", tmp_path / "seen", "--workers", 1)
    assert result.code == 3
    assert "b.tar" in result.err
    rows = [{**row, "tar": ""} for row in rows_of(tmp_path / "seen")]
    assert rows == [{**row, "tar": ""} for row in rows_of(tmp_path / "one")]
    (tmp_path / "more" / "b.tar").write_bytes(path.read_bytes())
    commands.done("inspect", tmp_path / "more", "--out", tmp_path / "seen", "--workers", 1)
    assert len(rows_of(tmp_path / "seen")) == 60


def test_parts(tmp_path: Path) -> None:
    """The parts of a job array and one process make the same table."""
    write_shards(tmp_path / "tars", [5, 6, 7])
    commands.done("inspect", tmp_path / "tars", "--out", tmp_path / "one")
    for part in ("1/2", "2/2"):
        commands.done("inspect", tmp_path / "tars", "--out", tmp_path / "seen", "--part", part)
    assert rows_of(tmp_path / "seen") == rows_of(tmp_path / "one")
    assert json.loads((tmp_path / "seen" / "manifest.json").read_text())["funnel"]["samples"] == 18


def test_a_tar_that_changed(tmp_path: Path) -> None:
    """A tar that changed since is refused by its name; --overwrite reads it again."""
    write_shards(tmp_path / "tars", [5])
    inspect(tmp_path / "tars", out=tmp_path / "seen", options=ONE)
    write_shards(tmp_path / "tars", [6])
    with pytest.raises(MetaclipError, match=r"00000.tar has changed since .* was begun"):
        inspect(tmp_path / "tars", out=tmp_path / "seen", options=ONE)
    made = inspect(tmp_path / "tars", out=tmp_path / "seen", options=RunOptions(1, overwrite=True))
    assert made.funnel["samples"] == 6


def test_memory_does_not_grow(tmp_path: Path) -> None:
    """Eight times as many samples need hardly more memory beside the index of their tar."""
    from metaclip.inspect.images import look

    def peak(samples: int) -> int:
        (path,) = write_shards(tmp_path / str(samples), [samples])
        file = find_files(path)[0]
        index = make_index(file)
        tracemalloc.start()
        for _ in look(file, index):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1000)
    assert peak(8000) < 1.2 * peak(1000)


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    """Pillow warns of some palettes; warnings are errors here, and would make the image a broken one."""
    file = io.BytesIO()
    photo().convert("P").save(file, "PNG", transparency=bytes(range(256)))
    tar = write_tar(tmp_path / "tars" / "0.tar", [*pair(0, file.getvalue()), *pair(1, encoded(photo()))])
    inspect(tar, out=tmp_path / "seen", options=ONE)
    one, other = rows_of(tmp_path / "seen")
    assert one["broken"] is None
    assert (one["phash"] ^ other["phash"]).bit_count() <= 4
