"""Resharding: the samples of a subset, taken out of image-text tars and written to new ones.

reshard        the verb: tars and a subset in, curated tars out
shards         the two steps: select the samples of a tar, write a shard
copy_samples   samples of tars under new names
index          the place of every sample in a tar, and its cache
tar_headers    all headers of a tar, found at once
"""
