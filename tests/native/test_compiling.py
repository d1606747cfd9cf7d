"""Kernels: cached as machine code and loaded without numba; files that others could have written are not loaded."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from metaclip import Matcher, Metadata
from metaclip.curate import draw
from metaclip.native import compiling
from metaclip.native.compiling import compiled, is_cached

ENTRIES = ["a", "dog", "a dog", "photo of", "of a", "of"]
TEXTS = ["a photo of a dog", "dog, a dog!", "", "nothing here", "of of of"] * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and no kernel in this process."""
    monkeypatch.setenv("METACLIP_CACHE", str(tmp_path / "cache"))
    compiling._compiled.cache_clear()
    yield tmp_path / "cache" / "kernels"
    compiling._compiled.cache_clear()


def hexed() -> list[list[int]]:
    """Return the results of the kernel that parses hex digits, which takes arrays and numbers."""
    from metaclip.pool.uid import uids_of

    found: list[list[int]] = uids_of(pa.array(["x"] * 3), None, pa.array(["00ff", "f" * 32, "1"])).tolist()
    return found


EXPECTED = [[0, 255], [2**64 - 1, 2**64 - 1], [0, 1]]


@pytest.mark.parametrize("module", compiling.MODULES)
def test_every_kernel_is_kept_and_loaded(cache: Path, module: str) -> None:
    """Every kernel gets a file of machine code that loads."""
    names = importlib.import_module(f"metaclip.native.{module}").KERNELS
    for name in names:
        assert not is_cached(module, name)
        compiled(module, name)
        assert is_cached(module, name)
    found = {path.name.rpartition("-")[0] for path in cache.iterdir()}
    assert found == {f"{module}-{name}" for name in names}
    for path in cache.iterdir():
        compiling.Kernel.from_file(path.read_bytes())


def test_another_process_loads_what_one_compiled(cache: Path) -> None:
    """The second process does not import numba and finds the same matches, uids and draws."""
    program = """
import json, sys
import numpy as np, pyarrow as pa
from metaclip import Matcher, Metadata
from metaclip.curate import draw
from metaclip.pool.uid import uids_of
entries, texts = json.loads(sys.argv[1])
found = Matcher(Metadata(entries), cache=False).match(texts).to_pylist()
uids = uids_of(pa.array(texts), None, None).tolist()
values, offsets = np.array([0, 1, 1], np.uint32), np.array([0, 2, 3])
kept = draw.keep_probabilities(values, offsets, np.array([0.5, 0.25])).tolist()
print(json.dumps(["numba" in sys.modules, found, uids, kept]))
"""
    command = [sys.executable, "-c", program, json.dumps([ENTRIES, TEXTS])]
    first, second = (json.loads(subprocess.check_output(command, text=True)) for _ in range(2))
    assert (first[0], second[0]) == (True, False)
    assert first[1:] == second[1:]
    assert second[1] == Matcher(Metadata(ENTRIES), backend="pyahocorasick").match(TEXTS).to_pylist()
    assert second[3] == [0.625, 0.25]


@pytest.mark.parametrize(
    "harm", [lambda data: data[:-1], lambda data: data[:40], lambda data: b"", lambda data: b"{}\n" + data]
)
def test_a_damaged_file_is_made_anew(cache: Path, harm: Any) -> None:
    """A damaged file is replaced and does not change the result."""
    assert hexed() == EXPECTED
    (path,) = cache.glob("pair_kernel-hex-*")
    path.write_bytes(harm(path.read_bytes()))
    compiling._compiled.cache_clear()
    assert hexed() == EXPECTED
    compiling.Kernel.from_file(path.read_bytes())


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="modes are those of Unix")
@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_what_others_may_write_is_not_loaded(cache: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    """A file that other users may write to is compiled again and replaced by one that only its owner may write to."""
    assert hexed() == EXPECTED
    (path,) = cache.glob("pair_kernel-hex-*")
    path.chmod(mode)
    compiling._compiled.cache_clear()
    loaded: list[bytes] = []
    monkeypatch.setattr(compiling.Kernel, "from_file", classmethod(lambda cls, data: loaded.append(data)))
    assert hexed() == EXPECTED
    assert not loaded
    assert path.stat().st_mode & 0o777 == 0o644


def test_another_users_file_is_not_loaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner must be this user, or root."""
    assert hexed() == EXPECTED
    (path,) = cache.glob("pair_kernel-hex-*")
    if os.getuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(PermissionError):
        compiling._read_trusted(path)


def test_a_cache_that_cannot_be_written(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that cannot be cached still works in this process."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("METACLIP_CACHE", str(tmp_path / "file"))
    assert hexed() == EXPECTED


def test_a_kernel_is_known_by_all_that_it_is_written_in() -> None:
    """The names of cached files depend on all modules of this package that kernels import."""
    folder = Path(compiling.__file__).parent
    for name in compiling._SOURCES[:-1]:
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("metaclip"):
                package, _, module = str(node.module).rpartition(".")
                assert package == "metaclip.native", node.module
                assert module in compiling._SOURCES


def test_what_does_not_fit_the_signature_is_refused() -> None:
    """Another dtype or shape, gaps between items, or a read-only array: TypeError, and nothing is touched."""
    chances = compiled("pair_kernel", "chances")
    values, offsets = np.array([0, 1, 1], np.uint32), np.array([0, 2, 3])
    probability, result = np.array([0.5, 0.25]), np.zeros(2)
    chances(values, offsets, 2, probability, result)
    assert result.tolist() == [0.625, 0.25]
    locked = result.copy()
    locked.flags.writeable = False
    for wrong in (np.zeros(2, np.float32), np.zeros((2, 1)), np.zeros(4)[::2], locked):
        with pytest.raises(TypeError, match="expects an array"):
            chances(values, offsets, 2, probability, wrong)
    with pytest.raises(TypeError, match="5 arguments"):
        chances(values, offsets, 2, probability)
    values.flags.writeable = False  # ids are only read: Arrow's own memory will do
    chances(values, offsets, 2, probability, result)


def test_threads_share_a_kernel(cache: Path) -> None:
    """Eight threads that use a kernel at once compile it once, and all get the same results."""
    made: list[Any] = []
    values, offsets = np.zeros(100_000, np.uint32), np.arange(100_001)

    def work() -> None:
        made.append(draw.keep_probabilities(values, offsets, np.array([0.5])))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert all((one == 0.5).all() for one in made)
    assert len(list(cache.iterdir())) == 1
