"""The explorer page of a card: its data files, and in `page/` the page itself."""
