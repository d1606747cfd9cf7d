"""Image-text tars as a stream: no sample is lost or repeated, each epoch has its own order, and it resumes where it stopped.

    stream = Stream("tars/", seed=0, keep=Balancer("run/"), transform=preprocess)
    loader = Loader(stream, batch=256, workers=4, rank=rank, ranks=ranks)
    for batch in loader:                                   # without end; epochs=1 for one pass
        train(batch.images, batch.texts)
        state = loader.state()                             # JSON; one per rank, saved with the model
    Loader(stream, ..., state=[state of each rank])        # resumes, also with other numbers of ranks and workers

sample_order     the order of an epoch in pages of samples, a pure function of seed and epoch
page_schedule    which worker takes which page, what has been consumed, and how that is saved and resumed
stream           tars in an order, and which of their samples are kept
decode           images and texts decoded, or the reason why not
reader           the samples of a page: read, kept, decoded; or the reason why not
worker_batches   the batches that each worker makes
loader           batches by torch's DataLoader, and the state after each
"""

from metaclip.training.stream.loader import Batch, Loader
from metaclip.training.stream.reader import Sample
from metaclip.training.stream.stream import Stream

__all__ = ["Batch", "Loader", "Sample", "Stream"]
