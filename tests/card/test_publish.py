"""The published card: every field is documented, figures are the run's, the Hub's and Croissant's readers accept it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from metaclip import Balancer, Card, MetaclipError, Metadata, Run, RunOptions, balance, curate, match
from metaclip import card as make_card_of
from metaclip.card.class_coverage import ClassNames
from metaclip.card.publish import CardInfo, make_card
from metaclip.card.readme import hub_licence
from metaclip.card.verify import verify
from tests import commands

pytest.importorskip("altair", reason="needs the extra cards: pip install -e '.[cards]'")
pytestmark = pytest.mark.extra

ROOT = Path(__file__).parents[2]
NAMES = ClassNames("animals", ("dog", "unheard of"))
ABOUT = CardInfo("A toy", "cc-by-4.0", "data@example.org", "https://example.org/toy")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The toy pool, balanced."""
    out = tmp_path_factory.mktemp("publish") / "run"
    return curate(ROOT / "curation" / "toy_pool.jsonl", ROOT / "metadata" / "toy.txt", out=out, t=20)


@pytest.fixture(scope="module")
def card(run: Run) -> Path:
    """The card of the toy pool."""
    folder = run.path.parent / "card"
    make_card(run, folder, ABOUT, classes=[NAMES])
    return folder


def fields(value: Any, name: str = "") -> set[str]:
    if isinstance(value, dict):
        return set().union(*(fields(inner, f"{name}.{key}".lstrip(".")) for key, inner in value.items()))
    if isinstance(value, list):
        return set().union(*(fields(inner, f"{name}[]") for inner in value)) if value else {f"{name}[]"}
    return {name}


def test_every_field_is_documented(card: Path) -> None:
    """data_cards/README.md documents exactly the fields that a card has beyond an account."""
    page = (ROOT / "data_cards" / "README.md").read_text(encoding="utf-8")
    section = page[page.index("## The published card") : page.index("## The run folder")]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    whole = json.loads((card / "card.json").read_text(encoding="utf-8"))
    own = fields(
        {
            key: whole[key]
            for key in (
                "name",
                "license",
                "contact",
                "url",
                "grid",
                "hosts",
                "languages",
                "classes",
                "files",
            )
        }
    )
    assert own - documented == set()
    assert {name for name in documented - own if not name.startswith(("languages", "hosts"))} == set()
    assert whole["schema"] == {"name": "metaclip-card", "version": 1}


def test_it_has_the_accounts_figures(run: Run, card: Path) -> None:
    """A card contains the account, unchanged except for the schema's name."""
    whole = json.loads((card / "card.json").read_text(encoding="utf-8"))
    assert {key: value for key, value in whole.items() if key in run.account} == {
        **run.account,
        "schema": whole["schema"],
    }
    kept = [pair["url"] for pair in run.curated.to_pylist()]
    assert whole["hosts"]["pairs"] == len(kept)
    assert sum(item["pairs"] for item in whole["hosts"]["top"]) == len(kept)
    assert whole["languages"] is None
    at = whole["grid"]["t"].index(run.t)
    assert whole["grid"]["pairs"][at] == pytest.approx(run.account["pairs"]["expected"])
    table = pq.read_table(card / "entries.parquet")
    assert table.drop_columns(["samples"]).equals(run.entries)


