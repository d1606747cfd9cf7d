"""The stream: every sample once an epoch whoever loads it, resumed where it stopped; what is broken is counted, never fatal."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs torch: pip install '.[train]'")
pytest.importorskip("PIL", reason="needs Pillow: pip install '.[train]'")

from metaclip import MatchSettings, MetaclipError, curate
from metaclip.curate.balancer import Balancer
from metaclip.curate.draw import choice
from metaclip.errors import LostInputs
from metaclip.pool.sorted_uids import SUBSET
from metaclip.pool.subset import Subset
from metaclip.reshard.index import Names, make_index
from metaclip.training.stream import Batch, Loader, Stream
from tests.faults.victims import below
from tests.processes import until
from tests.training.shards import jpeg, sample, uid, write_shards, write_tar

# torch advises on the number of workers, whatever is meant by it.
pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore:This DataLoader will create")]

N = 120
UIDS = sorted(uid(n) for n in range(N))


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tars of N samples, one of them empty."""
    folder = tmp_path_factory.mktemp("tars")
    write_shards(folder, [50, 40, 0, 30])
    return folder


def uids_of(batches: Iterable[Batch]) -> list[str]:
    return [uid for batch in batches for uid in batch.uids]


def take(loader: Loader, batches: int) -> list[list[str]]:
    """Return the uids of the next batches, or of those that are left."""
    return [batch.uids for batch in itertools.islice(loader, batches)]


# Every sample once ----------------------------------------------------------------------------------------------------


