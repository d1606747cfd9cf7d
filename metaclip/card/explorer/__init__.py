"""The explorer page: what `writer` writes, and what it is made of."""

from metaclip.card.explorer.writer import write_explorer

__all__ = ["write_explorer"]
