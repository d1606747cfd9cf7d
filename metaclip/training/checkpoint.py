"""Checkpoints: all that a run needs to continue as if it had never stopped, in one file that open_clip loads too.

    step, model, state_dict, optimizer, loader (the positions of all ranks in the data, as JSON), generators (of all ranks)

A file is written under a temporary name and renamed, and older ones are removed after that; so whatever happens, a full
disk or kill -9, the last good one is there. A run continues from the newest one that is whole: its fields have their types,
and its bytes their checksums (`load_tensors`). Nothing in it is unpickled: it holds tensors, numbers and strings
(torch.load's weights_only).
Cost: 12 bytes per parameter; the loop waits while it is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch

from metaclip.errors import MetaclipError, is_disk_full, one_line
from metaclip.storage.files import atomic_write, fault_in
from metaclip.training.models import CHECKPOINTS, load_tensors, put_weights
from metaclip.training.ranks import Ranks
from metaclip.training.stream.page_schedule import LoaderState


class _Checkpoint(msgspec.Struct):
    """The fields and types of a checkpoint."""

    step: Annotated[int, msgspec.Meta(gt=0)]
    state_dict: dict[str, Any]
    optimizer: dict[str, Any]
    loader: str
    generators: list[dict[str, Any]]


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


def resume(
    folder: Path, name: str, model: Any, optimiser: Any, ranks: Ranks, say: Callable[[str], None]
) -> tuple[int, Sequence[dict[str, Any]]]:
    """Restore model, optimiser and generators from the newest checkpoint that is whole.

    Return its step and the states of the loaders of all ranks; (0, ()) if there is no checkpoint. Damaged ones are reported
    to `say` and skipped. Raise MetaclipError if all are damaged.
    """
    paths = saved(folder)
    for path in reversed(paths):
        try:
            return _restore(path, name, model, optimiser, ranks)
        except MetaclipError as error:
            say(f"{error}; the one before it is used")
    if paths:
        raise MetaclipError(
            f"no checkpoint in {folder / CHECKPOINTS} can be read; begin anew with `RunOptions(overwrite=True)`"
        )
    return 0, ()


def _restore(
    path: Path, name: str, model: Any, optimiser: Any, ranks: Ranks
) -> tuple[int, Sequence[dict[str, Any]]]:
    """Restore one checkpoint. Raise MetaclipError if it is damaged; what it has restored by then is to be replaced."""
    found = load_tensors(path)
    if (fault := fault_in(found, _Checkpoint)) is not None:
        raise MetaclipError(f"{path} is no checkpoint of a run ({fault})")
    if str(found["step"]) != path.stem.lstrip("0"):
        raise MetaclipError(f"{path} is damaged (it is of step {found['step']})")
    put_weights(name, model, found, str(path))
    fixed = _fixed_settings(optimiser)
    try:
        states: list[dict[str, Any]] = json.loads(found["loader"])
        optimiser.load_state_dict(found["optimizer"])
        if len(found["generators"]) == ranks.ranks:  # with another number, each rank keeps its first one
            set_generators(found["generators"][ranks.rank], ranks.device)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise MetaclipError(f"{path} is damaged ({one_line(error, 120)})") from None
    if (fault := fault_in(states, list[LoaderState])) is not None:
        raise MetaclipError(f"{path} is damaged (its position in the data: {fault})")
    if _fixed_settings(optimiser) != fixed or not all(
        isinstance(value, torch.Tensor) and value.shape in ((), parameter.shape)
        for parameter, state in optimiser.state.items()
        for value in state.values()
    ):
        raise MetaclipError(f"{path} is damaged (its optimiser is not this run's)")
    return found["step"], states


def _fixed_settings(optimiser: Any) -> list[dict[str, Any]]:
    """Return the settings of an optimiser that no step changes."""
    return [
        {key: value for key, value in group.items() if key not in ("params", "lr")}
        for group in optimiser.param_groups
    ]


def generators(device: Any) -> dict[str, Any]:
    """Return the states of torch's generators, of the processor and of a GPU."""
    more = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **more}


def set_generators(state: Mapping[str, Any], device: Any) -> None:
    """Set torch's generators to what `generators` returned; those of another kind of device are left as they are."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
