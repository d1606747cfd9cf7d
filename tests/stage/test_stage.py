"""A stage continues where it stopped: a marker proves a shard, a record a stage, and another fingerprint is refused."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaclip.errors import MetaclipError
from metaclip.stage import stage as stages
from metaclip.stage.folder import Folder
from metaclip.stage.stage import Stage, StageSpec, add_funnels, check_funnel, digest_of
from metaclip.storage.files import read_json, write_json
from metaclip.storage.local import LocalPath

FINGERPRINT = {
    "list": "abc",
    "limit": None,
    "rule": {"fold": False, "case": 1},
    "pool": ["a", "b"],
    "t": 0.5,
}
WORK = StageSpec("work", ("made", "sum.txt"), ("*.sum.npy",))
NEXT = StageSpec("next", ("curated",))


def begun(path: Path, fingerprint: dict[str, Any] | None = None, overwrite: bool = False) -> Stage:
    stage = Stage(Folder(path), WORK)
    stage.begin(fingerprint or FINGERPRINT, overwrite)
    return stage


def make(stage: Stage, shard: str) -> None:
    """Make a shard as a stage does: its files, then its marker."""
    output, (partial,) = stage.folder / "made" / f"{shard}.parquet", stage.partials(shard)
    output.parent.mkdir(exist_ok=True)
    output.write_text(f"pairs of {shard}")
    partial.write_text(f"sum of {shard}")
    stage.mark(shard, {"rows": 3}, [output, partial])


def finish(stage: Stage, shards: list[str], complete: bool = True) -> None:
    (stage.folder / "sum.txt").write_text("sum of sums")
    stage.finish({"shards": shards}, complete, inputs=["x"])
    if complete:
        stage.remove_partials()


def test_a_marker_comes_back(tmp_path: Path) -> None:
    """A finished shard has its marker, in this process and in the next; an unfinished one has none."""
    stage = begun(tmp_path)
    make(stage, "0")
    for again in (stage, begun(tmp_path)):
        marker = again.marker("0")
        assert marker is not None
        assert marker["rows"] == 3
        assert again.marker("1") is None


@pytest.mark.parametrize(
    "damage",
    ["output gone", "output short", "partial gone", "partial short", "marker empty", "marker half"],
)
def test_a_marker_proves_its_shard_or_is_none(tmp_path: Path, damage: str) -> None:
    """After a power cut or a removed file the shard is not finished, whatever its marker says."""
    stage = begun(tmp_path)
    make(stage, "0")
    what, how = damage.split()
    path = {
        "output": tmp_path / "made" / "0.parquet",
        "partial": stage.path / "0.sum.npy",
        "marker": stage.path / "0.json",
    }[what]
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(b"" if how == "empty" else path.read_bytes()[:5])
    assert begun(tmp_path).marker("0") is None


def test_a_marker_of_another_fingerprint_is_none(tmp_path: Path) -> None:
    """A marker of an older run does not count as finished, even if the fingerprint of that run is gone."""
    make(begun(tmp_path), "0")
    (tmp_path / ".state" / "work" / "fingerprint.json").unlink()
    assert begun(tmp_path, {**FINGERPRINT, "list": "xyz"}).marker("0") is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"list": "xyz"}, 'list: "abc" -> "xyz"'),
        ({"limit": 10}, "limit: null -> 10"),
        ({"t": 2.5}, "t: 0.5 -> 2.5"),
        ({"rule": {"fold": True, "case": 1}}, "rule.fold: false -> true"),
        ({"rule": {"fold": False}}, "rule.case: 1 -> null"),
        ({"new": 1}, "new: null -> 1"),
        ({"pool": ["a", "aa", "b"]}, 'pool: "aa" is new'),
        ({"pool": ["a", "b", "c", "d"]}, 'pool: "c" is new, and 1 more'),
        ({"pool": ["b"]}, 'pool: "a" is gone'),
        ({"pool": ["b", "a"]}, "pool has its 2 items in another order"),
        ({"list": "x" * 500}, "…"),
    ],
)
def test_a_difference_is_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    """Another fingerprint is refused with the difference, both values and the next step; nothing is touched."""
    make(begun(tmp_path), "0")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(MetaclipError) as refused:
        begun(tmp_path, {**FINGERPRINT, **changes})
    message = str(refused.value)
    assert f"{tmp_path} holds another run: " in message
    assert named in message
    assert message.endswith("choose another `out=...`, or replace it with `RunOptions(overwrite=True)`")
    assert len(message) < 500
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_parts_may_begin_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another part of a job array writes the fingerprint while this one looks for it, that is not another run."""

    def written_meanwhile(path: Path) -> dict[str, Any] | None:
        found = read_json(path)
        if found is None and path.name == "fingerprint.json":
            write_json(path, FINGERPRINT)
        return found

    monkeypatch.setattr(stages, "read_json", written_meanwhile)
    make(begun(tmp_path), "0")
    assert begun(tmp_path).marker("0") is not None


