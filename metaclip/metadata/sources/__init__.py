"""The sources of a query list, one file each."""
