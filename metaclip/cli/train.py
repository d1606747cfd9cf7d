"""`metaclip train`: train CLIP by a recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

from metaclip.cli import options
from metaclip.errors import with_flags


@click.command(
    "train",
    epilog="""\b
Examples:
  metaclip train b32_400m.toml --tars tars/ --subset run/curated.npy --out model/
  metaclip train b32_400m.toml --tars tars/ --balance run/ --out model/
  torchrun --nproc-per-node 8 -m metaclip train ... --workers 12 --accumulate 2
The folder training/ of metaclip's repository has recipes: toy.toml, b32_400m.toml and others.
If it is interrupted, the same command continues from the last checkpoint.""",
)
@click.argument("recipe")
@click.option(
    "--out",
    required=True,
    metavar="FOLDER",
    help="Folder of the run; with several machines, one that all of them share.",
)
@click.option(
    "--tars", metavar="TARS", help="Tars to train on instead of the recipe's: a file, folder or glob."
)
@click.option("--subset", metavar="FILE", help="Offline balance: a run's curated.npy.")
@click.option("--balance", metavar="RUN", help="Online balance: a balanced run, or a card.")
@click.option(
    "--t",
    type=options.Number(whole=False),
    metavar="T",
    help="Threshold of the online balance, if not the t of RUN.",
)
@click.option(
    "--text", metavar="NAME", help="Member or field with the text, if not .txt, text, caption or alt."
)
@click.option(
    "--device", metavar="NAME", help="Device: cpu, cuda or cuda:1.  [default: a GPU if there is one]"
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    help="Number of loading processes per rank.  [default: 8 with a GPU, else 0]",
)
@click.option(
    "--accumulate",
    type=click.IntRange(1),
    help="Number of parts in which a batch is computed.  [default: 1]",
)
@click.option(
    "--checkpointing", is_flag=True, help="Save memory: compute activations again in the backward pass."
)
@click.option("--compile", is_flag=True, help="Compile the model.")
@click.option(
    "--log-every",
    type=click.IntRange(1),
    metavar="N",
    help="Number of steps between lines of metrics.  [default: 50]",
)
@click.option(
    "--save-every",
    type=click.IntRange(1),
    metavar="N",
    help="Number of steps between checkpoints.  [default: 1000]",
)
@click.option(
    "--keep", type=click.IntRange(1), metavar="N", help="Number of checkpoints to keep.  [default: 2]"
)
@click.option("--tensorboard", is_flag=True, help="Write metrics for TensorBoard too.")
@click.option("--overwrite", is_flag=True, help="Replace another run in the output folder.")
@click.option("--allow-lost", is_flag=True, help="Continue without tars that cannot be read.")
def command(recipe: str, out: str, **flags: Any) -> None:
    """Train CLIP by the table [train] of RECIPE, or continue from the last checkpoint in the folder."""
    # An idle thread of torch spins for a while, which slows the threads of other processes, or its own if there are more of
    # them than processors, up to four times. With this setting, made before torch is imported, it sleeps.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from metaclip.storage.files import as_path, disk_errors
    from metaclip.training.train import train
    from metaclip.training.train_recipe import TrainOptions, read_recipe

    over = {name: flags.pop(name) for name in ("tars", "subset", "balance", "t", "text")}
    made = read_recipe(recipe, **over)
    run_options = TrainOptions(**{name: value for name, value in flags.items() if value is not None})
    with disk_errors(as_path(out)):
        run = train(
            made,
            out,
            options=run_options,
            report=_show,
            say=lambda line: click.echo(f"metaclip: {with_flags(line)}", err=True),
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
