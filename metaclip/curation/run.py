"""A finished run folder, opened for reading."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from metaclip.curation.count import Counts
from metaclip.curation.match import read_counts
from metaclip.curation.text_rule import TextRule
from metaclip.errors import MetaclipError
from metaclip.metadata.entries import Metadata
from metaclip.shard.files import read_json
from metaclip.shard.folder import Folder


def counts_digest(counts: npt.NDArray[np.uint64]) -> str:
    """Identify counts: sha256 of their values as little-endian uint64, in the list's order."""
    return hashlib.sha256(counts.astype("<u8").tobytes()).hexdigest()


class Run:
    """A run folder: what it was made from, its counts, its curated pairs."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a run folder. Raise MetaclipError if it is none, or if its first stage is not finished."""
        self.folder = Folder(path)
        self.path = Path(path)
        manifest = self.folder.manifest
        if not manifest:
            begun = " is not finished; run the same command again" if self.folder.state.exists() else " is no run folder"
            raise MetaclipError(f"{path}{begun}")
        balance = manifest.get("stages", {}).get("balance")
        # A run balanced anew refers to the folder that holds its matches.
        self.matched = Folder(balance["match"]["folder"]) if balance and balance["match"]["folder"] else self.folder
        match = self.matched.stage("match").record
        if match is None:
            raise MetaclipError(f"the matches of {path} in {self.matched.path} are gone or not finished; match again")
        if balance and match["fingerprint"] != balance["match"]["fingerprint"]:
            raise MetaclipError(f"{path} was balanced from other matches than {self.matched.path} now holds; balance it again")
        self.manifest, self.match, self.balance = manifest, match, balance

    def __repr__(self) -> str:
        """Show the path, the pairs and t."""
        if self.balance is None:
            return f"Run({str(self.path)!r}: {self.match['funnel']['matched']} matched pairs)"
        return f"Run({str(self.path)!r}: {self.balance['kept']} pairs kept of {self.match['funnel']['matched']} matched, t = {self.t:g})"

    @property
    def t(self) -> float:
        """The threshold. Raise MetaclipError if the run is not balanced."""
        return float(self._balanced["t"])

    @property
    def seed(self) -> int:
        """The seed of the draw."""
        return int(self._balanced["seed"])

    @property
    def _balanced(self) -> dict[str, Any]:
        if self.balance is None:
            raise MetaclipError(f"{self.path} is matched but not balanced; run: metaclip balance {self.path}")
        return dict(self.balance)

    @property
    def rule(self) -> TextRule:
        """The text rule."""
        return TextRule(**self.match["rule"])

    @functools.cached_property
    def _counted(self) -> tuple[Counts, Metadata]:
        path = self.matched / "counts.parquet"
        try:
            counts, metadata = read_counts(path)
        except (OSError, pa.ArrowException, KeyError) as error:
            raise MetaclipError(f"{path} cannot be read ({error}); match again with --overwrite") from None
        if counts_digest(counts.values) != self.match["counts_digest"] or metadata.digest != self.match["list"]:
            raise MetaclipError(f"{path} is not what the run wrote (its digest differs); match again with --overwrite")
        return counts, metadata

    @property
    def counts(self) -> Counts:
        """The counts, their digest checked."""
        return self._counted[0]

    @property
    def metadata(self) -> Metadata:
        """The query list."""
        return self._counted[1]

    @property
    def entries(self) -> pa.Table:
        """entry_id, entry, source, count, probability, expected, kept."""
        _ = self._balanced
        return pq.read_table(self.path / "entries.parquet")

    @property
    def curated(self) -> pa.Table:
        """The curated pairs, all columns, in memory; for larger sets open the folder ``curated/`` as a data set."""
        _ = self._balanced
        return pyarrow.dataset.dataset(self.path / "curated", format="parquet").to_table()

    @property
    def account(self) -> dict[str, Any]:
        """The account: card.json."""
        _ = self._balanced
        return dict(read_json(self.path / "card.json"))
