"""The real img2dataset downloads images from this machine; inspect, curate and reshard take its output."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("PIL", reason="needs Pillow: pip install '.[images]'")

from metaclip import Run
from tests import commands
from tests.bench.peers import environment
from tests.crawls import served
from tests.inspect.pictures import encoded, photo
from tests.inspect.test_select import kept, outcome
from tests.training.shards import uid


@pytest.mark.slow
def test_downloaded_images(tmp_path: Path) -> None:
    """From a list of urls to curated tars: what was listed, downloaded, filtered, kept and drawn adds up, and uids stay."""
    given = os.environ.get("METACLIP_IMG2DATASET")  # the Python of an environment that has it
    python = Path(given) if given else environment(tmp_path / "img2dataset", ("img2dataset==1.47.0",))
    web = tmp_path / "web"
    web.mkdir()
    for n in range(12):
        (web / f"{n}.jpg").write_bytes(encoded(photo(n % 9, (160, 120)), "JPEG", quality=85))
    (web / "12.jpg").write_bytes(encoded(photo(50, (400, 40)), "JPEG"))
    with served(web) as (address, _):
        rows = {
            "uid": [uid(n) for n in range(16)], "url": [f"{address}{n}.jpg" for n in range(16)],
            "text": [f"a dog, {n}" for n in range(16)],
        }  # fmt: skip
        pq.write_table(pa.table(rows), tmp_path / "list.parquet")
        command = [
            python.parent / "img2dataset", "--url_list", tmp_path / "list.parquet", "--input_format", "parquet", "--url_col", "url",
            "--caption_col", "text", "--save_additional_columns", '["uid"]', "--output_format", "webdataset", "--output_folder",
            tmp_path / "images", "--resize_mode", "no", "--processes_count", "1", "--thread_count", "4",
        ]  # fmt: skip
        quiet = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
        subprocess.run(command, check=True, env=quiet, timeout=300)
    tars, seen = tmp_path / "images" / "*.tar", tmp_path / "seen"
    done = commands.done("inspect", tars, "--exact-duplicates", "--max-aspect", 3, "--out", seen)
    assert "listed" in done.out
    assert len(outcome(seen)) == 13
    assert kept(seen) == sorted(uid(n) for n in range(9))
    words = tmp_path / "words.txt"
    words.write_text("dog\n")
    pool = tmp_path / "images" / "*.parquet"  # the list, with what img2dataset says of each download
    commands.done(
        "curate",
        pool,
        "--metadata",
        words,
        "--t",
        5,
        "--subset",
        seen / "subset.npy",
        "--out",
        tmp_path / "run",
    )
    account = Run(tmp_path / "run").account
    images = {one["step"]: one["samples"] for one in account["images"]}
    assert images == {
        "listed": 16,
        "not_downloaded": 3,
        "samples": 13,
        "too_narrow": 1,
        "exact_duplicate": 3,
        "kept": 9,
    }
    funnel = account["funnel"]
    assert (funnel["rows"], funnel["not_downloaded"], funnel["not_in_subset"], funnel["matched"]) == (
        16,
        3,
        4,
        9,
    )
    curated = tmp_path / "run" / "curated.npy"
    commands.done("reshard", tars, "--subset", curated, "--out", tmp_path / "curated")
    assert len(list((tmp_path / "curated").glob("*.tar"))) == 1
    commands.done("inspect", tmp_path / "curated", "--exact-duplicates", "--out", tmp_path / "again")
    assert len(kept(tmp_path / "again")) == funnel["kept"]
