"""The compiled library: built from its sources, refused if stale, and never needed for the result."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaclip import native
from metaclip.curate import draw
from metaclip.errors import MetaclipError
from metaclip.native import build

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of sources and library, which `native.load` uses; return its folder."""
    folder = tmp_path / "native"
    shutil.copytree(build.FOLDER / "src", folder / "src")
    for path in build.FOLDER.glob("libmetaclip*"):
        shutil.copy(path, folder)
    monkeypatch.setattr(native, "FOLDER", folder)
    native._load.cache_clear()
    yield folder
    native._load.cache_clear()


def is_current(folder: Path) -> bool:
    """Return whether all forms of the library are of the sources beside them."""
    wanted = build.source_digest(folder)
    return {build.digest_of(path) for path in folder.glob("libmetaclip*")} == {wanted}


def change(source: Path) -> None:
    source.write_text(source.read_text(encoding="utf-8") + "/* changed */\n", encoding="utf-8")


def test_the_library_is_of_its_sources() -> None:
    """The library that the tests run was compiled from the sources beside it."""
    assert native.load() is not None
    assert is_current(native.FOLDER)


def test_a_changed_source_is_compiled(copy: Path) -> None:
    """A library that was compiled from other sources is compiled again before it is used."""
    change(copy / "src" / "match.c")
    assert native.load() is not None
    assert is_current(native.FOLDER)
    assert {path.name for path in copy.iterdir()} == {
        "src",
        *(path.name for path in build.FOLDER.glob("libmetaclip*")),
    }


def test_a_stale_library_without_a_compiler_is_refused(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a compiler, a library of other sources is not used, and the message names two ways out."""
    change(copy / "src" / "metaclip.h")
    monkeypatch.setattr(build, "find_compiler", lambda: None)
    with pytest.raises(
        MetaclipError, match="not compiled from the sources beside it: .*apt install gcc.*METACLIP_PURE=1"
    ):
        native.load()


def test_a_source_with_an_error_is_refused(copy: Path) -> None:
    """A source that does not compile stops with the compiler's last line."""
    (copy / "src" / "pairs.c").write_text("int f(void) { return nothing; }\n")
    with pytest.raises(MetaclipError, match="could not be compiled .*CC="):
        native.load()


def test_a_damaged_library_is_compiled_again(copy: Path) -> None:
    """A file that cannot be loaded is replaced."""
    (copy / build.NAME).write_bytes(b"no library")
    assert native.load() is not None
    assert is_current(native.FOLDER)


def test_the_compiler_is_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """CC names the compiler; otherwise it is cc, gcc or clang, else zig's."""
    monkeypatch.setenv("CC", "gcc -m64")
    assert build.find_compiler() == ["gcc", "-m64"]
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "")
    assert build.find_compiler() in (None, list(build.ZIG))


