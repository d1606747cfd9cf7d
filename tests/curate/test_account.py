"""The account says what came out: documented field by field, adding up, the same however the run was made."""

from __future__ import annotations

import datetime
import hashlib
import html
import json
import math
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaclip import (
    MatchSettings,
    Metadata,
    Run,
    RunOptions,
    TextRule,
    balance,
    curate,
    match,
)
from metaclip.card.removal.remove import remove
from metaclip.card.removal.request import RemovalRequest
from metaclip.curate import account as accounts
from metaclip.curate.account import (
    BALANCE_REASONS,
    MATCH_REASONS,
    MEANING,
    REMOVED,
    make_account,
    render,
)
from metaclip.curate.match import match_part
from metaclip.curate.settings import NO_LIST, NOT_IN_SUBSET
from metaclip.stage.folder import Part
from metaclip.stage.stage import digest_of

README = Path(__file__).parents[2] / "data_cards" / "README.md"
WORDS = ["a", "a", "a", "the", "the", "of", "dog", "cat", "ski", "wolf", "owl", "none", "nothing"]
LIST = ["a", "the", "of", "dog", "cat", "ski", "wolf", "owl", "a dog", "the cat", "unseen"]
SOURCES = ["top", "top", "top", *["animals"] * 5, None, None, "other"]
METADATA = Metadata(LIST, SOURCES)
ONE = RunOptions(workers=1)


def table_of(n: int, seed: int = 0) -> pa.Table:
    """Pairs with a head and a tail; some stand twice, so under one uid."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, 5)) for _ in range(n)]
    urls = [f"http://example.org/{i}.jpg" for i in range(n)]
    for i in range(0, n - 1, 50):
        texts[i + 1], urls[i + 1] = texts[i], urls[i]
    return pa.table({"text": texts, "url": urls})


def bad_texts() -> pa.Table:
    """A row for each reason to be lost that a parquet file of img2dataset can give, and one that matches."""
    raw = pa.array([b"a dog", b"a \xff dog", b"", None, b"none", b"a cat"], pa.binary())
    status = [*["success"] * 5, "failed_to_download"]
    return pa.table(
        {
            "caption": raw.view(pa.string()),
            "key": [*"abcdef"],
            "status": status,
            "error_message": [None] * 6,
        }
    )


def write(table: pa.Table, folder: Path, files: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(table) // files)
    for i in range(files):
        pq.write_table(table.slice(i * size, size), folder / f"{i:02d}.parquet")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 2,000 pairs in three files."""
    folder = tmp_path_factory.mktemp("account")
    pool = write(table_of(2000), folder / "pool", 3)
    return curate(pool, METADATA, out=folder / "run", t=200, settings=MatchSettings(with_text=True))


