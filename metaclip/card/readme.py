"""A card's README.md for readers, with a head of YAML that the Hugging Face Hub reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from metaclip.card.plots import TITLES
from metaclip.curate.account import (
    MEANING,
    escaped,
    render_images,
    render_languages,
    render_removed,
    render_runs,
    shown_entry,
    shown_steps,
)
from metaclip.curate.settings import REMOVED
from metaclip.curate.threshold import WEIGHT, t_of_entry


def summary(card: Mapping[str, Any]) -> str:
    """Return two sentences on what the set is."""
    pairs, rows = card["pairs"], card["funnel"]["rows"]
    return (
        f"{pairs['kept']:,} image-text pairs of {rows:,}, matched against {card['list']['entries']:,} entries and balanced "
        f"at t = {card['balance']['t']:,.15g}{_times(card)}. This card has the count of each entry before and after, and no "
        "images."
    )


def _times(card: Mapping[str, Any]) -> str:
    """Return what t is multiplied by, to stand behind it; nothing for one t."""
    by = card["balance"].get("t_by")
    return (
        ""
        if not by
        else f" times the {escaped(by)} of each entry"
        if by == WEIGHT
        else f" by {escaped(by)}"
    )


_MOST_NAMES: Final = 20
"""Class names, hosts or languages in a list of README.md."""
_SIZES: Final = (
    "n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B", "10B<n<100B",
    "100B<n<1T", "n>1T",
)  # fmt: skip
"""The Hub's size categories, by powers of ten."""

_HUB_LICENCES: Final = {
    "afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m",
    "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear",
    "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0",
    "cdla-sharing-1.0", "creativeml-openrail-m", "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0",
    "eupl-1.1", "eupl-1.2", "fair-noncommercial-research-license", "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0",
    "grok2-community", "h-research", "intel-research", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2",
    "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl",
    "odc-by", "ofl-1.1", "openmdw-1.0", "openmdw-1.1", "openrail", "openrail++", "osl-3.0", "pddl", "postgresql",
    "unknown", "unlicense", "wtfpl", "zlib",
}  # fmt: skip
"""The licences that the Hub knows (huggingface.co/docs/hub/repositories-licenses); anything else is "other" there."""
_SPDX_ENDING: Final = re.compile(r"^(gfdl|odbl|odc-by|pddl)-.*$|-(?:only|or-later)$")
"""What an SPDX identifier has and the Hub's spelling does not: a version, or what to do about later ones."""


def hub_licence(stated: str) -> dict[str, str]:
    """Return a licence as the Hub's fields: `license`, and `license_name` for one that the Hub does not know.

    >>> hub_licence("GPL-3.0-or-later"), hub_licence("Our Licence, 2.1")
    ({'license': 'gpl-3.0'}, {'license': 'other', 'license_name': 'our-licence-2.1'})
    """
    name = re.sub(r"[^a-z0-9.+]+", "-", stated.lower()).strip("-")
    for known in (name, _SPDX_ENDING.sub(r"\1", name)):
        if known in _HUB_LICENCES:
            return {"license": known}
    return {"license": "other", "license_name": name.strip("-.+") or "other"}


def head(card: Mapping[str, Any]) -> str:
    """Return the YAML that the Hub reads, as JSON values: nothing in a value can break out of them.

    JSON is YAML except for characters beyond 16 bits, which YAML writes as one escape and JSON as two.
    """
    fields: dict[str, Any] = {"pretty_name": card["name"]}
    if card["license"]:
        fields |= hub_licence(card["license"])
    fields |= {
        "tags": ["image-text", "clip", "metaclip", "data-card"],
        "size_categories": [_SIZES[sum(card["pairs"]["kept"] >= 10**power for power in range(3, 13))]],
        "configs": [
            {"config_name": "entries", "data_files": [{"split": "train", "path": "entries.parquet"}]}
        ],
    }
    return "\n".join(["---", *(f"{name}: {_yaml(value)}" for name, value in fields.items()), "---"])


