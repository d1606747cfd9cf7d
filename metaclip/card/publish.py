"""The published card of a run: a folder that stands alone, on a static host or on the Hugging Face Hub.

    card.json          the account, and what only a card has: name, licence, grid of t, hosts and languages, files
    README.md          the same for a reader; its head is what the Hub reads
    croissant.json     the same for data set search engines (MLCommons Croissant 1.0)
    entries.parquet    entry_id, entry, source, count, probability, expected, kept, samples
    removed.parquet    what was taken out since the version before, where pairs were (`metaclip.card.removal`)
    plots/             what a curator looks at first
    index.html         the explorer

Every figure can be made again from the run (`metaclip.card.verify`); nothing but `created`, `versions` and `name` is
not of the run.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from metaclip.card import croissant, readme, removal
from metaclip.card.explorer import write_explorer
from metaclip.card.grid import Grid
from metaclip.card.origins import Origins, Tally
from metaclip.card.plots import NAMES as PLOTS
from metaclip.card.plots import write_plots
from metaclip.card.samples import Samples
from metaclip.curate import account, schema
from metaclip.curate.run import Run
from metaclip.storage.files import atomic_write, write_json

SCHEMA: Final = {"name": "metaclip-card", "version": schema.VERSION}
FIELDS: Final = account.FIELDS | schema.CARD
NAMES: Final = (
    "card.json", "README.md", "croissant.json", "entries.parquet", "plots", "index.html", "explorer", removal.NAME
)  # fmt: skip
"""All that stands in a card's folder."""
TOP: Final = 50
"""Hosts and languages that a card lists."""


@dataclasses.dataclass(frozen=True)
class About:
    """What a run does not know of itself."""

    name: str
    license: str | None = None
    """An SPDX identifier or a Hub licence name, of the card's own figures and of the list of pairs; not of images."""
    contact: str | None = None
    """Where somebody asks for a pair to be removed."""
    url: str | None = None
    """Where the card is published."""
    look_ups: bool | None = None
    """Whether the page can say if a url or uid is in; None: up to 500,000 matched pairs."""
    plots_page: bool = True
    """Whether the plots are there to be looked at closely too: ``plots/index.html``, a megabyte."""


@dataclasses.dataclass(frozen=True)
class Findings:
    """What was looked up in a run for its card."""

    grid: Grid
    samples: Samples
    origins: Origins
    classes: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Coverage of class names (`metaclip.card.classes`)."""


def make_card(run: Run, about: About, findings: Findings) -> dict[str, Any]:
    """Make card.json, but for the digests of the files beside it."""
    grid = findings.grid
    return {
        **run.account,
        "schema": SCHEMA,
        "name": about.name,
        "license": about.license,
        "contact": about.contact,
        "url": about.url,
        "grid": {
            "t": grid.thresholds.tolist(),
            "pairs": grid.pairs.tolist(),
            "tail_share": grid.tail_share.tolist(),
            "share": grid.share,
        },
        "hosts": _listed(findings.origins.hosts),
        "languages": _listed(findings.origins.languages),
        "classes": findings.classes,
    }


def _listed(tally: Tally | None) -> dict[str, Any] | None:
    if tally is None:
        return None
    return {"pairs": tally.total, "names": len(tally.counts), "floor": tally.floor, "top": tally.top(TOP)}


def entries_table(run: Run, samples: Samples) -> pa.Table:
    """Make entries.parquet: the run's, with samples; with corrected counts where pairs were taken out."""
    table = run.entries
    if account.REMOVED in run.match:
        corrected = pq.read_table(run.matched / "counts.parquet", columns=["count_corrected"])["count_corrected"]
        table = table.append_column("count_corrected", corrected)
    return table.append_column("samples", samples.by_entry(len(run.metadata)))


def write_card(folder: Path, run: Run, about: About, findings: Findings) -> dict[str, Any]:
    """Write a card's files into a folder, card.json last; give card.json."""
    card, entries = make_card(run, about, findings), entries_table(run, findings.samples)
    with atomic_write(folder / "entries.parquet") as temporary:
        pq.write_table(entries, temporary, compression="zstd", use_dictionary=["source"])
    write_plots(folder, card, entries, findings.grid, about.plots_page)
    write_explorer(
        folder, name=about.name, account=card, entries=entries, grid=findings.grid, run=run, look_ups=about.look_ups
    )
    with atomic_write(folder / "README.md") as temporary:
        temporary.write_text(readme.render(card), encoding="utf-8")
    digest = _sha256(folder / "entries.parquet")
    write_json(folder / "croissant.json", croissant.describe(card, digest))
    names = ["README.md", "croissant.json", "entries.parquet", *(f"plots/{name}.svg" for name in PLOTS)]
    (folder / removal.NAME).unlink(missing_ok=True)  # of an earlier card in this folder
    if account.REMOVED in card:
        names.append(removal.NAME)
        removal.write_list(folder / removal.NAME, removal.read_list(run.matched / removal.NAME))
    files = [{"name": n, "size": (folder / n).stat().st_size, "sha256": _sha256(folder / n)} for n in sorted(names)]
    card["files"] = files
    schema.check_written(card, FIELDS)
    write_json(folder / "card.json", card)
    return card


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
