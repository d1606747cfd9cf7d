"""The chain: match, balance and account for a pool, on an engine, resumable at every shard.

What the command line and a notebook call. The stages know nothing of engines; here they meet: a stage's step is a frozen
dataclass that may travel, and `Work.carrier` is what carries it.

    work        how a stage is run: workers, part of a job array, what to do with what is there
    inputs      whether the pool's files are what they were
    matching    the first stage
    balancing   the second, and the account
    curating    both, in one go
    extracting, resharding    a crawl to a pool; a subset's samples to new tars
    publishing, removing      a card of a run; its next version, with pairs taken out
    planning    what all that will take
"""
