"""The account of a run: card.json, and card.md for a reader.

data_cards/README.md documents every field.
"""

from __future__ import annotations

import datetime
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc

from metaclip.curate.extracted import render_extraction
from metaclip.curate.run import Run
from metaclip.curate.schema import (
    BY_LANGUAGE,
    FIELDS,
    NAME,
    VARIED_VERSION,
    VERSION,
    changed_settings,
    check_written,
    faults,
    result_digest,
)
from metaclip.curate.settings import BALANCE_REASONS, MATCH_REASONS, NO_LIST, NOT_IN_SUBSET, REMOVED
from metaclip.curate.threshold import t_of_entry, tail_share
from metaclip.stage.folder import versions
from metaclip.stage.stage import check_funnel, digest_of
from metaclip.storage.files import atomic_write, file_digest, read_json, write_json

MEANING: Final = {
    "rows": "rows read from the pool",
    "malformed_row": "line or row that is not of the file's form",
    "not_downloaded": "img2dataset says that the image could not be fetched",
    "null_text": "no text",
    "invalid_utf8": "text that is not valid UTF-8",
    NOT_IN_SUBSET: "uid that is not in the given subset",
    "empty_text": "text of length 0",
    NO_LIST: "text in a language that no list is for",
    "no_match": "text that matches no entry",
    REMOVED: "taken out on request",
    "matched": "matched at least one entry",
    "not_drawn": "matched, but not drawn",
    "kept": "kept",
}
"""The steps of the funnel in their order, with their meaning."""
_OPTIONAL: Final = {REMOVED, NOT_IN_SUBSET, NO_LIST}
"""Steps only where rows were lost for them."""
_CARD: Final = "card.json"
_PAGE: Final = "card.md"
_TOP_ENTRIES: Final = 25
_SHOWN_INPUTS: Final = 50
_ALWAYS_SHOWN: Final = ("rows", "no_match", "matched", "not_drawn", "kept")


def write_account(run: Run) -> dict[str, Any]:
    """Write card.md and card.json into the folder of a balanced run; return the account."""
    account = make_account(run)
    check_written(account, FIELDS)
    with atomic_write(run.path / _PAGE) as temporary:
        temporary.write_text(render(account), encoding="utf-8")
    write_json(run.path / _CARD, account)
    return account


def has_account(folder: Path) -> bool:
    """Return whether a run's folder holds its account, and no damaged one."""
    found = read_json(folder / _CARD)
    return found is not None and next(faults(found, FIELDS, strict=False), None) is None


def remove_account(folder: Path) -> None:
    """Remove the account from a run's folder."""
    for name in (_CARD, _PAGE):
        (folder / name).unlink(missing_ok=True)


