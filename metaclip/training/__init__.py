"""Training on curated sets: streams of samples, the standardised CLIP run, its evaluation."""
