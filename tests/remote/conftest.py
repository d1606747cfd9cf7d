"""A bucket of its own for each test, on a server that all tests of a process share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from metaclip.storage import object_store as stores
from metaclip.storage.files import as_path
from metaclip.storage.object_store import file_system
from metaclip.storage.remote import RemotePath
from tests.remote.servers import BUCKET, ENVIRONMENT, Answer, Asked, moto, proxy

Through = Callable[..., contextlib.AbstractContextManager[Any]]


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of an S3 server with an empty bucket, which the environment names."""
    pytest.importorskip("s3fs", reason="needs pip install 'metaclip[s3]'")
    pytest.importorskip("moto", reason="needs moto's server")
    with moto() as address, pytest.MonkeyPatch.context() as patch:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": address}.items():
            patch.setenv(name, value)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        file_system(f"s3://{BUCKET}")[0].mkdir(BUCKET)
        yield address


@pytest.fixture
def store(server: str, request: pytest.FixtureRequest) -> RemotePath:
    """A folder of the bucket that no other test uses: tests of two modules may have one name."""
    name = f"{request.module.__name__.rpartition('.')[2]}-{request.node.name}"
    found = as_path(f"s3://{BUCKET}") / name.replace("[", "-").replace("]", "")
    assert isinstance(found, RemotePath)
    return found


@pytest.fixture
def through(server: str, monkeypatch: pytest.MonkeyPatch) -> Through:
    """Reach the server through a proxy that may fail, or at another address, for the length of a block."""

    @contextlib.contextmanager
    def asked(
        answer: Callable[[Asked], Answer] | None, address: str | None = None, **how: Any
    ) -> Iterator[Any]:
        with contextlib.ExitStack() as held:
            standing = held.enter_context(proxy(server, answer, **how)) if answer is not None else None
            monkeypatch.setenv("AWS_ENDPOINT_URL", address or standing.address)  # type: ignore[union-attr]
            # Clients keep the address that they were made with.
            stores._open_file_system.cache_clear()
            try:
                yield standing
            finally:
                monkeypatch.setenv("AWS_ENDPOINT_URL", server)
                stores._open_file_system.cache_clear()

    return asked
