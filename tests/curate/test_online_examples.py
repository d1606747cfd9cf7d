"""The examples of curation/ run as a user calls them, and keep in each epoch just what the draw keeps.

In all of them, the epoch is set in this process and read in workers that live on from epoch to epoch.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from metaclip import Balancer, Run, curate
from tests.processes import environment
from tests.tars import write_tar

ROOT = Path(__file__).parents[2]
SHAPES = ROOT / "curation" / "toy_shapes"
EXTRA = "needs the extra train: pip install -c constraints-cpu.txt -e '.[train]'"
README = (ROOT / "curation" / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## Inside a data loader\n")[2].partition("\n## ")[0]
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)
EXAMPLES = ["online_webdataset", "online_torch", "online_datasets", "online_open_clip"]

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


def commands(text: str) -> list[str]:
    """The indented commands of a text, each without its line breaks."""
    joined = re.sub(r" \\\n +", " ", text)
    return [line.strip() for line in joined.splitlines() if re.match(r" {4}(metaclip|python) ", line)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files, as a fresh clone has them, with a balanced run."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a clone: which files are tracked")
    folder = tmp_path_factory.mktemp("clone")
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, tracked.stdout.split("\0")):
        if name.startswith(("curation/", "metadata/", "training/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    shell(commands(SECTION)[0], folder)
    return folder


def shell(command: str, folder: Path) -> str:
    """Run a command as a user types it, with this interpreter's python and this tree's metaclip."""
    done = subprocess.run(
        ["bash", "-c", f'metaclip() {{ python -m metaclip "$@"; }}\n{command}'],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
        env=environment(
            PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            WANDB_MODE="disabled",
            HF_HUB_OFFLINE="1",
            OMP_NUM_THREADS="1",
        ),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The shipped shapes, balanced."""
    return curate(
        SHAPES, ROOT / "metadata" / "toy.txt", out=tmp_path_factory.mktemp("shapes") / "run", t=6
    )


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, Any]]:
    """The pairs of the shipped shapes that were downloaded."""
    table = pa.concat_tables(map(pq.read_table, sorted(SHAPES.glob("*.parquet"))))
    return [row for row in table.to_pylist() if row["status"] == "success"]


def wanted(run: Run, pairs: list[dict[str, Any]], epoch: int) -> list[str]:
    """The uids that an epoch keeps, sorted."""
    if epoch == 0:
        return sorted(run.curated["uid"].to_pylist())
    texts, uids = ([pair[name] for pair in pairs] for name in ("caption", "uid"))
    kept = Balancer(run).keep(texts, uids, epoch=epoch)
    return sorted(itertools.compress(uids, kept))


def example(name: str) -> Any:
    return importlib.import_module(f"curation.{name}")


def check_epochs(run: Run, pairs: list[dict[str, Any]], balancer: Balancer, uids: Any) -> None:
    """Epochs, also one that comes again, are those of the draw: by `set_epoch`, and by the attribute."""
    for epoch in (0, 1, 2, 0):
        balancer.set_epoch(epoch)
        assert sorted(uids()) == wanted(run, pairs, epoch)
    balancer.epoch = 3
    assert sorted(uids()) == wanted(run, pairs, 3)
    assert len({tuple(wanted(run, pairs, epoch)) for epoch in range(4)}) == 4


# --- as a user calls them


