"""metaclip balances pools of image-text pairs by metadata.

    from metaclip import curate
    run = curate("pairs.parquet", "list.txt", t=20_000, out="run/")
    run.entries, run.curated, run.account

Importing the package is light: each public name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from metaclip._version import __version__

if TYPE_CHECKING:
    from metaclip.chain.balancing import balance
    from metaclip.chain.curating import curate
    from metaclip.chain.matching import match
    from metaclip.chain.work import Work
    from metaclip.curation.count import Counts
    from metaclip.curation.match import MatchSettings
    from metaclip.curation.matcher import Matcher
    from metaclip.curation.online import Balancer
    from metaclip.curation.run import Run
    from metaclip.curation.text_rule import TextRule
    from metaclip.curation.threshold import BalanceSettings
    from metaclip.errors import LostInputs, MetaclipError
    from metaclip.metadata.entries import Metadata

_HOMES: Final = {
    "BalanceSettings": "metaclip.curation.threshold",
    "Balancer": "metaclip.curation.online",
    "Counts": "metaclip.curation.count",
    "LostInputs": "metaclip.errors",
    "MatchSettings": "metaclip.curation.match",
    "Matcher": "metaclip.curation.matcher",
    "Metadata": "metaclip.metadata.entries",
    "MetaclipError": "metaclip.errors",
    "Run": "metaclip.curation.run",
    "TextRule": "metaclip.curation.text_rule",
    "Work": "metaclip.chain.work",
    "balance": "metaclip.chain.balancing",
    "curate": "metaclip.chain.curating",
    "match": "metaclip.chain.matching",
}

__all__ = [
    "BalanceSettings", "Balancer", "Counts", "LostInputs", "MatchSettings", "Matcher", "MetaclipError", "Metadata", "Run",
    "TextRule", "Work", "__version__", "balance", "curate", "match",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'metaclip' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
