"""Runs to compare: a pool that takes a second to curate, the bytes of a run, and its finished shards."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tests.processes import start

FILES, ROWS, T = 40, 6_000, 60
"""The large pool: each shard takes a few hundredths of a second, so that a kill hits a run in the middle."""
WORDS = [f"word{i}" for i in range(2_000)]


def write_pool(folder: Path, files: int, rows: int, seed: int = 0) -> Path:
    """Write a pool of parquet files: texts of six words, rare and frequent ones, with uids."""
    rng = np.random.default_rng(seed)
    words = pa.array(WORDS)
    folder.mkdir(parents=True)
    for i in range(files):
        columns = [
            words.take(pa.array((rng.random(rows) ** 3 * len(WORDS)).astype(np.int64))) for _ in range(6)
        ]
        uids = [f"{seed:08x}{i:012x}{row:012x}" for row in range(rows)]
        table = pa.table(
            {"text": pc.binary_join_element_wise(*columns, " "), "uid": uids, "row": np.arange(rows)}
        )
        pq.write_table(table, folder / f"{i:03d}.parquet")
    return folder


def write_list(path: Path) -> Path:
    """Write a list of 500 entries of one or two words."""
    path.write_text(
        "\n".join([*WORDS[::5], *(f"{a} {b}" for a, b in itertools.pairwise(WORDS[:101]))]) + "\n"
    )
    return path


def curate(pool: Path | str, words: Path | str, out: Path | str, *more: Any) -> list[Any]:
    return ["curate", pool, "--metadata", words, "--t", T, "--out", out, *more]


def undisturbed_run(pool: Path, words: Path, folder: Path) -> Path:
    """Curate a pool in one process that is not interrupted; return the run folder."""
    with start(*curate(pool, words, folder / "run"), into=folder) as process:
        assert process.wait() == 0, process.err
    return folder / "run"


def result(run: Path) -> dict[str, str]:
    """Return the sha256 of every file of a run's result, and its account without the time of creation."""
    files = [*run.glob("*.parquet"), *run.glob("*.npy"), *run.glob("matched/*"), *run.glob("curated/*")]
    found = {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }
    card = json.loads((run / "card.json").read_text())
    return found | {"card": json.dumps({key: value for key, value in card.items() if key != "created"})}


def holds(run: Path, wanted: Path) -> None:
    """Assert that a run equals another one in every byte of its result, and that no unfinished file is left."""
    found, other = result(run), result(wanted)
    assert found.keys() == other.keys()
    assert {name for name in found if found[name] != other[name]} == set()
    assert not list(run.rglob("*.tmp"))
    assert not list(run.glob(".state/*/*.npy"))


def forget_checksums(run: Path) -> None:
    """Remove the checksums of files from markers and records, as earlier revisions wrote none."""
    for path in (run / "manifest.json", *run.glob(".state/*/*.json")):
        value = json.loads(path.read_bytes())
        for marker in (value, *value.get("stages", {}).values()):
            marker.pop("crc32", None)
        path.write_text(json.dumps(value))


def markers(run: Path, stage: str) -> set[str]:
    """Return the names of the finished shards of a stage."""
    return {path.stem for path in run.glob(f".state/{stage}/*-*.json") if ".lost" not in path.name}


def made_as(path: Path) -> tuple[int, int]:
    """Return the inode and the time of modification of a file, which change when it is written again."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def made(run: Path, stage: str) -> dict[str, tuple[int, int]]:
    """Return `made_as` for the output of each finished shard."""
    output = {"match": "matched", "balance": "curated"}[stage]
    paths = {name: run / output / f"{name}.parquet" for name in markers(run, stage)}
    return {name: made_as(path) for name, path in paths.items() if path.exists()}