def test_the_readme_names_the_commands_of_the_examples() -> None:
    """A command stands in the docstring of its example and in the README, word for word."""
    shown = commands(SECTION)
    for name in EXAMPLES:
        found = commands(
            (ROOT / "curation" / f"{name}.py").read_text(encoding="utf-8").replace('r"""', '"""')
        )
        assert len(found) == 2
        assert set(found) <= set(shown)
    assert len(shown) == 1 + len(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name: str, clone: Path, run: Run, pairs: list[dict[str, Any]]) -> None:
    """The command of the README runs from a fresh clone, without a warning, and each epoch keeps as many as it should."""
    pytest.importorskip("open_clip_train" if name.endswith("clip") else name.split("_")[1], reason=EXTRA)
    (command,) = (line for line in commands(SECTION) if f"{name}.py" in line)
    shown = shell(command, clone)
    assert "metaclip" not in shown.replace(str(ROOT), ""), shown
    if name == "online_open_clip":
        assert "Train Epoch: 1 [16/16 (100%)]" in shown
    else:
        counts = [int(n) for n in re.findall(r"^epoch \d: (\d+) pairs$", shown, re.MULTILINE)]
        assert counts == [len(wanted(run, pairs, epoch)) for epoch in (0, 1)]
        assert "Warning" not in shown


