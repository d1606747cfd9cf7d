"""Shards: files that are whole or not there, run folders, stages with markers, the funnel."""
