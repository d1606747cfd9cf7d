"""`explain`: what one text matches, and whether its pair is kept and why: the law, step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from metaclip.arguments import check_types
from metaclip.curate.draw import keep_probability, probabilities, uniform
from metaclip.curate.match_shard import make_matcher
from metaclip.curate.run import RunLike, open_run
from metaclip.curate.threshold import scaled
from metaclip.errors import MetaclipError, for_caller
from metaclip.matching.matcher import Matcher
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata import MetadataLike, as_metadata
from metaclip.pool.uid import uid_of


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What a text matches, and how its pair is drawn; without a run, only the entries."""

    text: str
    padded: str
    entries: pa.Table
    """A row for each entry: entry_id, entry, source; with a run also count and probability, and t if it differs by entry.

    Of a list with languages, also language.
    """
    language: str | None = None
    """The code of the text's language, where the list has languages: the given one, else the identified one."""
    lists: tuple[str, ...] | None = None
    """The lists that the text is searched for, by that language; None for a list without languages."""
    t: float | None = None
    p: float | None = None
    """P(keep)."""
    uid: str | None = None
    uid_from: str | None = None
    """How the uid was found."""
    u: float | None = None
    """The number that the draw compares with P(keep)."""
    seed: int | None = None
    epoch: int = 0
    runs: tuple[str, ...] = ()
    """The names of the runs that the run combines, whose counts are added."""

    def __repr__(self) -> str:
        """Show the law step by step, as the command line does."""
        return render(self)

    @property
    def kept(self) -> bool | None:
        """Whether the draw keeps the pair; None without a run."""
        return None if self.u is None or self.p is None else self.u < self.p


def explain(
    text: str,
    *,
    run: RunLike | None = None,
    metadata: MetadataLike | None = None,
    rule: TextRule | None = None,
    language: str | None = None,
    url: str | None = None,
    uid: str | None = None,
    t: float | None = None,
    seed: int | None = None,
    epoch: int = 0,
) -> Explanation:
    """Explain a text by the list, rule, counts, t and seed of a run, or by a list alone (default: the shipped one).

    Another `t` than the run's scales the thresholds of a run with weights: t[e] = (t / the run's t) * its t[e].
    The uid is the given one, else md5(text + url), else md5(text). `language` is the code of the text's language, for a list
    with languages; without it, the language is identified, which needs the extra `crawl`. Raise MetaclipError if both a run
    and a list are given, or a rule beside a run.

    >>> from metaclip import explain
    >>> found = explain("a photo of a dog", metadata=["dog", "cat", "photo of a"])
    >>> found.entries["entry"].to_pylist()
    ['dog', 'photo of a']
    >>> found
    looked in  ' a photo of a dog '
    <BLANKLINE>
      'dog'
      'photo of a'
    <BLANKLINE>
    2 entries match; with `run=...` also counts, probabilities and the draw
    """
    check_types(
        text=(text, str), rule=(rule, TextRule | None), t=(t, float | None), seed=(seed, int | None),
        language=(language, str | None),
    )  # fmt: skip
    if run is not None and metadata is not None:
        raise MetaclipError(
            "a run has its own list; give `run=...` to see counts and the draw, or `metadata=...` to see matches alone"
        )
    if run is None:
        entries = as_metadata(metadata)
        return _explain_matches(text, Matcher(entries, PAPER if rule is None else rule), language)
    if rule is not None:
        raise MetaclipError(
            f"{rule}: a run has its own text rule; leave its settings out, or give `metadata=...`"
        )
    if t is not None and not t > 0:
        raise MetaclipError(f"t is {t:g}, must be above 0")
    opened = open_run(run)
    t = opened.t if t is None else float(t)
    seed = (opened.seed if opened.balance else 0) if seed is None else seed
    counts = opened.counts.values
    thresholds = scaled(opened.thresholds, opened.t, t) if opened.balance else t
    probability = probabilities(counts, thresholds)
    found = _explain_matches(text, make_matcher(opened.metadata, opened.match_settings), language)
    ids = found.entries["entry_id"].to_numpy()
    entries = found.entries.append_column("count", [counts[ids]])
    if isinstance(thresholds, np.ndarray):
        entries = entries.append_column("t", [thresholds[ids]])
    number = uid_of(text, url, uid)
    return dataclasses.replace(
        found, entries=entries.append_column("probability", [probability[ids]]),
        t=t, p=keep_probability(ids.tolist(), probability), uid=number,
        uid_from="given" if uid else "md5 of text and url" if url else "md5 of the text, for no url is given",
        u=uniform(seed, epoch, number), seed=seed, epoch=epoch,
        runs=tuple(one["name"] for one in opened.match.get("runs", ())),
    )  # fmt: skip


def _explain_matches(text: str, matcher: Matcher, language: str | None) -> Explanation:
    metadata, lists = matcher.metadata, None
    if matcher.routing is not None:
        if language is None:
            from metaclip.extract.languages import identify_languages

            language = identify_languages(pa.array([text], pa.large_string()))[0][0].as_py()
        lists = matcher.routing.lists_of(language)
    else:
        language = None
    ids = pa.array(matcher.find(text, language), pa.uint32())
    columns = {"entry_id": ids, "entry": metadata.entries.take(ids)}
    if (languages := metadata.language) is not None:
        columns["language"] = languages.take(ids).cast(pa.string())
    columns["source"] = metadata.source.take(ids)
    return Explanation(text, matcher.rule.text(text), pa.table(columns), language, lists)


def _shown_entry(row: Mapping[str, Any]) -> str:
    """Return an entry as a terminal shows it, behind its language if it has one."""
    return " ".join([*filter(None, [row.get("language")]), repr(row["entry"])])


def render(found: Explanation) -> str:
    """Return an explanation as text for a terminal; strings from outside are shown with control characters escaped."""
    lines = [f"looked in  {found.padded!r}", ""]
    if found.lists is not None:
        lines[1:1] = [
            f"language   {found.language!r}, searched for entries of {', '.join(found.lists) or 'no list'}"
        ]
    rows = found.entries.to_pylist()
    if not rows:
        return "\n".join([*lines, "no entry matches, so the pair is dropped"])
    width = max(len(_shown_entry(row)) for row in rows)
    if found.t is None:
        lines += [f"  {_shown_entry(row)}" for row in rows]
        return "\n".join(
            [
                *lines,
                "",
                f"{len(rows)} entries match; {for_caller('with `run=...`')} also counts, probabilities and the draw",
            ]
        )
    varied = "t" in rows[0]  # from entry to entry
    its_t = f"  {'t':>12}" if varied else ""
    lines.append(f"  {'entry':{width}}  {'count':>14}{its_t}  {'min(1, t/count)':>15}")
    for row in rows:
        t = row.get("t", found.t)
        its_t = f"  {t:>12,g}" if varied else ""
        where = "head" if row["count"] >= t else "tail"
        lines.append(
            f"  {_shown_entry(row):{width}}  {row['count']:>14,}{its_t}  {row['probability']:>15.6f}  {where}"
        )
    if found.runs:
        lines.append(f"\ncounts  = sums of the runs {', '.join(map(repr, found.runs))}")
    verdict = "kept" if found.kept else "dropped"
    sign = "<" if found.kept else ">="
    lines += [
        "",
        f"P(keep) = 1 - product of (1 - probability) = {found.p:.6f}   (t = {found.t:g})",
        f"uid     = {found.uid}   ({found.uid_from})",
        f"u       = {found.u:.6f}   (seed {found.seed}, epoch {found.epoch})",
        f"{verdict}: u {sign} P(keep)",
    ]
    return "\n".join(lines)
