"""The examples of curation/ run, and keep just what the run kept: with webdataset, torch, datasets and open_clip."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaclip import Balancer, Run, curate
from metaclip.pool.uid import uid_of
from tests.tars import write_tars

ROOT = Path(__file__).parents[2]
EXTRA = "needs the extra train: pip install -c constraints-cpu.txt -e '.[train]'"

pytest.importorskip("torch", reason=EXTRA)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:unclosed file:ResourceWarning"
    ),  # webdataset leaves its tars to the collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # the same, said twice
    pytest.mark.filterwarnings(
        "ignore:This DataLoader will create:UserWarning"
    ),  # more workers than processors
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The toy pool, balanced."""
    out = tmp_path_factory.mktemp("examples") / "run"
    return curate(ROOT / "curation" / "toy_pool.jsonl", ROOT / "metadata" / "toy.txt", out=out, t=20)


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, str]]:
    """The toy pool's pairs that have a text, with their uids."""
    lines = (ROOT / "curation" / "toy_pool.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["text"]]
    return [{**row, "uid": uid_of(row["text"], row["url"])} for row in rows]


@pytest.fixture(scope="module")
def tars(pairs: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The pairs as tars, in brace notation."""
    folder = tmp_path_factory.mktemp("tars")
    last = write_tars(folder, pairs)[-1].stem
    return f"{folder}/{{00000..{last}}}.tar"


@pytest.fixture(scope="module")
def table(pairs: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pairs as parquet, in several row groups."""
    path = tmp_path_factory.mktemp("table") / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(pairs), path, row_group_size=50)
    return path


def wanted(run: Run, pairs: list[dict[str, str]], epoch: int) -> list[str]:
    """The uids that an epoch keeps, sorted; the toy pool repeats a few."""
    if epoch == 0:
        return sorted(run.curated["uid"].to_pylist())
    texts, uids = ([pair[name] for pair in pairs] for name in ("text", "uid"))
    kept = Balancer(run).keep(texts, uids, epoch=epoch)
    return sorted(uid for uid, stays in zip(uids, kept, strict=True) if stays)


def example(name: str) -> Any:
    return importlib.import_module(f"curation.{name}")


def called(name: str, *arguments: object, cwd: Path) -> str:
    command = [sys.executable, str(ROOT / "curation" / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "WANDB_MODE": "disabled"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_webdataset(run: Run, pairs: list[dict[str, str]], tars: str, tmp_path: Path) -> None:
    """A stage of a pipeline, `.compose` or `.select`: epoch 0 is the offline subset, epoch 1 the law's next."""
    wds = pytest.importorskip("webdataset", reason=EXTRA)
    for epoch in (0, 1):
        balancer = Balancer(run, epoch=epoch)
        found = [uid for _, _, uid in example("online_webdataset").pipeline(tars, balancer)]
        assert sorted(found) == wanted(run, pairs, epoch)
        one_by_one = wds.WebDataset(tars, shardshuffle=False).select(balancer.takes)
        assert [json.loads(sample["json"])["uid"] for sample in one_by_one] == found
    shown = called("online_webdataset", tars, "--run", run.path, cwd=tmp_path)
    assert re.findall(r"epoch (\d): (\d+) pairs", shown) == [
        (str(epoch), str(len(wanted(run, pairs, epoch)))) for epoch in (0, 1)
    ]


@pytest.mark.parametrize("workers", [0, 3])
def test_torch(run: Run, pairs: list[dict[str, str]], table: Path, workers: int) -> None:
    """A DataLoader whose workers live on: each epoch is the law's."""
    from torch.utils.data import DataLoader

    data = example("online_torch").Pairs(table, run.path)
    loader = DataLoader(data, batch_size=32, num_workers=workers, persistent_workers=workers > 0)
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        found = [uid for _, uids in loader for uid in uids]
        assert sorted(found) == wanted(run, pairs, epoch)


def test_torch_runs(run: Run, pairs: list[dict[str, str]], table: Path, tmp_path: Path) -> None:
    """The example as a person calls it."""
    shown = called("online_torch", table, "--run", run.path, cwd=tmp_path)
    assert [int(n) for n in re.findall(r"epoch \d: (\d+) pairs", shown)] == [
        len(wanted(run, pairs, e)) for e in (0, 1)
    ]


@pytest.mark.parametrize("streaming", [True, False])
def test_datasets(
    run: Run, pairs: list[dict[str, str]], table: Path, tmp_path: Path, streaming: bool
) -> None:
    """`.filter` on a Hugging Face data set, streamed and not."""
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    rows = datasets.load_dataset(
        "parquet", data_files=str(table), split="train", streaming=streaming, cache_dir=str(tmp_path)
    )
    for epoch in (0, 1):
        found = [row["uid"] for row in example("online_datasets").balanced(rows, Balancer(run), epoch)]
        assert sorted(found) == wanted(run, pairs, epoch)


def test_datasets_runs(run: Run, pairs: list[dict[str, str]], table: Path, tmp_path: Path) -> None:
    """The example as a person calls it."""
    pytest.importorskip("datasets", reason="needs the package datasets")
    shown = called("online_datasets", table, "--run", run.path, cwd=tmp_path)
    assert [int(n) for n in re.findall(r"epoch \d: (\d+) pairs", shown)] == [
        len(wanted(run, pairs, e)) for e in (0, 1)
    ]


def test_open_clip(run: Run, tars: str, tmp_path: Path) -> None:
    """open_clip's own trainer takes steps on what the balancer keeps."""
    pytest.importorskip("open_clip_train", reason=EXTRA)
    shown = called(
        "online_open_clip", "--run", run.path, "--", "--train-data", tars, "--dataset-type", "webdataset",
        "--train-num-samples", 64, "--model", "ViT-S-32-alt", "--batch-size", 16, "--epochs", 1, "--workers", 1,
        "--device", "cpu", "--precision", "fp32", "--logs", tmp_path / "logs", "--log-every-n-steps", 1,
        cwd=tmp_path,
    )  # fmt: skip
    assert "Train Epoch: 0" in shown
    assert list(tmp_path.glob("logs/*/checkpoints/epoch_1.pt"))


def test_what_open_clip_asks(run: Run, pairs: list[dict[str, str]]) -> None:
    """A sample must be complete and kept."""
    takes = example("online_open_clip").Takes(lambda sample: "jpg" in sample, Balancer(run))
    samples = [
        {"jpg": b"", "txt": pair["text"].encode(), "json": json.dumps({"uid": pair["uid"]}).encode()}
        for pair in pairs
    ]
    taken = [pair["uid"] for pair, sample in zip(pairs, samples, strict=True) if takes(sample)]
    assert sorted(taken) == wanted(run, pairs, 0)
    assert not takes({key: value for key, value in samples[0].items() if key != "jpg"})
