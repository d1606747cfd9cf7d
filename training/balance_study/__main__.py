"""Does balancing help? One command makes the pool, trains every arm over several seeds, and tells what came out.

    python -m training.balance_study --images cifar10_jpg.zip --size small --out study/

`--images` is CIFAR-10 as folders of classes, train/ and test/, in a folder or a zip. Stopped at any point, the same
command goes on. What it leaves: study/table.md, plot.svg, results.json, and a folder for each seed.
Cost: `training.balance_study.sizes`.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import click

from metaclip.errors import INTERRUPTED, MetaclipError
from metaclip.storage.files import atomic_write, write_json
from metaclip.training.evaluation.sets import open_set
from training.balance_study.arms import Place, arms_of, do_arm
from training.balance_study.plot import write_plot
from training.balance_study.pool import write_pool
from training.balance_study.sizes import STUDIES, Size, Study, write_model
from training.balance_study.summary import summarise, table


@click.command(epilog="Run it from the checkout's root.")
@click.option(
    "--images", required=True, metavar="PATH", help="CIFAR-10: folders of classes, in a folder or a zip."
)
@click.option("--out", required=True, metavar="FOLDER", help="The folder of the study.")
@click.option(
    "--size",
    type=click.Choice(list(STUDIES)),
    default="small",
    show_default=True,
    help="How large it is.",
)
@click.option("--seeds", type=click.IntRange(1), help="Seeds, each with its pool.  [default: the size's]")
@click.option(
    "--t", "ts", type=float, multiple=True, help="A threshold; may be given again.  [default: the size's]"
)
@click.option(
    "--samples", type=click.IntRange(1), help="Samples that each arm sees.  [default: the size's]"
)
@click.option(
    "--head", type=click.IntRange(1), help="Pairs of the most frequent class.  [default: the size's]"
)
@click.option("--metadata", metavar="LIST", help="The query list.  [default: the shipped list]")
@click.option("--device", help="cpu, cuda.  [default: a GPU where there is one]")
@click.option("--workers", type=click.IntRange(0), default=None, help="Processes that load.")
@click.option("--keep-models", is_flag=True, help="Keep the weights of each arm.")
def command(
    images: str, out: str, size: Size, seeds: int | None, ts: tuple[float, ...], samples: int | None, head: int | None,
    metadata: str | None, device: str | None, workers: int | None, keep_models: bool,
) -> None:  # fmt: skip
    """Train one small CLIP on a skewed pool: raw, matched, balanced offline and online."""
    study = _with(STUDIES[size], seeds, ts, samples, head)
    folder = Path(out)
    place = Place(folder, images, write_model(study, folder), metadata, device, workers, keep_models)
    opened = open_set(images, "train")
    results = []
    for seed in range(study.seeds):
        pool = write_pool(folder / f"seed-{seed}", opened, study.pool, seed)
        for arm in arms_of(study):
            results.append(do_arm(arm, study, place, pool, seed, click.echo))
    rows = summarise(results)
    text = table(rows, study.seeds)
    with atomic_write(folder / "table.md") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    write_json(folder / "results.json", {"study": dataclasses.asdict(study), "results": results})
    click.echo(f"\n{text}\n\nresults   {folder / 'table.md'}, plot.svg, results.json")
    write_plot(folder / "plot.svg", rows, 1 / len(opened.classes))


def _with(
    study: Study, seeds: int | None, ts: tuple[float, ...], samples: int | None, head: int | None
) -> Study:
    pool = study.pool if head is None else dataclasses.replace(study.pool, head=head)
    return dataclasses.replace(
        study, pool=pool, seeds=seeds or study.seeds, ts=ts or study.ts, samples=samples or study.samples
    )


def main() -> None:
    """Run the command; leave the process with the exit codes of `metaclip.errors`."""
    try:
        command.main(prog_name="python -m training.balance_study", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.UsageError as error:
        error.show()
        sys.exit(error.exit_code)
    except MetaclipError as error:
        click.echo(f"balance_study: {error}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("balance_study: interrupted; the same command goes on from here", err=True)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
