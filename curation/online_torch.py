"""Balance inside a torch DataLoader: a data set that asks the balancer before any expensive work.

    metaclip curate curation/toy_shapes/ --metadata metadata/toy.txt --t 6 --out run/
    python curation/online_torch.py curation/toy_shapes/ --run run/

The pool is anything that `metaclip curate` reads. Workers decide alike without communication, because the draw is a hash;
only the number of the epoch is shared, so that workers can live on from epoch to epoch.
"""

import argparse
import sys

try:
    import torch.utils.data
except ImportError as error:
    sys.exit(f"{error}; this example needs torch: pip install torch")

from metaclip import Balancer, MetaclipError
from metaclip.pool.files import find_files


class KeptPairs(torch.utils.data.IterableDataset):
    """The pairs of a pool that a balancer keeps: (text, url, uid). A real data set would load the image here."""

    def __init__(self, pool, balancer):
        """Take the pool and the balancer; both are copied to each worker."""
        self.pool, self.balancer = pool, balancer

    def __iter__(self):
        """Yield the kept pairs of this worker's shards."""
        info = torch.utils.data.get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        for batch in self.balancer.kept_pairs(self.pool, worker=worker, workers=workers):
            for pair in batch.to_pylist():
                yield pair["text"], pair["url"] or "", pair["uid"]


def load(pool, balancer, workers):
    """Return a loader of batches of pairs; its workers live on."""
    pairs = KeptPairs(pool, balancer)
    return torch.utils.data.DataLoader(pairs, 32, num_workers=workers, persistent_workers=workers > 0)


def main():
    """Print how many pairs each epoch keeps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pool", nargs="+", help="files, folders or globs")
    parser.add_argument("--run", required=True, help="a balanced run, or a card")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    find_files(arguments.pool)  # complains here, and not in each worker
    balancer = Balancer(arguments.run)
    loader = load(arguments.pool, balancer, arguments.workers)
    for epoch in range(arguments.epochs):
        balancer.set_epoch(epoch)
        print(f"epoch {epoch}: {sum(len(texts) for texts, _, _ in loader)} pairs")


if __name__ == "__main__":
    try:
        main()
    except MetaclipError as error:  # one line, with the next step
        sys.exit(str(error))
