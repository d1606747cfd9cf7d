"""Which images stay: filters with a reason each, one of all duplicates, whatever the number of workers, parts and tars."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("PIL", reason="needs Pillow: pip install '.[images]'")

from PIL import Image

from metaclip import InspectSettings, MetaclipError, RunOptions, inspect
from metaclip.engine import Engine
from metaclip.errors import BadSetting
from metaclip.inspect.settings import REASONS
from metaclip.pool.subset import Subset
from tests import commands
from tests.inspect.pictures import encoded, pair, photo, rows_of
from tests.training.shards import uid, write_tar

ONE = RunOptions(workers=1)


def outcome(out: Path) -> list[dict[str, Any]]:
    """Return what became of each sample, in order."""
    return [
        row for path in sorted((out / "outcome").glob("*")) for row in pq.read_table(path).to_pylist()
    ]


def reasons(out: Path) -> list[str]:
    return [row["reason"] or "" for row in outcome(out)]


def kept(out: Path) -> list[str]:
    """Return the uids of the subset, as hex digits."""
    return [f"{high:016x}{low:016x}" for high, low in Subset(out / "subset.npy").uids.tolist()]


def write(folder: Path, samples: list[tuple[bytes, str]], per_tar: int = 100) -> Path:
    """Write samples (image, text) to tars; the uid of each is that of its number."""
    for first in range(0, len(samples), per_tar):
        some = enumerate(samples[first : first + per_tar], first)
        files = [file for n, (image, text) in some for file in pair(n, image, text=text)]
        write_tar(folder / f"{first // per_tar:05d}.tar", files)
    return folder


def select(tars: Path, out: Path, options: RunOptions = ONE, **settings: Any) -> list[str]:
    inspect(tars, out=out, settings=InspectSettings(**settings), options=options)
    return reasons(out)


# --- filters


@pytest.fixture(scope="module")
def various(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good image, then one for each filter, then one that is broken and small."""
    images = [
        encoded(photo(0, (300, 250)), "JPEG", quality=95), encoded(photo(1, (300, 250)), "JPEG", quality=5),
        encoded(photo(2, (300, 150)), quality=95), encoded(photo(3, (1000, 300)), "JPEG", quality=95),
        encoded(Image.new("RGB", (800, 700), (9, 99, 200)), "JPEG", quality=100), b"\xff\xd8 not an image",
    ]  # fmt: skip
    return write(
        tmp_path_factory.mktemp("various") / "tars",
        [(image, f"text {n}") for n, image in enumerate(images)],
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["", "", "", "", ""]),
        ({"min_bytes": 5000}, ["", "too_few_bytes", "", "", ""]),
        ({"min_side": 200}, ["", "", "too_small", "", ""]),
        ({"max_aspect": 3.0}, ["", "", "", "too_narrow", ""]),
        ({"single_colour": True}, ["", "", "", "", "single_colour"]),
        ({"min_bytes": 5000, "min_side": 200, "max_aspect": 3.0, "single_colour": True},
         ["", "too_few_bytes", "too_small", "too_narrow", "single_colour"]),
        ({"min_bytes": 10**6, "single_colour": True}, ["too_few_bytes"] * 5),
        ({"max_aspect": 4.0, "min_side": 150}, ["", "", "", "", ""]),
    ],
)  # fmt: skip
def test_filters(settings: dict[str, Any], expected: list[str], various: Path, tmp_path: Path) -> None:
    """A filter is off unless it is set; an image that several would leave out has the first reason; broken comes before all."""
    assert select(various, tmp_path / "seen", **settings) == [*expected, "broken_image"]
    funnel = json.loads((tmp_path / "seen" / "manifest.json").read_text())["funnel"]
    counted = Counter(expected)
    stay = counted.pop("", 0)
    assert funnel == {
        **dict.fromkeys(REASONS, 0),
        **counted,
        "samples": 6,
        "broken_image": 1,
        "kept": stay,
    }
    assert kept(tmp_path / "seen") == sorted(uid(n) for n, reason in enumerate(expected) if not reason)


