"""t by language: the thresholds of the languages of a query list, from that of one of them.

The base is English (`base_language`). Its tail share p is that of its t, or the share that is asked for; the t of every other
language is read off its own counts at p:

    largest     the largest count below which entries hold at most p of the language's counts, as for a list without languages
    nearest     the count at which the cumulative share of the language's counts, in ascending order, comes nearest to p: the
                published reading of "Meta CLIP 2" (arXiv 2507.22062)
    one         one t for all, solved on all counts

With weights, count / weight stands where a count stands (`head_limits`), and t[e] = fl(t of the language * weight[e]). For a
number of pairs, the thresholds at the default share are multiplied by one factor. A language that matches nothing has
the base's t.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from metaclip.curate.draw import Thresholds
from metaclip.curate.settings import DEFAULT_TAIL_SHARE, BalanceSettings
from metaclip.curate.threshold import head_limits, resolve, solve_tail_share, tail_share
from metaclip.errors import MetaclipError
from metaclip.matching.routing import Routing


@dataclasses.dataclass(frozen=True)
class LanguageThresholds:
    """The t of each language of a list, in its order; `base` is that of the base language as it was asked for or solved."""

    base: float
    by_language: Mapping[str, float]

    def by_entry(
        self, languages: Mapping[str, range], weight: Thresholds = 1.0
    ) -> npt.NDArray[np.float64]:
        """Return t[e] = fl(t of the entry's language * weight[e]): float64[n].

        Raise MetaclipError if one of them is not a finite number above 0.
        """
        each = np.repeat([self.by_language[name] for name in languages], [*map(len, languages.values())])
        with np.errstate(over="ignore", under="ignore"):
            made: npt.NDArray[np.float64] = each * weight
        if not (good := (made > 0) & np.isfinite(made)).all():
            i = int(np.argmin(good))
            raise MetaclipError(
                f"the threshold of entry {i} comes to {made[i]:g}, must be a finite number above 0; choose another t, or "
                "weights of less different size"
            )
        return made


def base_language(languages: Mapping[str, range]) -> str:
    """Return the language whose t or tail share the others follow: English, or the first if the list has none."""
    routing = Routing([*languages])
    found = [name for name in routing.lists_of("en") if name not in routing.others]
    return found[0] if found else next(iter(languages))


def solve_nearest(counts: npt.NDArray[np.uint64], share: float, weight: Thresholds = 1.0) -> float:
    """Return the limit (`head_limits`; a count, without weights) at which the cumulative share comes nearest to `share`.

    Counts are added up in ascending order of their limits; of several that are as near, the smallest is returned.
    """
    limits, found = head_limits(counts, weight), counts[counts > 0]
    order = np.argsort(limits, kind="stable")
    sums = np.cumsum(found[order])
    off = np.abs(sums.astype(np.float64) / float(sums[-1]) - share)
    return float(limits[order][int(off.argmin())])


def resolve_languages(
    settings: BalanceSettings, counts: npt.NDArray[np.uint64], matched: int, languages: Mapping[str, range],
    expect: Callable[[npt.NDArray[np.float64], Thresholds], list[float]], weight: Thresholds = 1.0,
) -> LanguageThresholds:  # fmt: skip
    """Return the t of each language that the settings ask for.

    `expect` is as in `resolve`, but takes the weights too. Raise MetaclipError if no text matched, for a t of a language that
    the list does not have, and if t is given and the base language, whose share the others follow, matches nothing.
    """
    given = _overrides(settings, languages)
    if settings.t_by_language == "one":
        t = resolve(settings, counts, matched, lambda grid: expect(grid, weight), weight)
        return LanguageThresholds(t, {name: given.get(name, t) for name in languages})
    if not counts.any():
        resolve(settings, counts, matched, lambda grid: expect(grid, weight))  # raises
    solve = solve_nearest if settings.t_by_language == "nearest" else solve_tail_share
    base, each = base_language(languages), np.broadcast_to(weight, counts.shape)
    share = DEFAULT_TAIL_SHARE if settings.tail_share is None else settings.tail_share
    parts = {
        name: (counts[ids.start : ids.stop], each[ids.start : ids.stop])
        for name, ids in languages.items()
    }
    of_base, its_weights = parts[base]
    if settings.t is not None:
        if not of_base.any():
            raise MetaclipError(
                f"no text matches an entry of {base}, whose tail share at t = {settings.t:g} the other languages follow; give "
                "a tail share, or one t for all languages: `t_by_language='one'`"
            )
        share = tail_share(of_base, settings.t * its_weights)
    solved = {name: solve(part, share, own) for name, (part, own) in parts.items() if part.any()}
    t = settings.t or solved.get(base) or next(iter(solved.values()))
    by_language = {name: solved.get(name, t) for name in languages} | {base: t}
    if settings.target_pairs is not None:
        relative = {name: one / t for name, one in by_language.items()}
        factor = LanguageThresholds(1.0, relative).by_entry(languages, weight)
        t = resolve(settings, counts, matched, lambda grid: expect(grid, factor), factor)
        by_language = {name: t * one for name, one in relative.items()}
    return LanguageThresholds(t, by_language | given)


def _overrides(settings: BalanceSettings, languages: Mapping[str, range]) -> dict[str, float]:
    """Return the t of languages that are given, by the names that the list has."""
    routing, codes = Routing([*languages]), dict[str, str]()
    for code in settings.t_language or {}:
        for name in routing.named(code):
            if (before := codes.setdefault(name, code)) != code:
                raise MetaclipError(
                    f"t_language gives the t of {name!r} twice, as {before!r:.80} and as {code!r:.80}; leave one out"
                )
    return {name: (settings.t_language or {})[code] for name, code in codes.items()}


def check_languages(settings: BalanceSettings, languages: Mapping[str, range]) -> None:
    """Raise MetaclipError for settings of languages that a list does not have, before anything is written."""
    if languages:
        _overrides(settings, languages)
    elif given := [name for name, value in settings.by_language.items() if value is not None]:
        raise MetaclipError(f"{given[0]} is given, but the query list has no languages; leave it out")