def test_a_fingerprint_is_what_json_makes_of_it(tmp_path: Path) -> None:
    """Tuples are lists and keys have no order: the same values are the same fingerprint."""
    make(begun(tmp_path), "0")
    assert (
        begun(tmp_path, {**dict(reversed(FINGERPRINT.items())), "pool": ("a", "b")}).marker("0")
        is not None
    )


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("damage", [b"", b"[]", b"{", b"\xff"])
def test_a_damaged_fingerprint_is_refused(tmp_path: Path, damage: bytes, overwrite: bool) -> None:
    """A damaged fingerprint is named in the error, because it could be of any run; only --overwrite replaces it."""
    make(begun(tmp_path), "0")
    (tmp_path / ".state" / "work" / "fingerprint.json").write_bytes(damage)
    if overwrite:
        assert begun(tmp_path, overwrite=True).marker("0") is None
        assert not (tmp_path / "made").exists()
    else:
        with pytest.raises(
            MetaclipError,
            match=r"fingerprint\.json is damaged; .* replace it with `RunOptions\(overwrite=True\)`",
        ):
            begun(tmp_path)


def test_overwrite_replaces_another_run_only(tmp_path: Path) -> None:
    """With --overwrite, the outputs, state and record of another run are removed; the same run is continued."""
    stage = begun(tmp_path)
    make(stage, "0")
    finish(stage, ["0"])
    (tmp_path / "recipe.toml").touch()
    assert begun(tmp_path, overwrite=True).finished() is not None
    assert stage.begin({**FINGERPRINT, "t": 1}, overwrite=True) is True
    assert stage.record is None
    assert sorted(os.listdir(tmp_path)) == [".state", "manifest.json", "recipe.toml"]
    assert os.listdir(stage.path) == ["fingerprint.json"]
    assert stage.begin({**FINGERPRINT, "t": 1}) is False


