r"""Balance inside open_clip's own trainer, between its reader of training tars and its shuffle buffer.

    metaclip curate curation/toy_shapes/ --metadata metadata/toy.txt --t 6 --out run/
    python curation/online_open_clip.py --run run/ -- --train-data 'curation/toy_shapes/{00000..00001}.tar' \
        --dataset-type webdataset --train-num-samples 16 --workers 2 --epochs 2 --batch-size 4 --model ViT-S-32-alt \
        --force-image-size 32 --logs /tmp/open_clip

Everything after `--` is open_clip's own command line. --train-num-samples is the length of an epoch: the number of pairs that
the run kept, or a part of it. Validation data are not balanced.
"""

import argparse
import sys

from metaclip import Balancer, MetaclipError
from metaclip.training.models import import_torchvision


def install(data, balancer):
    """Put the balancer into open_clip's module of data, and let it follow the epoch that open_clip sets."""
    read, shared_epoch = data.tarfile_to_samples_nothrow, data.SharedEpoch

    def read_kept(tars):
        for sample in balancer.kept(read(tars)):
            if "txt" not in sample:  # open_clip would drop it
                sample["txt"] = balancer.text_of(sample).encode()
            yield sample

    class SharedEpoch(shared_epoch):
        def set_value(self, epoch):
            super().set_value(epoch)
            balancer.set_epoch(epoch)

    data.tarfile_to_samples_nothrow, data.SharedEpoch = read_kept, SharedEpoch


def main():
    """Run open_clip's trainer with the balancer in it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, help="a balanced run, or a card")
    parser.add_argument("open_clip", nargs="*", help="open_clip's own arguments, after --")
    arguments = parser.parse_args()
    try:
        import_torchvision()  # a torch without CUDA needs it first
        from open_clip_train import data
        from open_clip_train.main import main as train
    except ImportError as error:
        sys.exit(
            f"{error}; this example needs open_clip's trainer: pip install 'open_clip_torch[training]'"
        )
    install(data, Balancer(arguments.run))
    train(arguments.open_clip)


if __name__ == "__main__":
    try:
        main()
    except MetaclipError as error:  # one line, with the next step
        sys.exit(str(error))
