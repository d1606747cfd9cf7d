"""Damaged files of runs, pools, reshards and cards: a command is done or refused in one line, and ends soon.

Every file that is read back is damaged in every way of `tests.faults.damage`, and every command that reads it is run. The
folders are those of tests/golden, finished and half-finished, which have no checksums; so each reader must check by itself.
A few hundred cases, drawn by a fixed seed, are run each time; the wide sweep draws others for a minute.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaclip import Balancer, Run, curate
from metaclip.card.publish import Card
from metaclip.errors import MetaclipError
from metaclip.pool.subset import Subset
from tests import commands
from tests.faults.damage import damages, flipped
from tests.golden import make

LONGEST = 60
"""Seconds after which a command counts as hanging, on a busy machine."""


def open_run(tree: str) -> None:
    """Use a run as a notebook does."""
    run = Run(tree)
    _ = run._repr_html_(), run.curated, run.account, run.inputs, run.rule, run.match_settings
    run.check_matches()
    Balancer(tree)


def open_card(tree: str) -> None:
    """Use a card as a notebook does."""
    _ = Card(tree)._repr_html_()
    Balancer(tree)


Reader = tuple[Any, ...] | Callable[[str], None]
READERS: dict[str, list[Reader]] = {
    "run": [
        make.NAMED["run"].arguments, ("match", "inputs/toy_pool.jsonl", "--metadata", "inputs/toy.txt", "--out", "run"),
        ("balance", "run", "--t", 50, *make.ONE, "--out", "out"),
        ("balance", "run", "--target-pairs", 100, *make.ONE, "--out", "out"),
        ("balance", "run", "whole", "--t", 20, *make.ONE, "--out", "out"), make.NAMED["explain"].arguments,
        ("plan", "run", *make.ONE), ("card", "remove", "run", *make.REMOVE, *make.ONE, "--out", "out"),
        make.NAMED["verify"].arguments, ("reshard", "inputs/tars", "--subset", "run/curated.npy", "--out", "out"), open_run,
    ],
    "rebalanced": [
        make.NAMED["rebalanced"].arguments, ("balance", "rebalanced", "--t", 9, *make.ONE, "--out", "out"),
        ("explain", "a dog", "--run", "rebalanced"),
        ("card", "remove", "rebalanced", *make.REMOVE, *make.ONE, "--out", "out"), open_run,
    ],
    "removed": [
        make.NAMED["removed"].arguments, ("balance", "removed", "--t", 9, *make.ONE, "--out", "out"),
        ("card", "apply", "removed/removed.parquet", "run/curated", "--out", "out"),
        ("card", "remove", "removed", "--urls", "inputs/gone_urls.txt", *make.ONE, "--out", "out"), open_run,
    ],
    "card": [
        make.NAMED["verify"].arguments, make.NAMED["diff"].arguments,
        ("card", "remove", "run", *make.REMOVE, *make.ONE, "--out", "out", "--card", "card", "--card-out", "run"), open_card,
    ],
    "resharded": [make.NAMED["reshard"].arguments],
    "pool_extracted": [make.NAMED["extract"].arguments],
    "half_parts": [(*make.PARTS, "--part", "2/2", "--out", "half_parts")],
    "lost": [(*make.CURATE, *make.ONE, "--out", "lost")],
    **{half.tree: [(*half.arguments, "--out", half.tree)] for half in make.HALVES},
}  # fmt: skip
"""What reads the files of each folder."""
NEEDS = {"pool_extracted": "isal", "half_extract": "isal", "half_pool": "isal"}


class Hanging(BaseException):
    """A command has not ended."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise Hanging in the block after some seconds."""

    def ring(number: int, frame: Any) -> None:
        raise Hanging

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def read(reader: Reader, tree: str) -> None:
    """Run a reader: a command must exit with 0, 2 or 3, and what is refused is one line."""
    if callable(reader):
        with contextlib.suppress(MetaclipError):
            reader(tree)
        return
    done = commands.call(*reader)
    assert done.code in (0, 2, 3), done
    if done.code == 2 and reader[:2] != ("card", "verify"):
        assert done.err.splitlines()[-1].startswith("metaclip: "), done


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a copy of the golden files, in which commands run."""
    folder = make.place(tmp_path.resolve() / "golden")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", make.EPOCH)
    commands.done(*make.NAMED["whole"].arguments)
    return folder


def drawn(rng: random.Random, place: Path, whole: Path) -> tuple[str, Path, str, bytes]:
    """Draw a file of a folder, and one of its damages: (folder, file, what was done, bytes)."""
    tree = rng.choice([tree for tree in READERS if (place / tree).exists()])
    known = (".json", ".npy", ".parquet", ".toml")
    files = sorted(path for path in (whole / tree).rglob("*") if path.suffix in known)
    path = rng.choice(files)
    what, data = rng.choice(list(damages(path, rng)))
    return tree, path.relative_to(whole), what, data


def sweep(place: Path, seed: int, cases: int, seconds: float) -> int:
    """Run cases of a seed, up to a number or a time; return their number."""
    for tree, module in NEEDS.items():
        if importlib.util.find_spec(module) is None:
            shutil.rmtree(place / tree)
    rng, whole, end = random.Random(seed), place.parent / "kept", time.monotonic() + seconds
    shutil.copytree(place, whole)
    done = 0
    while done < cases and time.monotonic() < end:
        tree, path, what, data = drawn(rng, place, whole)
        reader = rng.choice(READERS[tree])
        (place / path).write_bytes(data)
        try:
            with within(LONGEST):
                read(reader, tree)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {reader} with {path}: {what}") from error
        for changed in (tree, "out"):
            shutil.rmtree(place / changed, ignore_errors=True)
        (place / "out").unlink(missing_ok=True)
        shutil.copytree(whole / tree, place / tree)
        done += 1
    return done


def test_a_damaged_file_is_refused_or_made_again(place: Path) -> None:
    """Whatever is damaged, a command ends with 0, 2 or 3 and without a traceback."""
    assert sweep(place, 17, 120, 20.0) > 5


@pytest.mark.slow
def test_a_damaged_file_in_a_wide_sweep(place: Path) -> None:
    """The same with other cases every time, for a minute; a failure names its seed."""
    assert sweep(place, random.randrange(1 << 32), 100_000, 55.0) > 50


def test_places_of_samples_that_cannot_be(place: Path) -> None:
    """Of a reshard that an earlier revision began, a flipped bit in any number of a sample's place is noticed."""
    shutil.copytree(place / "half_reshard", place.parent / "kept")
    name = "half_reshard/.state/reshard/tar-000001.picked.npy"
    data = (place / name).read_bytes()
    for column in range(2, 14):
        (place / name).write_bytes(flipped(data, 128 + 8 * column + 2))
        read((*make.RESHARD, "--out", "half_reshard"), "half_reshard")
        shutil.rmtree(place / "half_reshard")
        shutil.copytree(place.parent / "kept", place / "half_reshard")


