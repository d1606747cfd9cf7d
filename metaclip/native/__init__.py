"""The compiled loops, their compilation and loading."""