def test_placeholders(tmp_path: Path) -> None:
    """An image under more than N different texts goes, all copies of it; the same text over again does not count."""
    placeholder, popular, other = (encoded(photo(n)) for n in range(3))
    samples = (
        [(placeholder, f"text {n}") for n in range(5)]
        + [(popular, f"text {n % 4}") for n in range(8)]
        + [(other, "x")]
    )
    random.Random(0).shuffle(samples)
    tars = write(tmp_path / "tars", samples, 4)
    expected = ["placeholder" if image == placeholder else "" for image, _ in samples]
    assert select(tars, tmp_path / "seen", max_texts=4) == expected
    assert set(select(tars, tmp_path / "five", max_texts=5)) == {""}
    both = select(tars, tmp_path / "both", max_texts=4, exact_duplicates=True)
    assert Counter(both) == {"placeholder": 5, "exact_duplicate": 7, "": 2}
    assert [r == "placeholder" for r in both] == [r == "placeholder" for r in expected]


def test_settings_that_mean_nothing(tmp_path: Path) -> None:
    """Settings out of range are refused by name; flags too."""
    for settings in (
        {"min_bytes": 0},
        {"max_aspect": 0.5},
        {"max_aspect": float("inf")},
        {"distance": 9},
        {"distance": -1},
        {"max_texts": 0},
        {"metadata": "x"},
    ):
        with pytest.raises(BadSetting, match=next(iter(settings))):
            InspectSettings(**settings)  # type: ignore[arg-type]
    line = commands.refused("inspect", tmp_path, "--out", tmp_path / "x", "--max-aspect", "0.2")
    assert "max_aspect is 0.2, must be at least 1" in line


# --- duplicates


