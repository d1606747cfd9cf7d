"""Resharding: the samples of a subset, each as often as it stands there, in shards that do not depend on who worked."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaclip import MetaclipError, RunOptions, curate
from metaclip.errors import LostInputs
from metaclip.pool.files import find_files
from metaclip.pool.sorted_uids import SUBSET, write_run
from metaclip.pool.subset import Subset
from metaclip.reshard import reshard as resharding
from metaclip.reshard import shards as steps
from metaclip.reshard.index import Names
from metaclip.reshard.shards import SeenUids, Selection, ShardLayout, SharedUids, TarUses
from metaclip.stage.stage import FinishedStage
from tests.training.shards import read_tar, sample, uid, write_shards, write_tar

ONE = RunOptions(workers=1)


def write_uids(path: Path, uids: Sequence[str]) -> Path:
    """Write uids as a subset."""
    numbers = sorted(divmod(int(text, 16), 1 << 64) for text in uids)
    np.save(path, np.array(numbers, SUBSET))
    return path


def reshard(
    tars: Any, uids: Sequence[str], out: Path, size: int = 4, options: RunOptions = ONE
) -> FinishedStage:
    subset = write_uids(out.parent / "subset.npy", uids)
    return resharding.reshard(tars, subset=subset, out=out, shard_size=size, options=options)


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of each file that a user finds in a folder of shards."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.glob("[0-9m-s]*"))
        if path.name != "manifest.json"
    }


def samples_of(folder: Path) -> list[tuple[str, dict[str, bytes]]]:
    """Read the samples of all shards by `tarfile`; return (key, content by suffix), in order."""
    found: list[tuple[str, dict[str, bytes]]] = []
    for path in sorted(folder.glob("*.tar")):
        for name, data in read_tar(path):
            key, _, suffix = name.partition(".")
            if not found or found[-1][0] != key:
                found.append((key, {}))
            found[-1][1][suffix] = data
    return found


def test_the_subset_comes_out(tmp_path: Path) -> None:
    """The samples of the subset and no others, in the tars' order, members as they came in, under their uids."""
    write_shards(tmp_path / "tars", [5, 0, 6])
    wanted = [0, 3, 4, 5, 7, 8, 10]
    made = reshard(tmp_path / "tars", [uid(n) for n in wanted], tmp_path / "out")
    expected = [
        (
            f"{uid(n)}-0",
            {
                name.partition(".")[2]: data
                for name, data in read_tar(write_tar(tmp_path / "x" / f"{n}.tar", sample(n)))
            },
        )
        for n in wanted
    ]
    assert samples_of(tmp_path / "out") == expected
    assert made.funnel == {"samples": 11, "malformed_json": 0, "not_in_subset": 4, "picked": 7}
    assert json.loads((tmp_path / "out" / "sizes.json").read_text()) == {
        "00000000.tar": 4,
        "00000001.tar": 3,
    }
    assert json.loads((tmp_path / "out" / "00000001_stats.json").read_text()) == {"successes": 3}
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert (
        meta["processed_count"],
        meta["output_count"],
        meta["output_shard_count"],
        meta["missing_count"],
    ) == (
        11,
        7,
        2,
        0,
    )
    assert len(np.load(tmp_path / "out" / "missing.npy")) == 0