def test_the_processors_instructions_are_recognised() -> None:
    """The form with AVX2 is used where Linux lists these instructions of the processor."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        pytest.skip("needs Linux")
    listed = {"avx2", "bmi1"} <= set(info.read_text(encoding="utf-8").split())
    assert native.load().mc_has_avx2() == listed
    assert ("-avx2" in native.load()._name) == listed


def test_what_does_not_fit_is_refused() -> None:
    """Another dtype, gaps between items, or a read-only array that would be written: TypeError."""
    array = np.zeros(4)
    assert native.address(array, np.float64) == array.ctypes.data
    locked = array.copy()
    locked.flags.writeable = False
    assert native.address(locked, np.float64) == locked.ctypes.data
    for wrong, written in ((array.astype(np.float32), False), (array[::2], False), (locked, True)):
        with pytest.raises(TypeError, match="contiguous array of float64"):
            native.address(wrong, np.float64, written=written)


PROGRAM = """
import json, sys, hashlib, pathlib
import numpy as np, pyarrow as pa
from metaclip import Matcher, Metadata, curate
from metaclip.curate import draw
from metaclip.curate.plan import plan
from metaclip.native import load
from metaclip.pool.uid import uids_of
entries = ["a", "dog", "a dog", "photo of", "of a", "of", "猫"]
texts = ["a photo of a dog", "dog, a dog!", "", "nothing here", "of of of", "猫 a dog"] * 40
found = Matcher(Metadata(entries), cache=False).match(texts)
uids = uids_of(pa.array(texts), None, pa.array(["ff", "x", None, "", "0" * 40, "AbC"] * 40))
values, offsets = found.values.to_numpy(), found.offsets.to_numpy().astype(np.int64)
counts, sums, by_entry = np.full(7, 9, np.uint64), np.zeros(3, np.uint64), np.zeros((7, 3), np.uint64)
draw.expect_rows(values, offsets, draw.slopes(counts), np.array([1.0, 4.0, 20.0]), sums, by_entry)
run = curate(sys.argv[1], sys.argv[2], out=sys.argv[3], t=20)
assert plan(sys.argv[1], sys.argv[2]).measured.matched == 338
digest = hashlib.sha256((pathlib.Path(sys.argv[3]) / "curated.npy").read_bytes()).hexdigest()
print(json.dumps([load() is not None, found.to_pylist(), uids.tolist(), sums.tolist(), by_entry.tolist(),
    draw.keep_probabilities(values, offsets, np.linspace(0.1, 0.7, 7)).tolist(), run.account["result_digest"], digest]))
"""


def run_program(out: Path, native: str) -> tuple[list[Any], str]:
    """Run the program in a process of its own; return what it printed on standard output and standard error."""
    pool, words = ROOT / "curation" / "toy_pool.jsonl", ROOT / "metadata" / "toy.txt"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(pool), str(words), str(out)],
        env={**os.environ, "METACLIP_NATIVE": native}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout), done.stderr


def test_the_result_does_not_depend_on_the_library(tmp_path: Path) -> None:
    """Matches, uids, sums, probabilities and a whole run are the same with AVX2, without, and without the library."""
    native, silent = run_program(tmp_path / "native", "")
    baseline, _ = run_program(tmp_path / "baseline", "baseline")
    without, said = run_program(tmp_path / "without", "0")
    assert (native[0], baseline[0], without[0]) == (True, True, False)
    assert native[1:] == baseline[1:] == without[1:]
    assert native[-2] == "3594d35f4ace18b2" or native[-2].startswith("3594d35f4ace18b2")
    assert silent == ""
    assert said.count("the compiled library is not used (METACLIP_NATIVE=0)") == 1


def test_an_unknown_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """METACLIP_NATIVE is 0, 1 or baseline."""
    monkeypatch.setenv("METACLIP_NATIVE", "yes")
    native._load.cache_clear()
    with pytest.raises(MetaclipError, match="'yes', must be 0, 1 or baseline"):
        native.load()
    monkeypatch.undo()
    native._load.cache_clear()


def test_vector_instructions_change_nothing() -> None:
    """P(keep) and expected numbers have the same bits in both forms of the library, and in numpy."""
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 9, 5000))])
    values = rng.integers(0, 50, offsets[-1]).astype(np.uint32)
    slopes = draw.slopes(rng.integers(1, 10_000, 50).astype(np.uint64), rng.uniform(0.1, 9.0, 50))
    thresholds = np.geomspace(1, 1e5, 64)
    results = []
    for avx2 in (True, False):
        sums, by_entry = np.zeros(64, np.uint64), np.zeros((50, 64), np.uint64)
        form = native._open(native.FOLDER, avx2=avx2)[0]
        rows, scratch = draw._rows(values, offsets, len(slopes)), np.empty(128)
        form.mc_expect(rows, *(array.ctypes.data for array in (slopes, thresholds)), 64, sums.ctypes.data,
                       by_entry.ctypes.data, 50, scratch.ctypes.data)  # fmt: skip
        results.append((sums.tolist(), by_entry.tolist()))
    sums, by_entry = np.zeros(64, np.uint64), np.zeros((50, 64), np.uint64)
    draw.expect_rows_numpy(values, offsets, slopes, thresholds, sums, by_entry)
    assert results == [(sums.tolist(), by_entry.tolist())] * 2
