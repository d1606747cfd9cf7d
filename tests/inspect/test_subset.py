"""What inspect selects, curate and reshard take: balancing is computed on the images that are there, and the card says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("PIL", reason="needs Pillow: pip install '.[images]'")

from metaclip import (
    InspectSettings,
    MatchSettings,
    MetaclipError,
    Run,
    RunOptions,
    balance,
    curate,
    inspect,
    reshard,
)
from metaclip.curate.schema import FIELDS, faults
from metaclip.pool.sorted_uids import SUBSET
from tests import commands
from tests.inspect.pictures import encoded, photo
from tests.inspect.test_select import kept, write
from tests.training.shards import read_tar, uid

ONE = RunOptions(workers=1)
WORDS = ["dog", "cat"]


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tars of 24 samples: 12 pictures twice, two of them broken; texts of even numbers match, and one is empty."""
    samples = []
    for n in range(24):
        image = encoded(photo(n % 12), "JPEG", quality=90) if n not in (5, 17) else b"broken"
        samples.append((image, "" if n == 8 else f"a {'dog' if n % 2 == 0 else 'bird'} {n}"))
    folder = write(tmp_path_factory.mktemp("tars") / "tars", samples, 10)
    for number, count in enumerate((13, 11, 4)):
        statistics = {
            "count": count,
            "successes": min(count, 10),
            "failed_to_download": 1,
            "status_dict": {},
        }
        (folder / f"{number:05d}_stats.json").write_text(json.dumps(statistics))
    return folder