def _clear_slowly(path: Path, kill_at: int) -> None:
    """Replace another run, and kill this process at the n-th change of the disk."""
    changes = 0

    def counted(function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal changes
            changes += 1
            if changes == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return call

    for module, names in (
        (os, ("rename", "replace", "unlink", "rmdir", "mkdir")),
        (LocalPath, ("remove",)),
        (stages, ("write_json",)),
    ):
        for name in names:
            setattr(module, name, counted(getattr(module, name)))
    begun(path, {**FINGERPRINT, "list": "xyz"}, overwrite=True)


@pytest.mark.parametrize("kill_at", range(1, 21))
def test_a_kill_while_a_run_is_replaced(tmp_path: Path, kill_at: int) -> None:
    """Killed anywhere inside --overwrite, the same command replaces the old run and keeps nothing of it."""
    stage = begun(tmp_path)
    for shard in "0123":
        make(stage, shard)
    finish(stage, list("0123"))
    process = multiprocessing.get_context("fork").Process(target=_clear_slowly, args=(tmp_path, kill_at))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    again = begun(tmp_path, {**FINGERPRINT, "list": "xyz"}, overwrite=True)
    assert [again.marker(shard) for shard in "0123"] == [None] * 4
    assert os.listdir(again.path) == ["fingerprint.json"]
    assert again.finished() is None
    assert again.record is None


def test_a_finished_stage_needs_no_partials(tmp_path: Path) -> None:
    """The partial results are removed, the record stays, and the shards count as finished."""
    stage = begun(tmp_path)
    for shard in "01":
        make(stage, shard)
    finish(stage, ["0", "1"])
    assert not list(stage.path.glob("*.npy"))
    again = begun(tmp_path)
    record = again.finished()
    assert record is not None
    assert record["shards"] == ["0", "1"]
    assert again.marker("0") is not None
    assert again.folder.manifest["inputs"] == ["x"]


@pytest.mark.parametrize("output", ["made/0.parquet", "sum.txt"])
@pytest.mark.parametrize("gone", [True, False])
def test_a_record_proves_its_stage_or_goes(tmp_path: Path, output: str, gone: bool) -> None:
    """If an output is gone or short, the stage is not finished; since the partial results are gone, no shard is either."""
    stage = begun(tmp_path)
    make(stage, "0")
    finish(stage, ["0"])
    if gone:
        (tmp_path / output).unlink()
    else:
        (tmp_path / output).write_text("")
    again = begun(tmp_path)
    assert again.finished() is None
    assert again.record is None
    assert again.marker("0") is None


def test_an_incomplete_stage_keeps_what_it_needs(tmp_path: Path) -> None:
    """With inputs lost the stage has a record and keeps its partials: the rest can be added later."""
    stage = begun(tmp_path)
    make(stage, "0")
    finish(stage, ["0"], complete=False)
    again = begun(tmp_path)
    assert again.finished() is not None
    assert again.marker("0") is not None
    assert [path.name for path in stage.path.glob("*.npy")] == ["0.sum.npy"]


def test_lost_shards_are_remembered_until_they_are_found(tmp_path: Path) -> None:
    """The reason of a loss outlives the process, belongs to one fingerprint, and is removed when the shard is finished."""
    stage = begun(tmp_path)
    stage.mark_lost("1", error="torn", rows=None)
    again = begun(tmp_path)
    assert again.lost() == {"1": {"error": "torn", "rows": None}}
    assert again.finished_or_lost() == {"1", "fingerprint"}
    make(again, "1")
    assert again.lost() == {}
    make(again, "2")
    again.mark_lost("2", error="torn too")
    again.unmark_lost("2")
    again.unmark("2")
    assert (again.lost(), again.marker("2")) == ({}, None)
    (stage.path / "3.lost.json").write_text('{"error": "old", "fingerprint": "of another run"}')
    assert again.lost() == {}


def test_strays_go(tmp_path: Path) -> None:
    """Files of shards that no longer exist are removed from the folder of outputs."""
    stage = begun(tmp_path)
    for shard in ("0", "1", "2"):
        make(stage, shard)
    stage.remove_strays("made", {"0", "2"})
    assert sorted(os.listdir(tmp_path / "made")) == ["0.parquet", "2.parquet"]
    stage.remove_strays("nothing", {"0"})


def test_a_manifest_that_is_lost_is_made_again(tmp_path: Path) -> None:
    """Without its manifest a run is not finished, and the same command runs the shards again."""
    stage = begun(tmp_path)
    make(stage, "0")
    finish(stage, ["0"])
    (tmp_path / "manifest.json").write_bytes(b"\0")
    again = begun(tmp_path)
    assert again.finished() is None
    assert again.marker("0") is None  # what it added up to is gone
    make(again, "0")
    finish(again, ["0"])
    assert begun(tmp_path).finished() is not None


def test_two_stages_do_not_touch_each_other(tmp_path: Path) -> None:
    """Clearing a stage does not touch the record and the markers of another stage."""
    first, second = begun(tmp_path), Stage(Folder(tmp_path), NEXT)
    make(first, "0")
    finish(first, ["0"])
    second.begin({"of": first.digest})
    second.mark("0", {})
    second.finish({"t": 1})
    second.clear()
    assert (second.record, second.marker("0")) == (None, None)
    assert begun(tmp_path).finished() is not None


def test_equal_values_have_one_digest() -> None:
    """The digest of a value depends on no order of keys and no spaces; a changed value changes it."""
    items = [("a", 1), ("b", [1.5, None]), ("c", {"x": "猫", "y": True})]
    digests = {digest_of(dict(random.sample(items, 3))) for _ in range(10)}
    assert len(digests) == 1
    assert digest_of({**dict(items), "a": 2}) not in digests
    assert digest_of({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest_of(float("nan"))


def test_a_marker_is_whole_or_not_there(tmp_path: Path) -> None:
    """Markers are written atomically: a process that dies meanwhile leaves none."""
    stage = begun(tmp_path)
    with pytest.raises(TypeError):
        stage.mark("0", {"rows": object()})
    assert os.listdir(stage.path) == ["fingerprint.json"]
    assert read_json(stage.path / "0.json") is None


def test_what_a_killed_worker_left_is_not_the_stages(tmp_path: Path) -> None:
    """The record does not list the temporary file that a killed worker left while the driver lives on."""
    stage = begun(tmp_path)
    make(stage, "0")
    left = tmp_path / "made" / ".1.parquet.0a1b2c3d.tmp"
    left.write_text("half")
    finish(stage, ["0"])
    left.unlink()
    assert stage.finished() is not None


# --- the funnel adds up, and says so when it does not

REASONS = ("null_text", "no_match")
FUNNELS = st.dictionaries(st.sampled_from([*REASONS, "matched"]), st.integers(0, 10**12))


def closed(parts: dict[str, int]) -> dict[str, int]:
    return {"rows": sum(parts.values()), **parts}


@given(st.lists(FUNNELS))
def test_sums_of_funnels_are_funnels(parts: list[dict[str, int]]) -> None:
    """Funnels that add up add up together, in any order."""
    total = add_funnels(map(closed, parts))
    check_funnel(total, "rows", REASONS, "matched")
    assert total == add_funnels(map(closed, reversed(parts)))
    assert total.get("rows", 0) == sum(sum(part.values()) for part in parts)


@given(FUNNELS, st.sampled_from(["rows", "matched", "no_match"]), st.integers(1, 9))
def test_a_row_that_no_reason_explains_is_found(parts: dict[str, int], key: str, more: int) -> None:
    """A funnel with one figure off is an error that shows the figures."""
    wrong = closed(parts)
    wrong[key] = wrong.get(key, 0) + more
    with pytest.raises(MetaclipError, match="the funnel does not add up: rows = "):
        check_funnel(wrong, "rows", REASONS, "matched")


def test_a_reason_that_is_not_known_is_found() -> None:
    """Rows lost for a reason that is not in the table are rows lost in silence."""
    with pytest.raises(MetaclipError):
        check_funnel({"rows": 2, "matched": 1, "eaten": 1}, "rows", REASONS, "matched")
