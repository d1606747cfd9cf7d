"""Balance inside open_clip's own trainer, through its webdataset pipeline.

    python curation/online_open_clip.py --run run/ -- --train-data "tars/{00000..00003}.tar" --dataset-type webdataset \
        --train-num-samples 10000 --model ViT-B-32-quickgelu --batch-size 64 --workers 4

Everything behind `--` is open_clip's own command line. Its pipeline asks one function whether a sample has an image and
a caption, before it decodes; here the balancer is asked too. --train-num-samples is the number of pairs kept.
"""

import argparse

from metaclip import Balancer
from metaclip.training.vision import import_torchvision


class Takes:
    """A sample with image and caption that the balancer keeps."""

    def __init__(self, complete, balancer):
        """Ask `complete` first: it is cheaper."""
        self.complete, self.balancer = complete, balancer

    def __call__(self, sample):
        """Decide on one sample."""
        return self.complete(sample) and self.balancer.takes(sample)


def main():
    """Hand the balancer to open_clip, and open_clip its arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a balanced run, or a card")
    parser.add_argument("open_clip", nargs="*", help="open_clip's own arguments, behind --")
    arguments = parser.parse_args()
    import_torchvision()  # a torch without CUDA needs it first
    from open_clip_train import data
    from open_clip_train.main import main as train

    balancer = Balancer(arguments.run)

    class SharedEpoch(data.SharedEpoch):
        """open_clip's epoch, which its workers share: the balancer's too."""

        def __init__(self, epoch=0):
            super().__init__(epoch)
            balancer.epoch = self.get_value

    data.SharedEpoch = SharedEpoch
    data.filter_no_caption_or_no_image = Takes(data.filter_no_caption_or_no_image, balancer)
    train(arguments.open_clip)


if __name__ == "__main__":
    main()