@settings(max_examples=40)
@given(data=st.data())
def test_each_is_used_as_often_as_the_subset_says(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever stands how often in tars and subset: each uid that arrived comes out as often as asked, under new names."""
    folder = tmp_path_factory.mktemp("reshard")
    have = data.draw(st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=3))
    asked = data.draw(st.lists(st.integers(0, 12), max_size=12))
    size = data.draw(st.integers(1, 5))
    for index, numbers in enumerate(have):
        files = [
            (f"{place:03d}.{name.partition('.')[2]}", content)
            for place, n in enumerate(numbers)
            for name, content in sample(n)
        ]
        write_tar(folder / "tars" / f"{index}.tar", files)
    arrived = {n for numbers in have for n in numbers}
    if not arrived & set(asked):
        with pytest.raises(MetaclipError, match="none of the"):
            reshard(folder / "tars", [uid(n) for n in asked], folder / "out", size)
        return
    reshard(folder / "tars", [uid(n) for n in asked], folder / "out", size)
    found = samples_of(folder / "out")
    names = {uid(n): n for n in range(13)}
    assert Counter(names[key[:32]] for key, _ in found) == Counter(n for n in asked if n in arrived)
    assert len({key for key, _ in found}) == len(found)
    for key, members in found:
        assert json.loads(members["json"])["uid"] == key[:32]
        assert members["txt"].decode() == f"a photo of dog {names[key[:32]]}"
    missing = [f"{high:016x}{low:016x}" for high, low in np.load(folder / "out" / "missing.npy").tolist()]
    assert missing == sorted(uid(n) for n in asked if n not in arrived)
    order = [n for numbers in have for n in numbers]
    for n in set(asked) & arrived:  # dealt out over the samples that have it, numbered through
        uses, having = asked.count(n), order.count(n)
        assert [key for key, _ in found if names[key[:32]] == n] == [f"{uid(n)}-{j}" for j in range(uses)]
        assert having >= 1


@given(uses=st.lists(st.integers(0, 30), max_size=8), size=st.integers(1, 12))
def test_a_layout_takes_all_uses_once_in_order(uses: list[int], size: int) -> None:
    """Shards are full but for the last, and their pieces put together are all uses."""
    layout = ShardLayout(size)
    shards = [shard for tar, total in enumerate(uses) for shard in layout.add(tar, total)]
    assert all(sum(p.end - p.begin for p in pieces) == size for pieces in shards)
    shards += layout.rest()
    assert [(p.tar, n) for pieces in shards for p in pieces for n in range(p.begin, p.end)] == [
        (tar, n) for tar, total in enumerate(uses) for n in range(total)
    ]
    assert all(0 < sum(p.end - p.begin for p in pieces) <= size for pieces in shards[-1:])


def test_a_layout_by_hand() -> None:
    """A shard is given with the tar that fills it, and what is left at the end."""
    layout = ShardLayout(5)
    assert layout.add(0, 3) == layout.add(1, 0) == []
    assert layout.add(2, 4) == [[TarUses(0, 0, 3), TarUses(2, 0, 2)]]
    assert layout.rest() == [[TarUses(2, 2, 4)]]


@settings(max_examples=60)
@given(
    have=st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=4),
    asked=st.lists(st.integers(0, 12), min_size=1, max_size=12),
)
def test_what_arrives_is_known_before_the_end(
    have: list[list[int]], asked: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Tar by tar what is shared is what is found when all are known; unknown only where a repeated uid comes again."""
    folder = tmp_path_factory.mktemp("arrivals")
    subset = Subset(write_uids(folder / "subset.npy", [uid(n) for n in asked]))
    runs, picked = [], []
    for tar, numbers in enumerate(have):
        files = [file for place, n in enumerate(numbers) for file in sample(n, key=f"{place:03d}")]
        file = find_files(write_tar(folder / "tars" / f"{tar}.tar", files))[0]
        to = folder / f"{tar}.npy", folder / f"{tar}.run"
        steps.select_samples(file, tar, subset, Names(), to)
        picked.append(Selection.read(to[0], subset))
        runs.append(to[1])
    steps.share_uids(runs, subset, folder / "shared.npy", folder / "missing.npy")
    truth, seen_uids, seen = SharedUids.read(folder / "shared.npy"), SeenUids(subset), Counter[int]()
    for tar, numbers in enumerate(have):
        mine = seen_uids.add(picked[tar])
        before = seen.copy()
        seen.update(n for n in numbers if n in asked)
        if any(asked.count(n) > 1 and seen[n] > max(1, before[n]) for n in numbers):
            assert mine is None
            return
        assert mine is not None
        if all(asked.count(n) == 1 for n in seen if sum(ns.count(n) for ns in have) > 1):
            assert mine.rows.tolist() == truth.of_tar(tar).rows.tolist()


def test_samples_of_late_tars_that_share_a_uid(tmp_path: Path) -> None:
    """Numbers of samples, tar << 40 + row, stay exact beyond the 8,192nd tar, where floating-point numbers round."""
    subset = Subset(write_uids(tmp_path / "subset.npy", [uid(1), uid(1), uid(1)]))
    high, low = divmod(int(uid(1), 16), 1 << 64)
    numbers = [(tar << 40) + row for tar, row in [(9_000, 1), (9_000, 4), (70_001, 3)]]
    for number in numbers:
        write_run(tmp_path / f"{number}.npy", np.array([[high, low, number]], np.uint64))
    runs = [tmp_path / f"{number}.npy" for number in numbers]
    steps.share_uids(runs, subset, tmp_path / "shared.npy", tmp_path / "missing.npy")
    shared = SharedUids.read(tmp_path / "shared.npy").rows.tolist()
    assert shared == [[number, 1, copy, 3] for copy, number in enumerate(numbers)]


def test_shards_are_written_while_tars_are_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard is written as soon as its tars are known, and written again only where a later tar changes it."""
    done: list[str] = []

    def noted(name: str) -> Any:
        step = getattr(steps, name)

        def call(first: Any, *rest: Any) -> Any:
            done.append(Path(getattr(first, "path", first)).name)
            return step(first, *rest)

        return call

    monkeypatch.setattr(steps, "select_samples", noted("select_samples"))
    monkeypatch.setattr(steps, "write_shard", noted("write_shard"))
    write_shards(tmp_path / "tars", [5, 5, 5])
    uids = [uid(n) for n in range(15)]
    tars, shards = [f"{n:05d}.tar" for n in range(4)], [f"{n:08d}.tar" for n in range(4)]
    alone = files_of(reshard(tmp_path / "tars", uids, tmp_path / "out", 4).path)
    assert done == [*tars[:2], *shards[:2], tars[2], *shards[2:]]  # one task waits while one is done
    done.clear()
    write_tar(tmp_path / "tars" / tars[3], sample(2))  # comes again, and is not used
    again = files_of(reshard(tmp_path / "tars", uids, tmp_path / "again", 4).path)
    assert done == [*tars[:2], *shards[:2], *tars[2:], *shards[2:]]
    assert {**again, "meta.json": b""} == {**alone, "meta.json": b""}
    done.clear()
    # To be used twice: of the two uses that the first had been given, the last one takes one.
    reshard(tmp_path / "tars", [*uids, uid(2)], tmp_path / "twice", 4)
    assert done == [*tars[:2], *shards[:2], *tars[2:], *shards[2:], *shards]
    assert [key for key, _ in samples_of(tmp_path / "twice") if key.startswith(uid(2))] == [
        f"{uid(2)}-0",
        f"{uid(2)}-1",
    ]


def test_any_number_of_workers(tmp_path: Path) -> None:
    """One worker and three make the same bytes, once and again."""
    write_shards(tmp_path / "tars", [7, 5, 6, 4])
    uids = [uid(n) for n in range(0, 24, 2) for _ in range(1 + n % 3)]
    one = reshard(tmp_path / "tars", uids, tmp_path / "one", 5)
    three = reshard(tmp_path / "tars", uids, tmp_path / "three", 5, RunOptions(workers=3))
    assert files_of(one.path) == files_of(three.path)
    assert one.record["written"] > 0
    assert reshard(tmp_path / "tars", uids, tmp_path / "one", 5).record == one.record


@pytest.mark.parametrize("kind", ["tar.gz", "memory"])
def test_tars_that_cannot_be_mapped(kind: str, tmp_path: Path) -> None:
    """Compressed tars and remote ones give the same shards."""
    import fsspec
    import pyarrow as pa

    plain = write_shards(tmp_path / "tars", [6])[0]
    uids = [uid(n) for n in (1, 1, 4)]
    want = files_of(reshard(plain, uids, tmp_path / "out").path)
    if kind == "memory":
        other = "memory://reshard/00000.tar"
        with fsspec.open(other, "wb") as file:
            file.write(plain.read_bytes())
    else:
        other = str(tmp_path / "x" / "00000.tar.gz")
        Path(other).parent.mkdir()
        with pa.output_stream(other, compression="detect") as file:
            file.write(plain.read_bytes())
    found = files_of(reshard(other, uids, tmp_path / "other").path)
    assert {k: v for k, v in found.items() if k != "meta.json"} == {
        k: v for k, v in want.items() if k != "meta.json"
    }


# Resuming -------------------------------------------------------------------------------------------------------------


def test_it_goes_on_from_wherever_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before any write of a marker or a manifest, the same call ends with the same files."""
    from metaclip.stage import stage as stages

    write_shards(tmp_path / "tars", [5, 5])
    uids = [uid(n) for n in (0, 2, 2, 6, 7, 9, 11)]
    want = files_of(reshard(tmp_path / "tars", uids, tmp_path / "want", 3).path)
    stops = 0
    write = stages.write_json
    for limit in range(100):
        left = limit

        def limited(path: Path, value: Any) -> None:
            nonlocal left
            if not left:
                raise KeyboardInterrupt
            left -= 1
            write(path, value)

        monkeypatch.setattr(stages, "write_json", limited)
        try:
            reshard(tmp_path / "tars", uids, tmp_path / f"out{limit}", 3)
            break
        except KeyboardInterrupt:
            stops += 1
        monkeypatch.setattr(stages, "write_json", write)
        made = reshard(tmp_path / "tars", uids, tmp_path / f"out{limit}", 3)
        assert files_of(made.path) == want
        assert not list((tmp_path / f"out{limit}").rglob(".*.tmp"))
    assert stops >= 5


def test_a_shard_that_was_removed_is_made_again(tmp_path: Path) -> None:
    """Files that are gone later are made again by the same call."""
    write_shards(tmp_path / "tars", [6])
    uids = [uid(n) for n in range(6)]
    want = files_of(reshard(tmp_path / "tars", uids, tmp_path / "out").path)
    (tmp_path / "out" / "00000001.tar").unlink()
    assert files_of(reshard(tmp_path / "tars", uids, tmp_path / "out").path) == want


def test_another_subset_or_other_tars_are_refused(tmp_path: Path) -> None:
    """What would give other shards is named; --overwrite replaces all of it."""
    write_shards(tmp_path / "tars", [6])
    reshard(tmp_path / "tars", [uid(n) for n in range(6)], tmp_path / "out", 2)
    with pytest.raises(MetaclipError, match="subset: .*npy has changed"):
        reshard(tmp_path / "tars", [uid(1)], tmp_path / "out", 2)
    with pytest.raises(MetaclipError, match=r"settings.shard_size: 2 -> 3"):
        reshard(tmp_path / "tars", [uid(n) for n in range(6)], tmp_path / "out", 3)
    made = reshard(
        tmp_path / "tars", [uid(1)], tmp_path / "out", 2, RunOptions(workers=1, overwrite=True)
    )
    assert [path.name for path in sorted(made.path.glob("*.tar"))] == ["00000000.tar"]
    write_tar(tmp_path / "tars" / "00000.tar", sample(1) + sample(2))
    with pytest.raises(MetaclipError, match=r"00000\.tar has changed since"):
        reshard(tmp_path / "tars", [uid(1)], tmp_path / "out", 2)


def test_a_broken_tar(tmp_path: Path) -> None:
    """A truncated tar is named, and nothing behind it is written unless that is allowed; mended, it comes in."""
    paths = write_shards(tmp_path / "tars", [4, 4])
    uids = [uid(n) for n in range(8)]
    want = files_of(reshard(tmp_path / "tars", uids, tmp_path / "want", 3).path)
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:3000])
    with pytest.raises(
        LostInputs,
        match=r"(?s)1 of 2 inputs were lost.*00001\.tar cannot be read as tar.*allow_lost=True",
    ):
        reshard(tmp_path / "tars", uids, tmp_path / "out", 3)
    before = files_of(tmp_path / "out")
    assert set(before) == {"00000000.tar", "00000000_stats.json"}
    assert before.items() <= want.items()
    made = reshard(tmp_path / "tars", uids, tmp_path / "out", 3, RunOptions(workers=1, allow_lost=True))
    assert (
        made.record["written"],
        made.record["missing"],
        [item["name"] for item in made.record["lost"]],
    ) == (
        4,
        4,
        ["00001.tar"],
    )
    paths[1].write_bytes(whole)
    assert files_of(reshard(tmp_path / "tars", uids, tmp_path / "out", 3).path) == want


