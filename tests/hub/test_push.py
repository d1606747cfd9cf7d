"""A pushed card is the folder as it is, in one commit; nothing is pushed that is not a verified card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import commands
from tests.hub.conftest import TOKEN, Hub
from tests.hub.test_pools import LOGIN, done, refused

pytestmark = pytest.mark.extra

ROOT = Path(__file__).parents[2]
TOY = ROOT / "data_cards" / "toy"


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A copy of the toy card, with a file that a file manager left."""
    folder = Path(shutil.copytree(TOY, tmp_path / "card"))
    (folder / "plots" / ".DS_Store").write_bytes(b"hidden")
    return folder


def test_the_repository_holds_the_card(hub: Hub, repository: str, card: Path, tmp_path: Path) -> None:
    """The repository is created and has the files of the folder, bytes as they are, by one commit; the address is printed."""
    hub.asked()
    result = done("card", "push", card, repository, into=tmp_path)
    assert result.out == f"pushed {card}: {hub.address}/datasets/{repository}\n"
    assert result.err == ""
    found = hub.repo(repository)
    assert found is not None
    assert found["private"] is False
    assert len(found["commits"]) == 2  # the first is that of the new repository
    del found["files"][".gitattributes"]
    assert found["files"] == files_of(TOY)
    asked = hub.asked()
    assert sum("/commit/" in line for line in asked) == 1
    assert sum(line.startswith("PUT /lfs/") for line in asked) == 1  # entries.parquet
    assert not any(TOKEN in line for line in asked)


def test_a_name_without_its_user(hub: Hub, card: Path, tmp_path: Path) -> None:
    """A name alone is a repository of the user whose token it is."""
    result = done("card", "push", card, "name-alone", into=tmp_path)
    assert result.out.endswith("/datasets/alice/name-alone\n")


def test_pushed_again(hub: Hub, repository: str, card: Path, tmp_path: Path) -> None:
    """Files that an earlier card had and this one has not are removed; other files stay; the same card is no commit."""
    hub.put(
        repository,
        {
            "removed.parquet": b"of an earlier version",
            "explorer/data/99.js": b"of a larger card",
            "data/000.parquet": b"the set itself",
            "explorers.md": b"of the publisher",
        },
    )
    done("card", "push", card, repository, into=tmp_path)
    found = hub.repo(repository)
    assert found is not None
    others = {".gitattributes", "data/000.parquet", "explorers.md"}
    assert set(found["files"]) == {*files_of(TOY), *others}
    done("card", "push", card, repository, into=tmp_path)
    again = hub.repo(repository)
    assert again is not None
    assert again["commits"] == found["commits"]


