"""The shipped pool of shapes is what its script draws."""

from __future__ import annotations

import importlib
import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

SHAPES = Path(__file__).parents[2] / "curation" / "toy_shapes"
pytestmark = pytest.mark.extra


def content(path: Path) -> list[tuple[str, Any]]:
    """The members of a tar; of images their pixels, because the bytes of a PNG depend on who compressed it."""
    from PIL import Image

    found: list[tuple[str, Any]] = []
    with tarfile.open(path) as tar:
        for member in tar:
            data: Any = tar.extractfile(member).read()  # type: ignore[union-attr]
            if member.name.endswith(".png"):
                with Image.open(io.BytesIO(data)) as image:
                    data = (image.mode, image.size, image.tobytes())
            found.append((member.name, data))
    return found


def test_the_script_draws_what_is_shipped(tmp_path: Path) -> None:
    """Names, images, captions and fields; and tables with one failed download for each tar."""
    pytest.importorskip("PIL", reason="needs the extra train")
    importlib.import_module("curation.toy_shapes").write(tmp_path)
    names = sorted(path.name for path in SHAPES.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert names == ["00000.parquet", "00000.tar", "00001.parquet", "00001.tar"]
    for name in names:
        if name.endswith(".tar"):
            made = content(tmp_path / name)
            assert len(made) == 3 * 32
            assert made == content(SHAPES / name)
        else:
            table = pq.read_table(SHAPES / name)
            assert pq.read_table(tmp_path / name).equals(table)
            assert table["status"].to_pylist().count("failed_to_download") == 1
    assert sum(path.stat().st_size for path in SHAPES.iterdir()) < 300_000
