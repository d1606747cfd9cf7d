"""The pass over a run that a card needs: other thresholds, sample captions, hosts and languages, coverage of class names.

Results of files are added in any order and do not depend on it.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from metaclip.card import threshold_grid
from metaclip.card.class_coverage import ClassCoverage, ClassNames
from metaclip.card.hosts import LossyCounter, count_hosts
from metaclip.card.run_files import curated_files, map_files, matched_files
from metaclip.card.samples import draw_samples, merge_samples
from metaclip.card.threshold_grid import ThresholdGrid
from metaclip.curate.run import Run
from metaclip.engine import Progress
from metaclip.matching.matcher import Matcher
from metaclip.matching.text_rule import TextRule
from metaclip.metadata import Metadata
from metaclip.stage.runner import RunOptions

_BLOCKED_RULE: Final = TextRule(fold_case=True, unicode_separators=True)


@dataclasses.dataclass(frozen=True)
class RunScan:
    """What a card has beside the account of its run."""

    grid: ThresholdGrid
    samples: pa.Table
    hosts: dict[str, LossyCounter]
    """Kept pairs by "hosts" and by "languages", each if the pool has such a column."""
    classes: list[dict[str, Any]]
    """Coverage of lists of class names, as card.json has it."""


def scan_run(
    run: Run, options: RunOptions, classes: Sequence[ClassNames] = (), blocked: Metadata | None = None, *,
    with_samples: bool = True,
) -> RunScan:  # fmt: skip
    """Read all files of matched/ and curated/; captions with one of the `blocked` words are no samples."""
    # A blocked word is one in a text of any language.
    words = None if blocked is None else Metadata(blocked.entries.unique())
    matcher = None if words is None else Matcher(words, _BLOCKED_RULE, cache=False)
    counts = run.counts.values
    thresholds = threshold_grid.choose_thresholds(counts, run.t, run.thresholds)
    slope = threshold_grid.relative_slopes(counts, run.t, run.thresholds)
    share = threshold_grid.sampled_share(run.match["funnel"]["matched"])
    places = threshold_grid.places_of(slope)
    sums, by_entry = threshold_grid.new_sums(len(counts), len(thresholds))
    samples, hosts = merge_samples([]), collections.defaultdict[str, LossyCounter](LossyCounter)
    coverage, class_counts = ClassCoverage(run, classes), collections.Counter[tuple[str, str]]()

    def scan_matched(path: Path) -> tuple[Any, ...]:
        return coverage.search(path), *threshold_grid.sum_file(path, slope, thresholds, share, places)

    def scan_curated(path: Path) -> tuple[Any, ...]:
        columns = run.shard_columns[path.stem]
        found = draw_samples(path, columns["text"], matcher) if with_samples else merge_samples([])
        return coverage.search(path), found, count_hosts(path, columns["url"])

    matched, curated = matched_files(run), curated_files(run)
    with Progress("read", len(matched) + len(curated), options.progress, unit="files") as progress:
        for names, file_sums, file_by_entry in map_files(scan_matched, matched, options, progress):
            class_counts.update(names)
            sums += file_sums
            by_entry += file_by_entry
        for names, file_samples, file_hosts in map_files(scan_curated, curated, options, progress):
            class_counts.update(names)
            samples = merge_samples([samples, file_samples])
            for key, counter in file_hosts.items():
                hosts[key].add(counter.counts, counter.total, counter.floor)
    grid = threshold_grid.make_grid(
        counts, thresholds, share, sums, by_entry, run.t, run.thresholds, places
    )
    return RunScan(grid, samples, hosts, coverage.result(class_counts))
