"""Matching texts against the query list: the text rule, the automaton, the Matcher and its backends."""
