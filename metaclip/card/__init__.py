"""The account of a run."""
