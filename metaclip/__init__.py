"""metaclip balances pools of image-text pairs by metadata.

    from metaclip import curate
    run = curate("pairs.parquet", "list.txt", t=20_000, out="run/")
    run.entries, run.curated, run.account

Each verb of the command line is a function. What it reads comes first, where it writes is `out`. Settings that determine
the result are keywords where they are few, and one object where they are many (MatchSettings, ExtractSettings);
`options`, a RunOptions, is how a verb is run: workers, engine, overwrite, allow_lost, progress. Pools, texts, uids and
entries can be data of any library that speaks Arrow (pyarrow, polars, pandas, duckdb); tables that come back are Arrow's.

Importing the package is light: each public name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any, Final

__version__ = "0.1.0"
"""Written here; the build and the command line read it."""

if TYPE_CHECKING:
    from metaclip.card.publish import Card, card
    from metaclip.curate.balance import balance
    from metaclip.curate.balancer import Balancer
    from metaclip.curate.curate import curate
    from metaclip.curate.explain import explain
    from metaclip.curate.match import match
    from metaclip.curate.plan import plan
    from metaclip.curate.run import Run
    from metaclip.curate.settings import MatchSettings
    from metaclip.engine.ray import Ray
    from metaclip.errors import LostInputs, MetaclipError
    from metaclip.extract.extract import extract
    from metaclip.extract.settings import ExtractSettings
    from metaclip.inspect.inspect import inspect
    from metaclip.inspect.settings import InspectSettings
    from metaclip.matching import Counts
    from metaclip.matching.matcher import Matcher
    from metaclip.matching.text_rule import TextRule
    from metaclip.metadata import Metadata
    from metaclip.metadata.build import build
    from metaclip.metadata.lint import lint
    from metaclip.reshard.reshard import reshard
    from metaclip.stage.runner import RunOptions

_HOMES: Final = {
    "Balancer": "metaclip.curate.balancer",
    "Card": "metaclip.card.publish",
    "Counts": "metaclip.matching",
    "ExtractSettings": "metaclip.extract.settings",
    "InspectSettings": "metaclip.inspect.settings",
    "LostInputs": "metaclip.errors",
    "MatchSettings": "metaclip.curate.settings",
    "Matcher": "metaclip.matching.matcher",
    "Metadata": "metaclip.metadata",
    "MetaclipError": "metaclip.errors",
    "Ray": "metaclip.engine.ray",
    "Run": "metaclip.curate.run",
    "RunOptions": "metaclip.stage.runner",
    "TextRule": "metaclip.matching.text_rule",
    "balance": "metaclip.curate.balance",
    "build": "metaclip.metadata.build",
    "card": "metaclip.card.publish",
    "curate": "metaclip.curate.curate",
    "explain": "metaclip.curate.explain",
    "extract": "metaclip.extract.extract",
    "inspect": "metaclip.inspect.inspect",
    "lint": "metaclip.metadata.lint",
    "match": "metaclip.curate.match",
    "plan": "metaclip.curate.plan",
    "reshard": "metaclip.reshard.reshard",
}

__all__ = [
    "Balancer",
    "Card",
    "Counts",
    "ExtractSettings",
    "InspectSettings",
    "LostInputs",
    "MatchSettings",
    "Matcher",
    "MetaclipError",
    "Metadata",
    "Ray",
    "Run",
    "RunOptions",
    "TextRule",
    "__version__",
    "balance",
    "build",
    "card",
    "curate",
    "explain",
    "extract",
    "inspect",
    "lint",
    "match",
    "plan",
    "reshard",
]


class _Package(types.ModuleType):
    """Keeps verbs from being replaced: the import system binds a sub-package to its parent, and some have a verb's name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'metaclip' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
