"""What lists of many languages find in real texts, language by language, and what that costs.

    metaclip build metadata/worldwide.toml --out worldwide.parquet
    METACLIP_DATA=... python -m tests.bench.bench_worldwide worldwide.parquet [--fold-case] [--rounds 5] [--pool FOLDER]

The texts are the alt texts of 1,032 real web pages, as `metaclip extract` writes them, and the titles of the 3,600
photographs of XM3600; their languages are identified. The table has the share of them that match an entry of the shipped English
list, of their own language's list, and of either (`--also en`). Then both lists match copies of the pool in
turn, on one worker: processor seconds of the stage (reading, identities, matching, writing), which are marginal, so that opening
the lists does not count, and of the matching alone; medians.
`--fold-case` compares without regard to case. `--pool` keeps the pool, of which `data_cards/worldwide.sh` publishes the card.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaclip import (
    Matcher,
    MatchSettings,
    Metadata,
    RunOptions,
    TextRule,
    extract,
    match,
)
from metaclip.extract.languages import identify_languages
from metaclip.matching.text_rule import PAPER
from metaclip.metadata import shipped_list
from metaclip.pool.shards import BATCH_ROWS
from tests.bench import corpus

COPIES: Final = 160
LEAST: Final = 20
"""Number of texts below which a language is counted with the others."""
EXAMPLES: Final = ("de", "es", "ja", "ko", "zh", "th", "ru", "ar")
RULE: Final = TextRule(unspaced_scripts="fixed")
HERE: Final = RunOptions(1, progress=False)


def make_pool(folder: Path) -> None:
    """Write the pairs of the web pages, and those of the photographs, with the languages of their texts."""
    data = corpus.data_folder()
    extract(data / "wat" / "web-pages.warc.wat.gz", out=folder / "pages", options=HERE)
    with zipfile.ZipFile(data / "images" / "xm3600_128px.zip") as archive:
        rows = [json.loads(line) for line in archive.read("pairs.jsonl").splitlines()]
    texts = pa.array([" ".join(row["text"].split()) for row in rows], pa.large_string())
    urls = pa.array([row["url"] for row in rows])
    (folder / "photographs").mkdir()
    pq.write_table(
        pa.table({"url": urls, "text": texts.cast(pa.string()), "lang": identify_languages(texts)[0]}),
        folder / "photographs" / "xm3600.parquet",
    )


def read_pool(folder: Path) -> pa.Table:
    """Read urls, texts and languages."""
    columns = ["url", "text", "lang"]
    tables = [pq.read_table(path, columns=columns) for path in sorted(folder.glob("*/*.parquet"))]
    return pa.concat_tables(table.cast(tables[0].schema) for table in tables).combine_chunks()


def has_match(matches: pa.Array) -> npt.NDArray[np.bool_]:
    """Return whether each text matches an entry."""
    return np.asarray(pc.greater(pc.list_value_length(matches), 0))


def print_table(pool: pa.Table, english: Matcher, own: Matcher, also: Matcher) -> None:
    """Print the shares of texts that match, by language, and what some of them match."""
    texts, codes = pool["text"].combine_chunks(), pool["lang"].combine_chunks()
    found = {
        "English": english.match(texts),
        "own": own.match(texts, codes),
        "either": also.match(texts, codes),
    }
    hits = {name: has_match(matches) for name, matches in found.items()}
    languages = np.array([code or "unknown" for code in codes.to_pylist()])
    n = Counter(languages.tolist())
    rows = [([code], code) for code, size in n.most_common() if size >= LEAST]
    rest = [code for code in n if n[code] < LEAST]
    print(
        "| language | texts | English list | its own list | its own or English |\n|---|---:|---:|---:|---:|"
    )
    for some, name in [*rows, (rest, f"{len(rest)} others"), ([*n], "all")]:
        here = np.isin(languages, some)
        shares = " | ".join(f"{100 * hits[name][here].mean():.1f}%" for name in hits)
        print(f"| {name} | {here.sum():,} | {shares} |")
    print(
        f"\nmatches a text: {', '.join(f'{name} {len(m.values) / len(texts):.2f}' for name, m in found.items())}\n"
    )
    entries = own.metadata.entries
    for code in EXAMPLES:
        # Of the texts that no English entry is in, the one of middle length.
        some = np.flatnonzero((languages == code) & hits["own"] & ~hits["English"])
        if not len(some):
            continue
        some = some[np.argsort([len(texts[int(i)].as_py()) for i in some], kind="stable")]
        row = int(some[len(some) // 2])
        print(
            f"{code}: {texts[row].as_py()[:100]!r} matches {entries.take(found['own'][row].values).to_pylist()}"
        )


def print_rates(pool: pa.Table, worldwide: Path, english: Matcher, own: Matcher, rounds: int) -> None:
    """Print how fast both lists are, on shuffled copies of the pool."""
    rng = np.random.default_rng(0)
    table = (
        pa.concat_tables([pool] * COPIES)
        .take(pa.array(rng.permutation(COPIES * len(pool))))
        .combine_chunks()
    )
    urls = pa.array([f"https://e.org/{i}" for i in range(len(table))])
    table = table.set_column(0, "url", urls)
    texts, codes = table["text"].combine_chunks(), table["lang"].combine_chunks()

    def match_all(matcher: Matcher, by_language: bool) -> None:
        for begin in range(0, len(texts), BATCH_ROWS):
            batch = texts[begin : begin + BATCH_ROWS]
            matcher.match(batch, codes[begin : begin + BATCH_ROWS]) if by_language else matcher.match(
                batch
            )

    sides = {"English": (shipped_list(), english), "worldwide": (worldwide, own)}
    stage, alone = ({side: list[float]() for side in sides} for _ in range(2))
    with tempfile.TemporaryDirectory() as name:
        small, large = Path(name, "small.parquet"), Path(name, "large.parquet")
        pq.write_table(table[: len(pool)], small)
        pq.write_table(table, large)
        for i in range(rounds + 1):  # the first is to warm up: automata are built and opened
            for side, (metadata, matcher) in sides.items():
                took = []
                for path in (small, large):
                    begin = time.process_time()
                    out = Path(name, f"{side}-{path.stem}-{i}")
                    match(
                        path, metadata, out=out, settings=MatchSettings(rule=matcher.rule), options=HERE
                    )
                    took.append(time.process_time() - begin)
                stage[side].append(took[1] - took[0])
                begin = time.process_time()
                match_all(matcher, side == "worldwide")
                alone[side].append(time.process_time() - begin)
    for what, times, n in (
        ("the stage", stage, len(table) - len(pool)),
        ("matching alone", alone, len(table)),
    ):
        rates = {side: n / statistics.median(found[1:]) / 1e6 for side, found in times.items()}
        print(
            f"{what}: " + ", ".join(f"{side} {rate:.2f}" for side, rate in rates.items()) + " M texts/s"
        )
        ratios = [a / b for a, b in zip(times["English"][1:], times["worldwide"][1:], strict=True)]
        print(f"    worldwide at {statistics.median(ratios):.2f} of the rate of English alone")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("list", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pool", type=Path)
    parser.add_argument("--fold-case", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = given.pool or Path(name)
        make_pool(folder)
        if given.list.name != "-":
            pool, many = read_pool(folder), Metadata.read(given.list)
            rules = [dataclasses.replace(rule, fold_case=given.fold_case) for rule in (PAPER, RULE)]
            english, own = Matcher(Metadata.read(shipped_list()), rules[0]), Matcher(many, rules[1])
            print_table(pool, english, own, Matcher(many, rules[1], also=["en"]))
            if given.rounds:
                print_rates(pool, given.list, english, own, given.rounds)


if __name__ == "__main__":
    main()