# What is wrong, and what is missing -----------------------------------------------------------------------------------


def test_names_that_would_leave_the_folder(tmp_path: Path) -> None:
    """Keys never come out, and members with an odd suffix are left out and counted."""
    files = [
        ("../../evil.jpg", b"1"), ("../../evil.json", {"uid": uid(1)}), ("../../evil.t\u00e4xt", b"2"), ("../../evil.." , b"3"),
        ("/etc/x.json", {"uid": uid(2)}), ("/etc/x.seg.png", b"4"), ("/etc/x." + "y" * 90, b"5"),
    ]  # fmt: skip
    made = reshard(
        write_tar(tmp_path / "tars" / "x.tar", files, tarfile.PAX_FORMAT),
        [uid(1), uid(2), uid(2)],
        tmp_path / "out",
    )
    names = [name for path in sorted(made.path.glob("*.tar")) for name, _ in read_tar(path)]
    assert names == [
        f"{uid(1)}-0.jpg",
        f"{uid(1)}-0.json",
        *(f"{uid(2)}-{j}.{s}" for j in (0, 1) for s in ("json", "seg.png")),
    ]
    assert made.record["odd_suffix"] == 4
    assert not list(tmp_path.rglob("*evil*"))


def test_malformed_json_is_counted(tmp_path: Path) -> None:
    """A sample whose .json cannot be read is not used, and counted."""
    path = write_tar(
        tmp_path / "tars" / "x.tar", [*sample(1), ("2.json", b"{"), ("2.txt", "a"), *sample(3)]
    )
    made = reshard(path, [uid(1), uid(3)], tmp_path / "out")
    assert made.funnel == {"samples": 3, "malformed_json": 1, "not_in_subset": 0, "picked": 2}


