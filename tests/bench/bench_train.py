"""Our loop beside open_clip's trainer: the same model, batch, precision, pairs and machine, in one run.

    python -m tests.bench.bench_train                                  # on a GPU: ViT-B-32 and ViT-B-16, quickgelu
    python -m tests.bench.bench_train --device cpu --models training/toy_vit.json --batch 128 --steps 8 --precision fp32

Three pieces of work: `step`, one batch again and again, so nothing is loaded; `tars`, 256-pixel JPEGs from tars, the whole
of it; `load`, the same tars without a model. Without --batch it is the largest power of two that fits on both sides. A run
is a process; sides take turns. Time is taken between two batches, the GPU waited for at both, and no side writes anything
in between. MFU counts three forward passes a pair. Workers need shared memory for two batches each (open_clip's: 600 kB a
pair): where it is short, give fewer.

On a machine with open_clip_torch, webdataset, pyarrow, numba, click, fsspec, tomli_w, tqdm and Pillow nothing is fetched.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metaclip.training import batches, flops, models
from metaclip.training import loop as looping
from metaclip.training.stream import Stream
from metaclip.training.train import train
from metaclip.training.train_recipe import DataRecipe, TrainOptions, TrainRecipe
from tests.training.shards import write_tar
from training import shapes

SIDES = ("open_clip_train", "metaclip")
MODELS = ["ViT-B-32-quickgelu", "ViT-B-16-quickgelu"]


@dataclasses.dataclass(frozen=True)
class Case:
    """What a process measures."""

    side: str
    options: str
    model: str
    batch: int
    precision: str
    device: str
    workers: int
    compile: bool
    warm: int
    steps: int
    tars: str

    @property
    def batches(self) -> int:
        """Batches asked for; one more than are timed."""
        return self.warm + self.steps + 1


class Timed:
    """Hands on the batches of a loader, and looks at the clock before two of them."""

    def __init__(self, loader: Any, case: Case) -> None:
        self._loader, self._case = loader, case
        self.times: list[float] = []
        self.num_batches, self.num_samples = case.batches, case.batches * case.batch

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self._loader)
        for number in range(self._case.batches):
            if number in (self._case.warm, self._case.warm + self._case.steps):
                wait(self._case.device)
                self.times.append(time.perf_counter())
            yield next(batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class Same:
    """A loader that gives one batch again and again."""

    def __init__(self, batch: Any) -> None:
        self._batch, self.reasons = batch, dict[str, int]()

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield self._batch

    def state(self) -> dict[str, Any]:
        return {}


def wait(device: str) -> None:
    """Wait until the GPU has done what it was told."""
    import torch

    if device != "cpu":
        torch.cuda.synchronize()


def pinned(tensor: Any, device: str) -> Any:
    return tensor if device == "cpu" else tensor.pin_memory()


def ours(case: Case) -> Timed:
    """Run our loop, or our loader alone."""
    import torch

    made: list[Timed] = []
    true = looping.Loader

    def loader(*given: Any, **more: Any) -> Timed:
        if case.options == "step":
            size = image_size(case.model)
            images = torch.randint(0, 256, (case.batch, size, size, 3), dtype=torch.uint8)
            tokens = models.import_open_clip().get_tokenizer(models.known(case.model))(
                ["a photo of a dog"] * case.batch
            )
            part = batches.Part(
                pinned(images, case.device), pinned(tokens, case.device), ["0" * 32] * case.batch
            )
            made.append(Timed(Same(part), case))
        else:
            made.append(Timed(true(*given, **more), case))
        return made[-1]

    recipe = TrainRecipe(
        model=case.model, samples=case.batches * case.batch, batch=case.batch, warmup=10,
        precision="bf16" if case.precision == "bf16" else "fp32", data=DataRecipe(tars=case.tars),
    )  # fmt: skip
    options = TrainOptions(
        device=case.device, workers=case.workers, compile=case.compile, log_every=10**6, save_every=10**6
    )
    with tempfile.TemporaryDirectory() as out:
        if case.options == "load":
            name = models.known(case.model)
            crop, _, _ = models.training_crop(models.create(name), recipe.crop)
            stream = Stream(case.tars, transform=functools.partial(batches.crop_to_bytes, crop))
            found = loader(
                stream, case.batch, workers=case.workers,
                collate=functools.partial(batches.collate, models.import_open_clip().get_tokenizer(name)),
                pin_memory=case.device != "cpu",
            )  # fmt: skip
            for _ in found:
                pass
        else:
            looping.Loader = loader  # type: ignore[assignment, misc]
            train(recipe, Path(out) / "run", options=options)
    return made[-1]


def theirs(case: Case) -> Timed:
    """Run open_clip's trainer with its own command line, or its loader alone."""
    import torch

    models.known(case.model)
    if importlib.util.find_spec("pandas") is None:
        sys.modules["pandas"] = types.ModuleType(
            "pandas"
        )  # imported for csv files, which are not read here
    from open_clip_train import data
    from open_clip_train.main import main

    made: list[Timed] = []
    true = data.get_wds_dataset

    def same(args: Any, transform: Any, is_train: bool, epoch: int = 0, tokenizer: Any = None) -> Any:
        size = image_size(case.model)
        batch = (torch.randn(case.batch, 3, size, size), tokenizer(["a photo of a dog"] * case.batch))
        made.append(Timed(Same([pinned(one, case.device) for one in batch]), case))
        return data.DataInfo(made[-1])

    def timed(*given: Any, **more: Any) -> Any:
        found = true(*given, **more)
        made.append(Timed(found.dataloader, case))
        found.dataloader = made[-1]
        if case.options == "load":
            for _ in made[-1]:
                pass
            raise SystemExit
        return found

    data.get_synthetic_dataset, data.get_wds_dataset = same, timed
    source = (
        ["--dataset-type", "synthetic"] if case.options == "step"
        else ["--train-data", f"{case.tars}/{{00000..{len(list(Path(case.tars).glob('*.tar'))) - 1:05d}}}.tar",
              "--dataset-type", "webdataset", "--dataset-resampled"]
    )  # fmt: skip
    precision = "amp_bf16" if case.precision == "bf16" else "fp32"
    try:
        main([
            *source, "--train-num-samples", str(case.batches * case.batch), "--model", models.known(case.model),
            "--batch-size", str(case.batch), "--precision", precision, "--workers", str(case.workers), "--epochs", "1",
            "--warmup", "10", "--device", case.device, "--logs", tempfile.mkdtemp(dir=case.tars), "--local-loss", "--gather-with-grad",
            "--log-every-n-steps", "1000000", *(["--torchcompile"] if case.compile else []),
        ])  # fmt: skip
    except SystemExit:
        if case.options != "load":
            raise
    return made[-1]


