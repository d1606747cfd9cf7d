"""`metaclip reshard`: what it prints, its exit codes, and that a killed one goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests import commands
from tests.reshard.test_reshard import files_of, samples_of, write_uids
from tests.training.shards import sample, uid, write_shards, write_tar


def call(*arguments: str | Path) -> tuple[int, str, str]:
    """Call the verb: (exit code, standard output, standard error)."""
    done = commands.call("reshard", *arguments)
    return done.code, done.out, done.err


def test_what_it_prints(tmp_path: Path) -> None:
    """Samples, what was written, what is missing and where, and what can be done next."""
    write_shards(tmp_path / "tars", [6])
    subset = write_uids(tmp_path / "s.npy", [uid(n) for n in (1, 1, 3, 77)])
    code, out, err = call(
        tmp_path / "tars",
        "--subset",
        subset,
        "--out",
        tmp_path / "out",
        "--shard-size",
        "2",
        "--workers",
        "1",
    )
    assert (code, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()[:3]] == [
        ["samples", "6"],
        ["written", "3"],
        ["missing", "1"],
    ]
    assert "missing.npy" in out
    assert f"metaclip curate {tmp_path / 'tars'} --out run_arrived/" in out
    assert [key for key, _ in samples_of(tmp_path / "out")] == [
        f"{uid(1)}-0",
        f"{uid(1)}-1",
        f"{uid(3)}-0",
    ]


def test_what_comes_next(tmp_path: Path) -> None:
    """Nobody is sent back to balance a subset of which nothing is missing."""
    write_shards(tmp_path / "tars", [6])
    subset = write_uids(tmp_path / "s.npy", [uid(n) for n in (1, 3)])
    code, out, _ = call(
        tmp_path / "tars", "--subset", subset, "--out", tmp_path / "out", "--workers", "1"
    )
    assert code == 0
    assert out.endswith(
        f"next      tars in {tmp_path / 'out'}; to train on them: metaclip train RECIPE --tars {tmp_path / 'out'} --out model/\n"
    )


def test_lost_tars(tmp_path: Path) -> None:
    """A tar that cannot be read is exit code 3, with and without leave; only with it is anything written."""
    paths = write_shards(tmp_path / "tars", [3, 3])
    paths[0].write_bytes(paths[0].read_bytes()[:2000])
    subset = write_uids(tmp_path / "s.npy", [uid(n) for n in range(6)])
    given = (tmp_path / "tars", "--subset", subset, "--out", tmp_path / "out", "--workers", "1")
    code, out, err = call(*given)
    assert (code, out) == (3, "")
    assert "00000.tar cannot be read as tar" in err
    code, out, err = call(*given, "--allow-lost")
    assert code == 3
    assert "written                3   of 6 in the subset" in out
    assert "went on without 1 tars" in err


def test_what_is_refused(tmp_path: Path) -> None:
    """No tars, no subset, nothing in common, a shard of no samples: exit code 2 and a clear line."""
    write_shards(tmp_path / "tars", [3])
    subset = write_uids(tmp_path / "s.npy", [uid(99)])
    for arguments, line in (
        ((tmp_path / "none", "--subset", subset), "there is no pool at"),
        ((tmp_path / "tars", "--subset", tmp_path / "none.npy"), "there is no subset"),
        ((tmp_path / "tars", "--subset", subset), "none of the 3 samples is in"),
        ((tmp_path / "tars", "--subset", subset, "--shard-size", "0"), "shard_size is 0"),
    ):
        code, out, err = call(*arguments, "--out", tmp_path / "out", "--workers", "1")
        assert (code, out) == (2, ""), arguments
        assert line in err
    assert "--subset" in commands.refused("reshard", tmp_path / "tars", "--out", tmp_path / "out")


def test_killed(tmp_path: Path) -> None:
    """Killed while it works, the same command ends with the same shards."""
    for index in range(6):
        write_tar(
            tmp_path / "tars" / f"{index}.tar",
            [file for n in range(300 * index, 300 * index + 300) for file in sample(n)],
        )
    subset = write_uids(tmp_path / "s.npy", [uid(n) for n in range(0, 1800, 2)])
    given = [str(tmp_path / "tars"), "--subset", str(subset), "--shard-size", "50", "--workers", "1"]
    assert call(*given, "--out", tmp_path / "want")[0] == 0
    script = "import sys; from metaclip.cli.reshard import command; command.main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *given, "--out", str(tmp_path / "out")], stdout=subprocess.DEVNULL
    )
    end = time.monotonic() + 60
    while not list((tmp_path / "out").glob("0*.tar")) and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert call(*given, "--out", tmp_path / "out")[0] == 0
    assert files_of(tmp_path / "out") == files_of(tmp_path / "want")
    assert not list((tmp_path / "out").rglob(".*.tmp"))