def make_account(run: Run) -> dict[str, Any]:
    """Compute the account of a balanced run from its files."""
    counts, t, match, entries = run.counts.values, run.thresholds, run.match, run.entries
    balance = run.manifest["stages"]["balance"]
    settings = run.manifest["settings"]
    varied = {"t_by": run.t_by} if run.t_by else {}
    zero, head = counts == 0, counts >= t
    tail = ~(zero | head)
    rows = {**match["funnel"], **balance["funnel"]}
    funnel = {step: rows.get(step, 0) for step in MEANING if step not in _OPTIONAL or step in rows}
    check_funnel(funnel, "rows", (*MATCH_REASONS, REMOVED), "matched")
    check_funnel(funnel, "matched", BALANCE_REASONS, "kept")
    with (run.path / "curated.npy").open("rb") as file:
        curated = file_digest(file)
    result = {
        "semantics": {"match": match["semantics"], "balance": balance["semantics"]},
        "list": {"digest": match["list"], "entries": len(counts)},
        "rule": match["rule"],
        "balance": {
            "t": run.t,
            **varied,
            "tail_share": tail_share(counts, t),
            "seed": run.seed,
            "epoch": 0,
        },
        "funnel": funnel,
        "entries": {"zero": int(zero.sum()), "tail": int(tail.sum()), "head": int(head.sum())},
        "sums": {
            "count": int(counts.sum()),
            "count_tail": int(counts[tail].sum()),
            "count_head": int(counts[head].sum()),
            "expected": math.fsum(entries["expected"].to_pylist()),  # rounded once, in whatever order
            "kept": int(pc.sum(entries["kept"]).as_py()),
        },
        "pairs": {
            "matched": funnel["matched"],
            "expected": balance["expected"],
            "deviation": balance["deviation"],
            "kept": balance["kept"],
            "repeated_uids": match["duplicates"]["uids"],
            "repeated_rows": match["duplicates"]["rows"],
        },
        "digests": {
            "counts": match["counts_digest"],
            "curated": curated,
            **({"t": balance["t"]["digest"]} if varied else {}),
        },
    }
    if run.metadata.languages:
        result[BY_LANGUAGE] = _by_language(run)
    if REMOVED in match:
        result[REMOVED] = match[REMOVED]
    combined: dict[str, Any] = {
        key: match[key] for key in ("runs", "extracted", "images") if key in match
    }
    recipe = {**settings, "match": {**settings["match"], "metadata": match["list"]}}
    recipe["match"].pop("subset", None)  # a path of the machine that made it
    if varied:
        recipe["balance"] = {**settings["balance"], "weights": balance["t"]["weights"]}
    top = np.argsort(-counts.astype(np.int64), kind="stable")[:_TOP_ENTRIES]
    return {
        **result,
        **combined,
        "schema": {"name": NAME, "version": VARIED_VERSION if varied else VERSION},
        "created": _now().isoformat(timespec="seconds"),
        "versions": versions(),
        "recipe": recipe,
        "recipe_digest": digest_of(recipe),
        "inputs": [
            {key: item[key] for key in ("name", "size", "sha256")} for item in run.manifest["inputs"]
        ],
        "lost_inputs": [{key: item[key] for key in ("name", "first", "rows")} for item in match["lost"]],
        "list": {**result["list"], "sources": _by_source(entries)},
        "balance": {**result["balance"], "asked": balance["asked"]},
        "top_entries": [row for row in entries.take(top).to_pylist() if row["count"]],
        "result_digest": result_digest(result),
    }


def _by_language(run: Run) -> list[dict[str, Any]]:
    """Return a row for each language of the list: its texts, pairs, threshold, and the parts of its entries."""
    texts, record = run.match["texts"], run.manifest["stages"]["balance"]
    counts, thresholds, rows = run.counts.values, run.thresholds, []
    assert isinstance(thresholds, np.ndarray)
    for language, ids in run.metadata.languages.items():
        count, t = counts[ids.start : ids.stop], thresholds[ids.start : ids.stop]
        rows.append(
            {
                "language": language,
                "entries": len(ids),
                "texts": texts[language],
                "t": record["t"]["languages"][language],
                "tail_share": tail_share(count, t),
                "tail": int(((count > 0) & (count < t)).sum()),
                "head": int((count >= t).sum()),
                **record["languages"][language],
            }
        )
    return rows


def render_languages(account: Mapping[str, Any]) -> list[str]:
    """Return lines of Markdown about the languages of a list: a section, or nothing if it has none."""
    if not (rows := account.get(BY_LANGUAGE)):
        return []
    return [
        "## Languages", "",
        "A text is searched for the entries of its own language. Texts are those that were searched for entries of a language, "
        "matched ones hold one; expected and kept ones are pairs whose text holds one. Head and tail are entries.", "",
        "| language | texts | matched | t | tail share | tail | head | expected | kept |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(
            f"| {escaped(row['language'])} | {row['texts']:,} | {row['matched']:,} | {_number(row['t'])} "
            f"| {100 * row['tail_share']:.2f}% | {row['tail']:,} | {row['head']:,} | {row['expected']:,.1f} | {row['kept']:,} |"
            for row in sorted(rows, key=lambda row: (-row["matched"], row["language"]))
        ), "",
    ]  # fmt: skip


