"""The texts that benchmarks run on: the words of 10,000 real captions, shuffled between them.

So each text is new (remembering whole texts is no answer), while words, lengths and marks are the real ones.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def data_folder() -> Path:
    """Return the folder of real data, or exit with the reason."""
    folder = os.environ.get("METACLIP_DATA")
    if not folder:
        sys.exit("set METACLIP_DATA to the folder with alt_text_10k.parquet and entries_500k.txt.gz")
    return Path(folder)


def entries() -> list[str]:
    """Read the 500,000 entries."""
    with gzip.open(data_folder() / "entries_500k.txt.gz", "rt", encoding="utf-8", newline="\n") as file:
        return file.read().removesuffix("\n").split("\n")


def texts(n: int, seed: int = 0) -> pa.Array:
    """Make `n` different texts."""
    real = pq.read_table(data_folder() / "alt_text_10k.parquet")["TEXT"].combine_chunks()
    words = pc.split_pattern(real, " ")
    offsets, flat = words.offsets, words.flatten().dictionary_encode()
    codes = flat.indices.to_numpy()
    rng = np.random.default_rng(seed)
    made = pa.array([], pa.string())
    while len(made) < n:
        rounds = -(-(n - len(made)) // len(real)) + 1
        parts = []
        for _ in range(rounds):
            shuffled = flat.dictionary.take(pa.array(rng.permutation(codes)))
            parts.append(pc.binary_join(pa.ListArray.from_arrays(offsets, shuffled), " "))
        made = pc.unique(pa.concat_arrays([made, *parts]))
    return made[:n]


def write_pool(path: Path, n: int, *, uid: bool) -> None:
    """Write a pool of `n` different pairs as one parquet file: text, url and, if wanted, uid."""
    step = 1_000_000
    writer = None
    for first in range(0, n, step):
        size = min(step, n - first)
        text = texts(size, seed=first // step)
        number = pa.array(np.arange(first, first + size))
        url = pc.binary_join_element_wise(
            "https://images.example.org/", pc.cast(pc.bit_wise_and(number, 1023), pa.string()), "/photo-",
            pc.cast(number, pa.string()), ".jpg", "",
        )  # fmt: skip
        columns = {"url": url, "text": text}
        if uid:
            digests = [
                hashlib.md5(b"%d" % i, usedforsecurity=False).hexdigest()
                for i in range(first, first + size)
            ]
            columns = {"uid": pa.array(digests), **columns}
        table = pa.table(columns)
        if writer is None:
            writer = pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table, row_group_size=250_000)
    if writer is not None:
        writer.close()
