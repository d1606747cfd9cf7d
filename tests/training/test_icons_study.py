"""The study of balancing on icons: its arms are what they say, it runs, is shared by processes and continued."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch: pip install '.[train]'")
pytest.importorskip("altair", reason="needs the extra cards: pip install -e '.[cards]'")
pytest.importorskip("resvg", reason="needs the extra icons: pip install -e '.[icons]'")

from metaclip import RunOptions
from metaclip.errors import MetaclipError
from metaclip.training.train_recipe import DataRecipe, read_recipe
from tests.training.test_icons import write_package
from training.icons.pool import write_pool
from training.icons_study.__main__ import command
from training.icons_study.jobs import LEVEL, RECIPES, STUDIES, Arm, jobs_of
from training.icons_study.summary import Estimate, summarise, table

pytestmark = [
    pytest.mark.extra,
    pytest.mark.filterwarnings(
        "ignore:This DataLoader will create"
    ),  # torch's advice on the number of workers
]


def test_the_order_of_the_jobs() -> None:
    """All arms of the low regime with seed 0 come first, then its other seeds, then the costly regimes; no name twice."""
    jobs = jobs_of(STUDIES["full"])
    low = STUDIES["full"][0]
    assert [job.arm for job in jobs[: len(low.arms)]] == list(low.arms)
    assert [job.regime.name for job in jobs] == sorted(
        (job.regime.name for job in jobs), key=["low", "noisy", "high", "vit"].index
    )
    assert len({job.name for job in jobs}) == len(jobs)
    ts = {arm.t for arm in low.arms if arm.way == "offline"}
    assert len(ts) >= 6
    # These sets have more pairs than are seen, so online and offline are the same run.
    assert {arm.t for arm in low.arms if arm.way == "online"} == ts - {3_000, 1_000}
    assert all(regime.seeds >= 3 for regime in STUDIES["full"] if regime.name != "vit")


def test_the_arm_of_repetition() -> None:
    """Of r passes, an entry's pairs are seen min(r c, max(c, LEVEL)) times: the law of the module."""
    for r in (2, 4, 8):
        assert Arm("repeat", r).t == LEVEL / r
        for count in (1, LEVEL / r, LEVEL / 2, LEVEL, 20 * LEVEL):
            probability = max(min(1.0, LEVEL / r / count), 1 / r)
            assert math.isclose(r * probability * count, min(r * count, max(count, LEVEL)))


def test_the_recipes_are_fixed() -> None:
    """Both towers are read by metaclip train, and a regime changes only what it must."""
    for regime in STUDIES["full"]:
        recipe, made = read_recipe(RECIPES / regime.recipe), regime.train_recipe(DataRecipe(tars="x"), 2)
        assert (made.batch, made.lr, made.warmup, made.crop, made.model) == (
            recipe.batch, recipe.lr, recipe.warmup, recipe.crop, recipe.model,
        )  # fmt: skip
        assert (made.samples, made.seed) == (regime.samples, 2)


def test_intervals() -> None:
    """Student's at 95%, and differences from matched seed by seed."""
    assert Estimate.of([0.1, 0.2, 0.3]).percent() == "20.0 ± 24.8"
    assert Estimate.of([0.5]).percent("+") == "+50.0"
    figures = {"raw": (0.10, 0.20, 0.30), "matched": (0.11, 0.21, 0.31)}
    lines = [
        {
            "task": f"low / {arm} / seed {seed}", "regime": "low", "arm": arm, "way": arm, "t": None, "seed": seed, "pairs": 5,
            "noisy_pairs": None, "passes": 1.0, "metrics": dict.fromkeys(("all", "head", "middle", "tail"), value),
        }
        for arm, values in figures.items() for seed, value in enumerate(values)
    ]  # fmt: skip
    (rows,) = summarise([{**lines[0], "pairs": 9}, *lines]).values()
    assert [row.arm for row in rows] == ["raw", "matched"]
    assert rows[0].against["all"].percent("+") == "-1.0 ± 0.0"
    assert not rows[1].against
    assert "| raw |  | 3 | 5 | 1.0 | 20.0 ± 24.8 |" in table(rows)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of six small sets."""
    folder = tmp_path_factory.mktemp("icons")
    package = write_package(folder)
    write_pool(folder / "pool", package=package, archives=folder, options=RunOptions(workers=1))
    return folder / "pool"


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of results."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_study_runs_is_shared_and_continues(pool: Path, tmp_path: Path) -> None:
    """Two processes at once do each run once; another process finds nothing left, and does what was taken out."""
    (tmp_path / "list.txt").write_text(
        "circle\nsquare\narrow\nheart\nstar\noutline\nbold\nicon\nimage\nfree\ndownload\n"
    )
    out = tmp_path / "study"
    flags = [str(out), "--pool", str(pool), "--size", "tiny", "--metadata", str(tmp_path / "list.txt")]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "training.icons_study", *flags], cwd=RECIPES.parent, env=dict(os.environ),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in running:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors.decode()
    lines = lines_of(out / "results.jsonl")
    assert sorted(line["task"] for line in lines) == sorted(job.name for job in jobs_of(STUDIES["tiny"]))
    found = {(line["regime"], line["arm"]): line for line in lines}
    raw, matched, offline = (found["low", arm] for arm in ("raw", "matched", "offline 6"))
    assert raw["pairs"] == raw["pool_pairs"] == matched["pairs"] == 120 > offline["pairs"]
    assert (found["low", "repeat 4"]["t"], found["low", "repeat 4"]["pairs"]) == (LEVEL / 4, 120)
    assert found["noisy", "online 6"]["noisy_pairs"] < found["noisy", "online 6"]["pairs"]
    for line in lines:
        assert line["samples"] in (64, 96)
        assert np.isclose(line["metrics"]["all"], line["metrics"]["accuracy"]), (
            "as many images of each class"
        )
        assert (line["images"], line["device"]) == (24, "cpu")
    assert "| offline 6 | 6 | 1 |" in (out / "table.md").read_text()
    assert all(
        (out / f"{regime}_{x}.svg").read_text().startswith("<svg")
        for regime in ("low", "noisy")
        for x in ("t", "pairs")
    )
    assert not list((out / "jobs").glob("*")), "what a run leaves is its line"
    before = (out / "results.jsonl").read_bytes()
    again = before.splitlines(keepends=True)
    (out / "results.jsonl").write_bytes(b"".join(again[1:]))
    command.main(flags, standalone_mode=False)
    one, other = lines_of(out / "results.jsonl")[-1], json.loads(again[0])
    same = {"task", "identity", "pairs", "metrics", "loss", "passes"}
    assert {key: one[key] for key in same} == {key: other[key] for key in same}, "to the bit"


def test_a_folder_without_a_pool(tmp_path: Path) -> None:
    """The message names the command that makes one."""
    with pytest.raises(MetaclipError, match=r"there is no pool in .*: python -m training\.icons"):
        command.main([str(tmp_path), "--pool", str(tmp_path), "--size", "tiny"], standalone_mode=False)
