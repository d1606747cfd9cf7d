"""Balance inside a torch DataLoader: a data set that asks the balancer before any expensive work.

    python curation/online_torch.py pairs.parquet --run run/ --workers 4 --epochs 2

Workers decide alike without communication, because the draw is a hash. The epoch is a value that all processes share, so
that workers can be reused from epoch to epoch.
"""

import argparse
import multiprocessing

import pyarrow.parquet as pq
import torch.utils.data

from metaclip import Balancer


class Pairs(torch.utils.data.IterableDataset):
    """The pairs of a parquet file that a run keeps: (text, uid). A real data set would load the image here."""

    def __init__(self, path, run):
        """Open the run; the balancer is copied to each worker with the data set."""
        self.path = path
        self.shared_epoch = multiprocessing.get_context("spawn").Value("q", 0)  # works under fork too
        self.balancer = Balancer(run)

    def set_epoch(self, epoch):
        """Set the epoch of all workers."""
        self.shared_epoch.value = epoch

    def __iter__(self):
        """Yield the kept pairs of this worker's row groups."""
        worker = torch.utils.data.get_worker_info()
        mine, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        file = pq.ParquetFile(self.path)
        for group in range(mine, file.num_row_groups, workers):
            rows = file.read_row_group(group, columns=["uid", "text"])
            kept = self.balancer.keep(rows["text"], rows["uid"], epoch=self.shared_epoch.value)
            yield from zip(
                rows["text"].filter(kept).to_pylist(), rows["uid"].filter(kept).to_pylist(), strict=True
            )


def main():
    """Print how many pairs each epoch keeps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", help="a parquet file with uid and text")
    parser.add_argument("--run", required=True, help="a balanced run, or a card")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    pairs = Pairs(arguments.pairs, arguments.run)
    loader = torch.utils.data.DataLoader(
        pairs, batch_size=32, num_workers=arguments.workers, persistent_workers=arguments.workers > 0
    )
    for epoch in range(arguments.epochs):
        pairs.set_epoch(epoch)
        print(f"epoch {epoch}: {sum(len(texts) for texts, _ in loader)} pairs")


if __name__ == "__main__":
    main()