def test_tars_without_uids(tmp_path: Path) -> None:
    """Without uids in .json they are md5 of text and url; where nothing is found then, the error says what to do."""
    files = [
        (name, {k: v for k, v in c.items() if k != "uid"} if isinstance(c, dict) else c)
        for n in range(4)
        for name, c in sample(n)
    ]
    path = write_tar(tmp_path / "tars" / "x.tar", files)
    with pytest.raises(MetaclipError, match="save_additional_columns"):
        reshard(path, [uid(1)], tmp_path / "out")
    run = curate(path, ["dog"], out=tmp_path / "run", t=1e9)
    made = resharding.reshard(path, subset=run.path / "curated.npy", out=tmp_path / "out2", options=ONE)
    assert (made.record["written"], made.record["missing"], made.record["without_uid"]) == (4, 0, 4)


def test_balancing_again_on_what_arrived(tmp_path: Path) -> None:
    """Pairs that never arrived are missing; the tars are a pool, so what did arrive is balanced again and resharded."""
    files = [sample(n, text="a dog" if n % 2 else "a rare cat") for n in range(40)]
    pool = tmp_path / "pool.jsonl"
    pool.write_text(
        "".join(
            json.dumps({"uid": uid(n), "text": "a dog" if n % 2 else "a rare cat"}) + "\n"
            for n in range(40)
        )
    )
    first = curate(pool, ["dog", "cat"], out=tmp_path / "run", t=15)
    arrived = [n for n in range(40) if n % 3]
    write_tar(tmp_path / "tars" / "0.tar", [file for n in arrived for file in files[n]])
    made = resharding.reshard(
        tmp_path / "tars", subset=first.path / "curated.npy", out=tmp_path / "out", options=ONE
    )
    kept = {int(text, 16) for text in first.curated["uid"].to_pylist()}
    here = {int(uid(n), 16) for n in arrived}
    assert made.record["missing"] == len(kept - here) > 0
    assert {int(key[:32], 16) for key, _ in samples_of(made.path)} == kept & here
    again = curate(tmp_path / "tars", ["dog", "cat"], out=tmp_path / "run2", t=10)
    made = resharding.reshard(
        tmp_path / "tars", subset=again.path / "curated.npy", out=tmp_path / "out2", options=ONE
    )
    assert (made.record["missing"], made.record["written"]) == (0, len(again.curated))
    assert curate(made.path, ["dog", "cat"], out=tmp_path / "run3", t=1e9).account["funnel"][
        "rows"
    ] == len(again.curated)


