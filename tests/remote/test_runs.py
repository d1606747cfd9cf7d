"""A run on S3, from a pool on S3 or here, is the run that it would be here, and can be stopped anywhere."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from metaclip import Run, balance
from metaclip.curate.settings import MATCH
from metaclip.pool.files import find_files
from metaclip.stage.folder import Folder
from metaclip.stage.stage import Stage
from metaclip.storage.files import as_path
from metaclip.storage.object_store import file_system
from metaclip.storage.remote import RemotePath
from metaclip.storage.threads import map_parallel
from tests import commands, runs
from tests.processes import start, until
from tests.remote.conftest import Through
from tests.remote.servers import BUCKET, ENVIRONMENT, Answer, Asked, key_of

pytestmark = pytest.mark.extra

FILES, ROWS, T = 7, 500, 20
WORDS = [f"word{i}" for i in range(300)]


def table(rows: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    words = pa.array(WORDS)
    columns = [
        words.take(pa.array((rng.random(rows) ** 3 * len(WORDS)).astype(np.int64))) for _ in range(5)
    ]
    uids = [
        f"{seed:08x}{row // 2 * 2 if row % 50 == 1 else row:024x}" for row in range(rows)
    ]  # some stand twice
    return pa.table(
        {
            "text": pc.binary_join_element_wise(*columns, " "),
            "url": [f"http://x.org/{u}" for u in uids],
            "uid": uids,
        }
    )


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of 160 entries."""
    path = tmp_path_factory.mktemp("list") / "list.txt"
    path.write_text(
        "\n".join([*WORDS[::3], *(f"{a} {b}" for a, b in itertools.pairwise(WORDS[:61]))]) + "\n"
    )
    return path


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of a dozen parquet files, here."""
    folder = tmp_path_factory.mktemp("pool") / "pool"
    folder.mkdir()
    for i in range(FILES):
        pq.write_table(table(ROWS, i), folder / f"{i:03d}.parquet")
    return folder


@pytest.fixture(scope="module")
def there(pool: Path, server: str) -> RemotePath:
    """The same pool on S3."""
    folder = Folder(f"s3://{BUCKET}/the_pool/pool").path
    assert isinstance(folder, RemotePath)
    for path in pool.iterdir():
        (folder / path.name).upload(path)
    return folder


@pytest.fixture(scope="module")
def undisturbed(pool: Path, words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of it, here."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    commands.done(*curate(pool, words, run))
    return run


@pytest.fixture(scope="module")
def run_there(there: RemotePath, words: Path) -> RemotePath:
    """The run of it, on S3, for tests that only read it."""
    run = as_path(f"s3://{BUCKET}/the_run")
    assert isinstance(run, RemotePath)
    commands.done(*curate(there, words, run))
    return run


def curate(pool: Any, words: Path, out: Any, *more: Any) -> list[Any]:
    return ["curate", str(pool), "--metadata", words, "--t", T, "--out", str(out), *more]


def result(run: Any) -> dict[str, str]:
    """Return the sha256 of every file of a run's result, as `tests.runs.result` does."""
    with Folder(run).path.local_folder() as here:
        return runs.result(here)


def holds(run: RemotePath, wanted: Path) -> None:
    """Assert that a run equals another one in every byte of its result, and that no unfinished file is left."""
    found, other = result(run), result(wanted)
    assert found.keys() == other.keys()
    assert {name for name in found if found[name] != other[name]} == set()
    assert not [name for name in run.sizes() if name.endswith((".npy", ".tmp", "/lock")) and "/" in name]


# --- the same


