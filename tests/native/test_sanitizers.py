"""The library compiled with AddressSanitizer and UndefinedBehaviorSanitizer: no wrong access to memory, nothing undefined.

A process of its own loads it (tests/native/sanitized.py). METACLIP_FUZZ_SECONDS says how long tests/native/fuzz.py runs.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from metaclip.native import build

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SANITIZERS = ("-g", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
FORMS = {"baseline": (), "avx2": build.AVX2}
TABLE = [
    "tests/matching/test_matcher.py",
    "tests/matching/test_automaton.py::test_nodes_whose_outputs_leave_out_their_last_symbol",
    "tests/matching/test_matcher_laws.py::test_nothing_is_read_beside_the_buffer",
    "tests/extract/test_image_columns.py",
    "tests/extract/test_languages.py",
]


def runtime() -> str | None:
    """Return the path of gcc's AddressSanitizer, which must be loaded before Python; None if there is none."""
    if not (gcc := shutil.which("gcc")):
        return None
    done = subprocess.run(
        [gcc, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    return found if os.path.isabs(found := done.stdout.strip()) else None


@pytest.fixture(
    scope="module",
    params=[pytest.param(form, marks=pytest.mark.xdist_group(f"sanitizers {form}")) for form in FORMS],
)
def environment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Compile one form of the library with sanitizers; return the environment in which Python uses it."""
    flags = FORMS[request.param]
    if (asan := runtime()) is None:
        pytest.skip("needs gcc with its sanitizers (Debian and Ubuntu: apt install gcc)")
    if flags and (platform.machine() != "x86_64" or " avx2 " not in Path("/proc/cpuinfo").read_text()):
        pytest.skip("this processor has no AVX2")
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copytree(build.FOLDER / "src", folder / "src")
    build.compile_library(folder, command=["gcc", *SANITIZERS, *flags], x86=False)
    return {
        **os.environ,
        "METACLIP_SANITIZED": str(folder),
        "METACLIP_NATIVE": "1",
        "LD_PRELOAD": asan,
        # All memory from malloc, so that the sanitizer sees the end of each array.
        "PYTHONMALLOC": "malloc",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        # Python leaks on purpose.
        "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=8",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def run_python(
    arguments: list[str], environment: dict[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, timeout=timeout, capture_output=True, text=True, check=False
    )  # fmt: skip


def report(done: subprocess.CompletedProcess[str]) -> str:
    """Return the end of the output, and the sanitizer's report without what the interpreter called."""
    return f"{done.stdout[-1500:]}\n{done.stderr[:4000]}"


def test_a_fault_is_reported(environment: dict[str, str]) -> None:
    """A write behind the end of an array ends the process with a report: the sanitizers are at work."""
    program = (
        "import numpy as np, tests.native.sanitized; from metaclip.native import load; "
        "counts = np.zeros(2, np.uint64); "
        "load().mc_count(np.array([2], np.uint32).ctypes.data, 1, counts.ctypes.data)"
    )
    done = run_python(["-c", program], environment, 120)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
    assert "mc_count" in done.stderr


def test_table(environment: dict[str, str]) -> None:
    """The table of cases passes without a report, and so do buffers at the end of memory, and a crafted automaton."""
    options = ["-q", "-x", "-p", "tests.native.sanitized", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = run_python(["-m", "pytest", *options, *TABLE], environment, 600)
    assert done.returncode == 0, report(done)


def test_fuzz(environment: dict[str, str]) -> None:
    """Random problems give the oracle's results without a report; the last seed in the output repeats a failure."""
    seconds = os.environ.get("METACLIP_FUZZ_SECONDS", "5")
    seed = [os.environ["METACLIP_FUZZ_SEED"]] if "METACLIP_FUZZ_SEED" in os.environ else []
    done = run_python(["-m", "tests.native.fuzz", seconds, *seed], environment, float(seconds) + 300)
    assert done.returncode == 0, report(done)
    print(done.stdout.split("\n")[-2])
