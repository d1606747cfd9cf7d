"""The command of the study: `python -m training.icons_study OUT/ --pool POOL/`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from metaclip.storage.files import atomic_write
from metaclip.training.evaluation.results import read_results
from training.commands import run_command
from training.icons_study.plot import write_plot
from training.icons_study.summary import summarise, table


@click.command(
    epilog="""Start it on every core: each process takes the next run that no other has. Stopped at any point, the
same command continues. Run it from the checkout's root."""
)
@click.argument("out", metavar="OUT")
@click.option("--pool", default="", metavar="POOL", help="The pool of python -m training.icons.")
@click.option(
    "--size",
    type=click.Choice(["tiny", "small", "full"]),
    default="small",
    show_default=True,
    help="How large it is.",
)
@click.option(
    "--regime",
    "regimes",
    multiple=True,
    metavar="NAME",
    help="Only the runs of this regime; may be given again.",
)
@click.option("--results", metavar="FILE", help="The file of results.  [default: OUT/results.jsonl]")
@click.option("--metadata", metavar="LIST", help="The query list.  [default: the shipped list]")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--report", is_flag=True, help="Only write tables and plots of what is there.")
def command(
    out: str, pool: str, size: str, regimes: tuple[str, ...], results: str | None, metadata: str | None, device: str, report: bool
) -> None:  # fmt: skip
    """Train one small CLIP on the icons in many ways, and compare."""
    folder = Path(out)
    lines = Path(results) if results else folder / "results.jsonl"
    if not report:
        _work(folder, Path(pool), lines, size, regimes, metadata, device)
    summary = summarise(read_results(lines))
    text = "\n\n".join(f"{regime}\n\n{table(rows)}" for regime, rows in summary.items())
    with atomic_write(folder / "table.md") as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")
    click.echo(
        f"\n{text}\n\n{folder / 'table.md'}, and a plot against t and against pairs for each regime"
    )
    for regime, rows in summary.items():
        write_plot(folder / f"{regime}_t.svg", rows, "t")
        write_plot(folder / f"{regime}_pairs.svg", rows, "pairs")


def _work(
    out: Path,
    pool: Path,
    results: Path,
    size: str,
    regimes: tuple[str, ...],
    metadata: str | None,
    device: str,
) -> None:
    """Do the runs that are left."""
    # One thread a process: two processes use two cores better than one process of two threads.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from training.icons_study.jobs import STUDIES, Place, do_jobs, jobs_of

    torch.set_num_threads(1)
    jobs = [job for job in jobs_of(STUDIES[size]) if not regimes or job.regime.name in regimes]
    do_jobs(jobs, Place(out, pool, results, metadata, device), click.echo)


if __name__ == "__main__":
    run_command(command, "icons_study")
