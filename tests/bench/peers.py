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
CC2DATASET_DRIVER = """
import sys, types
for name in ("pyspark", "pyspark.sql", "pyspark.sql.functions"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["pyspark"].SparkContext = sys.modules["pyspark.sql"].SparkSession = None
sys.modules["pyspark.sql.functions"].rand = None
import io, json, time
from loguru import logger
logger.remove()
from cc2dataset.main import extract_documents_from_wat
data = open(sys.argv[1], "rb").read()
for line in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    found = extract_documents_from_wat(io.BytesIO(data), "image")
    took = time.perf_counter() - wall, time.process_time() - cpu
    rows = [(e["uid"], e["url"], e["alt"], e["page_url"]) for e in found] if line.strip() == "rows" else len(found)
    print(json.dumps([*took, rows]), flush=True)
"""
"""Runs cc2dataset's WAT function once for each line it is given: [wall seconds, CPU seconds, rows or their number]."""


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
