"""How a stage is run: workers, part of a job array, engine, progress. Nothing here changes the result."""

from __future__ import annotations

import dataclasses
import functools

from metaclip.engine.contract import Engine
from metaclip.engine.local import Local
from metaclip.storage.ownership import ALL, Part


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a stage is run."""

    workers: int | None = None
    """Number of threads, or of processes for steps that hold the GIL; None for the number of CPUs."""
    part: Part = ALL
    overwrite: bool = False
    """Replace another run in the output folder."""
    allow_lost: bool = False
    """Continue without inputs that cannot be read."""
    progress: bool | None = None
    """Whether to show progress; None shows it where standard error is a terminal."""
    engine: Engine | None = None
    """The engine that runs the steps, with workers of its own; None for this machine."""

    @functools.cached_property
    def active_engine(self) -> Engine:
        """The engine that is used: the given one, or one of this machine."""
        return self.engine or Local(self.workers)

    @property
    def threads(self) -> int:
        """The number of threads that work in this process may use."""
        return Local(self.workers).workers
