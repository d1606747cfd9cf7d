"""Show in a terminal what balancing did to the most frequent entries of a run.

python curation/demo.py run/
"""

import os
import sys

import click

from metaclip.curate.run import Run

WIDTH = 48
SHOWN = 16


def bars(run, colour):
    """Yield a line for each of the most frequent entries: its pairs that were kept, then those that were dropped."""
    entries = run.entries.sort_by([("count", "descending"), ("entry_id", "ascending")]).slice(0, SHOWN)
    largest = entries["count"][0].as_py()
    for row in entries.to_pylist():
        kept, dropped = (round(WIDTH * n / largest) for n in (row["kept"], row["count"] - row["kept"]))
        bar = click.style("█" * kept, fg="cyan") + click.style("░" * dropped, dim=True)
        name = click.style(f"{row['entry']!r:>16}", bold=row["count"] > run.t)
        line = f"{name} {bar}{' ' * (WIDTH + 1 - kept - dropped)}{row['count']:>4} -> {row['kept']}"
        yield line if colour else click.unstyle(line)


def main():
    """Print the bars of the run that is named on the command line."""
    run = Run(sys.argv[1])
    sys.stdout.reconfigure(errors="replace")  # a terminal without these blocks shows other marks
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    funnel = run.balance["funnel"]
    print(
        f"\nThe {SHOWN} most frequent entries: pairs kept █ and dropped ░. Entries with more than t = {run.t:g} pairs are "
        f"thinned,\nso {funnel['kept']} of {funnel['matched']} pairs are left; pairs of rare entries stay.\n"
    )
    print("\n".join(bars(run, colour)))


if __name__ == "__main__":
    main()
