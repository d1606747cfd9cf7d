"""The real img2dataset, in its own environment, downloads a pool by the printed command; its output is a pool again."""

from __future__ import annotations

import json
import os
import shlex
import struct
import subprocess
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests import commands
from tests.bench.peers import environment
from tests.crawls import image, served, wat

pytest.importorskip("isal", reason="needs metaclip[crawl]")

LIST = Path(__file__).parents[2] / "metadata" / "toy.txt"


def png(side: int, grey: int) -> bytes:
    """Return a PNG image of one shade of grey."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + bytes([grey]) * side for _ in range(side))
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


@pytest.mark.slow
def test_there_and_back(tmp_path: Path) -> None:
    """The printed command downloads the pairs; their uids survive, and images that could not be fetched are counted."""
    given = os.environ.get("METACLIP_IMG2DATASET")  # the Python of an environment that has it
    python = Path(given) if given else environment(tmp_path / "img2dataset", ("img2dataset==1.47.0",))
    (tmp_path / "web").mkdir()
    for i in range(8):
        (tmp_path / "web" / f"{i}.png").write_bytes(png(32, 25 * i))
    crawl, pool = tmp_path / "crawl.warc.wat", tmp_path / "pool"
    with served(tmp_path / "web") as (address, _):
        crawl.write_bytes(
            wat(address + "page", [image(f"/{i}.png", f"a photo of a dog, {i}") for i in range(10)])
        )
        done = commands.done("extract", crawl, "--no-identify", "--out", pool)
        command = shlex.split(next(line for line in done.out.splitlines() if "img2dataset" in line))[1:]
        assert command[0] == "img2dataset"
        command[0] = str(python.parent / "img2dataset")
        quiet = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
        subprocess.run(
            [*command, "--processes_count", "1", "--thread_count", "4"],
            check=True,
            env=quiet,
            timeout=300,
        )
    images = Path(command[command.index("--output_folder") + 1])
    made = pq.read_table(images / "00000.parquet").to_pylist()
    ours = {row["uid"]: row for path in pool.glob("*.parquet") for row in pq.read_table(path).to_pylist()}
    assert len(made) == len(ours) == 10
    for row in made:
        assert (row["url"], row["caption"]) == (ours[row["uid"]]["url"], ours[row["uid"]]["text"])
    assert sorted(row["status"] for row in made) == ["failed_to_download"] * 2 + ["success"] * 8
    commands.done(
        "curate", images / "*.parquet", "--metadata", LIST, "--t", 100, "--out", tmp_path / "run"
    )
    account = json.loads((tmp_path / "run" / "card.json").read_text())
    assert (
        account["funnel"]["rows"],
        account["funnel"]["not_downloaded"],
        account["funnel"]["kept"],
    ) == (10, 2, 8)
    curated = pq.read_table(tmp_path / "run" / "curated")["uid"].to_pylist()
    assert set(curated) == {row["uid"] for row in made if row["status"] == "success"}
