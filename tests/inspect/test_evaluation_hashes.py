"""Evaluation sets kept out: copies of their images are found and named, other images stay."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("PIL", reason="needs Pillow: pip install '.[images]'")

from PIL import Image, ImageOps

from metaclip import InspectSettings, MetaclipError, RunOptions, inspect
from metaclip.inspect.evaluation_hashes import SCHEMA, NearTestImages, hash_sets, read_hashes
from metaclip.inspect.hashes import hash_images, make_thumbnail
from metaclip.training.stream.decode import decode_image
from tests import commands
from tests.inspect.pictures import encoded, photo
from tests.inspect.test_near import planted
from tests.inspect.test_select import contents, outcome, reasons, write
from tests.training.shards import write_tar

ONE = RunOptions(workers=1)


def table_of(hashes: np.ndarray, mirrored: np.ndarray | None = None) -> pa.Table:
    """Return hashes as a table of evaluation images."""
    other = hashes if mirrored is None else mirrored
    names = [f"{n}.png" for n in range(len(hashes))]
    return pa.table([["set"] * len(hashes), names, *hashes.T, *other.T], schema=SCHEMA)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 24), st.integers(0, 80))
def test_the_nearest_is_found(seed: int, distance: int, n: int) -> None:
    """For any distance, the nearest evaluation image is that of a comparison with all; of equals, the first."""
    hashes = planted(n + 60, seed, 14)
    rng = np.random.default_rng(seed)
    rng.shuffle(hashes)
    tests, pool = hashes[:n], hashes[n:]
    images, distances = NearTestImages(table_of(tests), distance, False).nearest(pool)
    for row, one in enumerate(pool.tolist()):
        best = min(
            (
                (sum((a ^ b).bit_count() for a, b in zip(one, other, strict=True)), m)
                for m, other in enumerate(tests.tolist())
            ),
            default=(999, -1),
        )
        assert (distances[row], images[row]) == (best if best[0] <= distance else (-1, -1))


# --- small sets, in each layout


def picture_set(folder: Path) -> dict[str, Path]:
    """Write one set of 12 pictures as a folder, a zip, CLIP_benchmark's tars and a file of hashes."""
    names = [f"test/{'cat' if n % 2 else 'dog'}/{n:02d}.png" for n in range(12)]
    files = {name: encoded(photo(100 + n)) for n, name in enumerate(names)}
    for name, data in files.items():
        path = folder / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    members: list[tuple[str, Any]] = [
        (f"s{n:07d}.{end}", data if end == "png" else str(n % 2))
        for n, data in enumerate(files.values())
        for end in ("png", "cls")
    ]
    write_tar(folder / "tars" / "test" / "0.tar", members)
    (folder / "tars" / "test" / "nshards.txt").write_text("1\n")
    (folder / "tars" / "classnames.txt").write_text("dog\ncat\n")
    commands.done("inspect", folder / "set.zip", "--hashes-only", "--out", folder / "hashes.parquet")
    return {
        "folder": folder / "folder", "zip": folder / "set.zip", "tars": folder / "tars", "hashes": folder / "hashes.parquet",
    }  # fmt: skip


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The set in each layout."""
    return picture_set(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures, of which numbers 3, 8 and 12 are copies of evaluation images, and 15 is a mirrored one."""
    images = [encoded(photo(n), "JPEG", quality=90) for n in range(20)]
    images[3] = encoded(photo(103).resize((40, 30)), "JPEG", quality=85)
    images[8] = encoded(photo(108).convert("L"), "JPEG", quality=50)
    images[12] = encoded(photo(100))
    images[15] = encoded(ImageOps.mirror(photo(105)), "JPEG", quality=90)
    return write(
        tmp_path_factory.mktemp("pool") / "tars", [(image, f"t{n}") for n, image in enumerate(images)], 7
    )


