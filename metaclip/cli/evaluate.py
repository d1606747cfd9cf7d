"""`metaclip evaluate`: zero-shot classification and retrieval of a model, on any sets."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from metaclip.errors import MetaclipError, with_flags

if TYPE_CHECKING:
    from metaclip.training.evaluation.suites import SuiteTask


@click.command(
    "evaluate",
    epilog="""\b
Examples:
  metaclip evaluate model/ --data cifar10.zip --data imagenet_wds/
  metaclip evaluate model/ --tasks tasks.toml --out results.jsonl
  metaclip evaluate ViT-B-32-quickgelu --pretrained weights.pt --data sets/cifar10
  metaclip evaluate model/ --suite datacomp --data evalsets/
A set is one of
  [test/]<class>/*.jpg      folders of classes, in a folder or a zip; names for
                            them in classnames.txt, one per line
  metadata.jsonl            {"file_name": ..., "text": ... or [...]} per line
                            beside images: retrieval
  test/nshards.txt 0.tar    CLIP_benchmark's layout, classes or captions
A file of tasks has a table for each:
  [cifar10]
  data = "cifar10.zip"      # below the file's folder
  split = "test"
  classes = "names.txt"     # if not the set's own
  partial = true            # leave out classes whose line there is empty
  templates = "photo"       # "name", or a file of lines with {c}
  columns = ["region"]      # names of the numbers in .npy members
  group = "region"          # the worst group of images by this column
The suite "datacomp" is DataComp's 38 tasks, FairFace, UTKFace and Let It Wag!,
in the folder that DataComp's download_evalsets.py fills (wds_cifar10_test/,
hf_cache/ ...). Each task has DataComp's metric and prompts; sets that are not
there, damaged or incomplete are missing from the averages, and are listed.
A task whose result stands in the file is not done again, unless the model,
the data or the prompts have changed.""",
)
@click.argument("model")
@click.option(
    "--data",
    multiple=True,
    metavar="PATH",
    help="Set to evaluate on: a folder or a zip; may be repeated. With --suite, the folder of its sets.",
)
@click.option(
    "--suite", type=click.Choice(["datacomp"]), help="Tasks of a published evaluation, with averages."
)
@click.option("--tasks", metavar="FILE", help="TOML with a table for each task.")
@click.option(
    "--out",
    metavar="FILE",
    help="File of results.  [default: results.jsonl in the run's folder, or here]",
)
@click.option("--split", default="test", show_default=True, help="Split of --data.")
@click.option(
    "--templates",
    metavar="T",
    help='Prompts for --data: "name", "photo" or a file.  [default: the set\'s own]',
)
@click.option(
    "--pretrained", metavar="W", help="Weights of a model that open_clip names: a tag or a file."
)
@click.option("--checkpoint", metavar="FILE", help="Weights of the run, if not its last ones.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="Precision of the model.",
)
@click.option("--device", help="Device: cpu, cuda or cuda:1.  [default: a GPU if there is one]")
@click.option(
    "--batch", type=click.IntRange(1), default=256, show_default=True, help="Number of images per batch."
)
@click.option("--workers", type=click.IntRange(0), default=None, help="Number of decoding processes.")
def command(
    model: str, data: tuple[str, ...], suite: str | None, tasks: str | None, out: str | None, split: str,
    templates: str | None, pretrained: str | None, checkpoint: str | None, precision: Any, device: str | None, batch: int,
    workers: int | None,
) -> None:  # fmt: skip
    """Measure MODEL (a training run's folder, or open_clip's name of one) on sets; write a line per task to a file of results."""
    from metaclip.training import evaluate as evaluation
    from metaclip.training.evaluation import suites
    from metaclip.training.models import open_model

    if data and tasks is not None:
        raise MetaclipError(
            "--data and --tasks are both given; write the sets of --data into the file of tasks"
        )
    if suite is not None and (
        len(data) != 1 or tasks is not None or split != "test" or templates is not None
    ):
        raise MetaclipError(
            "--suite needs one --data, the folder of its sets, and no --tasks, --split or --templates"
        )
    run_options = evaluation.EvaluateOptions(device, batch, workers)
    clip = open_model(model, pretrained=pretrained, checkpoint=checkpoint)
    path = (
        Path(out) if out is not None else Path(model if os.path.isdir(model) else ".") / "results.jsonl"
    )
    if suite is not None:
        table = suites.read_suite(suite)
        evaluation.evaluate_suite(
            clip, table, data[0], path, precision=precision, options=run_options,
            report=functools.partial(_show_in_suite, {task.key: task for task in table}),
        )  # fmt: skip
        click.echo(f"\nresults   {path}")
        return
    if tasks is not None:
        named = evaluation.read_tasks(tasks)
    elif data:
        named = evaluation.tasks_of(data, split, templates)
    else:
        raise MetaclipError("nothing to evaluate on; name sets with --data or --tasks")
    evaluation.evaluate(clip, named, path, precision=precision, options=run_options, report=_show)
    click.echo(f"\nresults   {path}")


def _show(result: Mapping[str, Any], before: bool) -> None:
    """Print a result: its figures, and what they are of."""
    of = f"{result['data']['images']:,} images"
    if "classes" in result:
        of += f", {result['classes']:,} classes, {len(result['templates'])} templates"
    if "chance" in result:
        of += f"; chance {100 * result['chance']:.2f}%"
    if "texts" in result:
        of += f", {result['texts']:,} texts"
    click.echo(f"{result['task']}: {of}{' (done before)' if before else ''}")
    if repeated := result.get("repeated_names"):
        names = ", ".join(map(repr, repeated))
        click.echo(f"  several classes have the same name, and a prompt cannot tell them apart: {names}")
    for name, value in result["metrics"].items():
        click.echo(f"  {name:<18}{100 * value:>8.2f}%")


def _show_in_suite(suite: Mapping[str, SuiteTask], result: Mapping[str, Any], before: bool) -> None:
    """Print the row of a task of a suite; and, for the line of the averages, what is under the table."""
    metrics = result["metrics"]
    if result["kind"] != "suite":
        task = suite[result["task"]]
        if (score := task.score(metrics)) is None:
            row = ", ".join(f"{name} {100 * value:.2f}%" for name, value in metrics.items())
        else:
            row = f"{task.metric:<22}{100 * score:>7.2f}%   above chance {100 * task.above_chance(score):>7.2f}%"
        click.echo(f"{task.name:<24}{row}{'   (done before)' if before else ''}")
        return
    click.echo("")
    names = {"average": f"average of {result['averaged']} of {result['of']} tasks"}
    for name, value in metrics.items():
        click.echo(f"{names.get(name, name.replace('_', ' ')):<46}{100 * value:>7.2f}%")
    if result["missing"]:
        click.echo(f"missing: {len(result['missing'])} of {len(suite)}")
    for why in dict.fromkeys(result["missing"].values()):
        own = ", ".join(suite[key].name for key, reason in result["missing"].items() if reason == why)
        click.echo(f"  {own}: {with_flags(why)}")
