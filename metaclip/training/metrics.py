"""The metrics of a run: gathered on the device, read every so many steps, written as lines of JSON and for TensorBoard.

    step, samples    so far
    loss             mean over the steps since the last line, and over ranks
    scale, lr        of the last step; the scale as it multiplies
    samples_per_second   of all ranks
    data_wait        the part of the time in which this process waited for the loader
    mfu              the part of the GPUs' peak (`metaclip.training.flops`); null where that is not known
    seconds          since the process began to train

To read a loss makes the processor wait for the GPU, so it is done once for all steps of a line. A loss that is no number
is found then, with the step it came at: the uids of all steps of the line are kept until they are known to be good.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from metaclip.errors import MetaclipError
from metaclip.storage.files import atomic_write, write_json
from metaclip.training.ranks import Ranks

METRICS: Final = "metrics.jsonl"
TENSORBOARD: Final = "tensorboard"
NOT_FINITE: Final = "not_finite.json"


class Window:
    """The steps since the last line, on one rank."""

    def __init__(self, ranks: Ranks, batch: int, flops: float | None) -> None:
        """Begin; `batch` is the global one, `flops` those that one sample takes of all ranks' peak, as a part of a second."""
        self._ranks, self._batch, self._flops = ranks, batch, flops
        self._losses: list[Any] = []
        self._uids: list[list[str]] = []
        self._last: list[str] = []
        self._begin = self._first = time.perf_counter()
        self._waited = 0.0

    def add(self, loss: Any, uids: list[str]) -> None:
        """Take in a step: its loss, still on the device, and the uids of its batch."""
        self._losses.append(loss)
        self._uids.append(uids)
        self._last = uids

    def close(self, step: int, scale: Any, rate: float, waited: float, folder: Path) -> dict[str, Any] | None:
        """Make the line of the steps up to the one before `step`, on all ranks at once; None where there was none.

        Raise MetaclipError where a loss is no number; the uids of that batch are then in the folder.
        """
        import torch

        if not self._losses:
            return None
        mine = torch.stack([*self._losses, scale.reshape(())]).tolist()
        every = self._ranks.gather(mine[:-1])
        bad = [k for k in range(len(self._losses)) if not all(math.isfinite(losses[k]) for losses in every)]
        if bad:
            self._stop(
                step - len(self._losses) + bad[0], [losses[bad[0]] for losses in every], self._uids[bad[0]], folder
            )
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
        return line

    def stop(self, step: int, why: str, folder: Path) -> None:
        """Say that weights are no numbers after a step whose loss was one."""
        self._stop(step, [why], self._last, folder)

    def _stop(self, step: int, losses: list[Any], uids: list[str], folder: Path) -> None:
        every = [uid for some in self._ranks.gather(uids) for uid in some]
        path = folder / NOT_FINITE
        if self._ranks.first:
            write_json(path, {"step": step, "loss": [str(loss) for loss in losses], "uids": every})
        raise MetaclipError(
            f"the loss is {', '.join(map(str, losses))} at step {step}; the {len(every)} uids of its batch are in {path}, "
            "and the last checkpoint is from before; look at them, or begin anew with a smaller lr"
        )


class Journal:
    """Where the lines of a run go: metrics.jsonl, and TensorBoard's files if asked for."""

    def __init__(self, folder: Path, step: int, tensorboard: bool) -> None:
        """Go on after a step: lines of later ones, which are trained again, are taken out."""
        self._path = folder / METRICS
        kept = [line for line in read_lines(self._path) if line["step"] <= step]
        with atomic_write(self._path) as temporary:
            temporary.write_text("".join(map(_text, kept)), encoding="utf-8")
        self._writer = _writer(folder / TENSORBOARD, step) if tensorboard else None

    def write(self, line: Mapping[str, Any]) -> None:
        """Write a line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_text(line))
        if self._writer is not None:
            for name in ("loss", "scale", "lr", "samples_per_second", "data_wait", "mfu"):
                if line[name] is not None:
                    self._writer.add_scalar(f"train/{name}", line[name], line["step"])
            self._writer.flush()

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the lines of metrics.jsonl; the last may be cut off where a process was killed, and is left out then."""
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"


def _writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MetaclipError(
            "metrics for TensorBoard need tensorboard; install it with: pip install 'metaclip[tensorboard]'"
        ) from None
    return SummaryWriter(str(folder), purge_step=step + 1)
