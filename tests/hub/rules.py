"""The rules that the Hub documents for the metadata of a data set card, and that it applies when one is pushed.

Licences: ``licences.txt``, the table of huggingface.co/docs/hub/repositories-licenses as of August 2026. Sizes: the list in
the package datasets. Fields: datasetcard.md of the repository huggingface/hub-docs.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

LICENCES = set(Path(__file__).with_name("licences.txt").read_text(encoding="utf-8").split())
_FIELDS = {
    "pretty_name": str, "license": str, "license_name": str, "tags": list, "size_categories": list, "configs": list,
}  # fmt: skip
"""The fields that metaclip's cards use; task_categories is none of them, since a card holds counts and no task's data."""


def sizes() -> set[str]:
    """Return the size categories that the package datasets lists, without importing it."""
    spec = importlib.util.find_spec("datasets")
    assert spec is not None
    assert spec.submodule_search_locations
    listed = Path(spec.submodule_search_locations[0], "utils", "resources", "size_categories.json")
    return set(json.loads(listed.read_text(encoding="utf-8")))


def metadata_of(readme: str) -> dict[str, Any]:
    """Return the metadata in the head of a README.md."""
    found = re.match(r"---\n(.*?)\n---\n", readme, re.DOTALL)
    assert found, "no metadata at the top of the README.md"
    metadata = yaml.safe_load(found[1])
    assert isinstance(metadata, dict)
    return metadata


def faults_of_card(readme: str) -> list[str]:
    """List what in a README.md's metadata the Hub refuses."""
    return list(_faults(metadata_of(readme)))


def _faults(metadata: dict[str, Any]) -> Iterator[str]:
    for name, value in metadata.items():
        if name not in _FIELDS:
            yield f'"{name}" is not allowed'
        elif not isinstance(value, _FIELDS[name]):
            yield f'"{name}" must be a {_FIELDS[name].__name__}'
    if (licence := metadata.get("license", "unknown")) not in LICENCES:
        yield f'"license" must be one of [{", ".join(sorted(LICENCES))}], and not {licence}'
    if (licence == "other") != ("license_name" in metadata):
        yield '"license_name" is required with the license "other", and only with it'
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", metadata.get("license_name", "a-name")):
        yield '"license_name" must be lower case letters, digits, dots and hyphens'
    if strange := set(metadata.get("size_categories", [])) - sizes():
        yield f'"size_categories" must not contain {sorted(strange)}'
    if not all(isinstance(tag, str) and tag for tag in metadata.get("tags", [])):
        yield '"tags" must be texts'
    for config in metadata.get("configs", []):
        for file in config["data_files"]:
            if not re.fullmatch(r"\w+(\.\w+)*", file["split"]):
                yield f'"configs.data_files.split" {file["split"]} is not a name'
