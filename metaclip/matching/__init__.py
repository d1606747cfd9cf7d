"""Matching texts against the query list: the text rule, the automaton and the Matcher."""
