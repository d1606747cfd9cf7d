"""Stages of work over many items: run folders, fingerprints, markers, the funnel and the runner."""