@pytest.mark.parametrize("layout", ["folder", "zip", "tars", "hashes"])
def test_layouts(layout: str, sets: dict[str, Path], pool: Path, tmp_path: Path) -> None:
    """A set in any layout keeps out the same images, and names the image that each resembles."""
    made = inspect(
        pool, out=tmp_path / "seen", settings=InspectSettings(against=(str(sets[layout]),)), options=ONE
    )
    rows = outcome(tmp_path / "seen")
    assert [n for n, row in enumerate(rows) if row["reason"]] == [3, 8, 12]
    assert {row["reason"] for row in rows} == {None, "near_test_set"}
    assert made.funnel["near_test_set"] == 3
    source = "set.zip" if layout == "hashes" else sets[layout].name
    for n, number in ((3, 3), (8, 8), (12, 0)):
        name = (
            f"s{number:07d}.png"
            if layout == "tars"
            else f"test/{'cat' if number % 2 else 'dog'}/{number:02d}.png"
        )
        assert rows[n]["test_image"] == f"{source}, {name}"
    assert rows[12]["test_distance"] == 0
    assert all(
        (row["test_image"] is None) == (row["test_distance"] is None) == (row["reason"] is None)
        for row in rows
    )


def test_mirrored(sets: dict[str, Path], pool: Path, tmp_path: Path) -> None:
    """Mirrored evaluation images are kept out on request, under the name of the image."""
    commands.done(
        "inspect",
        pool,
        "--against",
        sets["hashes"],
        "--mirrored",
        "--out",
        tmp_path / "seen",
        "--workers",
        1,
    )
    rows = outcome(tmp_path / "seen")
    assert [n for n, row in enumerate(rows) if row["reason"]] == [3, 8, 12, 15]
    assert rows[15]["test_image"] == "set.zip, test/cat/05.png"


def test_the_hashes_of_a_run_can_be_shared(sets: dict[str, Path], pool: Path, tmp_path: Path) -> None:
    """The file that a run writes keeps out the same again; two sets together keep out what each does."""
    other = tmp_path / "other" / "test" / "x"
    other.mkdir(parents=True)
    (other / "0.png").write_bytes(encoded(photo(19)))
    against = (str(sets["zip"]), str(tmp_path / "other"))
    inspect(pool, out=tmp_path / "seen", settings=InspectSettings(against=against), options=ONE)
    assert [n for n, reason in enumerate(reasons(tmp_path / "seen")) if reason] == [3, 8, 12, 19]
    shared = InspectSettings(against=(str(tmp_path / "seen" / "against.parquet"),))
    inspect(pool, out=tmp_path / "again", settings=shared, options=ONE)
    assert {**contents(tmp_path / "seen"), "recipe.toml": b""} == {
        **contents(tmp_path / "again"),
        "recipe.toml": b"",
    }


def test_evaluation_images_come_before_duplicates(sets: dict[str, Path], tmp_path: Path) -> None:
    """An image near an evaluation image takes no other with it: its near-duplicate farther from the set may stay."""
    tars = write(
        tmp_path / "tars",
        [(encoded(photo(103)), "a"), (encoded(photo(103)), "b"), (encoded(photo(1)), "c")],
    )
    settings = InspectSettings(against=(str(sets["zip"]),), exact_duplicates=True, near_duplicates=True)
    made = inspect(tars, out=tmp_path / "seen", settings=settings, options=ONE)
    assert reasons(tmp_path / "seen") == ["near_test_set", "near_test_set", ""]
    assert (made.funnel["near_test_set"], made.funnel["exact_duplicate"]) == (2, 0)


def test_what_is_no_set(pool: Path, tmp_path: Path) -> None:
    """What is neither a set nor hashes is refused in one line; an unreadable image of a set is named and counted."""
    for name, content in (("x.parquet", b"PAR1"), ("y.txt", b"text")):
        (tmp_path / name).write_bytes(content)
        line = commands.refused("inspect", pool, "--against", tmp_path / name, "--out", tmp_path / "seen")
        assert name in line
    pq.write_table(pa.table({"phash": [1]}), tmp_path / "z.parquet")
    line = commands.refused(
        "inspect", pool, "--against", tmp_path / "z.parquet", "--out", tmp_path / "seen"
    )
    assert "its columns must be set (string), image (string), phash (uint64), dhash" in line
    folder = tmp_path / "set" / "test" / "dog"
    folder.mkdir(parents=True)
    (folder / "0.png").write_bytes(b"broken")
    (folder / "1.png").write_bytes(encoded(photo(7)))
    result = commands.done(
        "inspect", pool, "--against", tmp_path / "set", "--out", tmp_path / "seen", "--workers", 1
    )
    assert "0.png: not a JPEG, PNG or WebP; it is kept out of nothing" in result.err
    assert [n for n, reason in enumerate(reasons(tmp_path / "seen")) if reason] == [7]
    manifest = json.loads((tmp_path / "seen" / "manifest.json").read_text())
    assert manifest["stages"]["select"]["unreadable_test_images"] == 1


