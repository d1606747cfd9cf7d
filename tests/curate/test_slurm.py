"""`curation/slurm.sh` on a real Slurm of one node: tasks that are killed, cancelled and requeued leave no trace in the result."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import commands, runs
from tests.processes import environment, until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "squeue")
PARTS, FILES, ROWS = 4, 48, 50_000

CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=5
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=1,bf_interval=1
NodeName={name} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""
"""A cluster of this machine. A requeued task waits for as long as a credential lasts: 5 seconds here, 120 by default."""


def _free_ports() -> list[int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return [one.getsockname()[1], other.getsockname()[1]]


def _processes_of(folder: Path) -> list[int]:
    """Return the processes whose command line or environment names a folder: the daemons, and what they started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            if int(entry.name) != os.getpid() and os.fsencode(folder) in told:
                found.append(int(entry.name))
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a Slurm of one node, which the variable SLURM_CONF names; all its processes end with the test."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"needs {missing[0]}: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("needs to be root: slurmd starts the tasks of users")
    folder = tmp_path_factory.mktemp("slurm")
    host = socket.gethostname()
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(folder=folder, host=host, name=host.split(".")[0], ports=_free_ports())
    )
    files = [
        f"--{name}={folder}/munge.{end}"
        for name, end in (("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed"))
    ]  # fmt: skip
    daemons = [
        ["munged", "--foreground", "--force", *files],
        ["slurmctld", "-D", "-f", configuration],
        ["slurmd", "-D", "-f", configuration],
    ]
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as held:
        patch.setenv("SLURM_CONF", str(configuration))
        started = []
        try:
            for command in daemons:
                log = held.enter_context((folder / f"{command[0]}.out").open("w"))
                started.append(subprocess.Popen(command, stdout=log, stderr=log))
                if command[0] == "munged":
                    until((folder / "munge.socket").exists, "munged")
            until(lambda: "idle" in _output("sinfo", "--noheader", "--format=%t"), f"a node: {folder}")
            yield folder
        finally:
            subprocess.run(["scancel", "--full", "--signal=KILL", "--user=root"], check=False)
            _output("scancel", "--user=root")
            for process in reversed(started):
                process.send_signal(signal.SIGTERM)
            for process in started:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=10)
            for number in _processes_of(folder):
                os.kill(number, signal.SIGKILL)
            for process in started:
                process.wait()
    assert _processes_of(folder) == []


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _states(jobs: str) -> dict[str, str]:
    """Return the state of each job and task of an array, such as 7_2, that the cluster still knows."""
    shown = _output("squeue", "--noheader", "--array", "--states=all", "--format=%i %T", f"--jobs={jobs}")
    return dict(line.split() for line in shown.splitlines())


def _submit(out: Path, pool: Path, words: Path) -> tuple[str, str]:
    """Submit a run; return the ids of the array and of the last job."""
    command = ["bash", ROOT / "curation" / "slurm.sh", str(PARTS), f"{out}/", pool, "--metadata", words]
    more = {"METACLIP": f"{sys.executable} -m metaclip", "BALANCE": f"--t {runs.T}", "CPUS": "1"}
    done = subprocess.run(
        command, env=environment(**more), cwd=out.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = re.match(r"submitted array (\d+) and job (\d+);", done.stdout)
    assert found, done.stdout
    return found[1], found[2]


def _wait(jobs: str, folder: Path) -> dict[str, str]:
    """Wait until all jobs have ended; return their states."""
    end = time.monotonic() + 60
    while set((states := _states(jobs)).values()) & {"PENDING", "RUNNING", "COMPLETING", "REQUEUED"}:
        assert time.monotonic() < end, (states, _logs(folder))
        time.sleep(0.2)
    return states


def _logs(folder: Path) -> str:
    return "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(folder.glob("run*.log")))


def _shards(run: Path, part: int) -> int:
    """Return the number of shards that a part has finished: file i belongs to part i % PARTS + 1."""
    return sum((int(name[:6]) % PARTS) + 1 == part for name in runs.markers(run, "match"))


def _process_of(run: Path, part: int) -> int:
    """Return the process that works on a part, which its lock names."""
    found = re.search(r"process (\d+)", (run / ".state" / f"lock-{part}-of-{PARTS}").read_text())
    assert found
    return int(found[1])


def test_tasks_killed_cancelled_and_requeued(cluster: Path, tmp_path: Path) -> None:
    """Of four tasks, one is killed, one cancelled, one requeued; submitted again, they leave the run of one machine."""
    pool, words = runs.write_pool(tmp_path / "pool", FILES, ROWS), runs.write_list(tmp_path / "list.txt")
    run, began = tmp_path / "run", time.monotonic()
    array, last = _submit(run, pool, words)

    # Two tasks run at a time. Each is hit after its first shard and before its last.
    hits = {1: "requeued", 2: "killed", 3: "cancelled"}
    while hits:
        assert time.monotonic() < began + 60, (hits, _logs(tmp_path))
        for part in [part for part in hits if run.exists() and _shards(run, part)]:
            how = hits.pop(part)
            assert _shards(run, part) < FILES // PARTS, f"task {part} was too fast"
            if how == "killed":
                os.kill(_process_of(run, part), signal.SIGKILL)
            elif how == "cancelled":
                subprocess.run(["scancel", f"{array}_{part}"], check=True)
            else:
                subprocess.run(["scontrol", "requeue", f"{array}_{part}"], check=True)
    states = _wait(f"{array},{last}", tmp_path)
    assert states == {
        f"{array}_1": "COMPLETED",
        f"{array}_2": "FAILED",
        f"{array}_3": "CANCELLED",
        f"{array}_4": "COMPLETED",
        last: "CANCELLED",
    }, _logs(tmp_path)
    assert not (run / "counts.parquet").exists()
    before = runs.made(run, "match")
    assert {_shards(run, 1), _shards(run, 4)} == {FILES // PARTS}
    assert 0 < _shards(run, 2) < FILES // PARTS
    assert 0 < _shards(run, 3) < FILES // PARTS

    array, last = _submit(run, pool, words)
    assert set(_wait(f"{array},{last}", tmp_path).values()) == {"COMPLETED"}, _logs(tmp_path)
    after = runs.made(run, "match")
    assert {name: after[name] for name in before} == before
    commands.done(*runs.curate(pool, words, tmp_path / "wanted"))
    runs.holds(run, tmp_path / "wanted")


def test_too_few_arguments() -> None:
    """Without a pool, the script shows how it is called, and submits nothing."""
    command = ["bash", ROOT / "curation" / "slurm.sh", "4", "run"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]}
    )
    assert done.returncode == 2
    assert "bash curation/slurm.sh PARTS RUN POOL" in done.stderr
    assert "SBATCH_" in done.stderr.splitlines()[-1]
