"""`metaclip reshard TARS SUBSET OUT WORKERS` for the benchmark, as a process of its own."""

from __future__ import annotations

import sys

from metaclip.chain.resharding import reshard
from metaclip.chain.work import Work

if __name__ == "__main__":
    tars, subset, out, workers = sys.argv[1:]
    reshard(tars, subset=subset, out=out, work=Work(workers=int(workers)))
