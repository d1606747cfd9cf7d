"""The head of a card's README.md is what the Hub's rules allow, whatever the publisher states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metaclip.card.publish import read_card
from metaclip.card.readme import head, hub_licence

pytest.importorskip("huggingface_hub", reason="needs pip install '.[hub]'")
pytest.importorskip("datasets", reason="needs datasets")
from tests.hub.rules import LICENCES, faults_of_card, metadata_of, sizes

pytestmark = pytest.mark.extra

ROOT = Path(__file__).parents[2]
PUBLISHED = sorted(path.parent for path in ROOT.glob("data_cards/*/card.json"))


def card(name: str = "A set", license: str | None = "MIT", kept: int = 5) -> dict[str, Any]:
    """Return the fields that the head is made of."""
    return {"name": name, "license": license, "pairs": {"kept": kept}}


def check(readme: str) -> dict[str, Any]:
    """Assert that the Hub's rules, huggingface_hub and datasets accept a README.md; return its metadata."""
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, DatasetCardData

    assert faults_of_card(readme) == []
    found = DatasetCard(readme)
    assert isinstance(found.data, DatasetCardData)
    assert found.data.to_dict() == metadata_of(readme)
    assert MetadataConfigs.from_dataset_card_data(found.data).keys() == {"entries"}
    return metadata_of(readme)


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_published_cards(folder: Path) -> None:
    """The cards in this tree follow the rules, and state their licence and size."""
    metadata = check((folder / "README.md").read_text(encoding="utf-8"))
    assert metadata["license"] == read_card(folder)["license"]
    assert len(metadata["size_categories"]) == 1


@pytest.mark.parametrize("stated", sorted(LICENCES - {"other"}))
def test_every_licence_of_the_hub(stated: str) -> None:
    """Each licence that the Hub documents is stated as it is, in any case."""
    assert hub_licence(stated) == hub_licence(stated.upper()) == {"license": stated}


@pytest.mark.parametrize(
    "stated",
    [
        "other",
        "0BSD",
        "CC-BY-SA-2.0",
        "Our Licence, 2.1",
        "許諾",
        "LicenseRef-Set (c) 2026",
        "+",
        "a: b\n---\n",
        None,
    ],
)
def test_licences_that_the_hub_does_not_know(stated: str | None) -> None:
    """Anything else is "other" with a name that the Hub accepts; without a licence, none is stated."""
    metadata = check(f"{head(card(license=stated))}\n\ntext\n")
    assert metadata.get("license") == (None if stated is None else "other")


def test_sizes() -> None:
    """Each number of pairs has a size of the Hub's, the one that it is in."""
    found = {}
    for power in range(14):
        for kept in (10**power - 1, 10**power):
            (found[kept],) = check(f"{head(card(kept=kept))}\n")["size_categories"]
    assert set(found.values()) == sizes() - {"unknown"}
    assert (found[0], found[999], found[1000], found[10**6]) == ("n<1K", "n<1K", "1K<n<10K", "1M<n<10M")


@pytest.mark.parametrize(
    "name",
    [
        "---",
        "a\n---\nlicense: mit",
        '"',
        "x: [",
        "{}",
        "# a",
        "ニャー",
        "null",
        "12",
        "true",
        "\u2028",
        "\x85",
        "👍",
    ],
)
def test_names_stay_names(name: str) -> None:
    """What a set is called is a text in the metadata, and cannot end it."""
    assert check(f"{head(card(name=name))}\n")["pretty_name"] == name
