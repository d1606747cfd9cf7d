"""`metaclip reshard TARS SUBSET OUT WORKERS` for the benchmark, as a process of its own."""

from __future__ import annotations

import sys

from metaclip.reshard.reshard import reshard
from metaclip.stage.runner import RunOptions

if __name__ == "__main__":
    tars, subset, out, workers = sys.argv[1:]
    reshard(tars, subset=subset, out=out, options=RunOptions(workers=int(workers)))
