"""Balance a streamed Hugging Face data set: one `.filter`, in batches of Arrow, before images are decoded.

    metaclip curate curation/toy_shapes/ --metadata metadata/toy.txt --t 6 --out run/
    python curation/online_datasets.py curation/toy_shapes/ --run run/

It is filtered while it is read, in the epoch that is set then. A data set that is not streamed is filtered when `.filter` is
called: filter it again after `set_epoch`; its cache knows the epochs apart.
"""

import argparse
import sys

try:
    import datasets
except ImportError as error:
    sys.exit(f"{error}; this example needs Hugging Face datasets and Pillow: pip install datasets pillow")

from metaclip import Balancer, MetaclipError
from metaclip.pool.files import find_files

LOADERS = {"parquet": "parquet", "jsonl": "json", "csv": "csv", "tsv": "csv", "tar": "webdataset"}


def load(pool):
    """Open a pool as a streamed data set."""
    files = find_files(pool)
    form, paths = files[0].form, [file.path for file in files]
    options = (
        {"keep_default_na": False, "sep": "\t" if form == "tsv" else ","}
        if form in ("csv", "tsv")
        else {}
    )
    return datasets.load_dataset(
        LOADERS[form], data_files=paths, split="train", streaming=True, **options
    )


def balanced(pairs, balancer):
    """Return the pairs that the balancer keeps; only their images are decoded."""
    if pairs.features is None:  # of csv, which holds no images
        return pairs.filter(balancer.keep_table, batched=True)
    kept = pairs.decode(False).with_format("arrow").filter(balancer.keep_table, batched=True)
    return kept.with_format(None).decode(True)


def main():
    """Stream the pairs, and print how many each epoch keeps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pool", nargs="+", help="files, folders or globs")
    parser.add_argument("--run", required=True, help="a balanced run, or a card")
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    balancer = Balancer(arguments.run)
    pairs = balanced(load(arguments.pool), balancer)
    for epoch in range(arguments.epochs):
        balancer.set_epoch(epoch)
        print(f"epoch {epoch}: {sum(1 for _ in pairs)} pairs")


if __name__ == "__main__":
    try:
        main()
    except MetaclipError as error:  # one line, with the next step
        sys.exit(str(error))
