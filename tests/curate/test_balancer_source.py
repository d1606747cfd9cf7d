"""What is no run, card or counts is refused with what it is and what to give instead."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaclip import Balancer, Matcher, MetaclipError, Metadata, Run, balance, curate, match

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
POOL, LIST = ROOT / "curation" / "toy_pool.jsonl", ROOT / "metadata" / "toy.txt"
WANTED = "balancing in a loader needs a run's folder or a card's"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The toy pool, balanced."""
    return curate(POOL, LIST, out=tmp_path_factory.mktemp("sources") / "run", t=20)


def refused(source: Any) -> str:
    with pytest.raises(MetaclipError) as error:
        Balancer(source)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_paths_that_hold_no_counts(run: Run, tmp_path: Path) -> None:
    """A pool, a list, a file or a part of a run, and nothing at all."""
    tars = tmp_path / "tars"
    tars.mkdir()
    (tars / "00000.tar").touch()
    english = tmp_path / "english.parquet"
    pq.write_table(pa.table({"entry": ["dog"]}), english)
    curated = next((run.path / "curated").glob("*.parquet"))
    makes = "has no counts; " + WANTED + ": metaclip curate"
    assert refused(tmp_path / "none") == f"{tmp_path / 'none'} does not exist; {WANTED}: check the path"
    assert refused(POOL) == f"{POOL} is a file of a pool, which {makes} {POOL} --out RUN makes one"
    assert f"is a file of a pool, which {makes} {curated} " in refused(curated)
    for entries in (LIST, english):
        assert refused(entries) == (
            f"{entries} is a query list, which {makes} POOL --metadata {entries} --out RUN makes one"
        )
    assert refused(tars) == f"{tars} is a pool (00000.tar), which {makes} {tars} --out RUN makes one"
    assert "is a pool (000000.parquet, ...), which" in refused(GOLDEN / "pool_extracted")
    assert refused(GOLDEN / "resharded").endswith(f"{WANTED}: give the run whose subset they are")
    for part in ("curated", "matched"):
        assert (
            refused(run.path / part) == f"{run.path / part} is a part of a run; {WANTED}: give {run.path}"
        )
    for name in ("card.json", "manifest.json", "entries.parquet", "counts.parquet"):
        assert refused(str(run.path / name)).endswith(f"is a file; {WANTED}: give {run.path}")


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    """It is named with some of what it holds."""
    for name in "abcdef":
        (tmp_path / name).touch()
    assert "is no run folder: it holds a, b, c, d, e, ...; " + WANTED in refused(tmp_path)


def test_a_run_that_is_not_finished(tmp_path: Path) -> None:
    """It says so, as every command does."""
    shutil.copytree(GOLDEN / "half", tmp_path / "run")
    assert refused(tmp_path / "run").endswith(
        "is not finished; run the command that began it again, for a job array each part that is left"
    )


@pytest.mark.extra
def test_a_training_folder(tmp_path: Path) -> None:
    """A folder of `metaclip train` names the run that it was trained with, if there was one."""
    pytest.importorskip("torch", reason="needs the extra train")
    from metaclip.training.train import train
    from tests.training import tiny

    shapes = ROOT / "curation" / "toy_shapes"
    run = curate(shapes, LIST, out=tmp_path / "run", t=20)
    for name, data in (("all", {}), ("online", {"balance": str(run.path)})):
        train(tiny.recipe(tmp_path, str(shapes), steps=1, data=data), tmp_path / name)
    says = f"is a folder of metaclip train; {WANTED}: give the run that it was trained with"
    assert refused(tmp_path / "all") == f"{tmp_path / 'all'} {says}"
    assert refused(tmp_path / "online") == f"{tmp_path / 'online'} {says}, {run.path}"


OBJECTS: list[tuple[Any, str]] = [
    (
        ["dog", "cat"],
        "source is a list, which has no counts, must be a Run, the path of a run or a card, or Counts",
    ),
    (Metadata(["dog"]), "source is a query list, which has no counts, must be a Run"),
    (Matcher(["dog"], cache=False), "source must be a Run or a Counts or a path, not Matcher"),
    (None, "source must be a Run or a Counts or a path, not NoneType"),
]


@pytest.mark.parametrize(("source", "message"), OBJECTS)
def test_objects_that_hold_no_counts(source: Any, message: str) -> None:
    """An argument of a wrong type is a TypeError, which says what counts are made with."""
    with pytest.raises(TypeError, match=message):
        Balancer(source)


def test_a_run_that_is_only_matched(tmp_path: Path) -> None:
    """A Balancer without t says which t it uses; with one, and of a balanced run, it says nothing (warnings are errors)."""
    run = match(POOL, LIST, out=tmp_path / "matched")
    said = r"matched is matched but not balanced: t = 2 is used, .* tail share of 0\.06; give another `t=\.\.\.`"
    for source in (run, run.path, str(run.path)):
        with pytest.warns(UserWarning, match=said) as found:
            assert Balancer(source).t == 2
        assert found[0].filename == __file__
    assert Balancer(run, t=20).t == 20
    assert Balancer(run.counts, metadata=run.metadata).t == 2
    assert Balancer(balance(run, t=20)).t == 20
