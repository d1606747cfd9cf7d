"""The library on another processor: the calls of the table of cases, repeated on aarch64, give the same bytes.

The calls are recorded here (recording.py), and made by a C program (replay.c) that runs here and in an emulator.
"""

from __future__ import annotations

import importlib.util
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from metaclip import native
from metaclip.matching.matcher import Matcher
from metaclip.metadata import Metadata
from metaclip.native import build
from tests.cases.matching import CASES
from tests.native import fuzz
from tests.native.recording import Recorder

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("replay")]

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record the calls of the table of cases, and of random problems; all results are checked as they are recorded."""
    library = native.load()
    if library is None:
        pytest.skip("needs the compiled library")
    path = tmp_path_factory.mktemp("calls") / "calls"
    recorder = Recorder(library, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_load", lambda: recorder)
        for case in CASES:
            metadata = Metadata(case.entries)
            matcher = Matcher(metadata, case.rule, cache=tmp_path_factory.mktemp("cache"))
            around = matcher.match([case.text, None, case.entries[0], case.text])
            assert (around[0].as_py(), around[3].as_py()) == (case.ids, case.ids)
            assert matcher.find(case.text) == case.ids
            matcher.count(around)
        for seed in range(30):
            fuzz.check_texts(random.Random(seed))
            fuzz.check_pairs(random.Random(seed))
    recorder.close()
    return path


def replay(command: list[str], run: list[str], calls: Path, folder: Path) -> None:
    """Compile the library and replay.c to a program; run it over the calls."""
    sources = [str(HERE / "replay.c")]  # it includes the library's
    flags = [flag for flag in build.FLAGS if flag not in ("-fPIC", "-shared")]
    program = str(folder / "replay")
    subprocess.run(
        [*command, *flags, '-DMC_DIGEST=""', f"-I{build.FOLDER / 'src'}", "-o", program, *sources, "-lm"],
        check=True,
    )
    done = subprocess.run(
        [*run, program, str(calls)], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout.split()[0]) > 5 * len(CASES)


def test_on_this_processor(calls: Path, tmp_path: Path) -> None:
    """The calls give the same bytes in a program of this processor: whatever differs elsewhere is not the recording's fault."""
    if (compiler := build.find_compiler()) is None:
        pytest.skip("needs a C compiler")
    replay(compiler, [], calls, tmp_path)


def test_a_difference_is_noticed(calls: Path, tmp_path: Path) -> None:
    """A recording in which the last result is another one is refused with the number of the call."""
    if (compiler := build.find_compiler()) is None:
        pytest.skip("needs a C compiler")
    changed = tmp_path / "changed"
    data = bytearray(calls.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    with pytest.raises(AssertionError, match="call .* differs"):
        replay(compiler, [], changed, tmp_path)


def test_on_aarch64(calls: Path, tmp_path: Path) -> None:
    """The calls give the same bytes on aarch64, where the library has neither AVX2 nor SSE2."""
    if cross := shutil.which("aarch64-linux-gnu-gcc"):
        compiler = [cross]
    elif importlib.util.find_spec("ziglang"):
        compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl"]
    else:
        pytest.skip(
            "needs a compiler for aarch64 (Debian: apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross)"
        )
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None:
        pytest.skip("needs an emulator of aarch64 (Debian: apt install qemu-user)")
    replay([*compiler, "-static"], [emulator], calls, tmp_path)