def test_its_files_are_those_that_it_names(card: Path) -> None:
    """Files are named by size and sha256; besides them there are only card.json and the explorer page."""
    whole = json.loads((card / "card.json").read_text(encoding="utf-8"))
    for item in whole["files"]:
        data = (card / item["name"]).read_bytes()
        assert (item["size"], item["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    there = {str(path.relative_to(card)) for path in card.rglob("*") if path.is_file()}
    named = {item["name"] for item in whole["files"]}
    assert named <= there
    assert {name for name in there - named if not name.startswith("explorer/")} == {
        "card.json",
        "index.html",
    }


def test_its_progress(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each part of the work has a bar, which ends at the number of files, plots or entries that the part had."""
    make_card(run, tmp_path / "card", ABOUT, options=RunOptions(workers=1, progress=True))
    last = dict(
        re.findall(r"([a-z-]+(?: \([a-z]+\))?): +100%[^|]*\|[^|]*\| ([0-9.]+)/", capfd.readouterr().err)
    )
    assert {name: float(n) for name, n in last.items()} == {
        "check": 1, "read": 2, "draw": 6, "neighbours": 1, "look-ups (uid)": 1, "look-ups (url)": 1, "page": len(run.metadata),
    }  # fmt: skip


def test_the_command_names_the_page(run: Run, tmp_path: Path) -> None:
    """What the command says ends with the path of index.html, which is there."""
    said = commands.done("card", run.path, "--out", tmp_path / "card").out
    assert said.endswith(f": open {tmp_path / 'card' / 'index.html'}\n")
    assert (tmp_path / "card" / "index.html").is_file()


def test_it_is_the_same_again(run: Run, card: Path, tmp_path: Path) -> None:
    """Another number of workers gives the same bytes."""
    make_card(run, tmp_path / "again", ABOUT, classes=[NAMES], options=RunOptions(workers=3))
    for path in sorted(card.rglob("*")):
        if path.is_file() and path.parent.name != "plots":
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(card)).read_bytes(), (
                path.name
            )


def test_a_balancer_opens_it(run: Run, card: Path) -> None:
    """A Balancer of the card decides as one of the run."""
    texts = ["a dog", "a cat on a mat", "nothing"]
    uids = [f"{i:032x}" for i in range(3)]
    assert (Balancer(card).keep(texts, uids) == Balancer(run).keep(texts, uids)).all()


def test_the_hub_reads_its_head(card: Path) -> None:
    """The YAML has the fields that the Hub knows, and `datasets` loads what it names."""
    hub = pytest.importorskip("huggingface_hub", reason="needs the package huggingface_hub")
    data = hub.DatasetCard.load(card / "README.md").data
    assert (data.license, data.pretty_name) == ("cc-by-4.0", "A toy")
    assert data.size_categories == ["n<1K"]


def test_datasets_loads_it(run: Run, card: Path, tmp_path: Path) -> None:
    """load_dataset on the folder returns the entries."""
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    table = datasets.load_dataset(str(card), "entries", split="train", cache_dir=str(tmp_path))
    assert table["entry"][:] == run.metadata.entries.to_pylist()
    assert len(table["samples"][0]) == 5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_croissant_accepts_it(run: Run, card: Path) -> None:
    """Mlcroissant finds no error, and reads the entries."""
    croissant = pytest.importorskip("mlcroissant", reason="needs the package mlcroissant")
    data = croissant.Dataset(jsonld=str(card / "croissant.json"))
    first = next(iter(data.records("entries")))
    assert first["entries/entry"].decode() == run.metadata[0]
    assert first["entries/count"] == run.counts.values[0]


def test_the_page_says_what_was_dropped(run: Run, card: Path) -> None:
    """README.md has the funnel's numbers, all plots, and the contact for removals."""
    text = (card / "README.md").read_text(encoding="utf-8")
    for number in (
        run.account["funnel"][key] for key in ("rows", "no_match", "matched", "not_drawn", "kept")
    ):
        assert f"| {number:,} |" in text
    for image in re.findall(r"\]\((plots/[^)]+)\)", text):
        assert (card / image).is_file()
    assert text.count("](plots/") == 6
    assert "data&#64;example.org" in text


def test_hostile_names(run: Run, tmp_path: Path) -> None:
    """Markup and line ends in the publisher's names change neither the structure of README.md nor its head."""
    name = 'A "toy"\n---\n# <script>alert(1)</script> | x'
    make_card(run, tmp_path / "card", CardInfo(name, contact="[x](javascript:alert(1))"))
    text = (tmp_path / "card" / "README.md").read_text(encoding="utf-8")
    assert "<script>" not in text.split("---")[-1]
    assert "](javascript" not in text
    assert text.splitlines().count("---") == 2
    assert json.loads((tmp_path / "card" / "card.json").read_text(encoding="utf-8"))["name"] == name


def test_blocked_words(run: Run, tmp_path: Path) -> None:
    """No sample contains a blocked word."""
    make_card(run, tmp_path / "card", ABOUT, blocked=Metadata(["dog"]))
    shown = [
        text
        for texts in pq.read_table(tmp_path / "card" / "entries.parquet")["samples"].to_pylist()
        for text in texts
    ]
    assert shown
    assert not any(re.search(r"\bdog\b", text, re.IGNORECASE) for text in shown)


def test_a_card_without_captions(run: Run, tmp_path: Path) -> None:
    """No file of the card holds a caption of the pool; verified or made again, it still holds none, until they are wanted."""
    folder = tmp_path / "card"
    shown = make_card_of(run, out=tmp_path / "shown").entries["samples"].to_pylist()
    captions = {text for texts in shown for text in texts if len(text) > 25}

    def found() -> set[str]:
        texts = [
            path.read_bytes().decode("utf-8", "replace") for path in folder.rglob("*") if path.is_file()
        ]
        texts += [str(pq.read_table(folder / "entries.parquet").to_pylist())]
        return {caption for caption in captions if any(caption in text for text in texts)}

    make_card_of(run, out=folder, samples=False, look_ups=False)
    assert len(captions) > 50
    assert not found()
    assert verify(folder, run) == []
    make_card_of(run, out=folder, contact="data@example.org", look_ups=False)
    assert not found()
    (folder / "entries.parquet").write_bytes(b"damaged")
    make_card_of(run, out=folder, look_ups=False)
    assert not found()
    make_card_of(run, out=folder, samples=True)
    assert found() == captions


def test_refusals(run: Run, card: Path, tmp_path: Path) -> None:
    """A run that is only matched has no card; a folder of other files is refused; an existing card is replaced."""
    matched = match(
        ROOT / "curation" / "toy_pool.jsonl", ROOT / "metadata" / "toy.txt", out=tmp_path / "matched"
    )
    with pytest.raises(MetaclipError, match="matched but not balanced; run: metaclip balance"):
        make_card(matched, tmp_path / "card", ABOUT)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(MetaclipError, match=r"holds notes\.txt, which is of no card"):
        make_card(run, tmp_path / "other", ABOUT)
    with pytest.raises(MetaclipError, match="which is of no card"):
        make_card(run, run.path, ABOUT)
    assert make_card(run, card, ABOUT)["name"] == "A toy"
    assert np.load(run.path / "curated.npy").shape == (run.balance["kept"],)


def test_the_card_of_another_set_stays(run: Run, tmp_path: Path) -> None:
    """A folder that holds another result's card is refused and left as it is; overwrite replaces it and what it stated."""
    other = balance(run, t=5, out=tmp_path / "other")
    folder = tmp_path / "card"
    make_card(run, folder, ABOUT)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    line = commands.refused("card", other.path, "--out", folder)
    assert (
        f"{folder} holds the card 'A toy', of the result {run.account['result_digest'][:16]}, and {other.path}"
        in line
    )
    assert line.endswith("choose another --out, or replace it with --overwrite")
    with pytest.raises(MetaclipError, match=r"replace it with `RunOptions\(overwrite=True\)`$"):
        make_card(other, folder, ABOUT)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    commands.done("card", other.path, "--out", folder, "--overwrite")
    found = Card(folder).fields
    assert found["result_digest"] == other.account["result_digest"]
    assert (found["name"], found["license"], found["contact"]) == ("card", None, None)
    (folder / "card.json").write_text("{")
    assert "holds a damaged card, and" in commands.refused("card", run.path, "--out", folder)


def test_a_card_that_is_made_again_states_what_it_did(run: Run, tmp_path: Path) -> None:
    """Name, licence, contact, url and classes stay, one by one, unless others are given; "" states nothing."""
    names, folder = tmp_path / "animals.txt", tmp_path / "folder"
    names.write_text("dog\ncat\n")
    stated = (
        "--name",
        "A toy",
        "--license",
        "cc-by-4.0",
        "--contact",
        "me@example.org",
        "--url",
        "https://x.example",
    )
    commands.done("card", run.path, "--out", folder, *stated, "--classes", names)
    first = (folder / "card.json").read_bytes()
    commands.done("card", run.path, "--out", folder)
    assert (folder / "card.json").read_bytes() == first
    again = make_card_of(run, out=folder, license="mit", contact="").fields
    assert (again["name"], again["license"], again["contact"], again["url"]) == (
        "A toy",
        "mit",
        None,
        "https://x.example",
    )
    assert [one["name"] for one in again["classes"]] == ["animals"]


@pytest.mark.parametrize(
    ("stated", "wanted"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("GPL-3.0-only", {"license": "gpl-3.0"}),
        ("ODbL-1.0", {"license": "odbl"}),
        ("BSD-3-Clause", {"license": "bsd-3-clause"}),
        ("openrail++", {"license": "openrail++"}),
        ("Our own: ask us!", {"license": "other", "license_name": "our-own-ask-us"}),
        ("other", {"license": "other", "license_name": "other"}),
        ("本", {"license": "other", "license_name": "other"}),
    ],
)
def test_licences_as_the_hub_spells_them(stated: str, wanted: dict[str, str]) -> None:
    """The Hub refuses a licence that it does not know, in its own spelling."""
    assert hub_licence(stated) == wanted
