"""Reads the data files of an explorer page, as its scripts do."""

from __future__ import annotations

import base64
import gzip
import re
from pathlib import Path


def read_data(folder: Path, name: str) -> bytes:
    """Read what `metaclip.card.explorer.data_files.write_data` wrote; each file is one call, and all say how many there are."""
    paths = sorted(folder.glob(f"{name}.*.js"), key=lambda path: int(path.name.split(".")[-2]))
    calls = [
        re.fullmatch(r'metaclip\((\d+), "([A-Za-z0-9+/=]*)"\);\n', path.read_text("ascii"))
        for path in paths
    ]
    assert [path.name for path in paths] == [f"{name}.{i}.js" for i in range(len(paths))] != []
    assert [call and int(call[1]) for call in calls] == [len(paths)] * len(paths)
    return gzip.decompress(base64.b64decode("".join(call[2] for call in calls if call)))
