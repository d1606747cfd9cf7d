"""`python -m metaclip`: the command line."""

from metaclip.cli import main

if __name__ == "__main__":
    main()
