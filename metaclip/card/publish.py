"""Make the published card of a run: a folder that stands alone, on a static host or on the Hugging Face Hub.

    card.json          the account, and what only a card has: name, licence, grid of t, hosts and languages, files
    README.md          the same for a reader; the Hub reads its head
    croissant.json     the same for data set search engines (MLCommons Croissant 1.0)
    entries.parquet    entry_id, entry, source, count, probability, expected, kept, samples; t, if it differs by entry
    removed.parquet    the pairs taken out since the version before, if any (`metaclip.card.removal`)
    plots/             the plots of README.md
    index.html         the explorer page, with explorer/ beside it

Every figure can be made again from the run (`metaclip.card.verify`), except `created`, `versions` and `name`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip.arguments import PATH, check_fields, check_type, check_types
from metaclip.card import croissant, readme
from metaclip.card.class_coverage import ClassNames
from metaclip.card.explorer.writer import write_explorer
from metaclip.card.plots import import_altair, write_plots
from metaclip.card.removal.removed_list import REMOVED_LIST, read_list, write_list
from metaclip.card.run_files import check_unedited
from metaclip.card.samples import samples_by_entry
from metaclip.card.scan import RunScan, scan_run
from metaclip.curate import schema
from metaclip.curate.run import Run, RunLike, local_run, open_run
from metaclip.curate.settings import REMOVED
from metaclip.curate.tables import ENTRIES, read_table
from metaclip.engine import Progress
from metaclip.errors import MetaclipError
from metaclip.metadata import Metadata, MetadataLike, as_metadata
from metaclip.notebook import entries_tables
from metaclip.pool.files import list_paths
from metaclip.stage.folder import Folder
from metaclip.stage.runner import RunOptions
from metaclip.storage.files import (
    as_path,
    atomic_write,
    disk_errors,
    file_digest,
    read_json,
    write_json,
)

_COUNTED: Final = {"pairs": "integer", "names": "integer", "floor": "integer"}
_COUNTED_TOP: Final = {"top[].name": "string", "top[].pairs": "integer"}
CARD_FIELDS: Final[dict[str, str]] = {
    "name": "string",
    "license": "string or null",
    "contact": "string or null",
    "url": "string or null",
    "grid.t[]": "number",
    "grid.pairs[]": "number",
    "grid.tail_share[]": "number",
    "grid.share": "number",
    "hosts": "object or null",
    "languages": "object or null",
    **{
        f"{of}.{name}": kind
        for name, kind in (_COUNTED | _COUNTED_TOP).items()
        for of in ("hosts", "languages")
    },
    "classes[].name": "string",
    "classes[].digest": "string",
    "classes[].names": "integer",
    "classes[].known": "integer",
    "classes[].zero": "number",
    "classes[].zero_kept": "number",
    "classes[].divergence": "number or null",
    "classes[].divergence_kept": "number or null",
    "classes[].entries[].name": "string",
    "classes[].entries[].entry_id": "integer or null",
    "classes[].entries[].count": "integer or null",
    "classes[].entries[].kept": "integer",
    "files[].name": "string",
    "files[].size": "integer",
    "files[].sha256": "string",
}
"""Further fields of a published card."""
NAME: Final = "metaclip-card"
"""Name of the schema; its version is that of the run's account."""
FIELDS: Final = schema.FIELDS | CARD_FIELDS
CARD_FILES: Final = (
    "card.json", "README.md", "croissant.json", "entries.parquet", "plots", "index.html", "explorer", REMOVED_LIST
)  # fmt: skip
"""All files and folders in a card's folder."""
_MOST_LISTED: Final = 50
"""Hosts and languages that a card lists."""


@dataclasses.dataclass(frozen=True)
class CardInfo:
    """What the publisher states of a set; the run does not know it."""

    name: str
    license: str | None = None
    """An SPDX identifier or a Hub licence name, of the card's own figures and of the list of pairs; not of images."""
    contact: str | None = None
    """Where to ask for the removal of a pair."""
    url: str | None = None
    """Where the card is published."""
    look_ups: bool | None = None
    """Whether the page can look up urls and uids; None: for up to 500,000 matched pairs."""
    samples: bool = True
    """Whether the card shows captions as samples."""

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of_card(cls, folder: Path, card: Mapping[str, Any]) -> CardInfo:
        """Return what the publisher of a card in a folder stated, and whether it shows captions."""
        stated = {key: card[key] for key in ("name", "license", "contact", "url")}
        return cls(**stated, samples=_shows_samples(folder))