def _now() -> datetime.datetime:
    """Return the time, or the one in SOURCE_DATE_EPOCH, with which a card can be made again with the same bytes."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    return datetime.datetime.fromtimestamp(int(given) if given.isdecimal() else time.time(), datetime.UTC)


def _by_source(entries: Any) -> dict[str, int]:
    sources = entries["source"].combine_chunks().fill_null("unnamed").value_counts().to_pylist()
    return {
        item["values"]: item["counts"] for item in sorted(sources, key=lambda item: str(item["values"]))
    }


def render(account: Mapping[str, Any]) -> str:
    """Return the account as a page of Markdown."""
    balance, pairs, entries, sums = (
        account["balance"],
        account["pairs"],
        account["entries"],
        account["sums"],
    )
    funnel = account["funnel"]
    share = 100 * pairs["kept"] / max(1, funnel["rows"])
    off = (pairs["kept"] - pairs["expected"]) / pairs["deviation"] if pairs["deviation"] else 0.0
    off = round(off, 1) + 0.0  # no negative zero
    repeated = (
        f"{pairs['repeated_uids']:,}, with {pairs['repeated_rows']:,} rows beyond the first of each"
        if pairs["repeated_uids"]
        else "none"
    )
    lines = [
        "# Account of a curated set",
        "",
        f"**{pairs['kept']:,} pairs** kept of {funnel['rows']:,} rows ({share:.1f}%): matched against "
        f"{account['list']['entries']:,} entries, balanced at t = {_number(balance['t'])}.",
        "",
        f"Result digest `{account['result_digest']}`",
        "",
    ]
    if account["lost_inputs"]:
        lost = ", ".join(map(_lost_input, account["lost_inputs"]))
        lines += [f"**Not all inputs could be read.** Missing from every figure here: {lost}", ""]
    lines += render_images(account)
    lines += render_languages(account)
    lines += ["## Funnel", "", "| rows | | |", "|---:|---|---|"]
    lines += [f"| {rows:,} | {step} | {MEANING[step]} |" for step, rows in shown_steps(funnel)]
    if REMOVED in account:
        lines += ["", *render_removed(account[REMOVED])]
    lines += [
        "",
        "## Balance",
        "",
        "| | |",
        "|---|---:|",
        f"| t (asked: {escaped(balance['asked'])}) | {_number(balance['t'])} |",
        *(
            [f"| t of an entry | {t_of_entry(balance['t_by'])}: column t of entries.parquet |"]
            if "t_by" in balance
            else []
        ),
        f"| tail share at t | {100 * balance['tail_share']:.2f}% |",
        f"| pairs expected | {pairs['expected']:,.1f} ± {pairs['deviation']:,.1f} |",
        f"| pairs kept | {pairs['kept']:,} ({off:+.1f} standard deviations) |",
        f"| seed, epoch | {balance['seed']}, {balance['epoch']} |",
        f"| uids on several matched rows | {repeated} |",
        "",
        "## Entries",
        "",
        "| | entries | count | |",
        "|---|---:|---:|---|",
        f"| zero | {entries['zero']:,} | 0 | match nothing in this pool |",
        f"| tail | {entries['tail']:,} | {sums['count_tail']:,} | count below t: every pair is kept |",
        f"| head | {entries['head']:,} | {sums['count_head']:,} | count of t or more: thinned, where it exceeds t |",
        "",
        "Count is pairs in the pool that match an entry; expected is the sum of P(keep) over them; kept is what the",
        "draw kept. A head entry keeps more than t where its pairs match other entries too.",
        "",
        "| entry | source | count | probability | expected | kept |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {shown_entry(row)} | {escaped(row['source'] or '')} | {row['count']:,} "
        f"| {row['probability']:.4f} | {row['expected']:,.1f} | {row['kept']:,} |"
        for row in account["top_entries"]
    ]
    lines += ["", "## Made from", ""]
    if "runs" in account:
        lines += [*render_runs(account["runs"]), ""]
    if extracted := account.get("extracted"):
        lines += [*(f"- {render_extraction(one)}" for one in extracted), ""]
    lines += ["| input | bytes | sha256 |", "|---|---:|---|"]
    shown = account["inputs"][:_SHOWN_INPUTS]
    lines += [f"| {escaped(item['name'])} | {item['size']:,} | `{item['sha256']}` |" for item in shown]
    if len(shown) < len(account["inputs"]):
        lines.append(f"| ... and {len(account['inputs']) - len(shown):,} more, in card.json | | |")
    rule = [
        name if value is True else f"{name} = {value}"
        for name, value in changed_settings(account["rule"]).items()
    ]
    lines += [
        "",
        f"- list: sha256 `{account['list']['digest']}`",
        f"- text rule: {', '.join(rule) if rule else 'as in the paper'}",
        f"- recipe: sha256 `{account['recipe_digest']}`",
        f"- made {account['created']} with {', '.join(f'{k} {v}' for k, v in sorted(account['versions'].items()))}",
        "",
    ]
    return "\n".join(lines)


def shown_steps(funnel: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the steps of a funnel that a reader is shown, with their rows: those of every run, and what occurs."""
    return [(step, funnel[step]) for step in MEANING if step in _ALWAYS_SHOWN or funnel.get(step)]