def near_copies(seed: int = 0, n: int = 60) -> list[tuple[bytes, str]]:
    """Return samples: photos, exact copies, copies of lower quality, smaller ones, and one photo in a chain of shifts."""
    rng, samples = random.Random(seed), []
    for number in range(n):
        image = photo(number % (n // 3), (96, 80))
        form = rng.choice(["same", "same", "quality", "small", "png"])
        if form == "small":
            image = image.resize((64, 56))
        quality = rng.choice([30, 50, 70]) if form == "quality" else 90
        data = encoded(image) if form == "png" else encoded(image, "JPEG", quality=quality)
        samples.append((data, f"text {number}"))
    wide = photo(1000, (400, 96))
    samples += [(encoded(wide.crop((x, 0, x + 128, 96)), "JPEG"), f"shift {x}") for x in range(0, 60, 2)]
    rng.shuffle(samples)
    return samples


def oracle(
    rows: list[dict[str, Any]], order: list[int], distance: int, exact: bool, near: bool
) -> dict[int, tuple[str, int]]:
    """Return (reason, place of the one that stays) of the images that go, by place: taken in an order, one by one."""
    gone: dict[int, tuple[str, int]] = {}
    first: dict[bytes, int] = {}
    for place in order if exact else ():
        if rows[place]["sha256"] in first:
            gone[place] = ("exact_duplicate", first[rows[place]["sha256"]])
        first.setdefault(rows[place]["sha256"], place)
    stay: list[int] = []
    for place in (p for p in order if near and p not in gone):
        like = [
            other for other in stay
            if all((rows[place][kind] ^ rows[other][kind]).bit_count() <= distance for kind in ("phash", "dhash"))
        ]  # fmt: skip
        same = [
            other
            for other in like
            if all(rows[place][kind] == rows[other][kind] for kind in ("phash", "dhash"))
        ]
        if like:
            gone[place] = ("near_duplicate", (same or like)[0])
        else:
            stay.append(place)
    return gone


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("near", [None, 0, 2, 4, 7])
def test_duplicates(exact: bool, near: int | None, tmp_path: Path) -> None:
    """Duplicates are those that a naive search in the tars' order finds, and each names the uid of the one that stays."""
    tars = write(tmp_path / "tars", near_copies(), 17)
    settings = {} if near is None else {"near_duplicates": True, "distance": near}
    select(tars, tmp_path / "seen", exact_duplicates=exact, **settings)
    rows = rows_of(tmp_path / "seen")
    expected = oracle(rows, list(range(len(rows))), near or 0, exact, near is not None)
    found = {
        n: (row["reason"], row["duplicate_of"].hex())
        for n, row in enumerate(outcome(tmp_path / "seen"))
        if row["reason"]
    }
    assert {n: reason for n, (reason, _) in found.items()} == {
        n: reason for n, (reason, _) in expected.items()
    }
    assert kept(tmp_path / "seen") == sorted(uid(n) for n in range(len(rows)) if n not in expected)
    for n, (reason, like) in found.items():
        other = rows[[uid(m) for m in range(len(rows))].index(like)]
        assert uid(n) != like
        if reason == "exact_duplicate":
            assert other["sha256"] == rows[n]["sha256"]
        else:
            assert all((other[k] ^ rows[n][k]).bit_count() <= (near or 0) for k in ("phash", "dhash"))
            if like not in {uid(m) for m in range(len(rows)) if m not in expected}:
                # It is a twin of one that stays no longer itself: the chain ends there.
                assert all(other[k] == rows[n][k] for k in ("phash", "dhash"))
    if exact and near == 4:
        assert Counter(reason for reason, _ in expected.values()).keys() == {
            "exact_duplicate",
            "near_duplicate",
        }


def test_a_chain_is_bounded(tmp_path: Path) -> None:
    """Of images each near the next, those stay that are near none that stays: the ends of a chain are not alike."""
    wide = photo(1000, (600, 96))
    samples = [(encoded(wide.crop((x, 0, x + 128, 96))), f"{x}") for x in range(0, 200)]
    tars = write(tmp_path / "tars", samples)
    select(tars, tmp_path / "seen", near_duplicates=True)
    rows = rows_of(tmp_path / "seen")

    def distance(one: int, other: int) -> int:
        return max((rows[one][kind] ^ rows[other][kind]).bit_count() for kind in ("phash", "dhash"))

    assert sum(distance(n, n + 1) <= 4 for n in range(199)) > 140, "no chain"
    assert distance(0, 199) > 12
    stay = [n for n, reason in enumerate(reasons(tmp_path / "seen")) if not reason]
    assert 5 < len(stay) < 150
    assert min(distance(one, other) for one in stay for other in stay if one < other) > 4


def test_the_one_that_matches_most_stays(tmp_path: Path) -> None:
    """With keep = matches, of duplicates the one stays whose text matches most entries; of equals, the first."""
    words = tmp_path / "words.txt"
    words.write_text("dog\ncat\nbird\n")
    image, other = encoded(photo(0), "JPEG", quality=90), encoded(photo(0), "JPEG", quality=70)
    samples = [
        (image, "nothing"),
        (image, "a dog"),
        (other, "a dog and a cat"),
        (image, "a cat and a bird"),
        (encoded(photo(9)), "x"),
    ]
    tars = write(tmp_path / "tars", samples, 2)
    settings = {"keep": "matches", "metadata": str(words)}
    found = select(tars, tmp_path / "seen", exact_duplicates=True, near_duplicates=True, **settings)
    assert found == ["exact_duplicate", "exact_duplicate", "", "near_duplicate", ""]
    assert [row["matches"] for row in rows_of(tmp_path / "seen")] == [0, 1, 2, 2, 0]
    assert [row["duplicate_of"] and row["duplicate_of"].hex() for row in outcome(tmp_path / "seen")] == [
        uid(3), uid(3), None, uid(2), None,
    ]  # fmt: skip
    found = select(tars, tmp_path / "first", exact_duplicates=True, near_duplicates=True)
    assert found == ["", "exact_duplicate", "near_duplicate", "exact_duplicate", ""]


# --- how it is run changes nothing


def contents(out: Path) -> dict[str, bytes]:
    """Return the bytes of what a user finds in a folder, without the manifest."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "manifest.json" and ".state" not in path.parts
    }


def test_engines_and_memory_change_nothing(engine: Engine, tmp_path: Path) -> None:
    """Any engine, and so little memory that duplicates are found in many parts, make the same files."""
    tars = write(tmp_path / "tars", near_copies(1, 90), 20)
    settings = InspectSettings(exact_duplicates=True, near_duplicates=True, max_texts=50)
    inspect(tars, out=tmp_path / "one", settings=settings, options=ONE)
    inspect(
        tars, out=tmp_path / "seen", settings=settings, memory=4000, options=RunOptions(engine=engine)
    )
    assert contents(tmp_path / "one") == contents(tmp_path / "seen")
    assert not list((tmp_path / "seen").rglob("*.npy"))[1:], "partial results are left"


def test_other_settings_read_no_image_again(various: Path, tmp_path: Path) -> None:
    """Other filters are refused by name; with --overwrite they are applied to the rows, which are not made again."""
    select(various, tmp_path / "seen", min_bytes=5000)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "seen" / "images").glob("*")}
    with pytest.raises(MetaclipError, match="min_bytes: 5000 -> 100"):
        select(various, tmp_path / "seen", min_bytes=100)
    found = select(various, tmp_path / "seen", RunOptions(1, overwrite=True), min_side=200)
    assert found == ["", "", "too_small", "", "", "broken_image"]
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "seen" / "images").glob("*")}


def test_a_tar_that_comes_later(tmp_path: Path) -> None:
    """A tar that could not be read is selected from once it can, and its images count among the others."""
    tars = write(tmp_path / "tars", near_copies(2, 60), 30)
    path = tars / "00001.tar"
    whole = path.read_bytes()
    settings = InspectSettings(near_duplicates=True)
    inspect(tars, out=tmp_path / "one", settings=settings, options=ONE)
    path.write_bytes(whole[: len(whole) // 2])
    made = inspect(tars, out=tmp_path / "seen", settings=settings, options=ONE)
    assert (
        [lost["name"] for lost in made.record["lost"]] == ["00001.tar"]
        if "name" in made.record["lost"][0]
        else True
    )
    assert contents(tmp_path / "one") != contents(tmp_path / "seen")
    path.write_bytes(whole)
    inspect(tars, out=tmp_path / "seen", settings=settings, options=ONE)
    assert contents(tmp_path / "one") == contents(tmp_path / "seen")


def test_a_recipe(various: Path, tmp_path: Path) -> None:
    """A recipe's table is what flags are, and the recipe that is written makes the same again."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[inspect]\nmin_bytes = 5000\nnear_duplicates = true\n")
    commands.done("inspect", various, "--recipe", recipe, "--max-aspect", 3, "--out", tmp_path / "seen")
    assert reasons(tmp_path / "seen")[:4] == ["", "too_few_bytes", "", "too_narrow"]
    commands.done(
        "inspect", various, "--recipe", tmp_path / "seen" / "recipe.toml", "--out", tmp_path / "again"
    )
    assert contents(tmp_path / "seen") == contents(tmp_path / "again")


def test_nothing_stays(tmp_path: Path) -> None:
    """If no image stays, the subset is empty, and the funnel adds up."""
    tars = write(tmp_path / "tars", [(b"broken", "x")] * 3)
    assert select(tars, tmp_path / "seen", near_duplicates=True) == ["broken_image"] * 3
    assert len(np.load(tmp_path / "seen" / "subset.npy")) == 0
    done = commands.done("inspect", tars, "--near-duplicates", "--out", tmp_path / "seen", "--workers", 1)
    assert done.out.split() == ["samples", "3", "broken", "image", "3", "kept", "0"]


@pytest.mark.parametrize("memory", [1, 3, 1000])
def test_any_memory_is_enough(memory: int, tmp_path: Path) -> None:
    """However little memory is allowed, work is divided into no more parts than there are images."""
    tars = write(tmp_path / "tars", near_copies(3, 9)[:12])
    settings = InspectSettings(near_duplicates=True, distance=1)
    inspect(tars, out=tmp_path / "one", settings=settings, options=ONE)
    inspect(tars, out=tmp_path / "seen", settings=settings, memory=memory, options=RunOptions(workers=2))
    assert contents(tmp_path / "one") == contents(tmp_path / "seen")
    with pytest.raises(BadSetting, match="memory is 0"):
        inspect(tars, out=tmp_path / "x", memory=0, options=ONE)


def test_samples_that_share_a_uid_are_noted(tmp_path: Path) -> None:
    """A sample that goes while another one of its uid stays would come back with the subset: that is said and recorded."""
    images = [encoded(photo(n)) for n in (0, 1)] + [b"broken"]
    files = [
        (f"{n}.{end}", data)
        for n, one in enumerate(images)
        for end, data in (("jpg", one), ("txt", "a dog"))
    ]
    tar = write_tar(tmp_path / "tars" / "0.tar", files)
    done = commands.done("inspect", tar, "--out", tmp_path / "seen", "--workers", 1)
    assert "1 samples that are left out have the uid of one that stays" in done.err
    manifest = json.loads((tmp_path / "seen" / "manifest.json").read_text())
    assert manifest["stages"]["select"]["shared_uids"] == 1
