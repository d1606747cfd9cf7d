"""`Run`: a run folder that is finished, opened for reading."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.arguments import PATH, check_type
from metaclip.curate.draw import Thresholds
from metaclip.curate.settings import BALANCE, MATCH, REMOVED, MatchSettings, RunManifest
from metaclip.curate.tables import COUNTED, ENTRIES, counts_digest, read_pairs, read_table, table_list
from metaclip.curate.threshold import column_thresholds, vector_digest
from metaclip.errors import MetaclipError, damaged, one_line
from metaclip.matching import MATCHES, Counts
from metaclip.matching.text_rule import TextRule
from metaclip.metadata import Metadata
from metaclip.stage.folder import MANIFEST, Folder
from metaclip.stage.stage import Stage, check_bytes
from metaclip.storage.files import (
    fault_in,
    local_copies,
    read_json,
    resolve_path,
)


@contextlib.contextmanager
def local_run(run: Run) -> Iterator[Run]:
    """Yield a run whose files are on this machine: the run itself, or a copy of one in a store, removed after the block.

    Use it to read all of a run more than once, as a card does: a copy needs disk space for matched/ and curated/.
    """
    with contextlib.ExitStack() as held:
        path = held.enter_context(run.path.local_folder())
        elsewhere = run.matched.path != run.path
        matched = held.enter_context(run.matched.path.local_folder()) if elsewhere else path
        if (path, matched) == (run.path, run.matched.path):
            yield run
            return
        copy = Run(path, run.counted)
        copy.matched = Folder(matched)
        yield copy


def _manifest(folder: Folder) -> dict[str, Any]:
    """Return the manifest of a run. Raise MetaclipError if it is damaged; it is empty if the run is not finished."""
    manifest = folder.manifest
    stages = manifest.get("stages", {})
    kinds = [(manifest, RunManifest)] if stages.keys() & {MATCH.name, BALANCE.name} else []
    kinds += [(stages[spec.name], spec.record) for spec in (MATCH, BALANCE) if spec.name in stages]
    for value, kind in kinds:
        if (fault := fault_in(value, kind)) is not None:
            raise damaged(folder / MANIFEST, fault)
    return manifest


class Run:
    """A run folder, opened for reading: what it was made from, its counts, its curated pairs.

    >>> from metaclip import Run
    >>> run = Run("tests/golden/run")
    >>> run
    Run('tests/golden/run': 312 kept of 338 matched pairs, t = 20)
    >>> run.entries.column_names
    ['entry_id', 'entry', 'source', 'count', 'probability', 'expected', 'kept']
    """

    def __init__(
        self, path: str | os.PathLike[str], counted: tuple[Counts, Metadata] | None = None
    ) -> None:
        """Open a run folder. Raise MetaclipError if it is none, or if its first stage is not finished.

        `counted` are counts and list that were made or read before: if they belong to this run, they are not read again.
        """
        check_type("run", path, PATH)
        self.folder = Folder(path)
        self.path = self.folder.path
        self.manifest = _manifest(self.folder)
        stages = self.manifest.get("stages", {})
        self.balance: dict[str, Any] | None = stages.get("balance")
        self._owns_matches = "match" in stages
        match = stages.get("match") or (self.balance and self.balance["match"]["record"])
        if not match:
            if self.folder.state.exists():
                raise MetaclipError(
                    f"{path} is not finished; run the command that began it again, for a job array each part that is left"
                )
            raise MetaclipError(f"{path} is no run folder; metaclip curate and metaclip match make one")
        self.match: dict[str, Any] = match
        if counted is not None and self._is_mine(*counted):
            self.counted = counted

    def __repr__(self) -> str:
        """Show the path, the pairs and t."""
        matched = f"{self.match['funnel']['matched']} matched pairs"
        if self.balance is None:
            return f"Run({str(self.path)!r}: {matched})"
        by = f" by {self.t_by}" if self.t_by else ""
        return f"Run({str(self.path)!r}: {self.balance['kept']} kept of {matched}, t = {self.t:g}{by})"

    def _repr_html_(self) -> str:
        """Show figures, counts by rank before and after balancing, and the largest entries."""
        from metaclip.notebook import entries_tables

        funnel = self.match["funnel"]
        figures = {
            step: funnel[step]
            for step in ("rows", *sorted(funnel.keys() - {"rows", "matched"}), "matched")
        }
        if self.balance is None:
            entries = pa.table({"entry": self.metadata.entries, "count": self.counts.values})
        else:
            entries = self.entries
            figures |= {
                "kept": self.balance["kept"],
                "expected": self.balance["expected"],
                "t": self.t,
                "seed": self.seed,
            }
        return entries_tables(repr(self), figures, entries)

    @property
    def matched_manifest(self) -> dict[str, Any]:
        """The manifest of the folder that holds the matches."""
        return self.manifest if self._owns_matches else _manifest(self.matched)

    @property
    def match_settings(self) -> MatchSettings:
        """The settings of its first stage."""
        settings = msgspec.convert(self.matched_manifest["settings"]["match"], MatchSettings)
        return dataclasses.replace(settings, rule=self.rule)

    @property
    def t(self) -> float:
        """The threshold; with weights, the number that they multiply. Raise MetaclipError if the run is not balanced."""
        t = self._balanced["t"]
        return float(t["base"] if isinstance(t, dict) else t)

    @property
    def t_by(self) -> str | None:
        """What t differs by from entry to entry: "weight", "language", "language and weight"; None for one t.

        Raise MetaclipError if the run is not balanced.
        """
        t = self._balanced["t"]
        return str(t["by"]) if isinstance(t, dict) else None

    @functools.cached_property
    def thresholds(self) -> Thresholds:
        """The threshold of each entry: t itself, or float64[number of entries].

        Raise MetaclipError if the run is not balanced, or if they differ from what it wrote.
        """
        found, record = column_thresholds(self.entries, self.t), self._balanced["t"]
        if vector_digest(found) != (record["digest"] if isinstance(record, dict) else None):
            raise damaged(self.path / "entries.parquet", "its column t is not what the run wrote")
        return found

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
        return msgspec.convert(self.match["rule"], TextRule)

    @functools.cached_property
    def matched(self) -> Folder:
        """The folder that holds the matches: its own, or the folder of the run that it was balanced from.

        Raise MetaclipError if that folder is gone, or was matched again.
        """
        if self._owns_matches:
            return self.folder
        source = self._balanced["match"]
        # Both folders may have been moved together, or this one alone.
        beside = source["beside"] and resolve_path(self.path, source["beside"])
        for path in filter(None, (beside, source["folder"])):
            found = Folder(path)
            record = Stage(found, MATCH).record
            if record is not None and record["identity"] == self.match["identity"]:
                return found
        raise MetaclipError(
            f"the matches that {self.path} was balanced from are no longer in {source['folder']}; match and balance again"
        )

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """The files of the pool: index, name, path, size, stamp, sha256."""
        folder = self.matched.path
        return [
            {**item, "path": str(resolve_path(folder, item["path"]))}
            for item in self.matched_manifest["inputs"]
        ]

    @functools.cached_property
    def shard_columns(self) -> dict[str, dict[str, str | None]]:
        """The names of columns that were given when a shard was matched, by role (text, url, uid), by the shard's name."""
        return {
            item["name"]: item.get("columns") or self.match["columns"] for item in self.match["shards"]
        }

    def check_matches(self) -> None:
        """Raise MetaclipError if a file of stage match is not as it was written."""
        written = self.match["files"]
        sizes = self.matched.path.sizes()
        for name, size in written.items():
            if sizes.get(name) != size:
                raise MetaclipError(
                    f"{self.matched / name} is gone or not what the run wrote; the command that matched the pool mends it"
                )

    @functools.cached_property
    def counted(self) -> tuple[Counts, Metadata]:
        """The counts and the query list. Raise MetaclipError if they cannot be read, or differ from what the run wrote."""
        path = self.path / ("counts.parquet" if self._owns_matches else "entries.parquet")
        table = read_table(path, COUNTED)
        metadata = table_list(table)
        values = table["count"].to_numpy()
        counted = Counts(values, metadata.digest, self.rule.identity), metadata
        if not self._is_mine(*counted):
            raise damaged(path, "it has other entries or counts than were written")
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
    def corrected_counts(self) -> npt.NDArray[np.uint64]:
        """The counts without the pairs that were taken out of the run, of one from which some were."""
        path = self.matched / "counts.parquet"
        values: npt.NDArray[np.uint64] = read_table(path, COUNTED | {"count_corrected": pa.uint64()})[
            "count_corrected"
        ].to_numpy()
        if counts_digest(values) != self.match[REMOVED]["counts_digest"]:
            raise damaged(path, "it has other corrected counts than were written")
        return values

    @functools.cached_property
    def entries(self) -> pa.Table:
        """A row for each entry: entry_id, entry, source, count, probability, expected, kept.

        Of a list with languages, there is also language; with weights or languages, t.
        """
        path = self.path / "entries.parquet"
        check_bytes(path, path.name, self._balanced)
        table = read_table(path, ENTRIES | ({"t": pa.float64()} if self.t_by else {}))
        if table["entry_id"].to_pylist() != list(range(len(table))):
            raise damaged(path, "its entries are not in order")
        return table

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
            tables = [
                pa.Table.from_batches(batches) for path in paths if (batches := list(read_pairs(path)))
            ]
        try:
            return pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException as error:
            raise MetaclipError(
                f"the files in {self.path / 'curated'} have columns of different types ({one_line(error)}); read them one by one"
            ) from None

    @property
    def account(self) -> dict[str, Any]:
        """The account of the run: card.json as a dict."""
        _ = self._balanced
        if (found := read_json(self.path / "card.json")) is None:
            raise MetaclipError(
                f"{self.path / 'card.json'} is gone or damaged; run the same command again"
            )
        return found


RunLike = Run | str | os.PathLike[str]
"""A run: the object, or its folder."""


def open_run(run: RunLike) -> Run:
    """Return a run given as the object or as its folder."""
    check_type("run", run, Run | PATH)
    return run if isinstance(run, Run) else Run(run)