@pytest.fixture(scope="module")
def worse(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Runs that lost rows for every reason, and an input."""
    folder = tmp_path_factory.mktemp("worse")
    write(bad_texts(), folder / "parquet")
    write(table_of(99), folder / "lost", 3)
    os.truncate(folder / "lost" / "01.parquet", 100)
    (folder / "pool.jsonl").write_text('{"text": "a dog"}\nno json\n{"text": "none"}\n')
    names = ("parquet", "pool.jsonl", "lost")
    options = RunOptions(workers=1, allow_lost=True)
    return [
        curate(folder / name, METADATA, out=folder / "runs" / name, t=2, options=options)
        for name in names
    ]


# --- the documented fields


def tables(heading: str) -> list[list[list[str]]]:
    """The tables under a heading of the page: rows of cells, without their heads."""
    section = README.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0].strip()
    blocks = [block.splitlines() for block in section.split("\n\n") if block.startswith("|")]
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in block[2:]] for block in blocks
    ]


def paths(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of an account: its path, its value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value:
            yield from paths(inner, f"{path}[]")
    else:
        yield path, value


TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def test_every_field_is_documented_and_every_documented_field_is_there(
    run: Run, worse: list[Run], tmp_path: Path
) -> None:
    """The page names each field of real accounts with its type, and none that no account has."""
    rows = [*tables("card.json")[0], *tables("A version with pairs taken out")[0]]
    fields = {name: row[1].split(" or ") for row in rows for name in re.findall("`([^`]+)`", row[0])}
    patterns = {name: re.sub("<[a-z]+>", "[^.]+", re.escape(name)) for name in fields}
    assert len(fields) > 50
    seen = set()
    less = remove(
        run,
        RemovalRequest(np.zeros((0, 2), np.uint64), domains=frozenset(["example.org"])),
        tmp_path / "less",
        ONE,
    )
    settings = MatchSettings(subset=str(run.path / "curated.npy"))
    part = curate(run.path.parent / "pool", METADATA, out=tmp_path / "part", t=200, settings=settings)
    for account in (run.account, less.account, part.account, *(each.account for each in worse)):
        for path, value in paths(account):
            found = [name for name, pattern in patterns.items() if re.fullmatch(pattern, path)]
            assert len(found) == 1, f"{path} is documented {len(found)} times"
            kinds = fields[found[0]]
            assert kinds == ["any"] or any(type(value) in TYPES[kind] for kind in kinds), (
                path,
                value,
                kinds,
            )
            seen.update(found)
    assert fields.keys() - seen == set(), "documented, but in no account"


def test_every_file_and_column_of_a_run_is_documented(run: Run, tmp_path: Path) -> None:
    """The page names each file of a run folder with its columns, and each column with its type."""
    files, columns = tables("The run folder")
    contents = {name: what for names, _, what in files for name in re.findall("`([^`]+)`", names)}
    types = {row[0].strip("`"): row[1] for row in columns}
    weighted = balance(run, out=tmp_path / "weighted", t=3, weights={LIST[0]: 2.0})
    pq.write_table(pa.table({"text": ["a dog"], "lang": ["en"]}), tmp_path / "spoken.parquet")
    lists = Metadata(["dog"], language=["en"])
    spoken = curate(tmp_path / "spoken.parquet", lists, out=tmp_path / "spoken", t=3)
    folders = run.path, weighted.path, spoken.path
    assert {name.split("/")[0] for name in contents} == {
        path.name for folder in folders for path in folder.iterdir()
    }
    seen = set()
    for pattern in (
        "matched/*.parquet", "counts.parquet", "entries.parquet", "weights.parquet", "curated/*.parquet",
    ):  # fmt: skip
        carried = {"text", "url", "lang"} if pattern.startswith("curated") else set()
        for path in (path for folder in folders for path in folder.glob(pattern)):
            for field in pq.read_schema(path):
                if field.name not in carried:
                    assert f"`{field.name}`" in contents[pattern]
                    kind = "list of uint32" if pa.types.is_list(field.type) else str(field.type)
                    assert kind in types[field.name], (path, field)
                    seen.add(field.name)
    assert seen == types.keys()


def test_the_schema_is_this_one(run: Run) -> None:
    """Name and version stand in each account; another meaning of a field is another version."""
    assert run.account["schema"] == {"name": "metaclip-account", "version": 1}


# --- it adds up


def test_every_reason_has_a_meaning() -> None:
    """A reader of the card learns what each row of the funnel means, in the order of the funnel."""
    steps = ("rows", *MATCH_REASONS, REMOVED, "matched", *BALANCE_REASONS, "kept")
    assert tuple(MEANING) == steps


def test_the_funnel_adds_up(run: Run, worse: list[Run]) -> None:
    """Rows are the sum of what became of them; every reason has its place, also where nothing was lost."""
    for account in (run.account, *(each.account for each in worse)):
        rows = account["funnel"]
        assert rows.keys() == MEANING.keys() - {REMOVED, NOT_IN_SUBSET, NO_LIST}
        assert rows["rows"] == sum(rows.get(reason, 0) for reason in MATCH_REASONS) + rows["matched"]
        assert rows["matched"] == rows["not_drawn"] + rows["kept"]
        assert (account["pairs"]["matched"], account["pairs"]["kept"]) == (rows["matched"], rows["kept"])


def test_every_lost_row_has_its_reason(worse: list[Run]) -> None:
    """Rows lost for each reason are counted under it, and nowhere else; an input that was lost is named."""
    parquet, jsonl, lost = (each.account for each in worse)
    reasons = ("not_downloaded", "null_text", "invalid_utf8", "empty_text", "no_match", "matched")
    assert [parquet["funnel"][reason] for reason in reasons] == [1] * 6
    assert (jsonl["funnel"]["malformed_row"], jsonl["funnel"]["rows"]) == (1, 3)
    assert lost["lost_inputs"] == [{"name": "01.parquet", "first": 0, "rows": None}]
    assert [item["name"] for item in lost["inputs"]] == ["00.parquet", "02.parquet"]
    assert lost["funnel"]["rows"] == 66


def test_every_sum_can_be_had_from_the_files(run: Run) -> None:
    """Counts, expected and kept of each entry, and all sums, are those of the matches, the law and the curated pairs."""
    account, entries = run.account, run.entries.to_pydict()
    matched = pa.concat_tables(map(pq.read_table, sorted(run.path.glob("matched/*"))))
    n, t = len(LIST), account["balance"]["t"]

    def per_entry(column: Any, weights: Any = None) -> Any:
        rows = column.combine_chunks()
        each = None if weights is None else np.repeat(weights, np.diff(rows.offsets.to_numpy()))
        return np.bincount(rows.flatten().to_numpy(), each, minlength=n)

    counts = per_entry(matched["matches"])
    assert entries["entry"] == LIST
    assert entries["count"] == counts.tolist() == run.counts.values.tolist()
    probability = [min(1.0, t / count) if count else 1.0 for count in counts.tolist()]
    assert entries["probability"] == probability
    keep = [1 - math.prod(1 - probability[i] for i in ids) for ids in matched["matches"].to_pylist()]
    assert np.allclose(
        entries["expected"], per_entry(matched["matches"], np.array(keep)), rtol=0, atol=1e-5
    )
    assert entries["kept"] == per_entry(run.curated["matches"]).tolist()
    tail, head = (counts > 0) & (counts < t), counts >= t
    assert account["sums"] == {
        "count": int(counts.sum()),
        "count_tail": int(counts[tail].sum()),
        "count_head": int(counts[head].sum()),
        "expected": math.fsum(entries["expected"]),
        "kept": sum(entries["kept"]),
    }
    assert account["entries"] == {"zero": 1, "tail": int(tail.sum()), "head": int(head.sum())}
    assert min(account["entries"].values()) > 0
    assert sum(account["entries"].values()) == account["list"]["entries"] == n
    assert account["balance"]["tail_share"] == account["sums"]["count_tail"] / account["sums"]["count"]
    pairs = account["pairs"]
    assert math.isclose(pairs["expected"], math.fsum(keep), abs_tol=1e-4)
    assert abs(pairs["kept"] - pairs["expected"]) < 5 * pairs["deviation"]
    assert pairs["kept"] == len(run.curated) == len(np.load(run.path / "curated.npy"))


def test_repeated_uids_are_counted(run: Run) -> None:
    """Uids that stand on several matched rows, and such rows beyond the first of each."""
    matched = pa.concat_tables(map(pq.read_table, sorted(run.path.glob("matched/*"))))
    times = np.array(matched["uid"].combine_chunks().value_counts().field("counts"))
    pairs = run.account["pairs"]
    assert pairs["repeated_uids"] == int((times > 1).sum()) > 10
    assert pairs["repeated_rows"] == int((times - 1).sum())


def test_the_top_entries_are_those_of_the_largest_counts(run: Run) -> None:
    """By count, then by their row in the list; none that matches nothing; each as in entries.parquet."""
    rows = [row for row in run.entries.to_pylist() if row["count"]]
    assert len(rows) == 10
    assert run.account["top_entries"] == sorted(rows, key=lambda row: (-row["count"], row["entry_id"]))


def test_what_it_was_made_from(run: Run) -> None:
    """Inputs by the sha256 of their bytes, the list by that of its entries, and how many each source gave."""
    account, pool = run.account, run.path.parent / "pool"
    assert [item["name"] for item in account["inputs"]] == ["00.parquet", "01.parquet", "02.parquet"]
    for item in account["inputs"]:
        data = (pool / item["name"]).read_bytes()
        assert (item["size"], item["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert account["list"]["digest"] == hashlib.sha256("\n".join(LIST).encode()).hexdigest()
    assert account["list"]["sources"] == {"top": 3, "animals": 5, "other": 1, "unnamed": 2}
    assert account["digests"] == {
        "counts": hashlib.sha256(np.array(run.entries["count"], "<u8").tobytes()).hexdigest(),
        "curated": hashlib.sha256((run.path / "curated.npy").read_bytes()).hexdigest(),
    }
    made = (run.path / "card.json").stat().st_mtime
    assert abs(datetime.datetime.fromisoformat(account["created"]).timestamp() - made) < 60
    assert set(account["versions"]) == {"metaclip", "python", "unicode", "numpy", "pyarrow"}


def test_the_account_can_be_made_again(run: Run) -> None:
    """From the files alone, later, it is the same account but for when it was made."""
    assert {**make_account(run), "created": None} == {**run.account, "created": None}
    assert run.account == json.loads((run.path / "card.json").read_text(encoding="utf-8"))


# --- the result digest


def digests(run: Run) -> tuple[str, str]:
    return run.account["result_digest"], run.account["recipe_digest"]


def test_the_result_digest_is_as_documented(run: Run) -> None:
    """Whoever has the card computes its digests again, by the words of the page."""
    account = run.account
    fields = {key: account[key] for key in ("semantics", "entries", "sums", "pairs", "digests")}
    fields["list"] = {key: account["list"][key] for key in ("digest", "entries")}
    fields["rule"] = {
        key: value for key, value in account["rule"].items() if value not in (False, "none")
    }
    fields["balance"] = {key: value for key, value in account["balance"].items() if key != "asked"}
    fields["funnel"] = {key: value for key, value in account["funnel"].items() if value}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert account["result_digest"] == hashlib.sha256(text.encode()).hexdigest()
    assert account["recipe_digest"] == digest_of(account["recipe"])


@pytest.mark.parametrize(
    "way", ["one file", "many files", "row groups", "turned", "workers", "parts", "jsonl", "elsewhere"]
)
def test_the_digests_are_the_same_however_it_was_made(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Another cut, order, form, number of workers or parts, another place, time and versions: one digest."""
    table, pool, out = table_of(2000), tmp_path / "pool", tmp_path / "run"
    settings = MatchSettings(with_text=True)
    monkeypatch.setattr(accounts, "versions", lambda: {"metaclip": "99"})
    if way == "row groups":
        pool.mkdir()
        pq.write_table(table, pool / "x.parquet", row_group_size=77)
        monkeypatch.setattr("metaclip.pool.shards.SHARD_ROWS", 300)
    elif way == "jsonl":
        pool.mkdir()
        (pool / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        write(
            table[::-1] if way == "turned" else table, pool, {"one file": 1, "many files": 13}.get(way, 3)
        )
    if way == "parts":
        for number in (2, 3, 1):
            match_part(
                pool, METADATA, out=out, settings=settings, options=RunOptions(part=Part(number, 3))
            )
    if way == "elsewhere":
        match(pool, METADATA, out=tmp_path / "matched", settings=settings)
        made = balance(tmp_path / "matched", out=out, t=200)
    else:
        options = RunOptions(workers=3 if way == "workers" else 1)
        made = curate(pool, METADATA, out=out, t=200, settings=settings, options=options)
    assert digests(made) == digests(run)


def test_a_list_is_its_entries(run: Run, tmp_path: Path) -> None:
    """The same entries without sources, from a file somewhere: other sources in the card, the same digests."""
    (tmp_path / "list.txt").write_text("\n".join(LIST) + "\n")
    settings = MatchSettings(metadata=str(tmp_path / "list.txt"), with_text=True)
    made = curate(run.path.parent / "pool", out=tmp_path / "run", t=200, settings=settings)
    assert made.account["list"]["sources"] == {"unnamed": 11}
    assert digests(made) == digests(run)


@pytest.mark.parametrize("change", ["t", "seed", "rule", "list", "row", "text"])
def test_another_result_has_another_digest(run: Run, tmp_path: Path, change: str) -> None:
    """What changes the pairs, the probabilities or the counts changes the digest."""
    table = table_of(2000)
    if change == "row":
        table = table.slice(1)
    if change == "text":
        table = table.set_column(0, "text", pa.array(["owl owl", *table["text"].to_pylist()[1:]]))
    made = curate(
        write(table, tmp_path / "pool"),
        Metadata(LIST[::-1]) if change == "list" else METADATA,
        out=tmp_path / "run",
        t=201 if change == "t" else 200,
        seed=1 if change == "seed" else 0,
        settings=MatchSettings(rule=TextRule(fold_case=change == "rule")),
    )
    assert made.account["result_digest"] != run.account["result_digest"]


# --- the page


def cells(page: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line[1:-1].split("|")]
        for line in page.splitlines()
        if line.startswith("|")
    ]


def test_the_page_tells_the_account(run: Run) -> None:
    """A reader finds the figures of the account, grouped and in words, on one page."""
    account, page = run.account, (run.path / "card.md").read_text(encoding="utf-8")
    assert page == render(account)
    assert page.startswith("# Account of a curated set\n\n**")
    assert re.findall("^## (.*)$", page, re.MULTILINE) == ["Funnel", "Balance", "Entries", "Made from"]
    pairs, shown = account["pairs"], cells(page)
    for row in (
        ["2,000", "rows", "rows read from the pool"],
        [f"{pairs['kept']:,}", "kept", "kept"],
        ["t (asked: t = 200)", "200"],
        ["pairs expected", f"{pairs['expected']:,.1f} ± {pairs['deviation']:,.1f}"],
        ["zero", "1", "0", "match nothing in this pool"],
    ):
        assert row in shown
    digests = (account["result_digest"], account["list"]["digest"], account["recipe_digest"])
    for value in (*digests, "text rule: as in the paper"):
        assert value in page
    assert len(page.splitlines()) < 100
    assert max(len(line) for line in page.splitlines()) < 200


def test_the_page_says_what_is_missing(worse: list[Run]) -> None:
    """Lost inputs stand at the top, and a reason is shown where rows were lost for it."""
    lost, broken = (worse[2].path / "card.md").read_text(), (worse[0].path / "card.md").read_text()
    assert "**Not all inputs could be read.** Missing from every figure here: 01.parquet\n" in lost
    assert "Not all inputs" not in broken
    for reason in ("not_downloaded", "null_text", "invalid_utf8", "empty_text"):
        assert ["1", reason, MEANING[reason]] in cells(broken)
        assert reason not in lost


def test_rows_of_a_file_that_are_missing_are_named(run: Run) -> None:
    """A file that was lost in part is named with the rows that are missing."""
    account = {**run.account, "lost_inputs": [{"name": "a.parquet", "first": 1000, "rows": 500}]}
    assert "here: a.parquet (rows 1,000 to 1,499)" in render(account)


def test_a_rule_is_told(tmp_path: Path) -> None:
    """Settings of the text rule other than the paper's stand on the page, with a value where they have one."""
    settings = MatchSettings(rule=TextRule(fold_case=True, unspaced_scripts="fixed"))
    pool = write(table_of(50), tmp_path / "pool")
    run = curate(pool, METADATA, out=tmp_path / "run", t=5.5, settings=settings, options=ONE)
    page = (run.path / "card.md").read_text()
    assert "- text rule: fold_case, unspaced_scripts = fixed\n" in page
    assert "balanced at t = 5.5.\n" in page


HOSTILE = [
    "<script>alert(1)</script>", "a | b | c", "`rm -rf`", "``` code", "**bold** _it_ ~no~", "[x](javascript:alert(1))",
    "![x](http://example.org/x.png)", "http://example.org www.example.org a@example.org", "&lt;b&gt; &#60;", "\\| \\",
    "$x$ :smile: @user #1", "\u202egnp.exe\u2066", "\x1b[31mred\x07", "two\nlines\r\t", "nul\0\u2028\ufeff\u200b",
    "عربي 123", "rock & roll", "", " ", "---", "|", "# head", "- item", "<!--", "x" * 300,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_texts_are_shown_and_do_nothing(run: Run, text: str) -> None:
    """Entries, sources and file names from outside are text in their cells: no markup, link or control character."""
    account = run.account
    lost = [{"name": "safe", "first": 0, "rows": None}]
    plain = render({**account, "lost_inputs": lost})
    top, (first, *inputs) = account["top_entries"], account["inputs"]
    page = render(
        {
            **account,
            "top_entries": [{**top[0], "entry": text, "source": text}, *top[1:]],
            "inputs": [{**first, "name": text}, *inputs],
            "lost_inputs": [{**lost[0], "name": text}],
        }
    )
    assert page.count("\n") == plain.count("\n")
    assert [len(row) for row in cells(page)] == [len(row) for row in cells(plain)]
    assert not {unicodedata.category(char) for char in page.replace("\n", "")} & {
        "Cc",
        "Cf",
        "Cs",
        "Zl",
        "Zp",
    }
    rows = [row[0] for row in cells(plain)]
    entry, name = (cells(page)[rows.index(before)] for before in (top[0]["entry"], first["name"]))
    missing = next(line for line in page.splitlines() if "Missing from" in line).split("here: ", 1)[1]
    wanted = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    for shown in (entry[0], entry[1], name[0], missing):
        assert html.unescape(shown).strip() == wanted.strip()
        assert not re.search(r"[<>`*_\[\]\\~$@|:]|(?<!&)#", shown)
