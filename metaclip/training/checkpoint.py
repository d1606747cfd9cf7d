"""Checkpoints: all that a run needs to continue as if it had never stopped, in one file that open_clip loads too.

    step, model, state_dict, optimizer, loader (the positions of all ranks in the data, as JSON), generators (of all ranks)

A file is written under a temporary name and renamed, and older ones are removed after that; so whatever happens, a full
disk or kill -9, the last good one is there. A run continues from the newest one that can be read. Nothing in it is
unpickled: it holds tensors, numbers and strings (torch.load's weights_only).
Cost: 12 bytes per parameter; the loop waits while it is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from metaclip.errors import MetaclipError, is_disk_full, one_line
from metaclip.storage.files import atomic_write
from metaclip.training.models import CHECKPOINTS, load_tensors, put_weights
from metaclip.training.ranks import Ranks

_NEEDED: Final = ("step", "state_dict", "optimizer", "loader", "generators")


def save(
    folder: Path,
    step: int,
    name: str,
    model: Any,
    optimiser: Any,
    loader: Mapping[str, Any],
    ranks: Ranks,
    keep: int,
) -> None:
    """Write the checkpoint of a step, from all ranks; remove all but the last `keep`.

    Raise MetaclipError if it cannot be written, naming the last good one.
    """
    gathered = ranks.gather((loader, generators(ranks.device)))
    if not ranks.first:
        return
    content = {
        "step": step,
        "model": name,
        "state_dict": model.state_dict(),
        "optimizer": optimiser.state_dict(),
        "loader": json.dumps([state for state, _ in gathered]),
        "generators": [state for _, state in gathered],
    }
    path = folder / CHECKPOINTS / f"{step:08d}.pt"
    before = saved(folder)
    write_tensors(
        path,
        content,
        f"the last good checkpoint is {before[-1]}" if before else "there is no earlier one",
    )
    for old in [one for one in saved(folder) if one != path][: -(keep - 1) or None]:
        old.unlink(missing_ok=True)


def write_tensors(path: Path, content: Any, fallback: str) -> None:
    """Write a file of torch.save, whole or not at all.

    Raise MetaclipError if it cannot be written; `fallback` says in the message what there is instead.
    """
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        what = (
            "no room left"
            if isinstance(cause, OSError) and is_disk_full(cause)
            else "it cannot be written"
        )
        raise MetaclipError(
            f"{path}: {what} ({one_line(cause or error, 120)}); {fallback}: free some room, and the same command continues"
        ) from error


def saved(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, the newest last."""
    return sorted((folder / CHECKPOINTS).glob("*.pt"))


def last(folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Read the newest checkpoint that can be read; return None if there is none at all.

    Damaged ones are reported to `say` and skipped. Raise MetaclipError if all are damaged.
    """
    paths = saved(folder)
    for path in reversed(paths):
        try:
            found = load_tensors(path)
            if lacking := [key for key in _NEEDED if key not in found]:
                raise MetaclipError(f"{path} is no checkpoint of a run: it has no {lacking[0]}")
            return found
        except MetaclipError as error:
            say(f"{error}; the one before it is used")
    if paths:
        raise MetaclipError(
            f"no checkpoint in {folder / CHECKPOINTS} can be read; begin anew with --overwrite"
        )
    return None


def restore(
    found: Mapping[str, Any], name: str, model: Any, optimiser: Any, ranks: Ranks
) -> Sequence[dict[str, Any]]:
    """Restore model, optimiser and generators from a checkpoint; return the states of the loaders of all ranks."""
    put_weights(name, model, found, f"the checkpoint of step {found['step']}")
    optimiser.load_state_dict(found["optimizer"])
    if len(found["generators"]) == ranks.ranks:  # with another number, each rank keeps its first one
        set_generators(found["generators"][ranks.rank], ranks.device)
    states: list[dict[str, Any]] = json.loads(found["loader"])
    return states


def generators(device: Any) -> dict[str, Any]:
    """Return the states of torch's generators, of the processor and of a GPU."""
    more = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **more}


def set_generators(state: Mapping[str, Any], device: Any) -> None:
    """Set torch's generators to what `generators` returned; those of another kind of device are left as they are."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