def test_a_run_that_names_no_matches(place: Path) -> None:
    """A manifest that does not say where the matches are is refused in one line."""
    path = place / "rebalanced" / "manifest.json"
    manifest = json.loads(path.read_text())
    for known in ({"beside": None}, {"folder": None}, {"beside": None, "folder": None}):
        changed = copy.deepcopy(manifest)
        changed["stages"]["balance"]["match"] |= known
        path.write_text(json.dumps(changed))
        read(("plan", "rebalanced", *make.ONE), "rebalanced")
        read(("card", "remove", "rebalanced", *make.REMOVE, *make.ONE, "--out", "out"), "rebalanced")
        shutil.rmtree(place / "out", ignore_errors=True)


# --- checksums, of runs that have them


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of the toy pool."""
    monkeypatch.chdir(make.ROOT)
    return Path(curate("curation/toy_pool.jsonl", "metadata/toy.txt", t=20, out=tmp_path / "run").path)


def flip(path: Path, at: float) -> None:
    """Flip a bit at a share of a file's bytes; its size stays."""
    data = path.read_bytes()
    path.write_bytes(flipped(data, int(at * len(data))))


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["duplicates.npy", "matched/000000-0000.parquet"])
def test_matches_with_a_flipped_bit_are_not_balanced(run: Path, name: str, at: float) -> None:
    """The second stage notices damage of the same size, names the file, and leaves nothing; mended, it goes on."""
    before = (run / name).read_bytes()
    flip(run / name, at)
    out = run.parent / "out"
    line = commands.refused("balance", run, "--t", 50, "--out", out)
    assert f"{run / name} is damaged (it has other bytes than were written); delete it" in line
    assert not out.exists()
    (run / name).write_bytes(before)
    commands.done("balance", run, "--t", 50, "--out", out)