def _yaml(value: Any) -> str:
    """Return a value as JSON in ASCII, with YAML's escapes."""
    text = json.dumps(value, ensure_ascii=False)
    escapes = {c: f"\\u{ord(c):04x}" if ord(c) < 1 << 16 else f"\\U{ord(c):08x}" for c in text}
    return "".join(c if " " <= c <= "~" else escapes[c] for c in text)


def render(card: Mapping[str, Any]) -> str:
    """Return README.md."""
    balance, entries, sums, funnel = (card[key] for key in ("balance", "entries", "sums", "funnel"))
    who = (
        escaped(card["contact"])
        if card["contact"]
        else "the publisher of this card (no contact was given to it)"
    )
    lines = [
        head(card), "", f"# {escaped(card['name'])}", "", summary(card), "",
        "Open `index.html` to look up an entry, a caption or another t. `card.json` has every figure here for a "
        "program; its fields are those of metaclip's data_cards/README.md.", "",
        "## How it was made", "",
        f"Every caption of the pool was searched for the {card['list']['entries']:,} entries of a query list (sha256 of its "
        f"entries `{card['list']['digest'][:16]}`). An entry that more than t = {balance['t']:,.15g} captions match keeps "
        "each of them with probability t / count; a pair stays if any of its entries keeps it. No model judged any pair. "
        "Method: \"Demystifying CLIP Data\" (arXiv 2309.16671).", "",
        *_varied(card),
        f"The draw is a hash of the pair's uid with seed {balance['seed']}: with `entries.parquet`, anyone can compute "
        "whether a pair is in (the page does).", "",
        *render_languages(card), *render_images(card), "## What was dropped, and why", "", "| rows | | |", "|---:|---|---|",
    ]  # fmt: skip
    lines += [f"| {rows:,} | {key} | {MEANING[key]} |" for key, rows in shown_steps(funnel)]
    if card["lost_inputs"]:
        lines += [
            "",
            f"**{len(card['lost_inputs'])} inputs could not be read**; they are in no figure here (see card.json).",
        ]
    lines += [
        "", _image("funnel"), "",
        "## Head and tail", "",
        f"{entries['zero']:,} entries match nothing in this pool, {entries['tail']:,} are in the tail (count below t: all "
        f"their pairs are kept) and hold {100 * balance['tail_share']:.1f}% of {sums['count']:,} counts, {entries['head']:,} "
        "are in the head. t does not cap an entry: its pairs stay through their other entries too.", "",
        *(_image(name) + "\n" for name in ("ranks", "cumulative", "kept", "thresholds")),
        "| entry | source | count | probability | expected | kept |", "|---|---|---:|---:|---:|---:|",
    ]  # fmt: skip
    lines += [
        f"| {shown_entry(row)} | {escaped(row['source'] or '')} | {row['count']:,} | {row['probability']:.4f} "
        f"| {row['expected']:,.1f} | {row['kept']:,} |"
        for row in card["top_entries"]
    ]
    lines += [
        "", "By source of the list:", "", _image("sources"), "", "## Languages and hosts", "",
        *_most_frequent(card["languages"], "language", "The pool names no languages; none were identified here."), "",
        *_most_frequent(card["hosts"], "host", "The pool has no column of urls."),
        *_classes(card["classes"]),
        "", "## What is not in it", "",
        "No images, and no judgement of "
        + ("those that stay (section Images)" if card.get("images") else "them")
        + ": pairs were chosen by their captions alone. Nothing here says that an image "
        "shows what its caption says, that a url still answers, or that a pair is safe to look at; filters for that belong "
        "before and after.", "",
        "## How to be removed", "",
        f"Write to {who} with the uid, url or host. Pairs that are taken out do not change the draw of the others.", "",
        *_runs(card), *_removed(card), "## Licence", "",
        f"{escaped(card['license'] or 'Not stated.')} This is about the figures and lists here. The images belong to whoever "
        "made them.", "",
        "## Citation", "", "```bibtex", "@misc{xu2023demystifying,", "  title = {Demystifying {CLIP} Data},",
        "  author = {Hu Xu and Saining Xie and others}, year = {2023}, eprint = {2309.16671}, archivePrefix = {arXiv}",
        "}", "```", "",
        f"Result digest `{card['result_digest']}`, made with metaclip {escaped(card['versions']['metaclip'])}.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _varied(card: Mapping[str, Any]) -> list[str]:
    if "t_by" not in card["balance"]:
        return []
    return [
        f"t is not the same for all entries: that of an entry is {_t_of_entry(card)}, in the "
        "column `t` of `entries.parquet`. Entries of a larger t keep more of their captions, and others fewer. Head and tail "
        "are told by the t of each entry.", "",
    ]  # fmt: skip


def _t_of_entry(card: Mapping[str, Any]) -> str:
    """Return in words what the t of an entry is."""
    by = card["balance"]["t_by"]
    return f"{card['balance']['t']:,.15g} times its weight" if by == WEIGHT else t_of_entry(by)


def _classes(lists: Sequence[Mapping[str, Any]]) -> list[str]:
    if not lists:
        return []
    lines = [
        "", "## Coverage of class names", "",
        "A name is counted where a caption holds it, by the text rule. Divergence is from every name being as frequent as "
        "the others, KL(p, uniform) in nats: 0 is even, ln of the number of names is all in one.", "",
        "| names | how many | count known | at zero | none kept | divergence before | after |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for one in lists:
        before, after = (
            "" if one[k] is None else f"{one[k]:.3f}" for k in ("divergence", "divergence_kept")
        )
        lines.append(
            f"| {escaped(one['name'])} | {one['names']:,} | {one['known']:,} | {100 * one['zero']:.1f}% "
            f"| {100 * one['zero_kept']:.1f}% | {before} | {after} |"
        )
    for one in lists:
        ranked = sorted(one["entries"], key=lambda row: (-row["kept"], row["name"]))
        most = ", ".join(
            f"{escaped(row['name'])} ({row['kept']:,})" for row in ranked[:_MOST_NAMES] if row["kept"]
        )
        none = [escaped(row["name"]) for row in ranked if not row["kept"]]
        more = f" and {len(none) - _MOST_NAMES:,} more (see card.json)" if len(none) > _MOST_NAMES else ""
        rest = f" None kept: {', '.join(none[:_MOST_NAMES])}{more}." if none else ""
        lines += ["", f"Of {escaped(one['name'])}, kept most: {most or 'none'}.{rest}"]
    return lines


def _runs(card: Mapping[str, Any]) -> list[str]:
    if "runs" not in card:
        return []
    return [
        "## Runs that it combines", "",
        "Their counts were added, and t was found for the sums: the set is that of one run over all pools.", "",
        *render_runs(card["runs"]), "",
    ]  # fmt: skip


def _removed(card: Mapping[str, Any]) -> list[str]:
    if REMOVED not in card:
        return []
    return [
        "## What was taken out since the first version", "",
        *render_removed(card[REMOVED]), "",
        "`removed.parquet` lists what went since the version before, by uid and by sha256 of the url. Take it out of a copy "
        "with `metaclip card apply removed.parquet COPY --out NEW` (a subset file, a parquet file, or a folder of these; "
        "tars then follow with `metaclip reshard`).", "",
    ]  # fmt: skip


def _image(name: str) -> str:
    return f"![{TITLES[name]}](plots/{name}.svg)"


def _most_frequent(found: Mapping[str, Any] | None, what: str, none: str) -> list[str]:
    if found is None or not found["top"]:
        return [none]
    top = found["top"][:_MOST_NAMES]
    error = f", each maybe {found['floor']:,} too small" if found["floor"] else ""
    return [
        f"{found['pairs']:,} kept pairs name a {what}; the {len(top)} most frequent{error}:", "",
        f"| {what} | pairs |", "|---|---:|", *(f"| {escaped(item['name'])} | {item['pairs']:,} |" for item in top),
    ]  # fmt: skip
