"""The fixtures that all tests share: a cache of their own, the folder of real data, the engines, and runs to compare."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from metaclip.engine import Engine
from metaclip.engine.local import Local
from metaclip.engine.ray import Ray
from tests.engines import RAY, WORKERS, Processes
from tests.runs import FILES, ROWS, undisturbed_run, write_list, write_pool

# How long an example takes depends on what else the machine does: no deadline.
settings.register_profile("metaclip", deadline=None, print_blob=True)
settings.load_profile("metaclip")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep automata built by tests out of the user's cache, and the user's out of the tests.

    All processes of pytest-xdist share one folder, so that each automaton is built once.
    """
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "METACLIP_CACHE",
            str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"),
        )
        yield


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data that METACLIP_DATA names; without it, the test is skipped."""
    if not (folder := os.environ.get("METACLIP_DATA")):
        pytest.skip("needs real data: METACLIP_DATA names no folder")
    if not Path(folder).is_dir():
        pytest.fail(f"METACLIP_DATA is {folder}, which is no folder")
    return Path(folder)


@pytest.fixture(scope="module")
def ray_here() -> Iterator[Ray]:
    """Ray on this machine, for all tests of a module."""
    pytest.importorskip("ray", reason="needs metaclip[ray]")
    with Ray(None, WORKERS) as engine:
        yield engine


@pytest.fixture(params=["threads", "processes", RAY])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine."""
    if request.param == "ray":
        return request.getfixturevalue("ray_here")  # type: ignore[no-any-return]
    return {"threads": Local, "processes": Processes}[request.param](WORKERS)


@pytest.fixture(params=["processes", RAY])
def engine_of_processes(request: pytest.FixtureRequest) -> Engine:
    """Each engine whose workers can die."""
    return Processes(WORKERS) if request.param == "processes" else request.getfixturevalue("ray_here")  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of 500 entries, of one word and of two."""
    return write_list(tmp_path_factory.mktemp("list") / "list.txt")


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool that takes a second to curate, for tests that only read it."""
    return write_pool(tmp_path_factory.mktemp("large") / "pool", FILES, ROWS)


@pytest.fixture(scope="session")
def undisturbed(large: Path, words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The large pool curated by one process that was not interrupted."""
    return undisturbed_run(large, words, tmp_path_factory.mktemp("undisturbed"))
