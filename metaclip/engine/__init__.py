"""Engines: what carries shards to functions."""