@pytest.mark.parametrize(("from_here", "to_here"), [(False, False), (True, False), (False, True)])
def test_the_run_is_the_same(
    pool: Path,
    there: RemotePath,
    words: Path,
    undisturbed: Path,
    store: RemotePath,
    tmp_path: Path,
    from_here: bool,
    to_here: bool,
) -> None:
    """From S3 to S3, from here to S3, from S3 to here: the bytes of the run that never left this machine."""
    out = tmp_path / "run" if to_here else store / "run"
    done = commands.done(*curate(pool if from_here else there, words, out))
    assert f"read {out}/card.md" in done.out
    if isinstance(out, RemotePath):
        holds(out, undisturbed)
        assert not Path("s3:").exists()
    else:
        assert result(out) == result(undisturbed)
    again = commands.done(*curate(pool if from_here else there, words, out))
    assert again.out == done.out


@pytest.mark.slow
def test_in_steps_at_another_t_and_explained(
    there: RemotePath, pool: Path, words: Path, undisturbed: Path, store: RemotePath, tmp_path: Path
) -> None:
    """match, balance in place and elsewhere on both sides, explain, card and its check: as they are here."""
    commands.done("match", str(there), "--metadata", words, "--out", str(store / "run"))
    commands.done("balance", str(store / "run"), "--t", T)
    holds(store / "run", undisturbed)
    commands.done("balance", undisturbed, "--t", 5, "--out", tmp_path / "wanted")
    wanted = Run(tmp_path / "wanted").account["result_digest"]
    for source, out in (
        (store / "run", store / "run5"),
        (store / "run", tmp_path / "run5"),
        (undisturbed, store / "mixed"),
    ):
        commands.done("balance", str(source), "--t", 5, "--out", str(out))
        balanced = Run(out)
        assert balanced.account["result_digest"] == wanted
        assert str(balanced.matched.path) == str(Run(source).path)
        assert len(balanced.curated) == balanced.balance["kept"]
    asked = ["explain", "word0 word1 word3", "--url", "http://x.org/1", "--run"]
    assert (
        commands.done(*asked, str(store / "run5")).out == commands.done(*asked, tmp_path / "wanted").out
    )


def test_weights(run_there: RemotePath, undisturbed: Path, store: RemotePath, tmp_path: Path) -> None:
    """A file of weights on S3, and weights of a dict that the run on S3 keeps: the set that they give here."""
    weights = {"word0": 0.25, "word3": 4.0}
    wanted = balance(undisturbed, out=tmp_path / "wanted", t=T, weights=weights).account["result_digest"]
    (store / "w.csv").put(b"entry,weight\nword0,0.25\nword3,4\n")
    commands.done(
        "balance",
        str(run_there),
        "--t",
        T,
        "--weights",
        str(store / "w.csv"),
        "--out",
        str(store / "file"),
    )
    assert Run(store / "file").account["result_digest"] == wanted
    run = balance(run_there, out=store / "dict", t=T, weights=weights)
    assert run.account["result_digest"] == wanted
    assert run.manifest["settings"]["balance"]["weights"] == str(store / "dict" / "weights.parquet")
    again = balance(run_there, out=store / "again", t=T, weights=str(store / "dict" / "weights.parquet"))
    assert again.account["result_digest"] == wanted


@pytest.mark.slow
def test_runs_balanced_together(
    there: RemotePath, pool: Path, words: Path, undisturbed: Path, store: RemotePath, tmp_path: Path
) -> None:
    """Runs on S3 and here, combined on S3 and here: the result is that of one run over both pools."""
    files = sorted(path.name for path in pool.glob("*.parquet"))
    half = len(files) // 2
    first, second = [str(there / name) for name in files[:half]], [pool / name for name in files[half:]]
    commands.done("match", *first, "--metadata", words, "--out", str(store / "first"))
    for out in (store / "second", tmp_path / "second"):
        commands.done("match", *second, "--metadata", words, "--out", str(out))
    wanted = Run(undisturbed).account["result_digest"]
    for other, out in (
        (store / "second", store / "all"),
        (tmp_path / "second", store / "mixed"),
        (store / "second", tmp_path / "here"),
    ):
        commands.done("balance", str(store / "first"), str(other), "--t", T, "--out", str(out))
        assert Run(out).account["result_digest"] == wanted


