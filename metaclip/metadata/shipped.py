"""Where the query list that comes with the package stands."""

from __future__ import annotations

from pathlib import Path


def shipped() -> Path:
    """Give the path of the shipped list: beside this file in an installed package, in `metadata/` of a checkout."""
    installed = Path(__file__).parent / "english.parquet"
    return installed if installed.exists() else Path(__file__).parents[2] / "metadata" / "english.parquet"