def render_images(account: Mapping[str, Any]) -> list[str]:
    """Return lines of Markdown about the images of a pool: a section, or nothing if no subset tells of them."""
    if not (images := account.get("images")):
        return []
    return [
        "## Images", "", "What became of the images that were downloaded for the pool, before a caption was matched:", "",
        "| images | | |", "|---:|---|---|",
        *(
            f"| {one['samples']:,} | {escaped(one['step'])} | {escaped(one['meaning'])} |"
            for one in images
        ), "",
    ]  # fmt: skip


def render_removed(removed: Mapping[str, Any]) -> list[str]:
    """Return lines of Markdown about what was taken out of a set, version by version."""
    lines = [
        "Counts and probabilities are those of the first version, so that no other pair's draw changes; without the pairs "
        f"that were taken out, the counts come to {removed['count']:,}.",
        "",
        "| taken out of | matched pairs | of them kept | asked: uids, urls, domains | found |",
        "|---|---:|---:|---|---|",
    ]
    for version in removed["versions"]:
        asked, found = (
            ", ".join(f"{version[which][kind]:,}" for kind in ("uids", "urls", "domains"))
            for which in ("asked", "found")
        )
        lines.append(
            f"| `{escaped(version['parent'][:16])}` | {version['pairs']:,} | {version['kept']:,} | {asked} | {found} |"
        )
    return lines


def render_runs(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return lines of Markdown about the runs that a run combines."""
    return [
        "| run | rows | matched | matches |",
        "|---|---:|---:|---|",
        *(
            f"| {escaped(one['name'])} | {one['rows']:,} | {one['matched']:,} | `{escaped(one['identity'][:16])}` |"
            for one in runs
        ),
    ]


def _number(value: float) -> str:
    """Write a number so that it can be read back exactly, whole numbers without a point."""
    return f"{value:,.0f}" if value == int(value) else repr(value)


def _lost_input(item: Mapping[str, Any]) -> str:
    last = None if item["rows"] is None else item["first"] + item["rows"] - 1
    return escaped(item["name"]) + ("" if last is None else f" (rows {item['first']:,} to {last:,})")


def shown_entry(row: Mapping[str, Any]) -> str:
    """Return an entry of a row {entry, language} for Markdown, behind its language if it has one."""
    return escaped(" ".join([*filter(None, [row.get("language")]), row["entry"]]))


_MARKUP: Final = str.maketrans({char: f"&#{ord(char)};" for char in "&<>|`*_[]\\~$:@#"})


def escaped(text: Any) -> str:
    """Return foreign text for Markdown: one line, without characters that Markdown, HTML or a terminal interprets."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text)).translate(
        _MARKUP
    )