def test_a_folder_among_its_tars(tmp_path: Path) -> None:
    """Shards are not written beside the tars that they come from."""
    write_shards(tmp_path / "tars", [2])
    with pytest.raises(MetaclipError, match="choose another `out="):
        reshard(tmp_path / "tars", [uid(0)], tmp_path / "tars")


# Subsets --------------------------------------------------------------------------------------------------------------


@given(
    uids=st.lists(st.integers(0, 5) | st.integers(0, (1 << 128) - 1), max_size=30),
    asked=st.lists(st.integers(0, 6), max_size=8),
)
def test_a_subset_counts(
    uids: list[int], asked: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """How often a uid stands in a subset, and whether it does, is what a Counter says."""
    subset = Subset(write_uids(tmp_path_factory.mktemp("subset") / "s.npy", [f"{n:032x}" for n in uids]))
    wanted = [*asked, *uids[:5]]
    halves = np.array([divmod(n, 1 << 64) for n in wanted], np.uint64).reshape(-1, 2)
    counter = Counter(uids)
    assert subset.count(halves).tolist() == [counter[n] for n in wanted]
    assert subset.contains(halves).tolist() == [n in counter for n in wanted]
    assert len(subset) == len(uids)


def test_what_is_no_subset(tmp_path: Path) -> None:
    """A file that is no subset is refused with what it is, and what to give."""
    np.save(tmp_path / "a.npy", np.zeros((3, 2)))
    with pytest.raises(
        MetaclipError,
        match=r"a\.npy is not a subset file \(it holds float64 in shape \(3, 2\), must hold u8,u8",
    ):
        Subset(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.array([(2, 0), (1, 0)], SUBSET))
    with pytest.raises(MetaclipError, match="not sorted"):
        Subset(tmp_path / "b.npy")
    (tmp_path / "c.npy").write_text("uids")
    with pytest.raises(MetaclipError, match=r"c\.npy is not a subset file"):
        Subset(tmp_path / "c.npy")
    with pytest.raises(MetaclipError, match="there is no subset"):
        Subset(tmp_path / "d.npy")
    np.save(tmp_path / "e.npy", np.array([{"x": 1}], object))
    with pytest.raises(MetaclipError, match=r"e\.npy is not a subset file"):
        Subset(tmp_path / "e.npy")
