"""From the results of arms to means, intervals and a table.

Law: an interval is Student's of the mean over seeds at 95% (mean ± t(0.975, n - 1) s / sqrt(n)); every seed has its own
pool (its own order of classes) and its own first weights. The difference of an arm from `matched` is taken seed by seed,
so what makes a seed hard is not in it. Of two seeds such an interval says next to nothing, of one there is none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

FIGURES: Final = ("all", "head", "tail")
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
        """Estimate from a value a seed."""
        n = len(values)
        mean = math.fsum(values) / n
        if n < 2:
            return cls(mean, math.nan)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
        return cls(mean, _STUDENT[min(n - 2, len(_STUDENT) - 1)] * deviation / math.sqrt(n))

    def percent(self, sign: str = "") -> str:
        """Write it in percent."""
        half = "" if math.isnan(self.half) else f" ± {100 * self.half:.1f}"
        return f"{100 * self.mean:{sign}.1f}{half}"


@dataclasses.dataclass(frozen=True)
class Row:
    """An arm over all seeds."""

    arm: str
    figures: Mapping[str, Estimate]
    against: Mapping[str, Estimate]
    """The differences from `matched`, seed by seed."""
    values: Mapping[str, tuple[float, ...]]
    pairs: Mapping[str, float]
    """The mean numbers of pairs."""


def summarise(results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return a row for each arm, in the order of the arms."""
    by_arm: dict[str, dict[int, Mapping[str, Any]]] = {}
    for result in results:
        by_arm.setdefault(result["arm"], {})[result["seed"]] = result
    base = by_arm.get(BASE, {})
    rows = []
    for arm, seeds in by_arm.items():
        values = {name: tuple(one[name] for one in seeds.values()) for name in FIGURES}
        shared = [seed for seed in seeds if seed in base] if arm != BASE else []
        against = {
            name: Estimate.of([seeds[s][name] - base[s][name] for s in shared])
            for name in FIGURES
            if shared
        }
        kinds = next(iter(seeds.values()))["pairs"]
        pairs = {kind: sum(one["pairs"][kind] for one in seeds.values()) / len(seeds) for kind in kinds}
        rows.append(
            Row(arm, {name: Estimate.of(values[name]) for name in FIGURES}, against, values, pairs)
        )
    return rows


def table(rows: Sequence[Row], seeds: int) -> str:
    """Write the table as Markdown."""
    lines = [
        "| arm | pairs | of tail classes | junk | accuracy, % | head | tail | against matched | head | tail |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        figures = [row.figures[name].percent() for name in FIGURES]
        against = [row.against[name].percent("+") if row.against else "" for name in FIGURES]
        pairs = [f"{row.pairs['total']:,.0f}", f"{row.pairs['tail']:,.0f}", f"{row.pairs['junk']:,.0f}"]
        lines.append("| " + " | ".join([row.arm, *pairs, *figures, *against]) + " |")
    said = "95% intervals of Student's t" if seeds > 1 else "no intervals"
    lines += [
        "",
        f"Zero-shot accuracy, mean over {seeds} seeds, {said}; head and tail: the more and the less frequent half of",
    ]
    lines += ["the classes; differences seed by seed. Pairs: what the first epoch draws from."]
    return "\n".join(lines)
