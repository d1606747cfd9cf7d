"""`metaclip inspect` is killed at random moments, in both of its stages: the same command ends with the same files."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PIL", reason="needs Pillow: pip install '.[images]'")

from tests import commands
from tests.faults.victims import kill, workers
from tests.inspect.pictures import encoded, photo
from tests.inspect.test_select import contents, near_copies, write
from tests.processes import start, until

MARKERS = 80
"""How many markers a run leaves, about."""


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_moments(kills: int, tmp_path: Path) -> None:
    """SIGKILL of the driver at random moments of the run, again and again, changes no byte of what comes out."""
    rng = random.Random(kills)
    samples = [sample for seed in range(12) for sample in near_copies(seed, 90)]
    tars = write(tmp_path / "tars", samples, 60)
    folder = tmp_path / "set" / "test" / "x"
    folder.mkdir(parents=True)
    (folder / "0.png").write_bytes(encoded(photo(3)))
    out = tmp_path / "seen"
    command: list[Any] = [
        "inspect", tars, "--exact-duplicates", "--near-duplicates", "--max-texts", 20, "--min-bytes", 500, "--against",
        tmp_path / "set", "--memory", 200_000, "--workers", 2,
    ]  # fmt: skip

    def markers() -> int:
        return len(list((out / ".state").rglob("*.json"))) if out.exists() else 0

    with start(*command, "--out", tmp_path / "one", into=tmp_path) as process:
        assert process.wait() == 0, process.err
    killed, moments = 0, set[int]()
    while killed < kills:
        goal = markers() + rng.randrange(2 * MARKERS // kills)
        with start(*command, "--out", out, into=tmp_path) as process:
            until(lambda p=process, g=goal: markers() >= g or p.code is not None, f"marker {goal}")
            time.sleep(rng.random() / 10)
            hit = workers(process.pid)
            if process.code is None and kill(process.pid):
                process.wait()
                killed += process.code == -signal.SIGKILL
                moments.add(markers())
            assert process.code in (0, -signal.SIGKILL), process.err
            until(
                lambda h=hit: not any(Path(f"/proc/{pid}").exists() for pid in h),
                "the end of its workers",
            )
            if process.code == 0:  # it ended before it was killed: begin anew
                assert contents(tmp_path / "one") == contents(out)
                shutil.rmtree(out)
    assert len(moments) > kills // 2, f"the kills hit the same moment: {moments}"
    commands.done(*command, "--out", out)
    assert contents(tmp_path / "one") == contents(out)
    assert not list(out.rglob("*.tmp"))
