"""`metaclip lint`: find entries of a query list that can never match, doubles and suspicious entries."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import click

from metaclip.cli import options
from metaclip.errors import FAILED


@click.command(
    "lint",
    epilog="""\b
Examples:
  metaclip lint list.txt
  metaclip lint list.txt --space-entries --json > findings.json
Exit codes: 0 every entry can match; 2 some cannot, or with --strict
anything else than pairs that differ in case was found.""",
)
@click.argument("metadata")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--strict", is_flag=True, help="Exit with 2 for doubles and suspicious entries too.")
@click.option("--fold-duplicates", is_flag=True, help="Keep the first of entries that occur twice.")
@options.rule_options
def command(metadata: str, as_json: bool, strict: bool, fold_duplicates: bool, **flags: Any) -> None:
    """Check METADATA, a query list, under a text rule: the paper's, unless flags change it."""
    from metaclip.engine import Progress
    from metaclip.matching.text_rule import TextRule
    from metaclip.metadata import Metadata, lint

    rule = TextRule(**options.rule(flags))
    entries = Metadata.read(metadata, fold_duplicates=fold_duplicates)
    settings = dataclasses.asdict(rule)
    others = {"--" + name.replace("_", "-"): other for name, other in lint.wider_rules(rule).items()}
    with Progress("lint", len(entries), unit="entries") as progress:
        found = lint.findings(entries, rule, others, progress)
    if as_json:
        click.echo(json.dumps(lint.as_json(entries, settings, found), indent=2, ensure_ascii=False))
    else:
        click.echo(lint.render(entries, found))
    kinds = {finding.kind for finding in found}
    if "dead" in kinds or (strict and kinds - {"case", "one character"}):
        sys.exit(FAILED)
