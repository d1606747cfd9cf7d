"""`metaclip train`: train CLIP by a recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click


@click.command(
    "train",
    epilog="""\b
Examples:
  metaclip train training/toy.toml --out run/           (two minutes, no data, no GPU)
  metaclip train training/b32_400m.toml --tars tars/ --out run/
  torchrun --nproc-per-node 8 -m metaclip train ... --workers 12 --accumulate 2
Stopped at any point, the same command goes on from the last checkpoint.""",
)
@click.argument("recipe")
@click.option(
    "--out", required=True, metavar="FOLDER", help="The run's folder; with several machines one that all see."
)
@click.option("--tars", metavar="TARS", help="Tars to train on, instead of the recipe's: file, folder or glob.")
@click.option("--subset", metavar="FILE", help="Offline balance: a run's curated.npy.")
@click.option("--balance", metavar="RUN", help="Online balance: a balanced run, or a card.")
@click.option("--t", type=float, metavar="T", help="Another t for the online balance.")
@click.option("--text", metavar="NAME", help="The text's member or field, if not .txt, text, caption or alt.")
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1.  [default: a GPU where there is one]")
@click.option(
    "--workers", type=click.IntRange(0), help="Processes that load, a rank.  [default: 8 beside a GPU, else 0]"
)
@click.option("--accumulate", type=click.IntRange(1), help="Go through a batch in so many parts.  [default: 1]")
@click.option("--checkpointing", is_flag=True, help="Save memory: compute activations twice.")
@click.option("--compile", is_flag=True, help="Compile the model.")
@click.option("--log-every", type=click.IntRange(1), metavar="N", help="Steps between lines of metrics.  [default: 50]")
@click.option("--save-every", type=click.IntRange(1), metavar="N", help="Steps between checkpoints.  [default: 1000]")
@click.option("--keep", type=click.IntRange(1), metavar="N", help="Checkpoints that stay.  [default: 2]")
@click.option("--tensorboard", is_flag=True, help="Write metrics for TensorBoard too.")
@click.option("--overwrite", is_flag=True, help="Replace another run in the output folder.")
@click.option("--allow-lost", is_flag=True, help="Go on without tars that cannot be read.")
def command(recipe: str, out: str, **flags: Any) -> None:
    """Train CLIP by the table [train] of RECIPE, or go on from the last checkpoint in the folder."""
    # A thread of torch's that has nothing to do turns for a while, which costs those of others (or its own, where there are
    # more of them than processors) up to four times as long; asked for before torch is there, it sleeps.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from metaclip.storage.files import disk_errors
    from metaclip.storage.remote import as_path
    from metaclip.training.train import train
    from metaclip.training.train_recipe import TrainOptions, read_recipe

    over = {name: flags.pop(name) for name in ("tars", "subset", "balance", "t", "text")}
    made = read_recipe(recipe, **over)
    run_options = TrainOptions(**{name: value for name, value in flags.items() if value is not None})
    with disk_errors(as_path(out)):
        run = train(
            made, out, options=run_options, report=_show, say=lambda line: click.echo(f"metaclip: {line}", err=True)
        )
    if os.environ.get("RANK", "0") == "0":
        click.echo(f"\nmodel     {run.path / 'model.pth'}; next: metaclip evaluate {run.path}")


def _show(line: Mapping[str, Any]) -> None:
    """Print a line of metrics."""
    mfu = "" if line["mfu"] is None else f"   mfu {100 * line['mfu']:.1f}%"
    click.echo(
        f"step {line['step']:>7,} of {line['steps']:,}   loss {line['loss']:.4f}   scale {line['scale']:6.2f}   "
        f"lr {line['lr']:.2e}   {line['samples_per_second']:,.0f} samples/s   data wait {100 * line['data_wait']:.0f}%{mfu}"
    )
