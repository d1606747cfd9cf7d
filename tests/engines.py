"""The engines that tests run on: threads, worker processes and Ray, each with two workers."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from metaclip.engine.local import Local

WORKERS = 2


class Processes(Local):
    """The local engine, which runs every step as one that holds the GIL: in worker processes."""

    def map(self, *arguments: Any, **options: Any) -> Any:
        """Run the step in worker processes."""
        return super().map(*arguments, **{**options, "holds_gil": True})


RAY = pytest.param(
    "ray",
    marks=[
        pytest.mark.extra,
        pytest.mark.xdist_group("ray"),
        pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs metaclip[ray]"),
    ],
)
"""A parameter for Ray, which takes seconds to start and is not installed everywhere."""