def test_verified_by_its_run(
    hub: Hub, repository: str, card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --run, the card of another result is refused, and nothing is asked of the Hub; that of the run is pushed."""
    pool, recipe = ROOT / "curation" / "toy_pool.jsonl", ROOT / "curation" / "toy.toml"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")  # as data_cards/toy.sh
    for name, more in (("run", ()), ("other", ("--seed", 1))):
        commands.done("curate", pool, "--recipe", recipe, "--with-text", "--out", tmp_path / name, *more)
    hub.asked()
    line = refused("card", "push", card, repository, "--run", tmp_path / "other", into=tmp_path)
    assert "give the run that the card was made from" in line
    assert hub.asked() == []
    done("card", "push", card, repository, "--run", tmp_path / "run", into=tmp_path)
    assert hub.repo(repository) is not None


def test_private(hub: Hub, repository: str, card: Path, tmp_path: Path) -> None:
    """--private creates a private repository, and pushes nothing to one that is public."""
    done("card", "push", card, repository, "--private", into=tmp_path)
    found = hub.repo(repository)
    assert found is not None
    assert found["private"] is True
    hub.put(f"{repository}-2", {"README.md": b"# There\n"})
    line = refused("card", "push", card, f"{repository}-2", "--private", into=tmp_path)
    assert "exists and is public" in line
    there = hub.repo(f"{repository}-2")
    assert there is not None
    assert "card.json" not in there["files"]


def edit(name: str, old: bytes, new: bytes) -> Callable[[Path], object]:
    def change(card: Path) -> None:
        data = (card / name).read_bytes()
        assert old in data
        (card / name).write_bytes(data.replace(old, new, 1))

    return change


def digest_again(card: Path) -> None:
    """Change a figure of README.md, and its digest with it, as somebody does who wants to pass."""
    import hashlib

    edit("README.md", b"312 image-text pairs", b"412 image-text pairs")(card)
    fields = json.loads((card / "card.json").read_bytes())
    for item in fields["files"]:
        if item["name"] == "README.md":
            item["sha256"] = hashlib.sha256((card / "README.md").read_bytes()).hexdigest()
    fields["pairs"]["kept"] = 412
    (card / "card.json").write_text(json.dumps(fields), encoding="utf-8")


def no_files(card: Path) -> None:
    fields = json.loads((card / "card.json").read_bytes())
    (card / "card.json").write_text(json.dumps({**fields, "files": []}), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda card: shutil.rmtree(card), "holds no card.json that can be read"),
        (lambda card: (card / "card.json").write_text("{}"), "is no published card"),
        (edit("README.md", b"pairs", b"pears"), "README.md is not the file that card.json names"),
        (lambda card: (card / "entries.parquet").unlink(), "entries.parquet is gone"),
        (lambda card: (card / "index.html").unlink(), "index.html is gone"),
        (edit("card.json", b'"seed": 0', b'"seed": 1'), "the result digest is not that of its fields"),
        (digest_again, "the result digest is not that of its fields"),
        (no_files, "card.json names no README.md, and 2 more differences"),
    ],
)
def test_what_is_no_verified_card(
    spoil: Callable[[Path], object], says: str, hub: Hub, repository: str, card: Path, tmp_path: Path
) -> None:
    """A folder that is no card, or one that was edited, is refused in one line before anything is asked of the Hub."""
    spoil(card)
    hub.asked()
    assert says in refused("card", "push", card, repository, into=tmp_path)
    assert hub.asked() == []


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("alice/a-card", {"HF_TOKEN": ""}, LOGIN),
        ("alice/a-card", {"HF_TOKEN": "hf_wrong"}, LOGIN),
        ("bob/a-card", {}, LOGIN),
        ("alice/a-card", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        ("alice/a-card", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
        ("alice/a/card", {}, "is no name of a repository"),
        ("alice/a card", {}, "is no name of a repository"),
    ],
)
def test_what_the_hub_refuses(
    name: str, changes: dict[str, str], says: str,
    hub: Hub, card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Without a token or a right, offline, and under a name that cannot be, one line says what to do, without the token."""
    for variable, value in changes.items():
        monkeypatch.setenv(variable, value)
    line = refused("card", "push", card, name, into=tmp_path)
    assert says in line
    assert TOKEN not in line
    assert "hf_wrong" not in line
    assert hub.repo("alice/a-card") is None


def test_metadata_that_the_hub_refuses(hub: Hub, repository: str, card: Path, tmp_path: Path) -> None:
    """What the Hub says of a README.md is in the message; the card is not in the repository."""
    import hashlib

    edit("README.md", b'license: "apache-2.0"', b'license: "our-own"')(card)
    fields = json.loads((card / "card.json").read_bytes())
    for item in fields["files"]:
        item["sha256"] = hashlib.sha256((card / item["name"]).read_bytes()).hexdigest()
    (card / "card.json").write_text(json.dumps(fields), encoding="utf-8")
    line = refused("card", "push", card, repository, into=tmp_path)
    assert 'the Hub refuses the card (Invalid metadata in README.md. - "license" must be one of' in line
    found = hub.repo(repository)
    assert found is not None
    assert set(found["files"]) == {".gitattributes"}


def test_cut_off_during_the_upload(hub: Hub, repository: str, card: Path, tmp_path: Path) -> None:
    """A push that fails before its commit leaves no file behind, and succeeds when it is made again."""
    with hub.failing("/commit/", 1):
        line = refused("card", "push", card, repository, into=tmp_path)
    assert "run the same command again" in line
    found = hub.repo(repository)
    assert found is not None
    assert set(found["files"]) == {".gitattributes"}
    hub.asked()
    done("card", "push", card, repository, into=tmp_path)
    assert not any(line.startswith("PUT /lfs/") for line in hub.asked())  # that file had arrived
