"""Resharding: the index of samples in tars, subsets of uids, and new tars."""
