"""The command of the study: `python -m training.icons_study OUT/ --pool POOL/`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from training.icons.__main__ import run_command


@click.command(epilog="""Start it on every core: each process takes the next run that no other has. Stopped at any point, the
same command continues. Run it from the checkout's root.""")
@click.argument("out", metavar="OUT")
@click.option("--pool", required=True, metavar="POOL", help="The pool of python -m training.icons.")
@click.option("--size", type=click.Choice(["tiny", "small", "full"]), default="small", show_default=True, help="How large it is.")
@click.option("--regime", "regimes", multiple=True, metavar="NAME", help="Only the runs of this regime; may be given again.")
@click.option("--results", metavar="FILE", help="The file of results.  [default: OUT/results.jsonl]")
@click.option("--metadata", metavar="LIST", help="The query list.  [default: the shipped list]")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--report", is_flag=True, help="Only write tables and plots of what is there.")
def command(
    out: str, pool: str, size: str, regimes: tuple[str, ...], results: str | None, metadata: str | None, device: str, report: bool
) -> None:  # fmt: skip
    """Train one small CLIP on the icons in many ways, and compare."""
    # One thread a process: two processes use two cores better than one process of two threads.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from training.icons_study.jobs import STUDIES, Place, do_jobs, jobs_of

    torch.set_num_threads(1)
    folder = Path(out)
    place = Place(folder, Path(pool), Path(results) if results else folder / "results.jsonl", metadata, device)
    jobs = [job for job in jobs_of(STUDIES[size]) if not regimes or job.regime.name in regimes]
    if not report:
        do_jobs(jobs, place, click.echo)


if __name__ == "__main__":
    run_command(command, "icons_study")
