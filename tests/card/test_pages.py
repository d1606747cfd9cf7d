"""The pages of real cards: a reader's questions, class names, and pairs taken out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from metaclip import Run, RunOptions, curate
from metaclip.card.class_coverage import ClassNames
from metaclip.card.publish import CardInfo, make_card
from metaclip.card.removal.remove import remove
from metaclip.card.removal.request import RemovalRequest
from metaclip.curate.account import MEANING
from metaclip.curate.explain import explain
from tests.card.browser.chromium import Page, axe_core, launched

ROOT = Path(__file__).parents[2]
ONE = RunOptions(workers=1)
ABOUT = CardInfo("A toy", "cc-by-4.0", "data@example.org", "https://example.org/toy")
NAMES = ClassNames("animals <b>", ("dog", "zebra", "happiest dog", "cat", "<script>alert(1)</script>"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published card, its next version, and their runs."""
    pytest.importorskip("altair", reason="needs the extra cards: pip install -e '.[cards]'")
    home = tmp_path_factory.mktemp("pages")
    run = curate(
        ROOT / "curation" / "toy_pool.jsonl",
        ROOT / "metadata" / "toy.txt",
        out=home / "run",
        t=20,
        options=ONE,
    )
    make_card(run, home / "v1", ABOUT, classes=[NAMES], options=ONE)
    wanted = RemovalRequest(np.zeros((0, 2), np.uint64), domains=frozenset(["example.net"]))
    after = remove(run, wanted, home / "run_2", ONE)
    make_card(after, home / "v2", CardInfo("A toy"), options=ONE)
    return home


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for the file."""
    with launched() as found:
        yield found


def opened(browser: Any, path: Path, **context: Any) -> Iterator[Page]:
    page = Page(browser, path.as_uri(), **context)
    yield page
    page.close()
    assert page.said == []
    assert all(url.startswith((path.parent.as_uri(), "data:,")) for url in page.requests), page.requests


@pytest.fixture
def card(browser: Any, home: Path) -> Iterator[Page]:
    """The published card's page."""
    yield from opened(browser, home / "v1" / "index.html")


@pytest.fixture
def later(browser: Any, home: Path) -> Iterator[Page]:
    """The page of the next version."""
    yield from opened(browser, home / "v2" / "index.html")


# --- done when


def labelled(page: Page, role: str, name: str) -> Any:
    """Return a field as a reader finds it: by its role and label."""
    return page.view.get_by_role(role, name=name)


@pytest.mark.browser
def test_a_strangers_five_questions(card: Page, home: Path) -> None:
    """Each question is answered by the page alone, through headings and labels that a reader sees, with the run's figures."""
    run, view = Run(home / "run"), card.view
    account = run.account
    headings = view.locator("h2").all_inner_texts()
    # 1. How many pairs have "dog"?
    asked = headings[headings.index("Search the entries") :]
    labelled(card, "searchbox", "Entry, or a part of one").fill("dog")
    dog = next(row for row in run.entries.to_pylist() if row["entry"] == "dog")
    row = view.locator("#results tbody tr").first
    assert row.locator("th").inner_text() == "dog"
    assert row.locator("td").all_inner_texts()[1] == str(dog["count"])
    # 2. Was this caption likely kept?
    assert asked[1] == "Would a caption be kept?"
    text = "is this the happiest dog in the village?"
    labelled(card, "textbox", "Caption").fill(text)
    view.wait_for_selector("#matches tbody tr")
    p = explain(text, run=run).p
    assert p is not None
    said = view.inner_text("#verdict")
    assert float(re.findall(r"P\(keep\) = ([0-9.]*[0-9])", said)[0]) == pytest.approx(p, rel=1e-3)
    assert f"of 100 pairs with this caption about {100 * p:.1f}".removesuffix(".0") in said
    # 3. What would t = 50k give?
    assert asked[3] == "What another t would give"
    labelled(card, "spinbutton", "t, as a number").fill("50000")
    assert view.inner_text("#would dd") == f"{account['pairs']['matched']} (100% of the matched)"
    assert "every entry is kept whole" in view.inner_text("#between")
    # 4. Is this url in?
    assert asked[2] == "Is a url or uid in the set?"
    kept = run.curated.to_pylist()
    for url, answer in ((kept[0]["url"], "Kept"), ("https://example.org/none.jpg", "Not in")):
        view.evaluate("document.getElementById('answer').replaceChildren()")
        labelled(card, "textbox", "Url or uid").fill(url)
        view.get_by_role("button", name="Look up").click()
        view.wait_for_selector("#answer p")
        assert answer in view.inner_text("#answer")
    # 5. What was dropped, and why?
    assert headings[:6] == [
        "Key figures", "Counts before and after balancing", "From the pool to the set", "Head and tail",
        "Licence, contact and removal", "Downloads",
    ]  # fmt: skip
    rows = {row[2].removeprefix("Dropped: ").lower(): int(row[0]) for row in card.rows("#rows")}
    assert rows == {MEANING[name].lower(): n for name, n in account["funnel"].items() if n}
    assert account["funnel"]["rows"] == account["funnel"]["kept"] + sum(
        int(row[0]) for row in card.rows("#rows") if row[2].startswith("Dropped: ")
    )


