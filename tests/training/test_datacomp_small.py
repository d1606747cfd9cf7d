"""curation/datacomp_small.sh from images on a disk to the table, on the icons as img2dataset would have left them."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.training.shards import read_tar

ROOT = Path(__file__).parents[2]
SETS = ["basic", "score", "t3"]
RECIPE = '[train]\nmodel = "icons_rn.json"\nsamples = 256\nbatch = 64\nwarmup = 1\nprecision = "fp32"\n'

pytestmark = [pytest.mark.network, pytest.mark.extra, pytest.mark.slow]


def write_table(tar: Path) -> None:
    """Write the parquet that img2dataset writes beside a tar, with DataComp's columns; the sizes and scores are drawn."""
    rng, rows = random.Random(tar.name), []
    members = dict(read_tar(tar))
    for name in [name for name in members if name.endswith(".txt")]:
        uid = name.removesuffix(".txt")
        rows.append(
            {
                "url": json.loads(members[f"{uid}.json"])["url"], "caption": members[name].decode(), "key": uid,
                "status": "success", "error_message": None, "uid": uid, "original_width": rng.randint(150, 900),
                "original_height": rng.randint(150, 900), "clip_l14_similarity_score": rng.random(),
            }
        )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tar.with_suffix(".parquet"))


def test_from_tars_to_the_table(tmp_path: Path) -> None:
    """Every set is trained on and evaluated; the same command again does nothing, and the table is the same."""
    environment = {
        **os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "T": "3", "SETS": " ".join(SETS),
        "RECIPE": str(tmp_path / "recipe.toml"), "FLAGS": "--device cpu --workers 0",
        "EVALUATE": f"--data {tmp_path / 'icons' / 'held_out'} --device cpu",
    }  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "training.icons", tmp_path / "icons", "--sets", "pinned"],
        cwd=ROOT, check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    shutil.copytree(tmp_path / "icons" / "train", tmp_path / "study" / "tars")
    for tar in (tmp_path / "study" / "tars").glob("*.tar"):
        write_table(tar)
    (tmp_path / "study" / "downloaded").touch()
    (tmp_path / "recipe.toml").write_text(RECIPE)
    shutil.copy(ROOT / "training" / "icons_rn.json", tmp_path)
    tables = []
    for _ in range(2):
        done = subprocess.run(
            ["bash", ROOT / "curation" / "datacomp_small.sh", tmp_path / "study"],
            env=environment, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        tables.append((tmp_path / "study" / "results.md").read_text())
    head, _, *rows = tables[0].splitlines()
    assert head.startswith("| set | ")
    assert [row.split(" | ")[0].strip("| ") for row in rows] == SETS
    assert tables[1] == tables[0]
    kept = {name: len(read_subset(tmp_path / "study" / "sets" / name)) for name in SETS}
    assert all(0 < number < 4_154 for number in kept.values()), kept
    assert kept["score"] == round(0.3 * 4_154)


def read_subset(folder: Path) -> list[object]:
    """The uids of a set."""
    import numpy as np

    [path] = [path for path in (folder / "curated.npy", folder / "subset.npy") if path.exists()]
    return list(np.load(path))