class Card:
    """A published card: a folder, opened for reading."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a card. Raise MetaclipError if the folder holds none, or one of a newer schema."""
        check_type("path", path, PATH)
        self.path = as_path(path)
        self.fields = read_card(self.path)

    def __repr__(self) -> str:
        """Show the path, the name and the pairs."""
        pairs = self.fields["pairs"]
        return f"Card({str(self.path)!r}: {self.fields['name']}, {pairs['kept']} kept of {pairs['matched']} matched pairs)"

    def _repr_html_(self) -> str:
        """Show figures, counts by rank before and after balancing, and the largest entries."""
        fields, balance = self.fields, self.fields["balance"]
        stated = {name: fields[name] for name in ("name", "license", "contact", "url") if fields[name]}
        figures = {**stated, **fields["funnel"], "t": balance["t"], "seed": balance["seed"]}
        return entries_tables(repr(self), figures, self.entries)

    @functools.cached_property
    def entries(self) -> pa.Table:
        """A row for each entry: those of `Run.entries`, and samples."""
        return read_table(self.path / "entries.parquet", ENTRIES)


def card(
    run: RunLike,
    *,
    out: str | os.PathLike[str],
    name: str | None = None,
    license: str | None = None,
    contact: str | None = None,
    url: str | None = None,
    look_ups: bool | None = None,
    samples: bool | None = None,
    classes: Sequence[str | os.PathLike[str]] = (),
    blocked_words: MetadataLike | None = None,
    options: RunOptions | None = None,
) -> Card:
    """Publish a balanced run as a card in the folder `out`; return the card.

    `name` is that of the set (default: the folder's), `license` the card's own (an SPDX identifier), `contact` where to
    ask for the removal of a pair, `url` where the card will be. `look_ups` says whether the page can look up urls and
    uids (None: for up to 500,000 matched pairs), `samples` whether the card shows captions (None: yes). `classes` are
    files of class names whose coverage is computed; captions with one of the `blocked_words` are no samples. If the
    folder holds a card of this run already, what is None or empty here is as in that card ("" states nothing). Raise
    MetaclipError for a run that is not balanced or was edited, for a folder that holds something else, and for the card
    of another set unless `options.overwrite` is set. Needs the extra `cards`.

    >>> from metaclip import card, curate
    >>> run = curate("curation/toy_pool.jsonl", "metadata/toy.txt", t=20, out="carded")
    >>> card(run, out="toy_card", name="A toy")
    Card('toy_card': A toy, 312 kept of 338 matched pairs)
    """
    check_types(out=(out, PATH), options=(options, RunOptions | None))
    run, options = open_run(run), options or RunOptions()
    before = _card_to_replace(as_path(out), run, options.overwrite) or {}
    name = name or before.get("name") or Path(out).resolve().name
    stated = {
        key: before.get(key) if value is None else value or None
        for key, value in (("license", license), ("contact", contact), ("url", url))
    }
    if samples is None:
        samples = _shows_samples(as_path(out)) if before else True
    info = CardInfo(name, **stated, look_ups=look_ups, samples=samples)
    lists = [ClassNames.read(path) for path in list_paths("classes", classes)]
    blocked = None if blocked_words is None else as_metadata(blocked_words)
    make_card(
        run, out, info, blocked=blocked, classes=lists or ClassNames.of_card(before), options=options
    )
    return Card(out)


def make_card(
    run: RunLike,
    out: str | os.PathLike[str],
    info: CardInfo,
    *,
    blocked: Metadata | None = None,
    classes: Sequence[ClassNames] = (),
    options: RunOptions | None = None,
) -> dict[str, Any]:
    """Make the card of a balanced run in the folder `out`; return card.json.

    Captions with one of the `blocked` words are no samples; the coverage of `classes` is computed. Raise MetaclipError for
    a run that is not balanced or was edited, for a folder that holds something else, and for the card of another set unless
    `options.overwrite` is set.
    """
    run, options, folder = open_run(run), options or RunOptions(), Folder(out)
    with local_run(run) as near:
        with Progress("check", 1, options.progress, unit="runs") as progress:
            check_unedited(near)
            import_altair()  # before anything is written
            progress.advance(1, 0)
        names = {path.name for path in folder.path.iterdir()} if folder.path.is_dir() else set()
        if strange := sorted(name for name in names - set(CARD_FILES) if not name.startswith(".")):
            raise MetaclipError(
                f"{folder.path} holds {strange[0]}, which is of no card; choose another `out=...`"
            )
        _card_to_replace(folder.path, run, options.overwrite)
        with disk_errors(folder.path), folder.path.filled_folder(last="card.json") as local:
            scan = scan_run(near, options, classes, blocked, with_samples=info.samples)
            return _write_card(local, near, info, scan, options.progress)


