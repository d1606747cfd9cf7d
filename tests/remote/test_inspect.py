"""Tars in a store have the same rows as the same tars here, and the table may be in a store, too."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from metaclip import InspectSettings, RunOptions, inspect
from metaclip.storage.remote import RemotePath
from tests.training.shards import write_shards

pytestmark = pytest.mark.extra
pytest.importorskip("PIL", reason="needs Pillow: pip install '.[images]'")


def test_tars_in_a_store(store: RemotePath, tmp_path: Path) -> None:
    """Read from S3 and written to S3, the table has the bytes that it has here."""
    paths = write_shards(tmp_path / "tars", [30, 20])
    for path in paths:
        (store / "tars" / path.name).put(path.read_bytes())
    settings = InspectSettings(exact_duplicates=True, near_duplicates=True, max_texts=3)
    inspect(tmp_path / "tars", out=tmp_path / "here", settings=settings, options=RunOptions(workers=1))
    made = inspect(
        str(store / "tars"), out=str(store / "seen"), settings=settings, options=RunOptions(workers=2)
    )
    # Pictures of one colour look alike: pHash and dHash see differences within an image alone.
    assert (made.funnel["kept"], made.funnel["near_duplicate"]) == (1, 49)
    for path in sorted((tmp_path / "here").glob("*/*.parquet")):
        with (store / "seen" / path.parent.name / path.name).open("rb") as file:
            assert pq.read_table(file).equals(pq.read_table(path))
    subset = (store / "seen" / "subset.npy").read_bytes()
    assert subset == (tmp_path / "here" / "subset.npy").read_bytes()
