"""Image-text shards as a stream that loses and repeats nothing, in another order each epoch, resumed where it stopped.

stream = Stream("tars/", seed=0, keep=Balancer("run/"), transform=preprocess)
loader = Loader(stream, batch=256, workers=4, rank=rank, ranks=ranks)
for batch in loader:                     # endless; epochs=1 for one pass
    train(batch.images, batch.texts)
    state = loader.state()               # JSON; one a rank, saved with the model
Loader(stream, ..., state=[state of each rank])        # goes on, with other ranks and workers too

order       the order of an epoch: pages of samples, a pure function of seed and epoch
plan        who takes which page, what has been taken, and how that is saved and put together again
stream      tars in an order, and what of them is kept
reader      the samples of pages: read, chosen, kept, decoded; or the reason why not
loader      batches by torch's DataLoader, and the state after each
"""

from metaclip.training.stream.loader import Batch, Loader
from metaclip.training.stream.reader import Sample
from metaclip.training.stream.stream import Stream

__all__ = ["Batch", "Loader", "Sample", "Stream"]