def test_a_card_of_a_run_on_s3(
    run_there: RemotePath, undisturbed: Path, store: RemotePath, tmp_path: Path
) -> None:
    """A card made from S3, to S3, is the card made here, and follows from its run."""
    pytest.importorskip("altair", reason="needs the extra cards")
    commands.done("card", undisturbed, "--out", tmp_path / "card", "--name", "x")
    for out in (tmp_path / "card2", store / "card"):
        commands.done("card", str(run_there), "--out", str(out), "--name", "x")
        commands.done("card", "verify", str(out), "--run", str(run_there))
        with Folder(out).path.local_folder() as found:
            one, other = (
                json.loads((folder / "card.json").read_text()) for folder in (found, tmp_path / "card")
            )
            assert {k for k in one if one[k] != other[k]} <= {"created", "files"}


def test_the_next_version_of_a_run_on_s3(
    run_there: RemotePath, undisturbed: Path, store: RemotePath, tmp_path: Path
) -> None:
    """A run's next version, from S3 to S3, is the one made here."""
    uids = Run(undisturbed).curated["uid"].to_pylist()[:7]
    (tmp_path / "uids.txt").write_text("\n".join(uids))
    made = []
    for run, out in ((undisturbed, tmp_path / "next"), (run_there, store / "next")):
        commands.done("card", "remove", str(run), "--uids", str(tmp_path / "uids.txt"), "--out", str(out))
        made.append(Run(out))
    assert made[0].account["result_digest"] == made[1].account["result_digest"]
    assert made[0].account["removed"]["versions"] == made[1].account["removed"]["versions"]
    assert not set(uids) & set(made[1].curated["uid"].to_pylist())


@pytest.mark.parametrize("form", ["csv.gz", "jsonl", "tar", "large.parquet"])
def test_every_form_of_pool_is_read_from_s3(
    form: str, words: Path, store: RemotePath, tmp_path: Path
) -> None:
    """Delimited, lines of JSON, tars, and one parquet file of several row groups."""
    rows, local = table(300, 7), tmp_path / f"p.{form}"
    if form == "csv.gz":
        with gzip.open(local, "wb") as out:
            pyarrow.csv.write_csv(rows, out)
    elif form == "jsonl":
        local.write_text("".join(json.dumps(row) + "\n" for row in rows.to_pylist()))
    elif form == "tar":
        with tarfile.open(local, "w") as tar:
            for i, row in enumerate(rows.to_pylist()):
                for suffix, data in (("txt", row["text"]), ("json", json.dumps(row)), ("jpg", "x" * 100)):
                    path = tmp_path / f"{i:05d}.{suffix}"
                    path.write_text(data)
                    tar.add(path, path.name)
    else:
        pq.write_table(rows, local, row_group_size=50)
    (store / local.name).upload(local)
    digests = set()
    for i, source in enumerate([local, store / local.name, store, store / "*"]):
        commands.done(*curate(source, words, tmp_path / f"run{i}"))
        digests.add(Run(tmp_path / f"run{i}").account["result_digest"])
    assert len(digests) == 1


def test_names_that_look_like_globs(words: Path, store: RemotePath, tmp_path: Path) -> None:
    """Pools and runs in folders with the characters of a glob, and an address in capitals, are what they say."""
    rows = "".join(json.dumps(row) + "\n" for row in table(300, 7).to_pylist()).encode()
    folder = store / "a [1] *?%20é"
    (folder / "p[1]*.jsonl").put(rows)
    (tmp_path / "p.jsonl").write_bytes(rows)
    capitals = f"S3://{folder.url.partition('://')[2]}"
    pools = [tmp_path / "p.jsonl", folder, folder / "p[1]*.jsonl", capitals, f"{store}/a*/*.jsonl"]
    digests = set()
    for i, source in enumerate(pools):
        commands.done(*curate(source, words, f"{capitals}/../run [{i}]*"))
        digests.add(Run(store / f"run [{i}]*").account["result_digest"])
    assert len(digests) == 1


