"""Pools of image-text pairs: their files, columns, shards, readers and uids."""