# --- CIFAR-10


def _jpeg(image: Any, quality: int) -> bytes:
    return encoded(image, "JPEG", quality=quality)


def _resized(side: int) -> Callable[[Any], bytes]:
    return lambda image: _jpeg(image.resize((side, side), Image.Resampling.BICUBIC), 95)


COPIES: dict[str, tuple[Callable[[Any], bytes], float]] = {
    "resized to 64 pixels": (_resized(64), 0.99),
    "resized to 24 pixels": (_resized(24), 0.99),
    "resized to 16 pixels": (_resized(16), 0.99),
    "recompressed, quality 30": (lambda image: _jpeg(image, 30), 0.99),
    "greyscale": (lambda image: _jpeg(image.convert("L"), 90), 0.95),
    "cropped by 5%": (
        lambda image: _jpeg(image.resize((320, 320)).crop((8, 8, 312, 312)).resize((32, 32)), 95),
        0.0,
    ),
    "mirrored": (lambda image: _jpeg(ImageOps.mirror(image), 90), 0.0),
}
"""Copies of an image, and the share of them that must be found; 0 where it is reported."""


def _hash(images: Iterator[bytes]) -> np.ndarray:
    """Return the hashes of encoded images: uint64[n, 2]."""
    found = hash_images([decode_image(data, convert=make_thumbnail).image for data in images])
    return np.stack([found.phash, found.dhash], axis=1)