@pytest.mark.slow
def test_parts_of_a_job_array(
    there: RemotePath, words: Path, undisturbed: Path, store: RemotePath, tmp_path: Path
) -> None:
    """Three parts at once, one of them killed and run again; the last one adds up."""
    match = ["match", there, "--metadata", words, "--out", store, "--part"]
    with start(*match, "1/3", into=tmp_path) as one, start(*match, "2/3", into=tmp_path) as two:
        until(lambda: (store / ".state" / "lock-1-of-3").exists() or one.code is not None, "part 1")
        one.send(signal.SIGKILL)
        one.wait()
        assert two.wait() == 0, two.err
    for part in ("3/3", "1/3"):
        commands.done(*map(str, match), part)
    commands.done("balance", str(store), "--t", T)
    holds(store, undisturbed)
    assert not (store / ".state").glob("lock*")


# --- stopped


def markers(run: RemotePath, stage: str) -> set[str]:
    return {p.stem for p in (run / ".state" / stage).glob("*-*.json") if ".lost" not in p.name}


def killed(run: RemotePath, arguments: list[Any], into: Path, stage: str, after: int, number: int) -> int:
    """Start a command, send it a signal when so many shards of a stage are marked; return how many it left marked."""
    with start(*arguments, "--workers", 1, into=into) as process:

        def reached() -> bool:
            assert process.code is None, (
                f"ended before shard {after} of {stage}: {process.code} {process.err}"
            )
            return len(markers(run, stage)) >= after

        until(reached, f"shard {after} of {stage}")
        process.send(number)
        process.wait()
    left = len(markers(run, stage))
    assert 0 < left < FILES, "the signal hit no work"
    return left


