"""Training: the same bytes whether it was killed or not, the same model on any ranks; what stops it says so in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch: pip install '.[train]'")
pytest.importorskip("PIL", reason="needs Pillow: pip install '.[train]'")

import torch

from metaclip import MetaclipError, curate
from metaclip.errors import Interrupted, LostInputs
from metaclip.pool.sorted_uids import SUBSET
from metaclip.stage.folder import Folder
from metaclip.training import checkpoint, models
from metaclip.training.stream import Loader, Stream
from metaclip.training.train import TrainRun, train
from metaclip.training.train_recipe import TrainOptions
from tests.commands import call, refused
from tests.processes import until
from tests.training import tiny
from tests.training.shards import write_shards

# torch advises on the number of workers, whatever is meant by it.
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore:This DataLoader will create")]

CPU = TrainOptions(device="cpu", log_every=1)
ALONE = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.write_pairs(tmp_path_factory.mktemp("pairs"))


def weights(run: TrainRun | Path) -> dict[str, Any]:
    folder = run if isinstance(run, Path) else run.path
    return models.load_tensors(folder / "model.pth")


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether all tensors are the same to the bit, however deeply they are nested."""

    def equal(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor):
            return torch.equal(a, b)
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
        if isinstance(a, list | tuple):
            return len(a) == len(b) and all(map(equal, a, b))
        return bool(a == b)

    return equal(one, other)


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the distance of two models, relative to the distance that training moved them from their first weights.

    The largest difference would not do: where a gradient is almost 0, AdamW makes a step of rounding alone.
    """
    torch.manual_seed(0)
    first = models.create("tiny").state_dict()

    def way(a: dict[str, Any], b: dict[str, Any]) -> float:
        return float(torch.stack([(a[key] - b[key]).double().norm() for key in a]).norm())

    return way(one, other) / way(one, first)


def losses(run: TrainRun) -> list[float]:
    return [line["loss"] for line in run.metrics]


# A run ----------------------------------------------------------------------------------------------------------------


def test_a_run(tars: str, tmp_path: Path) -> None:
    """A run learns, tells what it does, and leaves what its README names; the same command has nothing to do then."""
    made = tiny.recipe(tmp_path, tars, steps=30, batch=32, lr=3e-3)
    told: list[Any] = []
    run = train(
        made,
        tmp_path / "run",
        options=dataclasses.replace(CPU, log_every=3, save_every=10),
        report=told.append,
    )
    lines = run.metrics
    assert [line["step"] for line in lines] == sorted({*range(3, 31, 3), 10, 20})
    assert [{key: line[key] for key in lines[0]} for line in told] == lines
    assert lines[-1]["samples"] == 30 * 32
    assert losses(run)[-1] < losses(run)[0] - 0.3
    assert all(0 <= line["data_wait"] <= 1 and line["samples_per_second"] > 0 for line in lines)
    assert all(line["mfu"] is None for line in lines), "a processor has no known peak"
    assert lines[-1]["scale"] == pytest.approx(float(weights(run)["logit_scale"].exp()))
    names = {path.name for path in run.path.iterdir()}
    assert names == {
        ".state",
        "manifest.json",
        "recipe.toml",
        "metrics.jsonl",
        "checkpoints",
        "model",
        "model.pth",
        "open_clip_config.json",
    }
    assert [path.name for path in checkpoint.saved(run.path)] == ["00000020.pt", "00000030.pt"]
    record = json.loads((run.path / "manifest.json").read_text())["stages"]["train"]
    assert (record["steps"], record["samples"], record["reasons"]) == (30, 960, {"yielded": 960})
    before = (run.path / "model.pth").stat().st_mtime_ns
    assert train(made, tmp_path / "run", options=CPU).metrics == lines
    assert (run.path / "model.pth").stat().st_mtime_ns == before


def test_plain_open_clip_loads_it(tars: str, tmp_path: Path) -> None:
    """A checkpoint and the final weights load in open_clip, by the model's name or from the folder, and give our features."""
    open_clip = models.import_open_clip()
    run = train(tiny.recipe(tmp_path, tars), tmp_path / "run", options=CPU)
    ours = models.open_clip_of(run.path)
    from training import shapes

    image, texts = shapes.draw(5, 5)[0], ["a red star", "a blue ring"]
    pixels = ours.transform(image)[None]
    assert ours.name == "tiny"
    assert not ours.model.training
    with torch.no_grad():
        expected = ours.model(pixels, ours.tokenizer(texts))[:2]
        for name, pretrained in (
            ("tiny", str(run.path / "model.pth")),
            ("tiny", str(checkpoint.saved(run.path)[-1])),
            (f"local-dir:{run.path}", None),
        ):
            model, _, transform = open_clip.create_model_and_transforms(name, pretrained=pretrained)
            found = model.eval()(transform(image)[None], open_clip.get_tokenizer(name)(texts))[:2]
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_fresh_process_loads_it(tars: str, tmp_path: Path) -> None:
    """A process that never saw the model's file opens a run by its folder alone."""
    run = train(tiny.recipe(tmp_path / "gone", tars), tmp_path / "run", options=CPU)
    (tmp_path / "gone" / "tiny.json").unlink()
    code = "import sys; from metaclip.training.models import open_clip_of; print(open_clip_of(sys.argv[1]).name)"
    done = subprocess.run(
        [sys.executable, "-c", code, run.path], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("tiny\n", 0), done.stderr


def test_what_is_no_run(tmp_path: Path) -> None:
    """A folder without a run, and a run without weights, are named."""
    with pytest.raises(MetaclipError, match="is no training run: it has no open_clip_config.json"):
        models.open_clip_of(tmp_path)
    models.write_config(tmp_path, name := models.known(tiny.write_model(tmp_path)), models.create(name))
    with pytest.raises(MetaclipError, match="has no weights yet"):
        models.open_clip_of(tmp_path)


# The same model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"checkpointing": True}, {"workers": 1}], ids=str)
def test_work_changes_nothing(options: dict[str, Any], tars: str, tmp_path: Path) -> None:
    """In parts, with activations computed twice, with a loading process: the same model but for rounding."""
    made = tiny.recipe(tmp_path, tars, steps=5)
    one = train(made, tmp_path / "one", options=CPU)
    other = train(made, tmp_path / "other", options=dataclasses.replace(CPU, **options))
    assert losses(other) == pytest.approx(losses(one), rel=1e-4)
    assert apart(weights(one), weights(other)) < 5e-3


def compiled(tars: str, folder: Path, device: str) -> None:
    """Train plainly and compiled; compare."""
    made = tiny.recipe(folder, tars, steps=4)
    options = dataclasses.replace(CPU, device=device)
    one = train(made, folder / "one", options=options)
    other = train(made, folder / "other", options=dataclasses.replace(options, compile=True))
    assert losses(other) == pytest.approx(losses(one), rel=1e-3)
    assert weights(one).keys() == weights(other).keys()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, by torch's own compiler
def test_compiled(tars: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled model is trained alike, and saved under the names of the plain one; graphs are taken, no code is made."""
    monkeypatch.setattr(
        torch, "compile", functools.partial(torch.compile, backend="eager")
    )  # C++ takes minutes
    compiled(tars, tmp_path, "cpu")


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_for_a_gpu(tars: str, tmp_path: Path) -> None:
    """The same on a GPU, with the code that the compiler makes."""
    compiled(tars, tmp_path, "cuda")


@pytest.mark.gpu
def test_on_a_gpu(tars: str, tmp_path: Path) -> None:
    """A GPU trains what a processor trains, but for rounding."""
    made = tiny.recipe(tmp_path, tars, steps=5)
    one = train(made, tmp_path / "one", options=CPU)
    other = train(made, tmp_path / "other", options=dataclasses.replace(CPU, device="cuda", workers=0))
    assert losses(other) == pytest.approx(losses(one), rel=1e-2)


def test_bf16(tars: str, tmp_path: Path) -> None:
    """bf16 by autocast: other losses, though close, and weights that stay float32."""
    one = train(tiny.recipe(tmp_path, tars), tmp_path / "one", options=CPU)
    other = train(tiny.recipe(tmp_path, tars, precision="bf16"), tmp_path / "other", options=CPU)
    assert losses(one) != losses(other)
    assert losses(other) == pytest.approx(losses(one), rel=0.05)
    parts = train(
        tiny.recipe(tmp_path, tars, precision="bf16"),
        tmp_path / "parts",
        options=dataclasses.replace(CPU, accumulate=2),
    )
    assert losses(parts) == pytest.approx(losses(other), rel=0.05)
    assert {tensor.dtype for tensor in weights(other).values()} == {torch.float32}


def test_seeds(tars: str, tmp_path: Path) -> None:
    """One seed is of the first weights, another of the data's order; both change the run."""
    runs = [
        tiny.recipe(tmp_path, tars, steps=2, **more) for more in ({}, {"seed": 1}, {"data": {"seed": 1}})
    ]
    found = [losses(train(made, tmp_path / str(n), options=CPU)) for n, made in enumerate(runs)]
    assert len({tuple(one) for one in found}) == 3


def test_balance(tars: str, tmp_path: Path) -> None:
    """Online at epoch 0 sees what the offline subset holds; a stream that is drawn is another run than a whole one."""
    words = ["circle", "square", "triangle", "star", "cross", "ring"]
    run = curate(tars, words, out=tmp_path / "balanced", t=7)
    kept = set(run.curated["uid"].to_pylist())
    assert 32 < len(kept) < 100
    size = len(kept) // 4

    def trained(name: str, **data: Any) -> TrainRun:
        return train(
            tiny.recipe(tmp_path, tars, steps=4, batch=size, data=data), tmp_path / name, options=CPU
        )

    offline = trained("offline", subset=str(run.path / "curated.npy"))
    online = trained("online", balance=str(run.path))
    assert same(weights(offline), weights(online))
    assert not same(weights(offline), weights(trained("raw")))
    other = trained("t", balance=str(run.path), t=2.0)
    assert not same(weights(other), weights(online))
    with pytest.raises(MetaclipError, match=r"holds another run: .*data\.balance\.t: 7 -> 3"):
        trained("online", balance=str(run.path), t=3.0)


# Killed, and taken up -------------------------------------------------------------------------------------------------


def start(recipe: Path, out: Path, *more: str, ranks: int = 0) -> subprocess.Popen[str]:
    """Start ``metaclip train`` as a user does, or torchrun with so many ranks."""
    launcher = (
        ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"] if ranks else []
    )
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, "metaclip", "train", str(recipe), "--out", str(out), "--log-every", "1", *more],
        env={**os.environ, **ALONE}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_killed_and_taken_up(tars: str, tmp_path: Path) -> None:
    """Killed by SIGKILL between two checkpoints and taken up, a run ends with the same bytes as one that was not."""
    made = tiny.recipe(tmp_path, tars, steps=40)
    straight = train(made, tmp_path / "straight", options=CPU)
    out = tmp_path / "killed"
    process = start(tiny.toml(made, tmp_path / "r.toml"), out, "--save-every", "3")
    until(lambda: bool(checkpoint.saved(out)) or process.poll() is not None, "a checkpoint")
    process.kill()
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    assert checkpoint.saved(out)
    assert not (out / "model.pth").exists()
    said: list[str] = []
    train(made, out, options=CPU, say=said.append)
    assert [line.startswith("going on after step") for line in said] == [True]
    assert same(weights(out), weights(straight))
    last = [models.load_tensors(checkpoint.saved(folder)[-1]) for folder in (out, straight.path)]
    assert same(*last), "weights, the optimiser's state, the place in the data and the generators"
    assert [line["step"] for line in TrainRun(out).metrics] == list(range(1, 41))
    assert losses(TrainRun(out)) == losses(straight)
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize(("workers", "accumulate"), [(0, 1), (2, 2)])
def test_stopped_and_taken_up(workers: int, accumulate: int, tars: str, tmp_path: Path) -> None:
    """Asked to stop, a run ends after the step with a checkpoint; taken up, to the bit the same, data included."""
    made = tiny.recipe(tmp_path, tars, steps=7)
    options = dataclasses.replace(CPU, workers=workers, accumulate=accumulate)
    straight = train(made, tmp_path / "straight", options=options)

    def stop(line: Any) -> None:
        if line["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped after step 3, with a checkpoint"):
        train(made, tmp_path / "run", options=options, report=stop)
    assert [path.name for path in checkpoint.saved(tmp_path / "run")] == ["00000003.pt"]
    again = train(made, tmp_path / "run", options=options)
    assert same(weights(again), weights(straight))
    assert losses(again) == losses(straight)


def test_a_damaged_checkpoint(tars: str, tmp_path: Path) -> None:
    """A checkpoint that was cut off is passed over for the one before; where all are, that is said."""
    made = tiny.recipe(tmp_path, tars, steps=4)
    straight = train(made, tmp_path / "run", options=dataclasses.replace(CPU, save_every=2))
    expected = weights(straight)
    (straight.path / "model.pth").unlink()
    second, fourth = checkpoint.saved(straight.path)
    fourth.write_bytes(fourth.read_bytes()[:-5000])
    said: list[str] = []
    again = train(made, tmp_path / "run", options=CPU, say=said.append)
    assert "00000004.pt cannot be read as a checkpoint" in said[0]
    assert said[1] == "going on after step 2"
    assert same(weights(again), expected)
    (straight.path / "model.pth").unlink()
    for path in checkpoint.saved(straight.path):
        path.write_bytes(b"")
    assert second.exists()
    with pytest.raises(
        MetaclipError, match="no checkpoint in .* can be read; begin anew with .*overwrite=True"
    ):
        train(made, tmp_path / "run", options=CPU)


def test_a_checkpoint_with_a_flipped_bit(tars: str, tmp_path: Path) -> None:
    """One bit of a tensor is noticed by its checksum, and the checkpoint before is used; the end is the same."""
    made = tiny.recipe(tmp_path, tars, steps=4)
    run = train(made, tmp_path / "run", options=dataclasses.replace(CPU, save_every=2))
    expected = weights(run)
    (run.path / "model.pth").unlink()
    fourth = checkpoint.saved(run.path)[-1]
    tensor = models.load_tensors(fourth)["state_dict"]["visual.proj"].numpy().tobytes()
    data = bytearray(fourth.read_bytes())
    data[data.index(tensor) + len(tensor) // 2] ^= 1
    fourth.write_bytes(data)
    said: list[str] = []
    again = train(made, tmp_path / "run", options=CPU, say=said.append)
    assert "00000004.pt cannot be read as a checkpoint" in said[0]
    assert "CRC-32" in said[0]
    assert said[1] == "going on after step 2"
    assert same(weights(again), expected)


FIELDS: dict[str, Any] = {
    "step": [-5, 0, 3, "4", None, 4.0],
    "state_dict": [None, [], {}, {"x": 1}],
    "optimizer": [
        None,
        {},
        {"state": 7, "param_groups": []},
        {"state": {}, "param_groups": [{"params": [0]}]},
    ],
    "loader": [None, 7, "", "[]]", "{}", "[7]", "[{}]", '[{"stream": 1}]', "[" * 100_000],
    "generators": [None, [], [7], [{}], [{"cpu": 7}], [{"cpu": torch.zeros(3)}]],
}


def test_a_checkpoint_with_other_fields(tars: str, tmp_path: Path) -> None:
    """Where a field is missing, or of another type or value, the checkpoint before is used."""
    made = tiny.recipe(tmp_path, tars, steps=4)
    run = train(made, tmp_path / "run", options=dataclasses.replace(CPU, save_every=2))
    good = torch.load(checkpoint.saved(run.path)[-1], weights_only=True)
    for field, values in FIELDS.items():
        for value in [*values, ...]:
            path = run.path / "checkpoints" / "00000004.pt"
            other = {key: one for key, one in good.items() if key != field}
            torch.save(other if value is ... else {**other, field: value}, path)
            (run.path / "model.pth").unlink(missing_ok=True)
            said: list[str] = []
            train(made, run.path, options=dataclasses.replace(CPU, save_every=9, keep=9), say=said.append)
            if (field, value) == ("generators", []):  # of another number of ranks
                continue
            assert said[0].endswith("; the one before it is used"), (field, value, said)
            assert said[1] == "going on after step 2", (field, value, said)


def test_training_that_cannot_begin_leaves_nothing(tars: str, tmp_path: Path) -> None:
    """A recipe that fails before its first checkpoint does not claim the folder."""
    (tmp_path / "none.npy").write_bytes(b"")
    wrong = tiny.recipe(tmp_path, tars, steps=2, data={"subset": str(tmp_path / "none.npy")})
    with pytest.raises(MetaclipError, match="is not a subset file"):
        train(wrong, tmp_path / "new" / "run", options=CPU)
    assert not (tmp_path / "new").exists()
    odd = tiny.write_model(tmp_path, "odd", vision_cfg={"head_width": 0})
    with pytest.raises(MetaclipError):
        train(
            dataclasses.replace(tiny.recipe(tmp_path, tars, steps=2), model=odd),
            tmp_path / "new" / "run",
            options=CPU,
        )
    assert not (tmp_path / "new").exists()


def test_another_run_is_refused(tars: str, tmp_path: Path) -> None:
    """A folder goes on only as it was begun: another model, recipe or data is named; with overwrite it is replaced."""
    out = tmp_path / "run"
    train(tiny.recipe(tmp_path, tars, steps=2), out, options=CPU)
    other = tiny.recipe(tmp_path, tars, steps=2)
    wider = dataclasses.replace(
        other, model=tiny.write_model(tmp_path, "tiny_wide", text_cfg={"width": 32})
    )
    more = tiny.write_pairs(tmp_path / "more", 40)
    for changed, message in (
        (dataclasses.replace(other, lr=2e-3), r"train\.lr: 0\.001 -> 0\.002"),
        (wider, r'model\.name: "tiny" -> "tiny_wide"'),
        (
            dataclasses.replace(other, data=dataclasses.replace(other.data, tars=more)),
            r"data\.samples: 128 -> 40",
        ),
    ):
        with pytest.raises(MetaclipError, match=f"holds another run: {message}.*overwrite=True"):
            train(changed, out, options=CPU)
    (tmp_path / "moved").symlink_to(tars)
    train(
        dataclasses.replace(other, data=dataclasses.replace(other.data, tars=str(tmp_path / "moved"))),
        out,
        options=CPU,
    )
    run = train(wider, out, options=dataclasses.replace(CPU, overwrite=True))
    assert models.open_clip_of(run.path).name == "tiny_wide"
    assert len(run.metrics) == 2


@contextlib.contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """Let this process write no file of more bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(tars: str, tmp_path: Path) -> None:
    """Where a checkpoint finds no room, one line says so, the last good one stays, and with room the run goes on."""
    made = tiny.recipe(tmp_path, tars, steps=4)
    out = tmp_path / "run"
    run = train(made, out, options=dataclasses.replace(CPU, save_every=2))
    expected = weights(run)
    for path in (out / "model.pth", out / "checkpoints" / "00000004.pt"):
        path.unlink()
    size = (out / "checkpoints" / "00000002.pt").stat().st_size
    with no_file_over(size // 2):
        done = call(
            "train",
            tiny.toml(made, tmp_path / "r.toml"),
            "--out",
            out,
            "--device",
            "cpu",
            "--save-every",
            1,
        )
    assert done.code == 2
    [line] = [line for line in done.err.splitlines() if "going on after step" not in line]
    assert line.startswith(f"metaclip: {out}/checkpoints/00000003.pt: no room left")
    assert f"the last good checkpoint is {out}/checkpoints/00000002.pt" in line
    assert [path.name for path in checkpoint.saved(out)] == ["00000002.pt"]
    assert not list(out.rglob("*.tmp"))
    assert same(weights(train(made, out, options=CPU)), expected)


# Many ranks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes(parts: int, tars: str, tmp_path: Path) -> None:
    """Two ranks by gloo, each in parts, train the model of one process with the same global batch."""
    made = tiny.recipe(tmp_path, tars, steps=5)
    out = tmp_path / "two"
    process = start(
        tiny.toml(made, tmp_path / "r.toml"), out, "--accumulate", str(parts), "--device", "cpu", ranks=2
    )
    text, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert text.count("step ") == 5, "one rank speaks"
    # A lane for each rank: loading processes here, whose batches come in turn.
    one = train(made, tmp_path / "one", options=dataclasses.replace(CPU, workers=2, accumulate=2 * parts))
    assert losses(TrainRun(out)) == pytest.approx(losses(one), rel=1e-4)
    assert apart(weights(one), weights(out)) < 5e-3
    state = json.loads(models.load_tensors(checkpoint.saved(out)[-1])["loader"])
    assert [(rank["rank"], rank["ranks"]) for rank in state] == [(0, 2), (1, 2)]
    # One process opens the checkpoint of two.
    (out / "model.pth").unlink()
    assert same(
        weights(train(made, out, options=CPU)),
        models.load_tensors(checkpoint.saved(out)[-1])["state_dict"],
    )


def test_a_batch_that_cannot_be_shared(tars: str, tmp_path: Path) -> None:
    """A batch that ranks and parts do not divide is refused."""
    with pytest.raises(
        MetaclipError, match="a batch of 16 cannot be shared out to 1 ranks in 3 parts each"
    ):
        train(
            tiny.recipe(tmp_path, tars), tmp_path / "run", options=dataclasses.replace(CPU, accumulate=3)
        )


# What goes wrong ------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number(tars: str, tmp_path: Path) -> None:
    """It stops the run with the uids of its batch, wherever a line is due; checkpoints are from before."""
    made = tiny.recipe(tmp_path, tars, steps=30, lr=3e2, warmup=20)

    def stopped(name: str, **options: int) -> tuple[str, dict[str, Any]]:
        with pytest.raises(MetaclipError) as raised:
            train(made, tmp_path / name, options=dataclasses.replace(CPU, **options))
        return str(raised.value), json.loads((tmp_path / name / "not_finite.json").read_text())

    line, report = stopped("each", log_every=1, save_every=1000)
    step = report["step"]
    assert 2 <= step < 28
    assert line.startswith(
        f"the loss is nan at step {step}; the 16 uids of its batch are in {tmp_path}/each/not_finite.json"
    )
    batches = iter(Loader(Stream(tars), 16))
    assert report["uids"] == [next(batches).uids for _ in range(step + 1)][step]
    assert report["loss"] == ["nan"]
    assert stopped("some", log_every=step + 2, save_every=1000)[1] == report
    assert TrainRun(tmp_path / "some").metrics == []
    assert stopped("saved", log_every=1000, save_every=step)[1] == report
    [kept] = checkpoint.saved(tmp_path / "saved")
    assert all(tensor.isfinite().all() for tensor in models.load_tensors(kept)["state_dict"].values())
    assert [line["step"] for line in TrainRun(tmp_path / "saved").metrics] == [step]


def test_weights_that_are_no_numbers(tars: str, tmp_path: Path) -> None:
    """They are never saved, though the loss before them was a number; on the command line that is exit code 2."""
    made = tiny.recipe(tmp_path, tars, lr=1e30, warmup=0)
    path = tiny.toml(made, tmp_path / "r.toml")
    done = call("train", path, "--out", tmp_path / "run", "--device", "cpu", "--save-every", 1)
    [line] = done.err.splitlines()
    assert done.code == 2
    assert "the loss is finite, but the weights are not after it, at step 0; the 16 uids" in line
    assert not checkpoint.saved(tmp_path / "run")
    assert len(json.loads((tmp_path / "run" / "not_finite.json").read_text())["uids"]) == 16


def test_refused(tars: str, tmp_path: Path) -> None:
    """Bad input is one line and exit code 2."""
    folder, out = tmp_path, tmp_path / "run"
    path = folder / "r.toml"
    empty = folder / "empty.npy"
    np.save(empty, np.zeros(0, SUBSET))
    none = folder / "none.npy"
    np.save(none, np.zeros(3, SUBSET))
    (folder / "nothing").mkdir()
    made = tiny.recipe(folder, tars)

    def line(*flags: str, text: str | None = None) -> str:
        tiny.toml(made, path)
        if text is not None:
            path.write_text(text)
        return refused("train", path, "--out", out, "--device", "cpu", *flags)

    assert "unknown key 'batchsize' (did you mean 'batch'?)" in line(text="[train]\nbatchsize = 3")
    assert "open_clip knows no model 'ViT-B-23'" in line(text='[train]\nmodel = "ViT-B-23"')
    assert "names no tars to train on; give --tars" in line(
        text="[train]\nsamples = 64\nbatch = 16\nwarmup = 1"
    )
    assert "there is no recipe" in refused("train", folder / "no.toml", "--out", out)
    assert "there is no" in line("--tars", str(folder / "gone"))
    assert "nothing" in line("--tars", str(folder / "nothing"))
    assert "is empty; give a run's curated.npy" in line("--subset", str(empty))
    assert "none of" in line("--subset", str(none))
    assert "none of" in line("--subset", str(none), "--workers", "1", "--overwrite")
    assert "the device cuda:7 cannot be used (torch sees " in refused(
        "train", tiny.toml(made, path), "--out", out, "--device", "cuda:7"
    )
    assert "is a file; --out must be a folder" in refused("train", path, "--out", path, "--device", "cpu")


def test_tars_that_cannot_be_read(tmp_path: Path) -> None:
    """A truncated tar is named; with leave training goes on without it."""
    paths = write_shards(tmp_path / "tars", [64, 64])
    paths[1].write_bytes(paths[1].read_bytes()[:9000])
    made = tiny.recipe(tmp_path, str(tmp_path / "tars"), steps=2)
    with pytest.raises(LostInputs, match="1 of 2 tars cannot be read"):
        train(made, tmp_path / "run", options=CPU)
    run = train(made, tmp_path / "run", options=dataclasses.replace(CPU, allow_lost=True))
    assert len(run.metrics) == 2


def test_two_at_once(tars: str, tmp_path: Path) -> None:
    """A folder in which a run is under way is refused."""
    with Folder(tmp_path / "run").owned(), pytest.raises(MetaclipError, match="is in use by process"):
        train(tiny.recipe(tmp_path, tars), tmp_path / "run", options=CPU)


def test_ctrl_c(tars: str, tmp_path: Path) -> None:
    """Ctrl-C is exit code 130 in one line, with a checkpoint, and signals mean afterwards what they did before."""
    out, path = tmp_path / "run", tiny.toml(tiny.recipe(tmp_path, tars, steps=1000), tmp_path / "r.toml")

    def press() -> None:
        until(lambda: bool(TrainRun(out).metrics), "a line of metrics")
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=press)
    thread.start()
    done = call("train", path, "--out", out, "--device", "cpu", "--log-every", 1)
    thread.join()
    assert done.code == 130
    assert done.err.startswith("metaclip: stopped after step ")
    assert done.err.count("\n") == 1
    assert len(checkpoint.saved(out)) == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_in_a_thread(tars: str, tmp_path: Path) -> None:
    """Off the main thread, where no signal can be taken, a run is a run."""
    found: list[TrainRun] = []
    made = tiny.recipe(tmp_path, tars, steps=2)
    thread = threading.Thread(target=lambda: found.append(train(made, tmp_path / "run", options=CPU)))
    thread.start()
    thread.join()
    assert len(found[0].metrics) == 2


def test_tensorboard(tars: str, tmp_path: Path) -> None:
    """The same metrics for TensorBoard; a run that is taken up purges what it trains again."""
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs tensorboard: metaclip[tensorboard]",
    )
    options = dataclasses.replace(CPU, tensorboard=True)
    run = train(tiny.recipe(tmp_path, tars, steps=3), tmp_path / "run", options=options)
    read = events.EventAccumulator(str(run.path / "tensorboard"))
    read.Reload()
    assert [(e.step, pytest.approx(e.value)) for e in read.Scalars("train/loss")] == list(
        zip([1, 2, 3], losses(run), strict=True)
    )
