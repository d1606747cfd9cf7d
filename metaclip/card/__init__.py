"""The published card of a run: publish, verify, diff, remove pairs; its explorer page."""