@pytest.mark.browser
def test_terms_and_downloads(browser: Any, home: Path) -> None:
    """Licence, contact and removal are told; an address is a link, other text is not; each download is a file of the card."""
    for version, listed in (("v1", ABOUT), ("v2", CardInfo("A toy"))):
        for page in opened(browser, home / version / "index.html"):
            terms = page.text("#terms")
            assert (listed.license or "None is stated.") in terms
            assert (listed.contact or "The publisher gave no contact.") in terms
            assert (f"Write to {listed.contact}" if listed.contact else "Ask the publisher") in terms
            links = page.view.eval_on_selector_all(
                "#terms a", "(all) => all.map((one) => one.getAttribute('href'))"
            )
            assert links == (
                ["mailto:data@example.org", "https://example.org/toy", "mailto:data@example.org"]
                if listed.contact
                else []
            )
            names = page.view.locator("#files a").all_inner_texts()
            files = {path.name for path in (home / version).iterdir() if path.is_file()}
            assert set(names) == files - {"index.html"}
            assert [(home / version / name).is_file() for name in names] == [True] * len(names)


@pytest.mark.browser
@pytest.mark.parametrize(
    "contact",
    ["javascript:alert(1)", "data:text/html,x", "mailto:x@y?cc=z@y", "a@b?bcc=c", "<b>@x", "https:"],
)
def test_a_contact_cannot_be_another_link(card: Page, contact: str) -> None:
    """What is neither an address of the web nor of mail is text."""
    tag = card.view.evaluate("(text) => linked(text).outerHTML", contact)
    assert not tag.startswith("<a") or 'href="mailto:&lt;b&gt;@x"' in tag or 'href="mailto:<b>@x"' in tag


# --- class names


@pytest.mark.browser
def test_class_names(card: Page, home: Path) -> None:
    """The section is present if names were given, with the card's figures, in the selected order."""
    said = json.loads((home / "v1" / "card.json").read_text())["classes"][0]
    assert card.view.is_visible("#classes")
    assert card.view.is_visible("#to-classes")
    rows = {name: (count, kept) for name, count, kept in card.rows("#names")}
    assert rows == {
        row["name"]: ("not known" if row["count"] is None else str(row["count"]), str(row["kept"]))
        for row in said["entries"]
    }
    kept = [int(row[2]) for row in card.rows("#names")]
    assert kept == sorted(kept)
    card.view.select_option("#class-order", "listed")
    assert [row[0] for row in card.rows("#names")] == list(NAMES.names)
    assert f"{said['divergence']:.3f} before, {said['divergence_kept']:.3f} after".replace(
        "0 ", " "
    ) in card.text("#covered").replace("0 ", " ")
    card.view.click("#names button:has-text('dog')")
    card.view.wait_for_selector("td.detail h3")
    assert card.rows("#results")[0][0] == "dog"


# --- the next version


@pytest.mark.browser
def test_what_was_taken_out(later: Page, home: Path) -> None:
    """The funnel has the removed rows, an entry shows its corrected count, a removed pair is not in; there are no class names."""
    after, before = Run(home / "run_2"), Run(home / "run")
    assert later.view.is_hidden("#classes")
    rows = {row[2].removeprefix("Dropped: "): int(row[0]) for row in later.rows("#rows")}
    assert rows[MEANING["removed"]] == after.account["removed"]["pairs"]
    assert before.account["result_digest"][:16] in later.text("#taken")
    table = {row["entry"]: row for row in pa.Table.to_pylist(_counts(home / "run_2"))}
    entry = next(name for name, row in table.items() if row["count"] != row["count_corrected"])
    later.view.fill("#query", entry)
    later.view.click("#results tbody button")
    later.view.wait_for_selector("td.detail h3")
    assert f"{table[entry]['count_corrected']} are left." in later.text("td.detail")
    gone = next(pair for pair in before.curated.to_pylist() if "example.net" in pair["url"])
    for key in (gone["url"], gone["uid"]):
        later.view.evaluate("document.getElementById('answer').replaceChildren()")
        later.view.fill("#key", key)
        later.view.press("#key", "Enter")
        later.view.wait_for_selector("#answer p")
        assert later.text("#answer").startswith("Not in")


def _counts(folder: Path) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(folder / "counts.parquet")


# --- how they look, and to whom


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 360])
def test_nothing_is_cut_off(browser: Any, home: Path, width: int) -> None:
    """No page is wider than the screen; a wider table scrolls by itself."""
    for path in (home / "v1" / "index.html", home / "v2" / "index.html"):
        for page in opened(browser, path, viewport={"width": width, "height": 780}):
            assert page.view.evaluate("document.documentElement.scrollWidth") == width, path


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core."""
    return axe_core(tmp_path_factory.mktemp("axe"))


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_accessibility(browser: Any, home: Path, axe: str, scheme: str, width: int) -> None:
    """axe-core finds nothing wrong of any weight in class names and in a later version."""
    context = {"color_scheme": scheme, "viewport": {"width": width, "height": 900}, "bypass_csp": True}
    for path in (home / "v1" / "index.html", home / "v2" / "index.html"):
        page = Page(browser, path.as_uri(), **context)
        page.view.evaluate(axe)
        found = page.view.evaluate("axe.run().then((result) => result.violations)")
        assert [(item["id"], item["impact"], item["nodes"][0]["html"]) for item in found] == [], path
        page.close()
