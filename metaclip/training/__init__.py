"""Training on curated sets: still to come."""
