"""Curation: match, count, solve t, draw, balance, account for a run, plan, explain, and the Balancer."""
