"""Pairs taken out of a published set on request: the request, the next version of a run, the list for copies."""
