"""The whole verb against a naive recount: `tarfile`, Pillow and pandas, one sample and one reason after the other."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("PIL", reason="needs Pillow: pip install '.[images]'")
pytest.importorskip("pandas", reason="needs pandas: pip install '.[dev]'")

import pandas as pd
from PIL import Image

from metaclip import InspectSettings, MatchSettings, RunOptions, curate, inspect
from metaclip.inspect.evaluation_hashes import read_hashes
from metaclip.inspect.hashes import hash_images
from metaclip.inspect.settings import ScoreHook
from tests.inspect.pictures import encoded, photo
from tests.inspect.test_select import kept, outcome, reasons
from tests.training.shards import uid, write_tar

ONE = RunOptions(workers=1)
WORDS = ("dog", "cat", "bird", "a photo")
SAMPLES, PER_TAR = 360, 45


def _image(rng: random.Random, number: int) -> bytes:
    """Return a picture, a copy of one, a placeholder, a flat, narrow, tiny or evaluation image, or none at all."""
    kind = rng.choice(
        ["photo"] * 4 + ["copy", "worse", "placeholder", "flat", "narrow", "tiny", "test", "odd"]
    )
    if kind in ("photo", "copy", "worse"):
        picture = photo(rng.randrange(30) if kind != "photo" else number, (rng.choice([48, 96]), 64))
        return encoded(picture, "JPEG", quality=40 if kind == "worse" else 90)
    if kind == "placeholder":
        return encoded(photo(5000 + rng.randrange(2)))
    if kind == "flat":
        return encoded(Image.new("RGB", (64, 64), (rng.randrange(4), 90, 200)), compress_level=0)
    if kind == "narrow":
        return encoded(photo(number, (rng.choice([150, 151, 200]), 50)))
    if kind == "tiny":
        return encoded(photo(number, (rng.choice([31, 32, 33]), 40)))
    if kind == "test":
        return encoded(
            photo(9000 + rng.randrange(5)).convert(rng.choice(["RGB", "L"])), "JPEG", quality=60
        )
    picture = photo(number)
    return rng.choice([
        b"", b"<html>", encoded(picture, "JPEG")[:-150], encoded(picture, "GIF"), encoded(picture.convert("CMYK"), "JPEG"),
        encoded(picture.convert("P")), encoded(picture.convert("RGBA")), encoded(picture.convert("LA")),
    ])  # fmt: skip


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tars of images of all kinds, some without a text, an image or fields that can be read."""
    rng, folder = random.Random(22), tmp_path_factory.mktemp("recount") / "tars"
    for first in range(0, SAMPLES, PER_TAR):
        files: list[tuple[str, Any]] = []
        for n in range(first, first + PER_TAR):
            text = rng.choice(["", "a dog", "a dog and a cat", "a photo of a bird", "A Dog", "nothing"])
            files.append((f"{n:09d}.json", "{" if n % 71 == 70 else {"uid": uid(n)}))
            if n % 67 != 66:
                files.append((f"{n:09d}.jpg", _image(rng, n)))
            if n % 53 != 52:
                files.append((f"{n:09d}.txt", b"\xff" if n % 59 == 58 else f"{text}{'' if n % 3 else n}"))
        write_tar(folder / f"{first:05d}.tar", files)
    return folder