def _others(folder: Path, number: int) -> np.ndarray:
    """Return the hashes of images of other sources, half of them crops of photos, half digits."""
    rng, found = random.Random(0), []
    with zipfile.ZipFile(folder / "images" / "xm3600_128px.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        each = -(-number // 2 // len(names))

        def crops(name: str) -> Iterator[bytes]:
            image = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
            for _ in range(each):
                side = rng.randrange(40, min(image.size))
                x, y = rng.randrange(image.width - side + 1), rng.randrange(image.height - side + 1)
                yield _jpeg(image.crop((x, y, x + side, y + side)).resize((32, 32)), 90)

        found += [_hash(crops(name)) for name in names]
    with zipfile.ZipFile(folder / "images" / "mnist_png.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")][: number // 2]
        found += [
            _hash(archive.read(name) for name in names[i : i + 500]) for i in range(0, len(names), 500)
        ]
    return np.concatenate(found)


def report(folder: Path, images: int, others: int, copies: Sequence[str], out: Path) -> dict[str, float]:
    """Return the share of copies of CIFAR-10's test images that is found, and the number of other images found."""
    cifar = folder / "images" / "cifar10_jpg.zip"
    hash_sets([cifar], out)
    near = NearTestImages(pq.read_table(out), InspectSettings().test_distance, False)
    found: dict[str, float] = {}
    with zipfile.ZipFile(cifar) as archive:
        names = [name for name in archive.namelist() if name.startswith("test/")]
        names = names[:: len(names) // images]
        read = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    for copy in copies:
        hashes = _hash(COPIES[copy][0](image) for image in read)
        found[copy] = float((near.nearest(hashes)[0] >= 0).mean())
    found["others"] = int((near.nearest(_others(folder, others))[0] >= 0).sum())
    return found


@pytest.mark.parametrize(
    ("images", "others"), [(500, 4000), pytest.param(10_000, 100_000, marks=pytest.mark.slow)]
)
def test_cifar_10(images: int, others: int, data_folder: Path, tmp_path: Path) -> None:
    """Of planted copies of CIFAR-10's test images enough are found, and of 10,000 other images at most one."""
    found = report(data_folder, images, others, list(COPIES), tmp_path / "cifar10.parquet")
    print(found)
    assert found["others"] <= others / 10_000
    for name, (_, least) in COPIES.items():
        assert found[name] >= least, found


def test_a_pool_with_copies(data_folder: Path, tmp_path: Path) -> None:
    """The whole way: a pool of tars with copies of CIFAR-10's test images, which the verb leaves out and names."""
    with zipfile.ZipFile(data_folder / "images" / "cifar10_jpg.zip") as archive:
        names = [name for name in archive.namelist() if name.startswith("test/")][::500]
        images = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    copies = [COPIES["resized to 64 pixels"][0](image) for image in images]
    samples = [(copy, "a copy") for copy in copies] + [
        (encoded(photo(n), "JPEG"), "another") for n in range(20)
    ]
    tars = write(tmp_path / "tars", samples)
    cifar = data_folder / "images" / "cifar10_jpg.zip"
    commands.done("inspect", cifar, "--hashes-only", "--out", tmp_path / "cifar10.parquet")
    assert (tmp_path / "cifar10.parquet").stat().st_size < 600_000
    commands.done(
        "inspect",
        tars,
        "--against",
        tmp_path / "cifar10.parquet",
        "--out",
        tmp_path / "seen",
        "--workers",
        1,
    )
    rows = outcome(tmp_path / "seen")
    assert [row["reason"] for row in rows] == ["near_test_set"] * 20 + [None] * 20
    assert [row["test_image"] for row in rows[:20]] == [f"cifar10_jpg.zip, {name}" for name in names]


def test_an_unreadable_file_of_hashes(tmp_path: Path) -> None:
    """A set of which no image can be read writes no file."""
    folder = tmp_path / "set" / "test" / "dog"
    folder.mkdir(parents=True)
    (folder / "0.png").write_bytes(b"broken")
    with pytest.raises(MetaclipError, match="no image of .* can be read: .*0.png"):
        hash_sets([tmp_path / "set"], tmp_path / "hashes.parquet")
    assert not (tmp_path / "hashes.parquet").exists()


def test_a_set_without_a_readable_image_is_refused(pool: Path, tmp_path: Path) -> None:
    """A set that keeps nothing out, since none of its images can be read or it has no hashes, is an error and not a note."""
    folder = tmp_path / "set" / "test" / "dog"
    folder.mkdir(parents=True)
    (folder / "0.png").write_bytes(b"broken")
    pq.write_table(SCHEMA.empty_table(), tmp_path / "none.parquet")
    for path in (tmp_path / "set", tmp_path / "none.parquet"):
        line = commands.refused(
            "inspect", pool, "--against", path, "--out", tmp_path / "seen", "--workers", 1
        )
        assert path.name in line
        assert "can be read" in line or "holds no hashes" in line
        with pytest.raises(MetaclipError, match=path.name):
            hash_sets([path], tmp_path / "hashes.parquet")


def test_hashes_that_another_library_wrote(sets: dict[str, Path], tmp_path: Path) -> None:
    """Hashes may be joined by any library: with large strings, dictionaries, another order of columns or further ones."""
    table = pq.read_table(sets["hashes"])
    others = [
        table.set_column(0, "set", table["set"].cast(pa.large_string())),
        table.set_column(1, "image", table["image"].dictionary_encode()),
        table.select(table.column_names[::-1]).append_column("more", [["x"] * len(table)]),
    ]
    for other in others:
        pq.write_table(other, tmp_path / "other.parquet")
        assert read_hashes(tmp_path / "other.parquet").equals(table)


def test_hashes_of_another_version(sets: dict[str, Path], tmp_path: Path) -> None:
    """A file says by which version of the hashes it was made; one of another version is refused, not compared."""
    table = pq.read_table(sets["hashes"])
    assert table.schema.metadata == {b"metaclip.hashes": b"1"}
    pq.write_table(table.replace_schema_metadata({"metaclip.hashes": "2"}), tmp_path / "later.parquet")
    with pytest.raises(MetaclipError, match="later.parquet holds hashes of version '2'"):
        read_hashes(tmp_path / "later.parquet")


def test_a_file_of_hashes_has_the_name_of_one(sets: dict[str, Path], tmp_path: Path) -> None:
    """A name by which --against would not know the file is refused before an image is read."""
    line = commands.refused("inspect", sets["zip"], "--hashes-only", "--out", tmp_path / "hashes")
    assert "must have a name that ends in .parquet" in line
    assert not (tmp_path / "hashes").exists()