def _card_to_replace(folder: Path, run: Run, overwrite: bool) -> dict[str, Any] | None:
    """Return the card of `run` that a folder holds, which a new one will replace; None if there is none.

    Raise MetaclipError if the folder holds the card of another result, unless `overwrite` is set.
    """
    if not (path := folder / "card.json").exists():
        return None
    card, mine = read_json(path) or {}, run.account.get("result_digest")
    if (theirs := card.get("result_digest")) == mine:
        return read_card(folder) if "license" in card else None  # else the account of the run itself
    if overwrite:
        return None
    what = (
        f"the card {card.get('name')!r:.80}, of the result {theirs!s:.16}" if card else "a damaged card"
    )
    raise MetaclipError(
        f"{folder} holds {what}, and {run.path} has the result {mine!s:.16}; choose another `out=...`, or replace it with "
        "`RunOptions(overwrite=True)`"
    )


def read_card(folder: Path) -> dict[str, Any]:
    """Read a card's card.json. Raise MetaclipError if there is none, or one of a newer schema."""
    path = folder / "card.json"
    card = read_json(path)
    if card is None:
        raise MetaclipError(f"{folder} holds no card.json that can be read; metaclip card makes one")
    stated = card.get("schema")
    if not isinstance(stated, dict) or stated.get("name") != NAME:
        raise MetaclipError(
            f"{path} is no published card; make one with: metaclip card RUN --out {folder}"
        )
    schema.check_read(card, NAME, FIELDS, str(path), "fetch it again, or make it from its run")
    return card


def _shows_samples(folder: Path) -> bool:
    """Return whether the card in a folder shows captions; false if its entries cannot be read, to show none by mistake."""
    try:
        lists = read_table(folder / "entries.parquet", {"samples": pa.list_(pa.string())})["samples"]
    except MetaclipError:
        return False
    return bool(pc.sum(pc.list_value_length(lists)).as_py())


def read_card_of(folder: Path, run: Run) -> dict[str, Any]:
    """Read a card's card.json. Raise MetaclipError if it is not the card of `run`."""
    card = read_card(folder)
    if card["result_digest"] != run.account["result_digest"]:
        raise MetaclipError(
            f"{folder} is the card of the result {card['result_digest'][:16]}, {run.path} holds "
            f"{run.account['result_digest'][:16]}; give the run that the card was made from"
        )
    return card


def card_json(run: Run, info: CardInfo, scan: RunScan) -> dict[str, Any]:
    """Return card.json without the digests of the files beside it."""
    grid, of_run = scan.grid, run.account
    listed = {
        name: {"pairs": n.total, "names": len(n.counts), "floor": n.floor, "top": n.top(_MOST_LISTED)}
        for name, n in scan.hosts.items()
    }
    return {
        **of_run,
        "schema": {**of_run["schema"], "name": NAME},
        "name": info.name,
        "license": info.license,
        "contact": info.contact,
        "url": info.url,
        "grid": {
            "t": grid.thresholds.tolist(),
            "pairs": grid.pairs.tolist(),
            "tail_share": grid.tail_share.tolist(),
            "share": grid.share,
        },
        "hosts": listed.get("hosts"),
        "languages": listed.get("languages"),
        "classes": scan.classes,
    }


def entries_table(run: Run, samples: pa.Table) -> pa.Table:
    """Return the table of entries.parquet: the run's, with samples; with corrected counts where pairs were taken out."""
    table = run.entries
    if REMOVED in run.match:
        table = table.append_column("count_corrected", pa.array(run.corrected_counts))
    return table.append_column("samples", samples_by_entry(samples, len(run.metadata)))


def _write_card(
    folder: Path, run: Run, info: CardInfo, scan: RunScan, shown: bool | None
) -> dict[str, Any]:
    """Write a card's files into a folder, card.json last; return card.json. `shown` is that of `Progress`."""
    card, entries = card_json(run, info, scan), entries_table(run, scan.samples)
    with atomic_write(folder / "entries.parquet") as temporary:
        pq.write_table(entries, temporary, compression="zstd", use_dictionary=["source"])
    names = [
        "README.md",
        "croissant.json",
        "entries.parquet",
        *write_plots(folder, card, entries, scan.grid, shown),
    ]
    write_explorer(
        folder,
        name=info.name,
        account=card,
        entries=entries,
        grid=scan.grid,
        run=run,
        look_ups=info.look_ups,
        shown=shown,
    )
    with atomic_write(folder / "README.md") as temporary:
        temporary.write_text(readme.render(card), encoding="utf-8")
    write_json(folder / "croissant.json", croissant.describe(card, sha256_of(folder / "entries.parquet")))
    (folder / REMOVED_LIST).unlink(missing_ok=True)  # of an earlier card in this folder
    if REMOVED in card:
        names.append(REMOVED_LIST)
        write_list(folder / REMOVED_LIST, read_list(run.matched / REMOVED_LIST))
    card["files"] = [
        {"name": name, "size": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
        for name in sorted(names)
    ]
    schema.check_written(card, FIELDS)
    write_json(folder / "card.json", card)
    return card


def sha256_of(path: Path) -> str:
    """Compute the sha256 of a file, as 64 hex digits."""
    with path.open("rb") as file:
        return file_digest(file)
