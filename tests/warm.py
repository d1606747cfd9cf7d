"""Imported once, by the process that others are forked from: curates a pool, so that all it uses is loaded."""

import json
import tempfile
from pathlib import Path

from metaclip import RunOptions, curate

with tempfile.TemporaryDirectory() as _folder:
    _pool = Path(_folder, "pool.jsonl")
    _pool.write_text(json.dumps({"text": "a dog", "uid": "0"}) + "\n")
    curate(_pool, ["dog"], out=Path(_folder, "run"), t=1, options=RunOptions(workers=1))
