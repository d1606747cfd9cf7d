"""Balance inside open_clip's own trainer, through its webdataset pipeline.

    python curation/online_open_clip.py --run run/ -- --train-data "tars/{00000..00003}.tar" --dataset-type webdataset \
        --train-num-samples 10000 --model ViT-B-32-quickgelu --batch-size 64 --workers 4

Everything after `--` is open_clip's own command line. Before its pipeline decodes a sample, it calls one function that checks
whether the sample has an image and a caption; here that function asks the balancer too. --train-num-samples is the number
of pairs kept.
"""

import argparse

from metaclip import Balancer
from metaclip.training.models import import_torchvision


class Takes:
    """Predicate of samples: it has image and caption, and the balancer keeps it."""

    def __init__(self, complete, balancer):
        """Take open_clip's own check, which is called first because it is cheaper, and the balancer."""
        self.complete, self.balancer = complete, balancer

    def __call__(self, sample):
        """Return whether to keep a sample."""
        return self.complete(sample) and self.balancer.takes(sample)


def main():
    """Put the balancer into open_clip's pipeline and run its trainer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, help="a balanced run, or a card")
    parser.add_argument("open_clip", nargs="*", help="open_clip's own arguments, after --")
    arguments = parser.parse_args()
    import_torchvision()  # a torch without CUDA needs it first
    from open_clip_train import data
    from open_clip_train.main import main as train

    balancer = Balancer(arguments.run)

    class SharedEpoch(data.SharedEpoch):
        """The epoch that open_clip's workers share; the balancer uses it too."""

        def __init__(self, epoch=0):
            super().__init__(epoch)
            balancer.epoch = self.get_value

    data.SharedEpoch = SharedEpoch
    data.filter_no_caption_or_no_image = Takes(data.filter_no_caption_or_no_image, balancer)
    train(arguments.open_clip)


if __name__ == "__main__":
    main()
