"""metaclip balances pools of image-text pairs by metadata.

    from metaclip import curate
    run = curate("pairs.parquet", "list.txt", t=20_000, out="run/")
    run.entries, run.curated, run.account

Importing the package is light: each public name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

__version__ = "0.1.0"
"""Written here; the build and the command line read it."""

if TYPE_CHECKING:
    from metaclip.curate.balance import balance
    from metaclip.curate.balancer import Balancer
    from metaclip.curate.curate import curate
    from metaclip.curate.match import match
    from metaclip.curate.run import Run
    from metaclip.curate.settings import BalanceSettings, MatchSettings
    from metaclip.errors import LostInputs, MetaclipError
    from metaclip.matching import Counts
    from metaclip.matching.matcher import Matcher
    from metaclip.matching.text_rule import TextRule
    from metaclip.metadata import Metadata
    from metaclip.stage.runner import RunOptions

_HOMES: Final = {
    "BalanceSettings": "metaclip.curate.settings",
    "Balancer": "metaclip.curate.balancer",
    "Counts": "metaclip.matching",
    "LostInputs": "metaclip.errors",
    "MatchSettings": "metaclip.curate.settings",
    "Matcher": "metaclip.matching.matcher",
    "Metadata": "metaclip.metadata",
    "MetaclipError": "metaclip.errors",
    "Run": "metaclip.curate.run",
    "TextRule": "metaclip.matching.text_rule",
    "RunOptions": "metaclip.stage.runner",
    "balance": "metaclip.curate.balance",
    "curate": "metaclip.curate.curate",
    "match": "metaclip.curate.match",
}

__all__ = [
    "BalanceSettings", "Balancer", "Counts", "LostInputs", "MatchSettings", "Matcher", "MetaclipError", "Metadata", "Run",
    "RunOptions", "TextRule", "__version__", "balance", "curate", "match",
]  # fmt: skip


# The import system binds a sub-package to its parent once, when it is first imported. These share their names with
# functions, so they are imported here (they are empty) and unbound: `metaclip.curate` stays the function.
for _verb in ("curate",):
    importlib.import_module(f"metaclip.{_verb}")
    del globals()[_verb]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'metaclip' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
