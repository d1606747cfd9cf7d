"""Engines run functions on shards: in threads, in processes, or on a Ray cluster."""
