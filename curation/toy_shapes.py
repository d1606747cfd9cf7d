"""The toy pool of `curation/toy_shapes/`: 64 rendered shapes with captions, as img2dataset would have downloaded them.

    python -m curation.toy_shapes curation/toy_shapes

    00000.tar, 00001.tar              32 samples each: a .png of 32 pixels, the caption in a .txt, the fields in a .json
    00000.parquet, 00001.parquet      their fields, and those of one pair whose download failed

The images and captions are those of `training/shapes.py`. The uids are the pool's own: they do not follow from
caption and url.
"""

import argparse
import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from training.labelled_set import write_tar
from training.shapes import SIDE, draw, png

PER_TAR, TARS = 32, 2


def rows_and_images(shard):
    """Return the fields of a shard's pairs, and the images of those that were downloaded."""
    rows, images = [], []
    for i in range(PER_TAR + 1):
        number = shard * (PER_TAR + 1) + i
        image, _, caption = draw(0, number)
        url = f"https://shapes.example/{number}.png"
        fields = {
            "uid": hashlib.md5(b"toy shape %d" % number).hexdigest(),
            "url": url,
            "caption": caption,
            "key": f"{shard:05d}{i:04d}",
        }
        done = {"status": "success", "error_message": None, "width": SIDE, "height": SIDE}
        failed = {
            "status": "failed_to_download",
            "error_message": "timed out",
            "width": None,
            "height": None,
        }
        rows.append(fields | (done if i < PER_TAR else failed))
        images.append(png(image))
    return rows, images[:PER_TAR]


def write(folder):
    """Write the tars and their parquet files."""
    for shard in range(TARS):
        rows, images = rows_and_images(shard)
        members = []
        for row, image in zip(rows, images, strict=False):
            members.append((f"{row['key']}.json", json.dumps(row).encode()))
            members.append((f"{row['key']}.png", image))
            members.append((f"{row['key']}.txt", row["caption"].encode()))
        write_tar(folder / f"{shard:05d}.tar", members)
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{shard:05d}.parquet")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
