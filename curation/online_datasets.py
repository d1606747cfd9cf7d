"""Balance a Hugging Face data set: one `.filter`, streamed or not.

python curation/online_datasets.py pairs.parquet --run run/ --epochs 2
"""

import argparse

import datasets

from metaclip import Balancer


def balanced(pairs, balancer, epoch):
    """Filter pairs by what the balancer keeps, in batches; it reads only text and uid."""

    def kept(texts, uids):
        return balancer.keep(texts, uids, epoch=epoch).tolist()

    return pairs.filter(kept, batched=True, input_columns=["text", "uid"])


def main():
    """Stream the pairs, and print how many each epoch keeps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", help="a parquet file with uid and text")
    parser.add_argument("--run", required=True, help="a balanced run, or a card")
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    pairs = datasets.load_dataset("parquet", data_files=arguments.pairs, split="train", streaming=True)
    balancer = Balancer(arguments.run)
    for epoch in range(arguments.epochs):
        print(f"epoch {epoch}: {sum(1 for _ in balanced(pairs, balancer, epoch))} pairs")


if __name__ == "__main__":
    main()
