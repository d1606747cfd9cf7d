"""A finished run folder, opened for reading."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.curate.settings import MATCH
from metaclip.errors import MetaclipError, one_line
from metaclip.matching.match_arrays import MATCHES, Counts
from metaclip.matching.text_rule import TextRule
from metaclip.metadata.entries import Metadata
from metaclip.stage.folder import Folder
from metaclip.stage.stage import Stage
from metaclip.storage.files import local_copies, local_copy, local_folder, read_json
from metaclip.storage.remote import RemotePath, resolve_path


def counts_digest(counts: npt.NDArray[np.uint64]) -> str:
    """Identify counts: sha256 of their values as little-endian uint64, in the list's order."""
    return hashlib.sha256(counts.astype("<u8").tobytes()).hexdigest()


@contextlib.contextmanager
def local_run(run: Run) -> Iterator[Run]:
    """Yield a run whose files are on this machine: the run itself, or a copy of one in a store, removed after the block.

    Use it to read all of a run more than once, as a card does: a copy needs disk space for matched/ and curated/.
    """
    if not isinstance(run.path, RemotePath) and not isinstance(run.matched.path, RemotePath):
        yield run
        return
    with contextlib.ExitStack() as held:
        path = held.enter_context(local_folder(run.path))
        copy = Run(path, run.counted)
        if run.matched.path != run.path:
            copy.matched = Folder(held.enter_context(local_folder(run.matched.path)))
        yield copy


class Run:
    """A run folder, opened for reading: what it was made from, its counts, its curated pairs."""

    def __init__(
        self, path: str | os.PathLike[str], counted: tuple[Counts, Metadata] | None = None
    ) -> None:
        """Open a run folder. Raise MetaclipError if it is none, or if its first stage is not finished.

        `counted` are counts and list that were made or read before: if they belong to this run, they are not read again.
        """
        self.folder = Folder(path)
        self.path = self.folder.path
        self.manifest = self.folder.manifest
        stages = self.manifest.get("stages", {})
        self.balance: dict[str, Any] | None = stages.get("balance")
        self._owns_matches = "match" in stages
        match = stages.get("match") or (self.balance and self.balance["match"]["record"])
        if not match:
            if self.folder.state.exists():
                raise MetaclipError(f"{path} is not finished; run the same command again")
            raise MetaclipError(f"{path} is no run folder; metaclip curate and metaclip match make one")
        self.match: dict[str, Any] = match
        if counted is not None and self._is_mine(*counted):
            self.counted = counted

    def __repr__(self) -> str:
        """Show the path, the pairs and t."""
        matched = f"{self.match['funnel']['matched']} matched pairs"
        if self.balance is None:
            return f"Run({str(self.path)!r}: {matched})"
        return f"Run({str(self.path)!r}: {self.balance['kept']} kept of {matched}, t = {self.t:g})"

    @property
    def t(self) -> float:
        """The threshold. Raise MetaclipError if the run is not balanced."""
        return float(self._balanced["t"])

    @property
    def seed(self) -> int:
        """The seed of the draw. Raise MetaclipError if the run is not balanced."""
        return int(self._balanced["seed"])

    @property
    def _balanced(self) -> dict[str, Any]:
        if self.balance is None:
            raise MetaclipError(
                f"{self.path} is matched but not balanced; run: metaclip balance {self.path}"
            )
        return dict(self.balance)

    @property
    def rule(self) -> TextRule:
        """The text rule."""
        return TextRule(**self.match["rule"])

    @functools.cached_property
    def matched(self) -> Folder:
        """The folder that holds the matches: its own, or the folder of the run that it was balanced from.

        Raise MetaclipError if that folder is gone, or was matched again.
        """
        if self._owns_matches:
            return self.folder
        source = self._balanced["match"]
        # Both folders may have been moved together, or this one alone.
        for path in (resolve_path(self.path, source["beside"]), source["folder"]):
            found = Folder(path)
            record = Stage(found, MATCH).record
            if record is not None and record["identity"] == self.match["identity"]:
                return found
        raise MetaclipError(
            f"the matches that {self.path} was balanced from are no longer in {source['folder']}; match and balance again"
        )

    @functools.cached_property
    def counted(self) -> tuple[Counts, Metadata]:
        """The counts and the query list. Raise MetaclipError if they cannot be read, or differ from what the run wrote."""
        path = self.path / ("counts.parquet" if self._owns_matches else "entries.parquet")
        try:
            with local_copy(path) as local:
                table = pq.read_table(local, columns=["entry", "source", "count"])
            metadata = Metadata(table["entry"].combine_chunks(), table["source"].combine_chunks())
            values = table["count"].to_numpy().astype(np.uint64)
        except (OSError, pa.ArrowException, KeyError) as error:
            raise MetaclipError(
                f"{path} cannot be read ({one_line(error)}); run the same command again"
            ) from None
        counted = Counts(values, metadata.digest, self.rule.identity), metadata
        if not self._is_mine(*counted):
            raise MetaclipError(
                f"{path} is not what the run wrote; remove it and run the same command again"
            )
        return counted

    def _is_mine(self, counts: Counts, metadata: Metadata) -> bool:
        return (metadata.digest, counts_digest(counts.values)) == (
            self.match["list"],
            self.match["counts_digest"],
        )

    @property
    def counts(self) -> Counts:
        """The counts."""
        return self.counted[0]

    @property
    def metadata(self) -> Metadata:
        """The query list."""
        return self.counted[1]

    @property
    def entries(self) -> pa.Table:
        """A row for each entry: entry_id, entry, source, count, probability, expected, kept."""
        _ = self._balanced
        with local_copy(self.path / "entries.parquet") as path:
            return pq.read_table(path)

    @property
    def curated(self) -> pa.Table:
        """The curated pairs with all columns, in memory; open the folder ``curated/`` as a data set if it is large."""
        _ = self._balanced
        files = sorted((self.path / "curated").glob("*.parquet"))
        if not files:
            own = [("uid", pa.string()), ("matches", MATCHES), ("keep_probability", pa.float64())]
            return pa.schema(own).empty_table()
        # Files of a pool may have different columns.
        with local_copies(files) as paths:
            return pa.concat_tables(
                [pq.ParquetFile(path).read() for path in paths], promote_options="permissive"
            )

    @property
    def account(self) -> dict[str, Any]:
        """The account of the run: card.json as a dict."""
        _ = self._balanced
        if (found := read_json(self.path / "card.json")) is None:
            raise MetaclipError(
                f"{self.path / 'card.json'} is gone or damaged; run the same command again"
            )
        return found