def test_the_lines_of_the_readme(
    run: Run, pairs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Python of the README runs as it stands there, and each library's line keeps the run's pairs."""
    datasets, polars, pandas, webdataset = map(
        pytest.importorskip, ("datasets", "polars", "pandas", "webdataset")
    )
    (block,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    monkeypatch.chdir(run.path.parent)
    table = pa.Table.from_pylist(pairs)
    found: dict[str, Any] = {
        "webdataset": webdataset, "polars": polars, "tars": [str(path) for path in sorted(SHAPES.glob("*.tar"))],
        "dataset": datasets.Dataset(table), "stream": datasets.Dataset(table).to_iterable_dataset(), "frame": polars.DataFrame(table), "table": table.to_pandas(), "arrow": table,
        "column": polars.Series([pair["caption"] for pair in pairs]), "uids": [pair["uid"] for pair in pairs],
    }  # fmt: skip
    exec(block, found)
    assert isinstance(found["table"], pandas.DataFrame)
    kept = wanted(run, pairs, 0)
    assert sorted(json_of(sample)["uid"] for sample in found["samples"]) == kept
    assert sorted(row["uid"] for row in found["stream"]) == kept
    for name in ("pairs", "frame", "table", "arrow"):
        assert sorted(map(str, found[name]["uid"])) == kept
    assert sorted(itertools.compress(found["uids"], found["kept"])) == kept
    assert found["matches"].to_list() == Balancer(run).matcher.match(table["caption"]).to_pylist()
    pandas_matches = Balancer(run).matcher.match(table.to_pandas()["caption"])
    assert pandas_matches.to_pylist() == found["matches"].to_list()


# --- every epoch, every kind of worker, every form of a pool


def json_of(sample: Any) -> Any:
    return sample["json"] if isinstance(sample["json"], dict) else json.loads(sample["json"])


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_webdataset(run: Run, pairs: list[dict[str, Any]], workers: int) -> None:
    """Workers that live on read the epoch that is set here; also where there are more workers than tars."""
    balancer = Balancer(run)
    tars = f"{SHAPES}/{{00000..00001}}.tar" if workers else str(SHAPES)
    loader = example("online_webdataset").load([tars], balancer, workers)
    check_epochs(run, pairs, balancer, lambda: [sample["json"]["uid"] for sample in loader])


def test_webdataset_one_by_one(run: Run, pairs: list[dict[str, Any]]) -> None:
    """`.select(balancer.takes)` is the same."""
    wds = pytest.importorskip("webdataset", reason=EXTRA)
    balancer = Balancer(run)
    tars = [str(path) for path in sorted(SHAPES.glob("*.tar"))]
    samples = wds.WebDataset(tars, shardshuffle=False).select(balancer.takes)
    check_epochs(run, pairs, balancer, lambda: [json_of(sample)["uid"] for sample in samples])


@pytest.mark.parametrize(("workers", "method"), [(0, None), (2, "fork"), (3, "spawn"), (2, "forkserver")])
def test_torch(run: Run, pairs: list[dict[str, Any]], workers: int, method: str | None) -> None:
    """Workers that live on read the epoch that is set here, however they were started."""
    from torch.utils.data import DataLoader

    balancer = Balancer(run)
    data = example("online_torch").KeptPairs(SHAPES, balancer)
    loader: Any = DataLoader(
        data, 32, num_workers=workers, persistent_workers=workers > 0, multiprocessing_context=method
    )
    check_epochs(run, pairs, balancer, lambda: [uid for _, _, uids in loader for uid in uids])
    assert {url for _, urls, _ in loader for url in urls} <= {pair["url"] for pair in pairs}


@pytest.fixture(params=["parquet", "csv", "tsv", "jsonl", "tar"])
def pool(request: pytest.FixtureRequest, pairs: list[dict[str, Any]], tmp_path: Path) -> Path:
    """The shapes in each form of a pool, in two files."""
    folder: Path = tmp_path / request.param
    folder.mkdir()
    for number in range(2):
        path, rows = folder / f"{number}.{request.param}", pairs[number::2]
        table = pa.Table.from_pylist(rows).select(["uid", "url", "caption"])
        if request.param == "parquet":
            pq.write_table(table.rename_columns(["UID", "URL", "TEXT"]), path)
        elif request.param == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
        elif request.param == "tar":  # without .txt: the caption is in the .json
            write_tar(
                path, ((row["key"], {"json": json.dumps(row).encode(), "png": PNG}) for row in rows)
            )
        else:
            options = pyarrow.csv.WriteOptions(delimiter="," if request.param == "csv" else "\t")
            pyarrow.csv.write_csv(table, path, options)
    return folder


def test_datasets(run: Run, pairs: list[dict[str, Any]], pool: Path) -> None:
    """A streamed data set of every form of a pool."""
    pytest.importorskip("datasets", reason="needs the package datasets")
    module, balancer = example("online_datasets"), Balancer(run)
    rows = module.balanced(module.load(str(pool)), balancer)
    check_epochs(run, pairs, balancer, lambda: [uid_of_row(row) for row in rows])


def uid_of_row(row: dict[str, Any]) -> str:
    fields = row.get("json", row)
    return str(fields.get("uid") or fields.get("UID"))


def test_datasets_decode_what_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a streamed data set of tars, the images of no other samples are decoded."""
    pytest.importorskip("datasets", reason="needs the package datasets")
    from PIL import Image

    opened, open_image = [], Image.open
    module = example("online_datasets")
    rows = module.load([str(path) for path in sorted(SHAPES.glob("*.tar"))])
    monkeypatch.setattr(Image, "open", lambda *given: opened.append(1) or open_image(*given))
    images = [row["png"].size for row in module.balanced(rows, Balancer(run))]
    assert images == [(32, 32)] * 45
    assert len(opened) == 45


def test_datasets_not_streamed(run: Run, pairs: list[dict[str, Any]], tmp_path: Path) -> None:
    """A data set is filtered again in each epoch: a cached result of another epoch is not taken for this one's."""
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    paths = [str(path) for path in sorted(SHAPES.glob("*.parquet"))]
    rows = datasets.load_dataset("parquet", data_files=paths, split="train", cache_dir=str(tmp_path))
    balancer = Balancer(run)
    check_epochs(
        run,
        pairs,
        balancer,
        lambda: (
            rows.with_format("arrow").filter(balancer.keep_table, batched=True).with_format(None)["uid"]
        ),
    )


def test_datasets_in_rows_and_columns(run: Run, pairs: list[dict[str, Any]]) -> None:
    """`.filter` also takes a method of the Balancer for plain batches, and for single rows."""
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    rows = datasets.Dataset.from_list(pairs)
    for kept in (rows.filter(Balancer(run).keep_table, batched=True), rows.filter(Balancer(run).takes)):
        assert sorted(kept["uid"]) == wanted(run, pairs, 0)


def test_pools_of_every_form(run: Run, pairs: list[dict[str, Any]], pool: Path) -> None:
    """The torch example reads every form of a pool."""
    balancer = Balancer(run)
    loader = example("online_torch").load(str(pool), balancer, 2)
    check_epochs(run, pairs, balancer, lambda: [uid for _, _, uids in loader for uid in uids])


@pytest.fixture
def open_clip_data(monkeypatch: pytest.MonkeyPatch) -> Any:
    """open_clip's module of data, which is as it was after the test."""
    from metaclip.training.models import import_torchvision

    import_torchvision()
    data: Any = pytest.importorskip("open_clip_train.data", reason=EXTRA)
    for name in ("tarfile_to_samples_nothrow", "SharedEpoch"):
        monkeypatch.setattr(data, name, getattr(data, name))
    return data


@pytest.mark.parametrize("with_txt", [True, False])
def test_what_open_clip_reads(
    run: Run, pairs: list[dict[str, Any]], open_clip_data: Any, tmp_path: Path, with_txt: bool
) -> None:
    """open_clip's own loader yields what each epoch keeps, from one worker that lives on; validation data are whole."""
    images = {}
    for path in sorted(SHAPES.glob("*.tar")):
        with tarfile.open(path) as tar:
            images |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    pairs = [{**pair, "caption": f"{pair['caption']} {number}"} for number, pair in enumerate(pairs)]
    samples = [
        (
            pair["key"],
            {
                "png": images[f"{pair['key']}.png"],
                "json": json.dumps(pair).encode(),
                **({"txt": pair["caption"].encode()} if with_txt else {}),
            },
        )
        for pair in pairs
    ]
    tar = tmp_path / "0.tar"
    write_tar(tar, samples)
    balancer = Balancer(run)
    example("online_open_clip").install(open_clip_data, balancer)
    arguments = argparse.Namespace(
        train_data=str(tar), val_data=str(tar), train_num_samples=len(pairs), val_num_samples=len(pairs), seed=0,
        batch_size=1, world_size=1, workers=1, train_data_upsampling_factors=None,
    )  # fmt: skip

    def tokenizer(text: str) -> list[int]:
        return [int(text.rpartition(" ")[2])]

    def numbers(loader: Any) -> list[int]:
        return [int(number) for _, tokens in loader for number in tokens]

    train = open_clip_data.get_wds_dataset(arguments, lambda image: 0, True, tokenizer=tokenizer)
    for epoch in (0, 1, 2):
        train.set_epoch(epoch)
        texts, uids = ([pair[name] for pair in pairs] for name in ("caption", "uid"))
        kept = Balancer(run).keep(texts, uids, epoch=epoch)
        assert set(numbers(train.dataloader)) == set(kept.nonzero()[0].tolist())
    if with_txt:
        whole = open_clip_data.get_wds_dataset(arguments, lambda image: 0, False, tokenizer=tokenizer)
        assert sorted(numbers(whole.dataloader)) == list(range(len(pairs)))


@pytest.mark.parametrize("name", ["torch", "webdataset", "datasets", "open_clip"])
def test_a_missing_run_or_package_is_one_line(name: str, tmp_path: Path) -> None:
    """An example ends with one line that says what to do: without its run, and without its package."""
    pool = [] if name == "open_clip" else [str(SHAPES)]
    script = [
        sys.executable,
        str(ROOT / "curation" / f"online_{name}.py"),
        *pool,
        "--run",
        str(tmp_path / "none"),
    ]
    package = {"open_clip": "open_clip_train"}.get(name, name)
    (tmp_path / f"{package}.py").write_text(f"raise ImportError(\"No module named '{package}'\")")
    there = importlib.util.find_spec(package) is not None
    for folders, says in (
        ([ROOT, tmp_path], f"No module named '{package}'; this example needs "),
        *(
            [([ROOT], f"{tmp_path / 'none'} does not exist; balancing in a loader needs a run's folder")]
            if there
            else []
        ),
    ):
        paths = os.pathsep.join(map(str, reversed(folders)))
        done = subprocess.run(
            script,
            capture_output=True,
            text=True,
            timeout=300,
            env=environment(PYTHONPATH=paths),
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(says), done.stderr[-2000:]
        assert "Traceback" not in done.stderr
