"""From lines of results to means, intervals and a table for each regime.

Law: an interval is Student's of the mean over seeds at 95% (mean ± t(0.975, n - 1) s / sqrt(n)). The difference of an arm
from `matched` is taken seed by seed: both began with the same weights and the same order, so what a seed does to both is
not in it. Of two seeds an interval says next to nothing, of one there is none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from training.icons.families import GROUPS

FIGURES: Final = ("all", *GROUPS)
BASE: Final = "matched"
# Student's t at 0.975 for 1, 2, ... degrees of freedom.
_STUDENT: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds with the half of its 95% interval; NaN where there is one seed."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Estimate from one value for each seed."""
        n = len(values)
        mean = math.fsum(values) / n
        if n < 2:
            return cls(mean, math.nan)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
        return cls(mean, _STUDENT[min(n - 2, len(_STUDENT) - 1)] * deviation / math.sqrt(n))

    def percent(self, sign: str = "") -> str:
        """Return it in percent."""
        half = "" if math.isnan(self.half) else f" ± {100 * self.half:.1f}"
        return f"{100 * self.mean:{sign}.1f}{half}"


@dataclasses.dataclass(frozen=True)
class Row:
    """An arm of a regime over its seeds."""

    arm: str
    way: str
    t: float | None
    seeds: int
    pairs: float
    noisy_pairs: float | None
    passes: float
    """Passes over the pool, those over pairs that were not kept included."""
    figures: Mapping[str, Estimate]
    against: Mapping[str, Estimate]
    """The differences from `matched`, seed by seed; empty where there is no seed of both."""


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Row]]:
    """Return the rows of each regime, in the order of the results; of several lines of one task the last one counts."""
    regimes: dict[str, dict[str, dict[int, Mapping[str, Any]]]] = {}
    for line in {line["task"]: line for line in results}.values():
        regimes.setdefault(line["regime"], {}).setdefault(line["arm"], {})[line["seed"]] = line
    return {
        name: [_row(found, arms.get(BASE, {})) for found in arms.values()]
        for name, arms in regimes.items()
    }


def _row(seeds: Mapping[int, Mapping[str, Any]], base: Mapping[int, Mapping[str, Any]]) -> Row:
    lines = list(seeds.values())

    def mean(name: str) -> float | None:
        values = [line[name] for line in lines if line[name] is not None]
        return math.fsum(values) / len(values) if values else None

    both = [seed for seed in seeds if seed in base] if lines[0]["arm"] != BASE else []
    return Row(
        lines[0]["arm"], lines[0]["way"], mean("t"), len(lines), mean("pairs") or 0.0, mean("noisy_pairs"), mean("passes") or 0.0,
        {name: Estimate.of([line["metrics"][name] for line in lines]) for name in FIGURES},
        {name: Estimate.of([seeds[s]["metrics"][name] - base[s]["metrics"][name] for s in both]) for name in FIGURES if both},
    )  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    noisy = any(row.noisy_pairs is not None for row in rows)
    names = ["arm", "t", "seeds", "pairs", *(["uninformative"] if noisy else []), "passes", *FIGURES]
    names += [f"{name} against {BASE}" for name in FIGURES]
    lines = ["| " + " | ".join(names) + " |", "|---" + "|---:" * (len(names) - 1) + "|"]
    for row in rows:
        cells = [row.arm, "" if row.t is None else f"{row.t:,.0f}", str(row.seeds), f"{row.pairs:,.0f}"]
        cells += [] if not noisy else ["" if row.noisy_pairs is None else f"{row.noisy_pairs:,.0f}"]
        cells += [f"{row.passes:.1f}", *(row.figures[name].percent() for name in FIGURES)]
        cells += [row.against[name].percent("+") if row.against else "" for name in FIGURES]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
