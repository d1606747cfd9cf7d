"""Curation: from a pool and a query list to a balanced set."""
