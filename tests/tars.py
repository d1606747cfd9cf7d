"""Image-text tars as img2dataset writes them, for tests: small JPEGs, one for each pair."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def jpeg(size: int = 32, shade: int = 0) -> bytes:
    """Make a JPEG of one colour."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (size, size), (shade % 256, shade // 256 % 256, 128)).save(out, "JPEG")
    return out.getvalue()


def write_tar(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> None:
    """Write samples (key, {suffix: bytes}) to a tar."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples:
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def write_tars(
    folder: Path, pairs: list[dict[str, Any]], per_tar: int = 100, *, uids: bool = True
) -> list[Path]:
    """Write pairs (text, url, uid) as 00000.tar and so on; `uids` as with img2dataset --save_additional_columns."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for shard in range(-(-len(pairs) // per_tar)):
        path = folder / f"{shard:05d}.tar"
        samples = []
        for i, pair in enumerate(pairs[shard * per_tar : (shard + 1) * per_tar]):
            key = f"{shard:05d}{i:04d}"
            fields = {"caption": pair["text"], "url": pair["url"], "key": key, "status": "success"}
            if uids:
                fields["uid"] = pair["uid"]
            members = {
                "jpg": jpeg(shade=i),
                "txt": pair["text"].encode(),
                "json": json.dumps(fields).encode(),
            }
            samples.append((key, members))
        write_tar(path, samples)
        paths.append(path)
    return paths