@pytest.mark.parametrize(
    "name",
    ["curated.npy", "entries.parquet", "matched/000000-0000.parquet", "curated/000000-0000.parquet"],
)
@pytest.mark.parametrize("verb", ["make", "remove"])
def test_a_run_with_a_flipped_bit_is_not_published(run: Path, name: str, verb: str) -> None:
    """A card, and the next version of a run, are not made from damaged files, and nothing is left of them."""
    pytest.importorskip("altair", reason="needs the extra cards: pip install -e '.[cards]'")
    pytest.importorskip("vl_convert", reason="needs the extra cards: pip install -e '.[cards]'")
    (run.parent / "uids.txt").write_text(Run(run).curated["uid"][0].as_py())
    flip(run / name, 0.6)
    more = ("--uids", run.parent / "uids.txt") if verb == "remove" else ()
    line = commands.refused("card", verb, run, "--out", run.parent / "out", *more)
    assert name in line or "digests.curated" in line
    if (verb, name) != (
        "remove",
        "curated/000000-0000.parquet",
    ):  # its second stage reads it; the first is done
        assert not (run.parent / "out").exists()


def test_a_subset_with_a_flipped_bit_is_not_used(run: Path) -> None:
    """A run's curated.npy is the one that the account beside it names, or is refused."""
    assert Subset(run / "curated.npy").digest() == Run(run).account["digests"]["curated"]
    uids = np.load(run / "curated.npy")
    uids["f1"][-1] ^= 1
    np.save(run / "curated.npy", uids)
    with pytest.raises(MetaclipError, match=r"curated\.npy is damaged .*card\.json beside it names"):
        Subset(run / "curated.npy").digest()


def test_a_partial_result_with_a_flipped_bit_is_not_added_up(tmp_path: Path) -> None:
    """What one part of a job array left is compared before the last part adds it up; deleted, it is made again."""
    pool = tmp_path / "pool"
    pool.mkdir()
    for number in range(2):
        (pool / f"{number}.jsonl").write_text('{"text": "a dog"}\n' * 9)
    (tmp_path / "list.txt").write_text("dog\n")
    match = ("match", pool, "--metadata", tmp_path / "list.txt", "--out", tmp_path / "run")
    commands.done(*match, "--part", "1/2")
    [partial] = (tmp_path / "run" / ".state" / "match").glob("*.uids.npy")
    flip(partial, 0.9)
    line = commands.refused(*match)
    assert f"{partial} is damaged (it has other bytes than were written)" in line
    partial.unlink()
    commands.done(*match)
    assert Run(tmp_path / "run").match["duplicates"]["rows"] == 17


def test_entries_of_another_writer_are_refused(run: Path) -> None:
    """A table with the right columns in other types is refused by name."""
    path = run / "entries.parquet"
    table = pq.read_table(path)
    pq.write_table(table.cast(table.schema.set(3, table.schema.field(3).with_type(pa.int64()))), path)
    with pytest.raises(MetaclipError, match=r"entries\.parquet is damaged"):
        _ = Run(run).entries
