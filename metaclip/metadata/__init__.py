"""The metadata: the query list, how it is read and, later, built."""
