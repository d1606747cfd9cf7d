"""The metadata: the query list, how it is read, built and checked."""
