"""The inputs of the tests of faults: a pool and a crawl."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crawls import packed, photos
from tests.curate.test_restart import large, undisturbed, words

__all__ = ["crawl", "large", "undisturbed", "words"]


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crawl of 60 files; some images occur in several files."""
    pytest.importorskip("isal", reason="needs metaclip[crawl]")
    folder = tmp_path_factory.mktemp("crawl")
    for i in range(60):
        pages = (photos(500 * (i + j), 800, "https://example.org/p") for j in range(2))
        (folder / f"{i:02}.warc.wat.gz").write_bytes(packed(pages))
    return folder
