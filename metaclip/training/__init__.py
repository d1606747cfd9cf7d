"""Training on curated sets: the stream, resharding, the standardised CLIP run, its evaluation."""
