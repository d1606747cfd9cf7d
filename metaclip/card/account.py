"""The account of a run: card.json, and card.md for a reader.

Every field is documented in data_cards/README.md. The result digest identifies what came out - not when, where, by
which engine, or in how many files it went in.
"""

from __future__ import annotations

import datetime
import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata as installed
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc

from metaclip._version import __version__
from metaclip.curation.balance import tail_share
from metaclip.curation.run import Run
from metaclip.errors import MetaclipError
from metaclip.shard import funnel as funnels
from metaclip.shard.files import file_digest, replacing, write_json
from metaclip.shard.folder import digest_of

SCHEMA: Final = {"name": "metaclip-account", "version": 1}
_TOP: Final = 25
_PACKAGES: Final = ("numpy", "numba", "pyarrow")


def versions() -> dict[str, str]:
    """Give the versions that a result was made with."""
    return {
        "metaclip": __version__,
        "python": platform.python_version(),
        **{name: installed.version(name) for name in _PACKAGES},
    }


def write_account(run: Run, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Write card.json and card.md into a balanced run's folder; give the account."""
    account = make_account(run, recipe)
    write_json(run.path / "card.json", account)
    with replacing(run.path / "card.md") as temporary:
        temporary.write_text(render(account), encoding="utf-8")
    return account


def make_account(run: Run, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Make the account of a balanced run from its files."""
    if run.balance is None:
        raise MetaclipError(f"{run.path} is matched but not balanced; run: metaclip balance {run.path}")
    counts, t, balance, match = run.counts.values, run.t, run.balance, run.match
    zero, tail = counts == 0, (counts > 0) & (counts < t)
    head = counts >= t
    funnel = {**match["funnel"], **{key: balance["funnel"].get(key, 0) for key in ("not_drawn", "kept")}}
    funnels.check(funnel, "rows", funnels.MATCH_REASONS, "matched")
    if balance["lost"] == match["lost"]:
        funnels.check(funnel, "matched", funnels.BALANCE_REASONS, "kept")
    with (run.path / "curated.npy").open("rb") as file:
        curated = file_digest(file)
    entries = run.entries
    result = {
        "semantics": {"match": match["semantics"], "balance": balance["semantics"]},
        "list": {
            "digest": match["list"],
            "entries": len(counts),
            "sources": _by_source(entries),
        },
        "rule": match["rule"],
        "balance": {
            "t": t,
            "asked": balance["asked"],
            "tail_share": tail_share(counts, t),
            "seed": balance["seed"],
            "epoch": 0,
        },
        "funnel": funnel,
        "entries": {
            "zero": int(zero.sum()),
            "tail": int(tail.sum()),
            "head": int(head.sum()),
        },
        "sums": {
            "count": int(counts.sum()),
            "count_tail": int(counts[tail].sum()),
            "count_head": int(counts[head].sum()),
            "expected": float(pc.sum(entries["expected"]).as_py()),
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
        "digests": {"counts": match["counts_digest"], "curated": curated},
    }
    identity = {key: value for key, value in result.items() if key != "balance"}
    identity["balance"] = {key: value for key, value in result["balance"].items() if key != "asked"}
    order = np.lexsort((np.arange(len(counts)), -counts.astype(np.int64)))[:_TOP]
    top = [row for row in entries.take(order).to_pylist() if row["count"]]
    return {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "recipe": dict(recipe),
        "recipe_digest": digest_of(recipe),
        "inputs": [{key: item[key] for key in ("name", "size", "sha256")} for item in run.matched.manifest["inputs"]],
        "lost_inputs": [item["name"] for item in match["lost"]],
        **result,
        "top_entries": top,
        "result_digest": hashlib.sha256(digest_of(identity).encode()).hexdigest(),
    }


def _by_source(entries: Any) -> dict[str, int]:
    sources = entries["source"].combine_chunks().fill_null("unnamed").value_counts().to_pylist()
    return {item["values"]: item["counts"] for item in sorted(sources, key=lambda item: str(item["values"]))}


def render(account: Mapping[str, Any]) -> str:
    """Write the account as a page of Markdown."""
    balance, pairs, entries, sums = account["balance"], account["pairs"], account["entries"], account["sums"]
    funnel = account["funnel"]
    share = 100 * pairs["kept"] / max(1, funnel["rows"])
    off = (pairs["kept"] - pairs["expected"]) / pairs["deviation"] if pairs["deviation"] else 0.0
    lines = [
        "# Account of a curated set",
        "",
        f"**{pairs['kept']:,} pairs** kept of {funnel['rows']:,} rows ({share:.1f}%): matched against "
        f"{account['list']['entries']:,} entries, balanced at t = {balance['t']:g}.",
        "",
        f"Result digest `{account['result_digest']}`",
        "",
    ]
    if account["lost_inputs"]:
        lost = ", ".join(f"`{_plain(name)}`" for name in account["lost_inputs"])
        lines += [f"**Not all inputs could be read.** Missing from every figure here: {lost}", ""]
    lines += ["## Funnel", "", "| rows | | |", "|---:|---|---|"]
    for key, rows in _funnel_rows(funnel):
        lines.append(f"| {rows:,} | {key} | {funnels.MEANING.get(key, '')} |")
    lines += [
        "",
        "## Balance",
        "",
        "| | |",
        "|---|---:|",
        f"| t (asked: {_plain(balance['asked'])}) | {balance['t']:g} |",
        f"| tail share at t | {100 * balance['tail_share']:.2f}% |",
        f"| pairs expected | {pairs['expected']:,.1f} ± {pairs['deviation']:,.1f} |",
        f"| pairs kept | {pairs['kept']:,} ({off:+.1f} standard deviations) |",
        f"| seed, epoch | {balance['seed']}, {balance['epoch']} |",
        f"| uids on more than one matched row | {pairs['repeated_uids']:,} ({pairs['repeated_rows']:,} rows beyond the first) |",
        "",
        "## Entries",
        "",
        "| | entries | count | |",
        "|---|---:|---:|---|",
        f"| zero | {entries['zero']:,} | 0 | match nothing in this pool |",
        f"| tail | {entries['tail']:,} | {sums['count_tail']:,} | count below t: every pair is kept |",
        f"| head | {entries['head']:,} | {sums['count_head']:,} | count of t or more: thinned, where it exceeds t |",
        "",
        "Count is pairs in the pool that match an entry; expected is the sum of P(keep) over them; kept is what the draw",
        "kept. A head entry keeps more than t where its pairs match other entries too.",
        "",
        "| entry | source | count | probability | expected | kept |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in account["top_entries"]:
        lines.append(
            f"| `{_plain(row['entry'])}` | {_plain(row['source'] or '')} | {row['count']:,} | {row['probability']:.4f} "
            f"| {row['expected']:,.1f} | {row['kept']:,} |"
        )
    lines += ["", "## Made from", "", "| input | bytes | sha256 |", "|---|---:|---|"]
    shown = account["inputs"][:50]
    lines += [f"| `{_plain(item['name'])}` | {item['size']:,} | `{item['sha256']}` |" for item in shown]
    if len(shown) < len(account["inputs"]):
        lines.append(f"| ... and {len(account['inputs']) - len(shown):,} more, in card.json | | |")
    rule = [name for name, value in account["rule"].items() if value not in (False, "none")]
    lines += [
        "",
        f"- list: sha256 `{account['list']['digest']}`",
        f"- text rule: {', '.join(rule) if rule else 'as in the paper'}",
        f"- recipe: sha256 `{account['recipe_digest']}`",
        f"- made {account['created']} with {', '.join(f'{k} {v}' for k, v in account['versions'].items())}",
        "",
    ]
    return "\n".join(lines)


def _funnel_rows(funnel: Mapping[str, int]) -> list[tuple[str, int]]:
    keys = ["rows", *funnels.MATCH_REASONS, "matched", *funnels.BALANCE_REASONS, "kept"]
    always = {"rows", "no_match", "matched", "not_drawn", "kept"}
    return [(key, funnel.get(key, 0)) for key in keys if key in always or funnel.get(key, 0)]


def _plain(text: Any) -> str:
    """Show text from outside inside a Markdown table: one line, nothing that Markdown or HTML reads."""
    safe = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    for char, code in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;"), ("`", "'")):
        safe = safe.replace(char, code)
    return safe