def image_size(model: str) -> int:
    config = models.import_open_clip().get_model_config(models.known(model))
    return int(config["vision_cfg"].get("image_size", 224))


def measure(case: Case) -> float | None:
    """Measure a case in a process of its own; pairs a second, None where it does not come through (no memory)."""
    command = [
        sys.executable,
        "-m",
        "tests.bench.bench_train",
        "--case",
        json.dumps(dataclasses.asdict(case)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("pairs/s ")]
    if not lines and "out of memory" not in done.stderr:
        sys.exit(f"{case} failed:\n{done.stderr[-3000:]}")
    return float(lines[-1].split()[1]) if lines else None


def write_photos(folder: Path, n: int) -> None:
    """Write tars of drawings with grain, 256 pixels, as JPEG: they take as long to decode as photos do."""
    import numpy as np
    from PIL import Image

    grain = np.random.default_rng(0)
    for tar in range(32):
        files: list[tuple[str, Any]] = []
        for number in range(tar, n, 32):
            image, _, caption = shapes.draw(0, number, side=256)
            pixels = np.clip(np.asarray(image) + grain.normal(0, 12, (256, 256, 1)), 0, 255).astype(
                np.uint8
            )
            Image.fromarray(pixels).save(file := io.BytesIO(), "JPEG", quality=90)
            files += [(f"{number:09d}.jpg", file.getvalue()), (f"{number:09d}.json", {"uid": f"{number:032x}"}), (f"{number:09d}.txt", caption)]  # fmt: skip
        write_tar(folder / f"{tar:05d}.tar", files)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batch", type=int, help="else the largest power of two that fits")
    parser.add_argument("--largest", type=int, default=4096, help="where to begin to look for it")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--works", nargs="+", default=["step", "load", "tars"])
    parser.add_argument("--compile", action="store_true")
    # Workers make whole batches side by side, which come in bursts of as many: both numbers are multiples of that.
    parser.add_argument("--warm", type=int, default=14)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=16_384, help="different ones, in 32 tars")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    a = parser.parse_args()
    models.import_open_clip()
    if a.case:
        case = Case(**json.loads(a.case))
        begin, end = (theirs if case.side == SIDES[0] else ours)(case).times
        print(f"pairs/s {case.steps * case.batch / (end - begin)}", flush=True)
        return
    import torch

    peak = None if a.device == "cpu" else flops.peak(torch.cuda.get_device_name())
    print(f"{torch.cuda.get_device_name() if a.device != 'cpu' else 'processor'}, torch {torch.__version__}, {a.precision}, "
          f"{a.workers} workers{', compiled' if a.compile else ''}; median of {a.rounds} (least, most)\n")  # fmt: skip
    print(
        "| model | batch | work | open_clip_train, pairs/s | metaclip, pairs/s | ratio | MFU |\n|---|---:|---|---:|---:|---:|---:|"
    )
    with tempfile.TemporaryDirectory() as tars:
        write_photos(Path(tars), a.pairs)
        for model in a.models:
            cost = flops.sample_flops(models.create(models.known(model)), torch.device("cpu"))

            def case(
                side: str, options: str, batch: int, warm: int, steps: int, model: str = model
            ) -> Case:
                return Case(
                    side, options, model, batch, a.precision, a.device, a.workers, a.compile, warm, steps, tars
                )  # fmt: skip

            batch = a.batch or a.largest
            while (
                a.batch is None
                and batch > 1
                and any(measure(case(side, "step", batch, 1, 1)) is None for side in SIDES)
            ):
                batch //= 2
            for options in a.works:
                rates: dict[str, list[float]] = {side: [] for side in SIDES}
                for _ in range(a.rounds):
                    for side in SIDES:
                        rates[side].append(
                            measure(case(side, options, batch, a.warm, a.steps)) or float("nan")
                        )
                one, other = (statistics.median(rates[side]) for side in SIDES)
                shown = [
                    f"{statistics.median(r):,.0f} ({min(r):,.0f}, {max(r):,.0f})" for r in rates.values()
                ]
                mfu = (
                    ""
                    if peak is None or options == "load"
                    else f"{100 * one * cost / peak:.1f}%, {100 * other * cost / peak:.1f}%"
                )
                name = Path(model).stem if model.endswith(".json") else model
                print(
                    f"| {name} | {batch} | {options} | {shown[0]} | {shown[1]} | {other / one:.2f} x | {mfu} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