def test_an_epoch(tars: Path) -> None:
    """An epoch has every sample, each once, decoded, with its text; the next has them in another order."""
    first, second = (
        [b for b in Loader(Stream(str(tars)), 7, epochs=1, state=state)] for state in ((), ())
    )
    assert sorted(uids_of(first)) == UIDS
    assert uids_of(first) == uids_of(second)
    both = uids_of(Loader(Stream(str(tars)), 7, epochs=2))
    assert both[:N] == uids_of(first)
    assert sorted(both[N:]) == UIDS
    assert both[N:] != both[:N]
    assert uids_of(Loader(Stream(str(tars), seed=1), 7, epochs=1)) != uids_of(first)
    names = {uid(n): f"a photo of dog {n}" for n in range(N)}
    assert all(
        names[u] == text for batch in first for u, text in zip(batch.uids, batch.texts, strict=True)
    )
    assert all(
        image.mode == "RGB" and image.size == (12, 10) for batch in first for image in batch.images
    )
    assert [len(batch.uids) for batch in first] == [7] * (N // 7) + [N % 7]


def test_what_is_left_of_an_epoch_goes_into_the_next_batch(tars: Path) -> None:
    """Without end all batches are whole, and go on from epoch to epoch."""
    batches = take(Loader(Stream(str(tars)), 50), 12)
    assert [len(batch) for batch in batches] == [50] * 12
    flat = [u for batch in batches for u in batch]
    assert all(sorted(flat[N * e : N * (e + 1)]) == UIDS for e in range(5))


@settings(max_examples=15)
@given(data=st.data())
def test_any_ranks_and_any_stops(data: st.DataObject, tars: Path) -> None:
    """Ranks stop after any batches, and other ranks with other batches go on: every epoch has every sample once."""
    stream, states, taken, epochs = Stream(str(tars)), [], Counter(), data.draw(st.integers(1, 3))
    for _ in range(data.draw(st.integers(1, 3))):
        ranks = data.draw(st.integers(1, 4))
        loaders = [
            Loader(
                stream, data.draw(st.integers(1, 20)), rank=r, ranks=ranks, epochs=epochs, state=states
            )
            for r in range(ranks)
        ]
        for loader in loaders:
            for batch in take(loader, data.draw(st.integers(0, 8))):
                taken.update(batch)
        states = [json.loads(json.dumps(loader.state())) for loader in loaders]
    rest = Loader(stream, 16, epochs=epochs, state=states)
    taken.update(uids_of(rest))
    assert taken == Counter({u: epochs for u in UIDS})
    assert rest.reasons == {"yielded": N * epochs}
    assert uids_of(Loader(stream, 16, epochs=epochs, state=[rest.state()])) == []


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_and_a_resumption(workers: int, tars: Path) -> None:
    """Processes load every sample once; resumed with as many, the same batches follow; with others, the same samples."""
    whole = take(Loader(Stream(str(tars)), 8, workers=workers, epochs=2), 1000)
    assert Counter(u for batch in whole for u in batch) == Counter({u: 2 for u in UIDS})
    loader = Loader(Stream(str(tars)), 8, workers=workers, epochs=2)
    first = take(loader, 7)
    state = json.loads(json.dumps(loader.state()))
    assert first == whole[:7]
    assert take(Loader(Stream(str(tars)), 8, workers=workers, epochs=2, state=[state]), 1000) == whole[7:]
    for other in (0, 3):
        rest = take(Loader(Stream(str(tars)), 8, workers=other, epochs=2, state=[state]), 1000)
        assert Counter(u for batch in first + rest for u in batch) == Counter({u: 2 for u in UIDS})


def test_spawned_workers(tars: Path) -> None:
    """Workers that are started anew, not forked, load the same."""
    subset = tars.parent / "spawn.npy"
    write_subset(subset, UIDS[:40])
    stream = Stream(str(tars), keep=Subset(subset))
    assert sorted(uids_of(Loader(stream, 8, workers=1, epochs=1, context="spawn"))) == UIDS[:40]


KILLED = """
import json, sys, time
from metaclip.curate.balancer import Balancer
from metaclip.training.stream import Loader, Stream
tars, out, workers, batch, most, *run = sys.argv[1:]
if __name__ == "__main__":
    keep = Balancer(run[0]) if run else None
    loader = Loader(Stream(tars, keep=keep), int(batch), workers=int(workers))
    with open(out, "w") as file:
        for number, made in enumerate(loader, 1):
            print(json.dumps([made.uids, loader.state()]), file=file, flush=True)
            if number == int(most):
                time.sleep(600)  # with workers at work on what comes next
"""


def kill_after(batches: int, out: Path, *arguments: object) -> tuple[list[list[str]], Any]:
    """Read a stream in another process, kill it (SIGKILL) after some batches; return the batches it had, and its last state."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *map(str, (arguments[0], out, *arguments[1:]))],
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 120
        while not out.exists() or out.read_bytes().count(b"\n") < batches:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        workers = below(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "the end of its workers")
    lines = [
        json.loads(line) for line in out.read_text().splitlines(keepends=True) if line.endswith("\n")
    ]
    return [uids for uids, _ in lines], lines[-1][1]


def test_who_is_killed_leaves_no_worker(tars: Path, tmp_path: Path) -> None:
    """Workers whose batches nobody will fetch, larger than what a pipe holds, end with the process that made them."""
    begun, _ = kill_after(2, tmp_path / "out.jsonl", tars, 2, 500, 2)
    assert len(begun) == 2


def test_killed(tars: Path, tmp_path: Path) -> None:
    """A process killed at any moment: what was handed out and what the saved state goes on with are each epoch once."""
    begun, state = kill_after(9, tmp_path / "out.jsonl", tars, 2, 8, 0)
    first = [u for uids in begun for u in uids]
    epochs = 1 + max(epoch for epoch, _, _ in state["at"].values())
    rest = uids_of(Loader(Stream(str(tars)), 8, epochs=epochs, state=[state]))
    assert Counter(first + rest) == Counter({u: epochs for u in UIDS})


# Keeping --------------------------------------------------------------------------------------------------------------


def write_subset(path: Path, uids: Iterable[str]) -> Path:
    np.save(path, np.array(sorted(divmod(int(u, 16), 1 << 64) for u in uids), SUBSET))
    return path


@pytest.mark.parametrize("workers", [0, 3])
def test_the_balancer_keeps_the_offline_subset(workers: int, tmp_path: Path) -> None:
    """At epoch 0 a run's Balancer gives just the run's curated pairs, with any workers; at epoch 1 another set, by its law."""
    texts = ["a dog", "a dog and a cat", "a cat", "a rare bird", "nothing"]
    write_tar(
        tmp_path / "tars" / "0.tar",
        [file for n in range(400) for file in sample(n, text=texts[n % 5 % (1 + n % 7)])],
    )
    run = curate(tmp_path / "tars", ["dog", "cat", "bird"], out=tmp_path / "run", t=40)
    balancer = Balancer(run)
    stream = Stream(str(tmp_path / "tars"), keep=balancer)
    loader = Loader(stream, 8, workers=workers, epochs=1)
    offline = sorted(run.curated["uid"].to_pylist())
    assert 0 < len(offline) < 400
    assert sorted(uids_of(loader)) == offline
    assert loader.reasons == {"yielded": len(offline), "not_kept": 400 - len(offline)}
    second = sorted(uids_of(Loader(stream, 8, workers=workers, epochs=2)))
    expected = [
        uid(n) for n in range(400) if balancer.keep_one(texts[n % 5 % (1 + n % 7)], uid(n), epoch=1)
    ]
    assert second == sorted(offline + expected)
    assert sorted(expected) != offline
    subset = Subset(run.path / "curated.npy")
    assert (
        sorted(uids_of(Loader(Stream(str(tmp_path / "tars"), keep=subset), 8, workers=workers, epochs=1)))
        == offline
    )


def test_tars_without_uids(tars: Path, tmp_path: Path) -> None:
    """Where a subset or a Balancer decides and tars have no uid, a warning says what to do, once; the law's uid is used."""
    row = {"url": "https://example.org/1.jpg"}
    write_tar(tmp_path / "tars" / "0.tar", [("1.jpg", jpeg(1)), ("1.json", row), ("1.txt", "a dog")])
    law = hashlib.md5(b"a doghttps://example.org/1.jpg", usedforsecurity=False).hexdigest()
    subset = Subset(write_subset(tmp_path / "subset.npy", [law]))
    with pytest.warns(
        UserWarning, match=r"1 of 1 tars \(the first: .*0\.tar\) have no uid.*save_additional_columns"
    ) as caught:
        assert uids_of(Loader(Stream(str(tmp_path / "tars"), keep=subset), 1, epochs=1)) == [law]
    assert len(caught) == 1
    assert (
        len(Stream(str(tmp_path / "tars")).files) == 1
    )  # nothing is decided by the uid, so nothing is said
    assert len(Stream(str(tars), keep=subset).files) == 4


def test_a_predicate(tars: Path) -> None:
    """Any function of text and uid decides, and where it keeps nothing that is said instead of going on for ever."""
    loader = Loader(Stream(str(tars), keep=lambda text, uid: text.endswith("7")), 4, epochs=1)
    assert sorted(uids_of(loader)) == sorted(uid(n) for n in range(N) if n % 10 == 7)
    with pytest.raises(MetaclipError, match=r"none of \d+ samples came through: \{'not_kept': \d+\}"):
        next(iter(Loader(Stream(str(tars), keep=lambda text, uid: False), 4)))


def test_several_texts_of_an_image(tmp_path: Path) -> None:
    """One text is drawn each visit by the frozen hash, and the pair is kept with that one."""
    fields: dict[str, Any] = {f"{n}": [f"a dog {n}", f"a cat {n}", f"a bird {n}"] for n in range(60)}
    files = [file for n in range(60) for file in sample(n, texts=fields[str(n)])]
    write_tar(tmp_path / "tars" / "0.tar", files)
    stream = Stream(str(tmp_path / "tars"), seed=5, names=Names(text="texts"))
    found = {}
    for epoch, batch in enumerate(Loader(stream, 60, epochs=3)):
        assert dict(zip(batch.uids, batch.texts, strict=True)) == {
            uid(n): fields[str(n)][choice(5, epoch, uid(n), 3)] for n in range(60)
        }
        found[epoch] = batch.texts
    assert len({tuple(sorted(texts)) for texts in found.values()}) == 3
    only = Stream(
        str(tmp_path / "tars"), seed=5, names=Names(text="texts"), keep=lambda text, uid: "dog" in text
    )
    [batch] = list(Loader(only, 60, epochs=1))
    assert sorted(batch.uids) == sorted(uid(n) for n in range(60) if choice(5, 0, uid(n), 3) == 0)
    assert all("dog" in text for text in batch.texts)


# What is wrong --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [None, lambda text, uid: True], ids=["whole", "text first"])
def test_what_is_broken_is_counted(keep: Any, tmp_path: Path) -> None:
    """Broken, truncated, oversized and missing images, missing and invalid texts, broken .json: a reason each, never fatal."""
    truncated = jpeg(1, (90, 90))[:-30]
    files = [
        *sample(0), ("1.jpg", b"no image"), ("1.json", {"uid": uid(1)}), ("1.txt", "a"), ("2.jpg", truncated), ("2.json", {"uid": uid(2)}), ("2.txt", "a"),
        ("3.json", {"uid": uid(3)}), ("3.txt", "a"), ("4.jpg", jpeg()), ("4.json", {"uid": uid(4)}), ("5.jpg", jpeg()), ("5.json", b"{"), ("5.txt", "a"),
        ("6.jpg", jpeg()), ("6.json", {"uid": uid(6)}), ("6.txt", b"\xff"), ("7.jpg", jpeg(0, (40, 30))), ("7.json", {"uid": uid(7)}), ("7.txt", "a"),
        ("8.jpg", b""), ("8.json", {"uid": uid(8)}), ("8.txt", "a"), *sample(9),
    ]  # fmt: skip
    write_tar(tmp_path / "tars" / "0.tar", files)
    loader = Loader(Stream(str(tmp_path / "tars"), keep=keep, max_pixels=1000), 4, epochs=2)
    assert Counter(uids_of(loader)) == Counter({uid(0): 2, uid(9): 2})
    # The truncated image is oversized too, which is found first.
    assert loader.reasons == {
        "yielded": 4, "broken_image": 4, "oversized_image": 4, "missing_image": 2, "missing_text": 2, "malformed_json": 2, "invalid_utf8": 2,
    }  # fmt: skip
    larger = Loader(Stream(str(tmp_path / "tars"), keep=keep), 4, epochs=1)
    assert sorted(uids_of(larger)) == sorted([uid(0), uid(7), uid(9)])
    assert larger.reasons["broken_image"] == 3


def test_tars_that_are_refused_or_share_keys(tmp_path: Path) -> None:
    """Samples whose members are apart are refused; those of one key in two tars are all there, with their own texts."""
    for tar, numbers in enumerate(([0, 1], [2, 3])):
        files = [
            (f"{place}.{name.partition('.')[2]}", content)
            for place, n in enumerate(numbers)
            for name, content in sample(n)
        ]
        write_tar(tmp_path / "tars" / f"{tar}.tar", files)
    [batch] = list(Loader(Stream(str(tmp_path / "tars")), 4, epochs=1))
    assert dict(zip(batch.uids, batch.texts, strict=True)) == {
        uid(n): f"a photo of dog {n}" for n in range(4)
    }
    files = [file for row in zip(sample(4), sample(5), strict=True) for file in row]
    write_tar(tmp_path / "tars" / "2.tar", files)
    with pytest.raises(LostInputs, match="the members of sample 000000004 are not adjacent"):
        len(Stream(str(tmp_path / "tars")))


def test_a_bomb(tmp_path: Path) -> None:
    """An image whose header claims more pixels than memory holds is oversized, not decoded."""
    data = bytearray(jpeg(0, (8, 8)))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    write_tar(
        tmp_path / "tars" / "0.tar", [*sample(0), ("1.jpg", bytes(data)), ("1.txt", "a"), ("1.json", {})]
    )
    loader = Loader(Stream(str(tmp_path / "tars")), 4, epochs=1)
    assert uids_of(loader) == [uid(0)]
    assert loader.reasons == {"yielded": 1, "oversized_image": 1}


@pytest.mark.parametrize(("form", "suffix"), [("PNG", "png"), ("WEBP", "webp"), ("JPEG", "JPEG")])
def test_forms_of_images(form: str, suffix: str, tmp_path: Path) -> None:
    """png, webp and any case of a suffix are decoded to RGB."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (5, 4), 90).save(file, form)
    write_tar(
        tmp_path / "tars" / "0.tar",
        [(f"1.{suffix}", file.getvalue()), ("1.txt", "a"), ("1.json", {"uid": uid(1)})],
    )
    [batch] = list(Loader(Stream(str(tmp_path / "tars")), 4, epochs=1))
    assert (batch.images[0].mode, batch.images[0].size) == ("RGB", (5, 4))


def test_a_truncated_tar(tmp_path: Path) -> None:
    """A tar that was cut off is named before anything is loaded; with leave it is left out, and listed."""
    paths = write_shards(tmp_path / "tars", [20, 20])
    paths[1].write_bytes(paths[1].read_bytes()[:9000])
    with pytest.raises(
        LostInputs, match=r"(?s)1 of 2 tars cannot be read:.*00001\.tar cannot be read as tar"
    ):
        Loader(Stream(str(tmp_path / "tars")), 4)
    stream = Stream(str(tmp_path / "tars"), allow_lost=True)
    assert sorted(uids_of(Loader(stream, 4, epochs=1))) == sorted(uid(n) for n in range(20))
    assert len(stream.lost) == 1


def test_tars_that_are_gone_or_compressed_or_changed(tmp_path: Path) -> None:
    """What cannot be streamed is said in one line."""
    paths = write_shards(tmp_path / "tars", [20])
    stream = Stream(str(tmp_path / "tars"))
    loader = Loader(stream, 4)
    state = loader.state()
    write_tar(paths[0], [file for n in range(5) for file in sample(n)])
    with pytest.raises(MetaclipError, match="the state belongs to the stream"):
        Loader(Stream(str(tmp_path / "tars")), 4, state=[state])
    paths[0].unlink()
    with pytest.raises(MetaclipError, match=r"00000\.tar cannot be read"):
        list(loader)
    with pytest.raises(MetaclipError, match="there is no"):
        Loader(Stream(str(tmp_path / "nothing")), 4)
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "0.tar.gz").write_bytes(b"x")
    with pytest.raises(MetaclipError, match="is compressed"):
        Loader(Stream(str(tmp_path / "z")), 4)


def test_a_store(tars: Path) -> None:
    """Tars that fsspec opens are streamed alike, a page's neighbours as one range."""
    import fsspec

    for path in tars.glob("*.tar"):
        with fsspec.open(f"memory://stream/{path.name}", "wb") as file:
            file.write(path.read_bytes())
    here = [
        (b.uids, b.texts, [i.tobytes() for i in b.images])
        for b in Loader(Stream(str(tars)), 16, epochs=1)
    ]
    there = [
        (b.uids, b.texts, [i.tobytes() for i in b.images])
        for b in Loader(Stream("memory://stream"), 16, epochs=1)
    ]
    assert here == there
    kept = Loader(Stream("memory://stream", keep=lambda text, uid: text.endswith("3")), 16, epochs=1)
    assert sorted(uids_of(kept)) == sorted(uid(n) for n in range(N) if n % 10 == 3)


# Transforms and indexes -----------------------------------------------------------------------------------------------


def noisy(image: Any) -> Any:
    """Return what a transform draws from torch and from `random`."""
    import random

    import torch

    return torch.cat([torch.rand(2), torch.tensor([random.random()])])


def test_a_transform_draws_by_uid_and_epoch(tars: Path) -> None:
    """A random transform gives an image the same whoever decodes it, another one next epoch, and no one else's draws change."""
    import torch

    def drawn(workers: int, batch: int) -> dict[tuple[str, int], tuple[float, ...]]:
        seen: Counter[str] = Counter()
        found = {}
        for made in Loader(Stream(str(tars), transform=noisy), batch, workers=workers, epochs=2):
            assert made.images.shape == (len(made.uids), 3)
            for u, numbers in zip(made.uids, made.images.tolist(), strict=True):
                found[u, seen[u]] = tuple(numbers)
                seen[u] += 1
        return found

    torch.manual_seed(1)
    one = drawn(0, 7)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    assert one == drawn(0, 16)
    assert len(set(one.values())) == 2 * N


def test_an_index_is_made_once(tars: Path, tmp_path: Path) -> None:
    """An index in the cache is what a walk gives; a damaged one is made again, and one of a changed tar is not used."""
    from metaclip.pool.files import find_files
    from metaclip.reshard.index import open_index

    file = find_files(tars, form="tar")[0]
    made = make_index(file)
    for _ in range(2):
        found = open_index(file, folder=tmp_path)
        assert all(
            np.array_equal(getattr(made, name), getattr(found, name))
            for name in ("uids", "begin", "end", "image", "txt", "json", "flaw")
        )
        assert (found.text, found.has_uid) == (".txt", True)
    [path] = (tmp_path / "tars").glob("*.arrow")
    path.write_bytes(path.read_bytes()[:-100])
    assert len(open_index(file, folder=tmp_path)) == 50


@pytest.mark.slow
def test_real_photos(data_folder: Path, tmp_path: Path) -> None:
    """Over xm3600 four workers give the offline subset at epoch 0, another one at epoch 1, the same when killed and resumed."""
    with zipfile.ZipFile(data_folder / "images" / "xm3600_128px.zip") as photos:
        pairs = [json.loads(line) for line in photos.read("pairs.jsonl").splitlines()]
        for shard in range(4):
            files: list[tuple[str, Any]] = []
            for pair in pairs[shard::4]:
                files += [(f"{pair['id']}.jpg", photos.read(f"{pair['id']}.jpg")), (f"{pair['id']}.txt", pair["text"]),
                          (f"{pair['id']}.json", {"uid": pair["id"], "url": pair["url"]})]  # fmt: skip
            write_tar(tmp_path / "tars" / f"{shard}.tar", files)
    run = curate(
        tmp_path / "tars",
        data_folder / "entries_500k.txt.gz",
        out=tmp_path / "run",
        t=20,
        settings=MatchSettings(metadata=None),
    )
    offline = sorted(f"{int(u, 16):032x}" for u in run.curated["uid"].to_pylist())
    balancer = Balancer(run)
    stream = Stream(str(tmp_path / "tars"), keep=balancer)
    loader = Loader(stream, 32, workers=4, epochs=2)
    whole = take(loader, 10_000)
    first = uids_of(Loader(stream, 32, workers=4, epochs=1))
    assert sorted(first) == offline
    assert 500 < len(offline) < 3600
    second = Counter(u for batch in whole for u in batch) - Counter(first)
    given = {f"{int(pair['id'], 16):032x}": pair["text"] for pair in pairs}
    assert second == Counter(u for u, text in given.items() if balancer.keep_one(text, u, epoch=1))
    assert set(second) != set(offline)
    for batches in (23, len(first) // 32 + 5):  # in epoch 0, and in epoch 1
        begun, state = kill_after(
            batches, tmp_path / f"{batches}.jsonl", tmp_path / "tars", 4, 32, batches, run.path
        )
        resumed = begun + take(Loader(stream, 32, workers=4, epochs=2, state=[state]), 10_000)
        assert resumed[: len(whole) - 1] == whole[:-1]
        rest = take(Loader(stream, 32, workers=1, epochs=2, state=[state]), 10_000)
        assert Counter(u for b in begun + rest for u in b) == Counter(u for b in whole for u in b)
    assert loader.reasons.total() == 2 * len(pairs)