@pytest.mark.slow
def test_killed_and_run_again(
    there: RemotePath, words: Path, undisturbed: Path, store: RemotePath, tmp_path: Path
) -> None:
    """Kill -9 and SIGTERM in either stage, then the same command: what was finished is not made again, and all is equal."""
    command = curate(there, words, store)
    for stage, after, number in (
        ("match", 2, signal.SIGKILL), ("match", 4, signal.SIGTERM), ("balance", 2, signal.SIGKILL),
    ):  # fmt: skip
        left = killed(store, command, tmp_path, stage, after, number)
        assert left >= after
        if number == signal.SIGTERM:
            assert not (store / ".state" / "lock").exists()
    # An upload that was under way when its process died costs money until somebody ends it.
    fs, path = file_system(store.url)
    key = path.partition("/")[2]
    for name in (f"{key}/matched/x.parquet", f"{key}-other/x.parquet"):
        fs.call_s3("create_multipart_upload", Bucket=BUCKET, Key=name)
    tags = {
        name: fs.info(f"{path}/matched/{name}.parquet")["LastModified"]
        for name in markers(store, "match")
    }
    assert commands.call(*command).code == 0
    holds(store, undisturbed)
    assert tags == {name: fs.info(f"{path}/matched/{name}.parquet")["LastModified"] for name in tags}
    left_over = [
        item["Key"] for item in fs.call_s3("list_multipart_uploads", Bucket=BUCKET).get("Uploads", [])
    ]
    assert left_over == [f"{key}-other/x.parquet"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random(
    there: RemotePath, words: Path, undisturbed: Path, store: RemotePath, tmp_path: Path, seed: int
) -> None:
    """Killed at three random moments, then left alone: the result is the same."""
    rng = random.Random(seed)
    left = []
    for _ in range(3):
        with start(*curate(there, words, store), into=tmp_path) as process:
            until(lambda: (store / ".state" / "lock").exists() or process.code is not None, "the lock")
            time.sleep(rng.uniform(0, 4))
            if process.code is None:
                process.send(signal.SIGKILL)
            process.wait()
        left.append(len(markers(store, "match")) + len(markers(store, "balance")))
    commands.done(*curate(there, words, store))
    holds(store, undisturbed)
    print(f"\nseed {seed}: markers after each kill: {left}")


def test_one_process_a_folder(there: RemotePath, words: Path, store: RemotePath) -> None:
    """A second command is refused by name while the first has the folder."""
    with Folder(store).owned():
        line = commands.refused(*curate(there, words, store))
        assert f"{store} is in use by process {os.getpid()} on " in line


def test_another_run_is_refused_or_replaced(
    there: RemotePath, words: Path, undisturbed: Path, store: RemotePath
) -> None:
    """Other settings are refused by name, and with --overwrite replace all; what lies in the pool is refused."""
    commands.done("match", str(there), "--metadata", words, "--out", str(store), "--fold-case")
    assert "holds another run: rule.fold_case: true -> false" in commands.refused(
        *curate(there, words, store)
    )
    commands.done(*curate(there, words, store, "--overwrite"))
    holds(store, undisturbed)
    assert "lies in the pool" in commands.refused(*curate(there, words, there / "run"))
    assert "is a run folder, not a pool" in commands.refused(*curate(store, words, store / "x"))


def test_a_changed_input_is_refused(
    there: RemotePath, pool: Path, words: Path, store: RemotePath
) -> None:
    """An object that is not what was matched is named, by size, or by its tag and its bytes."""
    for path in list(pool.iterdir())[:3]:
        (store / "pool" / path.name).upload(path)
    commands.done("match", str(store / "pool"), "--metadata", words, "--out", str(store / "run"))
    name = next((store / "pool").iterdir()).name
    (store / "pool" / name).upload(pool / name)  # the same bytes again: nothing has changed
    commands.done("match", str(store / "pool"), "--metadata", words, "--out", str(store / "run"))
    (store / "pool" / name).upload(pool / "006.parquet")
    assert f"{name} has changed since" in commands.refused("balance", str(store / "run"), "--t", T)
    (store / "pool" / name).remove()
    assert f"{name} is gone" in commands.refused("balance", str(store / "run"), "--t", T)


# --- bad days


@pytest.mark.slow
def test_one_request_in_ten_fails(
    there: RemotePath, words: Path, undisturbed: Path, store: RemotePath, through: Through
) -> None:
    """500 and 503, at random: tried again, and nobody notices."""
    rng = random.Random(0)

    def answer(request: Asked) -> Answer:
        fails = rng.random() < 0.1
        return rng.choice([(500, "InternalError"), (503, "SlowDown")]) if fails else None

    with through(answer) as standing:
        commands.done(*curate(there, words, store))
        assert len(standing.refused) > 20
        assert {request.method for request in standing.refused} >= {"GET", "PUT", "HEAD"}
    holds(store, undisturbed)


def test_a_shard_that_cannot_be_read_is_lost_and_read_later(
    there: RemotePath, words: Path, undisturbed: Path, store: RemotePath, through: Through
) -> None:
    """One object that is refused costs its shard alone: exit code 3, listed; the same command finishes the run."""
    bad = "003.parquet"
    with through(lambda request: (403, "AccessDenied") if key_of(request).endswith(bad) else None):
        done = commands.call(*curate(there, words, store))
        assert done.code == 3
        assert "1 of 7 inputs were lost" in done.err
        assert f"{there}/{bad}" in done.err
        assert "access is refused" in done.err
    commands.done(*curate(there, words, store))
    holds(store, undisturbed)


@pytest.mark.slow
def test_what_is_wrong_is_one_line(
    there: RemotePath,
    pool: Path,
    words: Path,
    store: RemotePath,
    through: Through,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """No bucket, no permission, no credentials, no server: as input and as output, exit code 2, and nothing is left here."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    both = {"in": curate(there, words, tmp_path / "run"), "out": curate(pool, words, store)}
    for line in (
        commands.refused(*curate("s3://nobucket/pool", words, tmp_path / "run")),
        commands.refused(*curate(pool, words, "s3://nobucket/run")),
    ):
        assert "there is no such bucket; create it, or check its name and AWS_ENDPOINT_URL" in line
    assert "there is no pool at" in commands.refused(*curate(store / "nothing", words, tmp_path / "run"))
    assert "is no run folder" in commands.refused("balance", str(store / "nothing"))
    with through(lambda request: (403, "AccessDenied")):
        for command in both.values():
            line = commands.refused(*command)
            assert "access is refused (" in line
            assert "check the credentials" in line
    with through(lambda request: (403, "AccessDenied") if request.method == "PUT" else None):
        assert "access is refused (" in commands.refused(*both["out"])  # may be read, not written
    with through(None, address="http://127.0.0.1:9"):
        for command in both.values():
            began = time.monotonic()
            line = commands.refused(*command)
            assert "cannot be reached" in line
            assert "check AWS_ENDPOINT_URL" in line
            assert time.monotonic() - began < 60
    for name in ENVIRONMENT:
        if "KEY" in name:
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with through(lambda request: None):
        for command in both.values():
            assert "no credentials are found" in commands.refused(*command)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "run" not in path.parts]


def test_no_secret_is_written(
    there: RemotePath, words: Path, store: RemotePath, tmp_path: Path, through: Through
) -> None:
    """Neither key stands in any file of a run, nor in what is said, also where it fails."""
    done = commands.done(*curate(there, words, store))
    with through(lambda request: (403, "SignatureDoesNotMatch") if request.method == "PUT" else None):
        said = done.out + done.err + commands.refused(*curate(there, words, store / "other"))
    with store.local_folder() as run:
        data = [path.read_bytes() for path in run.rglob("*") if path.is_file()]
    data += [(store / name).read_bytes() for name in store.sizes() if name.startswith(".state")]
    assert len(data) > 20
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert ENVIRONMENT[name] not in said
        assert not [found for found in data if ENVIRONMENT[name].encode() in found]


# --- many


@pytest.mark.slow
def test_thousands_of_shards(store: RemotePath, through: Through) -> None:
    """A pool of 3,000 files is listed by a request a thousand; the 100 markers of a stage are read in parallel."""
    n, marked = 3_000, 100

    def write(i: int) -> None:
        (store / "pool" / f"{i:05d}.jsonl").put(b'{"text": "a"}\n')

    def mark(i: int) -> None:
        (store / "run" / ".state" / "match" / f"{i:06d}-0000.json").put(marker(i))

    folder = Folder(store / "run")
    stage = Stage(folder, MATCH)
    stage.begin({"list": "a"})
    digest = stage.digest

    def marker(i: int) -> bytes:
        return json.dumps(
            {"fingerprint": digest, "files": {f".state/match/{i:06d}-0000.json": 0}, "i": i}
        ).encode()

    map_parallel(write, range(n), 16)
    map_parallel(mark, range(marked), 16)
    with through(lambda request: None) as standing:
        began = time.monotonic()
        files = find_files(str(store / "pool"))
        listed, requests = time.monotonic() - began, len(standing.asked)
        assert [file.name for file in files] == [f"{i:05d}.jsonl" for i in range(n)]
        assert requests <= n / 1000 + 10
    began = time.monotonic()
    stage.begin({"list": "a"})
    looked = time.monotonic() - began
    assert stage.finished_or_lost() >= {f"{i:06d}-0000" for i in range(marked)}
    assert stage._snapshot is not None
    assert len(stage._snapshot.markers) == marked + 1
    began = time.monotonic()
    store.remove()
    print(
        f"\n{n} files listed in {listed:.1f} s by {requests} requests; {marked} markers read in {looked:.1f} s; "
        f"{n + marked} objects removed in {time.monotonic() - began:.1f} s"
    )


def test_a_command_on_this_machine_loads_no_client(tmp_path: Path, words: Path, pool: Path) -> None:
    """Where no path is remote, neither fsspec nor s3fs is imported."""
    code = (
        "import sys; from metaclip.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print({'s3fs', 'aiobotocore', 'fsspec'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, *map(str, curate(pool, words, tmp_path / "run"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