@pytest.fixture(scope="module")
def seen(tars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tars inspected; of duplicates the first stays."""
    out = tmp_path_factory.mktemp("seen") / "seen"
    inspect(tars, out=out, settings=InspectSettings(exact_duplicates=True), options=ONE)
    return out


@pytest.fixture(scope="module")
def run(tars: Path, seen: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The tars balanced on what stays."""
    settings = MatchSettings(subset=str(seen / "subset.npy"))
    return curate(
        tars, WORDS, out=tmp_path_factory.mktemp("run") / "run", t=100, settings=settings, options=ONE
    )


def test_only_rows_of_the_subset_count(run: Run, seen: Path) -> None:
    """Counts, funnel and curated pairs are those of the samples that stay."""
    assert kept(seen) == sorted(uid(n) for n in range(12) if n != 5)
    assert run.counts.values.tolist() == [5, 0]
    funnel = run.account["funnel"]
    assert (funnel["rows"], funnel["not_in_subset"], funnel["empty_text"]) == (24, 13, 1)
    assert (funnel["no_match"], funnel["matched"], funnel["kept"]) == (5, 5, 5)
    assert sorted(run.curated["uid"].to_pylist()) == sorted(uid(n) for n in (0, 2, 4, 6, 10))


def test_the_account_says_what_became_of_the_images(run: Run) -> None:
    """The account and its page have the whole path: listed, downloaded, broken, duplicate, kept; then the rows."""
    images = {one["step"]: one["samples"] for one in run.account["images"]}
    assert images == {
        "listed": 28,
        "not_downloaded": 4,
        "samples": 24,
        "broken_image": 2,
        "exact_duplicate": 11,
        "kept": 11,
    }
    assert not list(faults(run.account, FIELDS, strict=True))
    page = (run.path / "card.md").read_text()
    assert "| 28 | listed | pairs that img2dataset was given |" in page.replace("&#95;", "_")
    assert "| 2 | broken_image | broken: an image that cannot be decoded |" in page.replace(
        "&#95;", "_"
    ).replace("&#58;", ":")
    assert "| 13 | not_in_subset | uid that is not in the given subset |" in page
    assert page.index("## Images") < page.index("## Funnel")


def test_a_run_without_a_subset_says_nothing_of_it(tars: Path, tmp_path: Path) -> None:
    """Without a subset the account, the manifest and the recipe have no trace of one."""
    plain = curate(tars, WORDS, out=tmp_path / "run", t=100, options=ONE)
    assert "images" not in plain.account
    assert "not_in_subset" not in plain.account["funnel"]
    for name in ("manifest.json", "recipe.toml", "card.md", "card.json"):
        assert "subset" not in (tmp_path / "run" / name).read_text().replace("subset file", "").replace(
            "subset format", ""
        )


def test_a_folder_of_another_verb(tars: Path, run: Run) -> None:
    """A run folder is no place for the table: the command that would spoil its manifest is refused."""
    before = (run.path / "manifest.json").read_bytes()
    line = commands.refused("inspect", tars, "--out", run.path)
    assert "holds the result of another verb (balance)" in line
    assert before == (run.path / "manifest.json").read_bytes()


def test_combined_runs_add_up_the_images(tars: Path, tmp_path: Path) -> None:
    """A combined run tells of the images of all runs, once for each subset; of none if one run does not."""

    def curated(name: str, *paths: Path, subset: Path | None) -> Run:
        settings = MatchSettings(subset=None if subset is None else str(subset))
        return curate(list(paths), WORDS, out=tmp_path / name, t=100, settings=settings, options=ONE)

    def images(name: str, *runs: Run) -> dict[str, int]:
        account = balance(list(runs), t=100, out=tmp_path / name, options=ONE).account
        assert not list(faults(account, FIELDS, strict=True))
        return {one["step"]: one["samples"] for one in account.get("images", [])}

    paths = sorted(tars.glob("*.tar"))
    for path in paths:
        inspect(path, out=tmp_path / path.stem, options=ONE)
    subsets = [tmp_path / path.stem / "subset.npy" for path in paths]
    inspect(paths, out=tmp_path / "all", options=ONE)
    one = curated("one", paths[0], subset=subsets[0])
    three = curated("three", paths[2], subset=subsets[2])
    assert images("both", one, three) == {
        "listed": 17, "not_downloaded": 3, "samples": 14, "broken_image": 1, "kept": 13,
    }  # fmt: skip
    both = [curated(f"all_{n}", paths[n], subset=tmp_path / "all" / "subset.npy") for n in (0, 1)]
    assert images("same", *both) == {
        "listed": 28, "not_downloaded": 4, "samples": 24, "broken_image": 2, "kept": 22,
    }  # fmt: skip
    assert images("mixed", one, curated("plain", paths[1], subset=None)) == {}
    copy = tmp_path / "unlisted" / "2.tar"  # without statistics beside it
    copy.parent.mkdir()
    copy.write_bytes(paths[2].read_bytes())
    inspect(copy, out=tmp_path / "other", options=ONE)
    other = curated("two", copy, subset=tmp_path / "other" / "subset.npy")
    assert images("some", one, other) == {"samples": 14, "broken_image": 1, "kept": 13}


@pytest.mark.parametrize("verb", ["curate", "reshard", "balance"])
def test_a_folder_of_inspect_is_no_out(verb: str, tars: Path, seen: Path, run: Run) -> None:
    """The folder of inspect takes no other verb's result, which would replace its manifest."""
    words: list[Any] = ["--metadata", run.path / "entries.parquet"] if verb == "curate" else []
    words += ["--subset", seen / "subset.npy"] if verb == "reshard" else []
    before = (seen / "manifest.json").read_bytes()
    line = commands.refused(verb, run.path if verb == "balance" else tars, *words, "--out", seen)
    assert "holds the result of another verb (inspect)" in line
    assert before == (seen / "manifest.json").read_bytes()


def test_a_folder_of_inspect_is_no_pool(tars: Path, seen: Path, tmp_path: Path) -> None:
    """A folder of inspect in the place of a pool or a subset is refused with the command that was meant."""
    for verb in (["curate"], ["reshard", "--subset", seen / "subset.npy"]):
        line = commands.refused(*verb, seen, "--out", tmp_path / "x")
        assert f"--subset {str(seen / 'subset.npy')!r}" in line
    line = commands.refused("reshard", tars, "--subset", seen, "--out", tmp_path / "x")
    assert f"give {seen}/subset.npy" in line


def test_a_subset_of_other_samples(tars: Path, tmp_path: Path) -> None:
    """If no row is in the subset, the message names the subset and not the query list."""
    for uids in ([], [(1, 2)]):
        np.save(tmp_path / "other.npy", np.array(uids, SUBSET))
        settings = MatchSettings(subset=str(tmp_path / "other.npy"))
        with pytest.raises(MetaclipError, match="none of the 24 rows is in the subset .*other.npy"):
            curate(tars, WORDS, out=tmp_path / "run", t=100, settings=settings, options=ONE)


@pytest.mark.parametrize("crc32", [None, [], {"subset.npy": 7}])
def test_a_manifest_that_is_not_inspects(crc32: Any, tars: Path, seen: Path, tmp_path: Path) -> None:
    """Whatever a file beside a subset holds, it costs no more than what the account would say of the images."""
    (tmp_path / "subset.npy").write_bytes((seen / "subset.npy").read_bytes())
    (tmp_path / "manifest.json").write_text(
        json.dumps({"stages": {"select": {"crc32": crc32}}, "steps": []})
    )
    settings = MatchSettings(subset=str(tmp_path / "subset.npy"))
    assert (
        "images"
        not in curate(tars, WORDS, out=tmp_path / "run", t=9, settings=settings, options=ONE).account
    )


def test_a_card_shows_the_images(run: Run, tmp_path: Path) -> None:
    """The published card has the images in README.md and in the data of its page."""
    pytest.importorskip("altair", reason="needs metaclip[cards]")
    from metaclip import card

    made = card(run, out=tmp_path / "card", name="A set", options=ONE)
    assert [one["step"] for one in made.fields["images"]][:3] == ["listed", "not_downloaded", "samples"]
    text = (tmp_path / "card" / "README.md").read_text()
    assert text.index("## Images") < text.index("## What was dropped, and why")
    assert "no judgement of those that stay (section Images)" in text
    commands.done("card", "verify", tmp_path / "card", "--run", run.path)


def test_reshard_takes_the_subset(tars: Path, seen: Path, run: Run, tmp_path: Path) -> None:
    """The subset, and the curated uids of the run on it, come out of the tars."""
    made = reshard(tars, subset=seen / "subset.npy", out=tmp_path / "out", options=ONE)
    assert (made.record["written"], made.record["missing"]) == (11, 0)
    names = {
        name.partition("-")[0] for path in (tmp_path / "out").glob("*.tar") for name, _ in read_tar(path)
    }
    assert sorted(names) == kept(seen)
    made = reshard(tars, subset=run.path / "curated.npy", out=tmp_path / "curated", options=ONE)
    assert made.record["written"] == 5


def test_the_command_line(tars: Path, seen: Path, tmp_path: Path) -> None:
    """--subset is a flag of curate and a key of a recipe; another subset is another run."""
    words = tmp_path / "words.txt"
    words.write_text("dog\ncat\n")
    flags: list[Any] = ["curate", tars, "--metadata", words, "--t", 100, "--workers", 1]
    commands.done(*flags, "--subset", seen / "subset.npy", "--out", tmp_path / "run")
    assert Run(tmp_path / "run").account["funnel"]["matched"] == 5
    recipe = tmp_path / "run" / "recipe.toml"
    assert "subset = " in recipe.read_text()
    commands.done("curate", tars, "--recipe", recipe, "--out", tmp_path / "again", "--workers", 1)
    assert (tmp_path / "run" / "curated.npy").read_bytes() == (
        tmp_path / "again" / "curated.npy"
    ).read_bytes()
    np.save(tmp_path / "other.npy", np.array([divmod(int(uid(0), 16), 1 << 64)], SUBSET))
    line = commands.refused(*flags, "--subset", tmp_path / "other.npy", "--out", tmp_path / "run")
    assert "subset has changed" in line
    line = commands.refused(*flags, "--subset", tmp_path / "none.npy", "--out", tmp_path / "x")
    assert "there is no subset" in line
    line = commands.refused(*flags, "--out", tmp_path / "run")
    assert "subset" in line


def test_a_subset_that_is_not_inspects(tars: Path, seen: Path, tmp_path: Path) -> None:
    """A subset beside the manifest of another one tells nothing of images; rows without a uid of their own have md5's."""
    np.save(tmp_path / "subset.npy", np.load(seen / "subset.npy")[:3])
    (tmp_path / "manifest.json").write_bytes((seen / "manifest.json").read_bytes())
    settings = MatchSettings(subset=str(tmp_path / "subset.npy"))
    words = ["dog", "bird"]
    found = curate(tars, words, out=tmp_path / "run", t=100, settings=settings, options=ONE)
    assert "images" not in found.account
    assert found.account["funnel"]["not_in_subset"] == 21
    with pytest.raises(MetaclipError, match="is not a subset file"):
        curate(
            tars,
            words,
            out=tmp_path / "x",
            settings=MatchSettings(subset=str(tmp_path / "manifest.json")),
            options=ONE,
        )


def test_a_pool_of_parquet(seen: Path, tmp_path: Path) -> None:
    """The list that the images were downloaded from is balanced on what is there: rows without an image are not in it."""
    import pyarrow as pa

    rows = pa.table(
        {
            "uid": [uid(n) for n in range(40)],
            "url": [f"https://example.org/{n}" for n in range(40)],
            "text": [f"a {'dog' if n % 2 == 0 else 'bird'} {n}" for n in range(40)],
        }
    )
    pq.write_table(rows, tmp_path / "list.parquet")
    settings = MatchSettings(subset=str(seen / "subset.npy"))
    found = curate(
        tmp_path / "list.parquet", WORDS, out=tmp_path / "run", t=100, settings=settings, options=ONE
    )
    assert found.account["funnel"]["not_in_subset"] == 29
    assert found.counts.values.tolist() == [6, 0]


@pytest.mark.browser
def test_the_page_shows_the_images(run: Run, tars: Path, tmp_path: Path) -> None:
    """The card's page has a table of the images where the card tells of them, and none otherwise."""
    pytest.importorskip("altair", reason="needs metaclip[cards]")
    from metaclip import card
    from tests.card.browser.chromium import Page, launched

    card(run, out=tmp_path / "card", name="A set", options=ONE)
    plain = curate(tars, WORDS, out=tmp_path / "run", t=100, options=ONE)
    card(plain, out=tmp_path / "plain", name="A set", options=ONE)
    with launched() as browser:
        page = Page(browser, (tmp_path / "card" / "index.html").as_uri())
        rows = [(row[0], row[2]) for row in page.rows("#images")]
        assert rows[0] == ("28", "pairs that img2dataset was given")
        assert rows[-1] == ("11", "images that stay")
        assert len(rows) == 6
        assert page.said == []
        page.close()
        page = Page(browser, (tmp_path / "plain" / "index.html").as_uri())
        assert page.view.query_selector("#images").is_hidden()
        page.close()
