"""The metrics of a run: collected on the device, read every few steps, written as lines of JSON and for TensorBoard.

    step, samples    so far
    loss             mean over the steps since the last line, and over ranks
    scale, lr        of the last step; the scale as the factor that it is
    samples_per_second   of all ranks
    data_wait        the share of the time in which this process waited for the loader
    mfu              the share of the peak of the GPUs (`metaclip.training.flops`); null if that is not known
    seconds          since the process began to train

Reading a loss makes the processor wait for the GPU, so it is done once for all steps of a line. Only then is a loss that is
not finite found, with its step: the uids of all steps of the line are kept until their losses are known.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from metaclip.errors import MetaclipError, import_extra
from metaclip.storage.files import atomic_write, parse_json, write_json
from metaclip.training.ranks import Ranks

METRICS: Final = "metrics.jsonl"
TENSORBOARD: Final = "tensorboard"
NOT_FINITE: Final = "not_finite.json"


class Metrics:
    """The metrics of one rank; the first rank writes those of all."""

    def __init__(
        self, ranks: Ranks, folder: Path, batch: int, flops: float | None, step: int, tensorboard: bool
    ) -> None:
        """Continue after a step: lines of later steps, which are trained again, are removed.

        `batch` is the global batch; `flops` is what one sample takes of the peak of all ranks together, in seconds.
        """
        self._ranks, self._folder, self._batch, self._flops = ranks, folder, batch, flops
        self._losses: list[Any] = []
        self._uids: list[list[str]] = []
        self._begin = self._first = time.perf_counter()
        self._waited = 0.0
        self._writer: Any = None
        if not ranks.first:
            return
        kept = [_text(line) for line in read_lines(folder / METRICS) if line["step"] <= step]
        with atomic_write(folder / METRICS) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")
        if tensorboard:
            import_extra("tensorboard", "tensorboard", "`tensorboard=True`")
            from torch.utils.tensorboard import SummaryWriter

            make_writer: Any = SummaryWriter  # it has no annotations
            self._writer = make_writer(str(folder / TENSORBOARD), purge_step=step + 1)

    def add(self, loss: Any, uids: list[str]) -> None:
        """Add a step: its loss, still on the device, and the uids of its batch."""
        self._losses.append(loss)
        self._uids.append(uids)

    def write(self, step: int, scale: Any, rate: float, waited: float) -> dict[str, Any]:
        """Write and return the line of the steps since the last one; all ranks call it after the same `step`.

        Raise MetaclipError if a loss is not finite.
        """
        import torch

        mine = torch.stack([*self._losses, scale.reshape(())]).tolist()
        every = self._ranks.gather(mine[:-1])
        for number, losses in enumerate(zip(*every, strict=True)):
            if not all(map(math.isfinite, losses)):
                self.stop(step - len(self._losses) + number, losses, self._uids[number])
        now = time.perf_counter()
        spent = now - self._begin
        speed = self._batch * len(self._losses) / spent
        line = {
            "step": step,
            "samples": step * self._batch,
            "loss": sum(map(sum, every)) / sum(map(len, every)),
            "scale": mine[-1],
            "lr": rate,
            "samples_per_second": round(speed, 1),
            "data_wait": round((waited - self._waited) / spent, 4),
            "mfu": None if self._flops is None else round(speed * self._flops, 4),
            "seconds": round(now - self._first, 1),
        }
        self._losses, self._uids, self._begin, self._waited = [], [], now, waited
        if self._ranks.first:
            with (self._folder / METRICS).open("a", encoding="utf-8") as file:
                file.write(_text(line))
        if self._writer is not None:
            for name in ("loss", "scale", "lr", "samples_per_second", "data_wait", "mfu"):
                if line[name] is not None:
                    self._writer.add_scalar(f"train/{name}", line[name], step)
            self._writer.flush()
        return line

    def stop(self, step: int, losses: Any, uids: list[str]) -> None:
        """Raise MetaclipError because the losses of a step are not finite; the uids of its batch are then in the folder."""
        every = [uid for some in self._ranks.gather(uids) for uid in some]
        path = self._folder / NOT_FINITE
        if self._ranks.first:
            write_json(path, {"step": step, "loss": [str(loss) for loss in losses], "uids": every})
        raise MetaclipError(
            f"the loss is {', '.join(map(str, losses))} at step {step}; the {len(every)} uids of its batch are in {path}, "
            "and the last checkpoint is from before; look at them, or begin anew with a smaller lr"
        )

    def close(self) -> None:
        """Close the file of TensorBoard."""
        if self._writer is not None:
            self._writer.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the lines of metrics.jsonl, up to the first that a killed process has cut off, or that is damaged."""
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        if (read := parse_json(line, _Line)) is None:
            break
        found.append(read)
    return found


class _Line(msgspec.Struct):
    """What continuing needs of a line."""

    step: int


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"