@pytest.fixture(scope="module")
def against(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation set of five pictures."""
    folder = tmp_path_factory.mktemp("against") / "set" / "test" / "dog"
    folder.mkdir(parents=True)
    for n in range(5):
        (folder / f"{n}.png").write_bytes(encoded(photo(9000 + n)))
    return folder.parents[1]


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A score of each sample."""
    path = tmp_path_factory.mktemp("scores") / "scores.parquet"
    table = {"uid": [uid(n) for n in range(SAMPLES)], "score": [n % 10 / 10 for n in range(SAMPLES)]}
    pq.write_table(pa.table(table), path)
    return path


def _seen(members: dict[str, bytes]) -> dict[str, Any]:
    """Return what Pillow makes of a sample, and why it is broken."""
    data, text, fields = (members.get(end) for end in ("jpg", "txt", "json"))
    row: dict[str, Any] = {
        "reason": "",
        "bytes": len(data or b""),
        "sha256": hashlib.sha256(data or b"").digest(),
    }
    try:
        json.loads(fields or b"")
    except ValueError:
        row["reason"] = "malformed_json"
    try:
        row["text"] = None if text is None else text.decode()
    except UnicodeDecodeError:
        row["text"], row["reason"] = None, row["reason"] or "invalid_utf8"
    if data is None:
        row["reason"] = row["reason"].replace("invalid_utf8", "") or "missing_image"
    elif text is None:
        row["reason"] = row["reason"] or "missing_text"
    try:
        image = Image.open(io.BytesIO(data or b""), formats=["JPEG", "PNG", "WEBP"])
        row["width"], row["height"] = image.size
        image.draft("RGB", (32, 32))
        small = image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
        pixels = np.asarray(small).reshape(-1, 3).astype(int)
        row["contrast"] = int((pixels.max(axis=0) - pixels.min(axis=0)).max())
        row["hashes"] = tuple(int(one[0]) for one in hash_images([small])[:2])
    except OSError:
        row["reason"] = row["reason"] or "broken_image"
    return row


def _distances(one: Any, other: Any) -> list[int]:
    return [(a ^ b).bit_count() for a, b in zip(one, other, strict=True)]


def recount(tars: Path, settings: InspectSettings, tests: list[tuple[int, int]], marked: set[str]) -> Any:
    """Return a table of the samples, with the reason for which each goes, "" for those that stay."""
    rows = []
    for path in sorted(tars.glob("*.tar")):
        samples: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as tar:
            for info in tar:
                file = tar.extractfile(info)
                assert file is not None
                key, _, end = info.name.partition(".")
                samples.setdefault(key, {})[end] = file.read()
        rows += [{"uid": uid(int(key)), **_seen(members)} for key, members in samples.items()]
    table = pd.DataFrame(rows)

    def leave_out(reason: str, where: Any) -> None:
        table.loc[(table.reason == "") & where, "reason"] = reason

    short, long = table[["width", "height"]].min(axis=1), table[["width", "height"]].max(axis=1)
    if settings.min_bytes:
        leave_out("too_few_bytes", table.bytes < settings.min_bytes)
    if settings.min_side:
        leave_out("too_small", short < settings.min_side)
    if settings.max_aspect:
        leave_out("too_narrow", long / short > settings.max_aspect)
    if settings.single_colour:
        leave_out("single_colour", table.contrast <= 4)
    leave_out("nudity", table.uid.isin(marked))
    if settings.against:
        left = table[table.reason == ""]
        near = [
            any(sum(_distances(row.hashes, test)) <= settings.test_distance for test in tests)
            for row in left.itertuples()
        ]
        table.loc[left.index[near], "reason"] = "near_test_set"
    if settings.max_texts:
        texts = table[table.reason == ""].groupby("sha256").text.nunique()
        leave_out("placeholder", table.sha256.isin(texts[texts > settings.max_texts].index))
    matches = [sum(f" {word} " in f" {text or ''} " for word in WORDS) for text in table.text]
    order = table.assign(matches=matches if settings.keep == "matches" else 0)
    order = order[order.reason == ""].sort_values("matches", ascending=False, kind="stable")
    if settings.exact_duplicates:
        again = order[order.duplicated("sha256")].index
        table.loc[again, "reason"] = "exact_duplicate"
        order = order.drop(again)
    stay: list[Any] = []
    for row in order.itertuples() if settings.near_duplicates else ():
        if any(max(_distances(row.hashes, other.hashes)) <= settings.distance for other in stay):
            table.loc[row.Index, "reason"] = "near_duplicate"
        else:
            stay.append(row)
    return table


EVERYTHING: dict[str, Any] = {
    "min_bytes": 1000, "min_side": 32, "max_aspect": 3.0, "single_colour": True, "max_texts": 6, "exact_duplicates": True,
    "near_duplicates": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("chosen", "kept_out", "hooked"),
    [
        ({}, False, False),
        (EVERYTHING, True, True),
        ({**EVERYTHING, "keep": "matches", "distance": 2, "max_texts": 1}, False, True),
        ({"near_duplicates": True, "distance": 8, "max_aspect": 1.5}, True, False),
    ],
)
def test_the_verb_is_a_naive_recount(
    chosen: dict[str, Any],
    kept_out: bool,
    hooked: bool,
    tars: Path,
    against: Path,
    scores: Path,
    tmp_path: Path,
) -> None:
    """Every sample has the reason that a recount gives it, once; funnel, subset and account have the recount's numbers."""
    words = tmp_path / "words.txt"
    words.write_text("\n".join(WORDS) + "\n")
    settings = InspectSettings(
        **chosen,
        metadata=str(words) if "keep" in chosen else None,
        against=(str(against),) if kept_out else (),
        hooks=(ScoreHook("nudity", str(scores), at_least=0.9),) if hooked else (),
    )
    made = inspect(tars, out=tmp_path / "seen", settings=settings, memory=20_000, options=ONE)
    tests = []
    if kept_out:
        hashes = read_hashes(tmp_path / "seen" / "against.parquet")
        tests = list(zip(hashes["phash"].to_pylist(), hashes["dhash"].to_pylist(), strict=True))
    marked = {uid(n) for n in range(SAMPLES) if n % 10 == 9} if hooked else set()
    expected = recount(tars, settings, tests, marked)
    assert reasons(tmp_path / "seen") == expected.reason.tolist()
    counted = expected.reason.replace("", "kept").value_counts().to_dict()
    assert {name: n for name, n in made.funnel.items() if n} == {"samples": SAMPLES, **counted}
    stay = expected[expected.reason == ""]
    if chosen == EVERYTHING:
        assert {"too_few_bytes", "too_small", "too_narrow", "single_colour", "nudity", "near_test_set", "placeholder",
                "exact_duplicate", "near_duplicate", "broken_image"} <= counted.keys()  # fmt: skip
    assert kept(tmp_path / "seen") == sorted(stay.uid)
    others = {row["uid"].hex(): row["duplicate_of"] for row in outcome(tmp_path / "seen")}
    for row in expected[expected.reason.isin(["exact_duplicate", "near_duplicate"])].itertuples():
        steps = [row.uid]
        while (other := others[steps[-1]]) is not None:
            steps.append(other.hex())
        assert 1 < len(steps) <= 4
        (end,) = stay[stay.uid == steps[-1]].itertuples()
        assert max(_distances(row.hashes, end.hashes)) <= (
            settings.distance if settings.near_duplicates else 0
        )
    subset = MatchSettings(subset=str(tmp_path / "seen" / "subset.npy"))
    run = curate(tars, WORDS, out=tmp_path / "run", t=10, settings=subset, options=ONE)
    assert {one["step"]: one["samples"] for one in run.account["images"]} == {
        "samples": SAMPLES, "kept": 0, **({"nudity": 0} if hooked else {}), **counted,
    }  # fmt: skip
    matched = [any(f" {word} " in f" {text} " for word in WORDS) for text in stay.text]
    assert run.account["funnel"]["matched"] == sum(matched)
