"""Make the golden files: what this version leaves of a run, and of runs that were killed, for later versions to keep.

    .venv/bin/python -m tests.golden.make FOLDER     FOLDER is new or empty; 25 seconds, no network

Run by hand where a change of behaviour is meant, with every extra installed; what FOLDER holds then replaces what stands
beside this file. `tests/golden/test_golden.py` needs no more than what is committed, and the command line.

    inputs/                    the toy pool whole and in four files, the toy list, a pool and a list of many languages, a crawl,
                               tars, a dump; all made here
    run/                       the toy pool curated at t = 20: the run of the README
    half/                      the same pool in four files, killed in stage match: two shards have their markers
    half_balance/              killed in stage balance: likewise
    half_parts/                stage match, part 1/2 of a job array
    lost/                      a run that could not read one of its four files (exit code 3)
    rebalanced/                run/ balanced at t = 50; it names run/ by path and digest
    card/ card_rebalanced/     cards of run/ and of rebalanced/; of the second the compared files alone
    removed/                   the next version of run/ by inputs/gone_*.txt
    half_removed/              that of `whole`, killed in stage match
    half_removed_balance/      and killed in stage balance
    many/                      a pool of many languages by a list of four of them, with weights; t of each language
    half_many/                 killed in stage match
    pool_extracted/            a pool from two WAT and two WARC files
    half_extract/ half_pool/   killed after two files; killed while the pool was written
    resharded/ half_reshard/   tars by a subset; killed after one new tar
    built.parquet counts/      a list from a dump of a wiki, and the dump's counts
    half_counts/               killed after one of two parts (its fingerprint names the version of mwparserfromhell)
    digests.json               of each tree the sha256 of every file's normal form (`tests.golden.compare`), of each command
                               its exit code and what it wrote, and the versions by which all this was made

Trees that are compared, and never continued from, stand in digests.json alone: `whole`, the pool of four files curated
by nobody disturbed, in which half/ and its like must end; `solved`, `rebalanced_whole`, `removed_whole`, `applied`. Of
card/ the page's own scripts are left out.

A killed folder is made as it says: the command runs in a process that kills itself by SIGKILL as it is about to put a
given marker in place, so a temporary file is left too (in half_reshard/, where another thread writes, maybe a second
one: only that differs from one making to the next). Nothing is edited but for this: manifests, markers and recipes
hold absolute paths of inputs and lists (no fingerprint does: these hold names, sizes and digests), and the name of this
folder in them is replaced by ``@GOLDEN@``, which `place` turns into the name of the copy; what a lock says of its process
and host is replaced by `OWNER`. Inputs have the time `STAMP`, which `place` gives them again: markers know inputs by size
and time, and tars by nothing else.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from hashlib import md5
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests import crawls, dumps
from tests.golden.compare import PLACE, TEXTS, digest, digests, is_page, text

ROOT: Final = Path(__file__).parents[2]
HERE: Final = Path(__file__).parent
STAMP: Final = 1_700_000_000_000_000_000
"""The time of all inputs, in nanoseconds; they stand in markers."""
EPOCH: Final = "1700000000"
"""SOURCE_DATE_EPOCH of all commands."""
OWNER: Final = "process 1 on a machine"
VERSIONS: Final = (
    "metaclip",
    "pyarrow",
    "numpy",
    "numba",
    "altair",
    "vl-convert-python",
    "mwparserfromhell",
)
PLOTTERS: Final = ("altair", "vl-convert-python")
PARSER: Final = "mwparserfromhell"

ONE: Final = ("--workers", 1)
CURATE: Final = ("curate", "inputs/pool", "--metadata", "inputs/toy.txt", "--t", 20)
SOLVED: Final = (
    "--tail-share",
    0.2,
    "--with-text",
    "--fold-case",
    "--unicode-separators",
    "--seed",
    7,
    "--limit",
    350,
)
REMOVE: Final = tuple(
    f(name) for name in ("uids", "urls", "domains") for f in ("--{}".format, "inputs/gone_{}.txt".format)
)
LISTS: Final = tuple(
    f(name)
    for name in ("blocked-domains", "opt-out", "blocked-words")
    for f in ("--{}".format, "inputs/{}.txt".format)
)
EXTRACT: Final = (
    "extract", "inputs/crawl", "--no-identify", "--titles", "--captions", "--lazy", "--srcset", "--min-text", 3, *LISTS, *ONE,
)  # fmt: skip
MANY: Final = (
    "curate", "inputs/many", "--metadata", "inputs/many.parquet", "--unspaced-scripts", "fixed", "--fold-case", "--also", "en",
    "--t", 8, "--t-language", "ja=3", "--weights", "inputs/many_weights.csv", *ONE,
)  # fmt: skip
RESHARD: Final = ("reshard", "inputs/tars", "--subset", "inputs/subset.npy", "--shard-size", 4, *ONE)
CARD: Final = (
    "--name",
    "Golden set",
    "--license",
    "cc-by-4.0",
    "--contact",
    "golden@example.org",
    *ONE,
)


@dataclasses.dataclass(frozen=True)
class Command:
    """A command, and what it leaves."""

    name: str
    """Under which what it says stands in digests.json."""
    arguments: tuple[Any, ...]
    tree: str | None = None
    """The folder, or file, that it leaves."""
    code: int = 0


COMMANDS: Final = (
    Command(
        "run", ("curate", "inputs/toy_pool.jsonl", "--metadata", "inputs/toy.txt", "--t", 20, *ONE, "--out", "run"), "run"
    ),
    Command("whole", (*CURATE, *ONE, "--out", "whole"), "whole"),
    Command(
        "solved", ("curate", "inputs/pool", "--metadata", "inputs/toy.txt", *SOLVED, *ONE, "--out", "solved"), "solved"
    ),
    Command("rebalanced", ("balance", "run", "--t", 50, *ONE, "--out", "rebalanced"), "rebalanced"),
    Command("rebalanced_whole", ("balance", "whole", "--t", 50, *ONE, "--out", "rebalanced_whole"), "rebalanced_whole"),
    Command("refused", ("curate", "inputs/toy_pool.jsonl", "--metadata", "inputs/toy.txt", "--t", 30, "--out", "run"), code=2),
    Command("refused_list", ("match", "inputs/toy_pool.jsonl", "--metadata", "inputs/bad_list.txt", "--out", "run"), code=2),
    Command("refused_extract", (*EXTRACT, "--out", "run"), code=2),
    Command("explain", ("explain", "a photo of a dog", "--run", "run", "--url", "https://example.org/dog.jpg")),
    Command("lint", ("lint", "inputs/bad_list.txt"), code=2),
    Command("lint_json", ("lint", "inputs/bad_list.txt", "--json", "--fold-case"), code=2),
    Command("removed", ("card", "remove", "run", *REMOVE, *ONE, "--out", "removed"), "removed"),
    Command("removed_whole", ("card", "remove", "whole", *REMOVE, *ONE, "--out", "removed_whole"), "removed_whole"),
    Command(
        "applied", ("card", "apply", "removed/removed.parquet", "run/curated", "--out", "applied"), "applied"
    ),
    Command("many", (*MANY, "--out", "many"), "many"),
    Command("many_explain", ("explain", "赤い犬のカメラ", "--language", "ja", "--run", "many")),
    Command("extract", (*EXTRACT, "--out", "pool_extracted"), "pool_extracted"),
    Command("reshard", (*RESHARD, "--out", "resharded"), "resharded"),
    Command("build", ("build", "inputs/build.toml", "--out", "built.parquet", *ONE), "counts"),
    Command("card", ("card", "run", "--out", "card", *CARD), "card"),
    Command("verify", ("card", "verify", "card", "--run", "run", *ONE)),
    Command("card_rebalanced", ("card", "rebalanced", "--out", "card_rebalanced", *CARD), "card_rebalanced"),
    Command("diff", ("card", "diff", "card", "card_rebalanced")),
)  # fmt: skip
"""In an order in which each finds what it reads."""
NAMED: Final = {command.name: command for command in COMMANDS}
COMPARED_ALONE: Final = ("whole", "solved", "rebalanced_whole", "removed_whole", "applied")
"""Trees that are not committed."""


@dataclasses.dataclass(frozen=True)
class Half:
    """A folder that a killed command leaves, and the tree in which it must end."""

    tree: str
    arguments: tuple[Any, ...]
    before: str
    """The file whose putting in place it does not live to see."""
    ends: str


HALVES: Final = (
    Half("half", (*CURATE, *ONE), ".state/match/000002-0000.json", "whole"),
    Half("half_balance", (*CURATE, *ONE), ".state/balance/000002-0000.json", "whole"),
    Half(
        "half_removed",
        ("card", "remove", "whole", *REMOVE, *ONE),
        ".state/match/000002-0000.json",
        "removed_whole",
    ),
    Half(
        "half_removed_balance",
        ("card", "remove", "whole", *REMOVE, *ONE),
        ".state/balance/000002-0000.json",
        "removed_whole",
    ),
    Half("half_many", MANY, ".state/match/000002-0000.json", "many"),
    Half("half_extract", EXTRACT, ".state/extract/000002.json", "pool_extracted"),
    Half("half_pool", EXTRACT, ".state/extract/000002-pool.json", "pool_extracted"),
    Half("half_reshard", RESHARD, ".state/reshard/shard-00000001.json", "resharded"),
)
PARTS: Final = ("match", *CURATE[1:4], *ONE)
"""The command of half_parts/, but for its part."""
_KILLED: Final = """
import os, secrets, signal, sys
from metaclip import cli
end, put = sys.argv[1], os.replace
def replace(source, target, **more):
    if os.fspath(target).endswith(end):
        os.kill(os.getpid(), signal.SIGKILL)
    put(source, target, **more)
os.replace = replace
secrets.token_hex = lambda n=4: "0" * (2 * n)  # of which temporary names are made
cli.main(sys.argv[2:])
"""


def place(to: Path) -> Path:
    """Copy the committed files to a new folder and give them their paths and times there."""
    shutil.copytree(HERE, to, ignore=shutil.ignore_patterns("*.py", "__pycache__", "digests.json"))
    for path in (path for path in to.rglob("*") if path.is_file()):
        if path.suffix in TEXTS and PLACE.encode() in (said := path.read_bytes()):
            path.write_bytes(said.replace(PLACE.encode(), str(to).encode()))
        os.utime(path, ns=(STAMP, STAMP))
    return to


def versions() -> dict[str, str | None]:
    """Return the versions that some golden bytes depend on; None for what is not installed."""
    installed = {
        dist.metadata["Name"].lower(): dist.version for dist in importlib.metadata.distributions()
    }
    return {name: installed.get(name.lower()) for name in VERSIONS}


# --- inputs


def write_inputs(folder: Path) -> None:
    """Write everything that commands read."""
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "curation" / "toy_pool.jsonl", folder)
    shutil.copy(ROOT / "metadata" / "toy.txt", folder)
    rows = [
        json.loads(line) for line in (folder / "toy_pool.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    _write_pool(folder / "pool", rows)
    _write_many(folder)
    _write_crawl(folder / "crawl")
    _write_tars(folder, rows)
    _write_dump(folder)
    urls = [row["url"] for row in rows if row["text"]]
    lines = {
        "gone_urls": [urls[5], urls[130], urls[250], "https://nowhere.example/none.jpg"],
        "gone_uids": [_uid(rows[10]), _uid(rows[310]), "f" * 32],
        "gone_domains": ["static.example.net"],
        "blocked-domains": ["bad.example", "# a comment", "ads.example.org"],
        "opt-out": ["https://example.org/private", "optout.example"],
        "blocked-words": ["forbidden word"],
        "bad_list": ["dog", "St. Louis", "Dog", "&lt;br&gt", "a", "3.5"],
    }
    for name, said in lines.items():
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in said), encoding="utf-8")
    _stamp(folder)


def _uid(row: dict[str, Any]) -> str:
    return md5(((row["text"] or "") + (row["url"] or "")).encode(), usedforsecurity=False).hexdigest()


def _write_pool(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write the toy pool in four parquet files; one has uids, which are those that the others come to."""
    folder.mkdir()
    parts = [pa.Table.from_pylist(rows[i : i + 100]) for i in range(0, len(rows), 100)]
    large = pa.schema([("url", pa.large_string()), ("text", pa.large_string())])
    uids = pa.array([_uid(row) for row in rows[100:200]])
    pq.write_table(parts[0], folder / "00000.parquet", row_group_size=40)
    pq.write_table(
        parts[1].add_column(0, "uid", uids).append_column("number", pa.array(range(100))),
        folder / "00001.parquet",
    )
    pq.write_table(parts[2].cast(large), folder / "00002.parquet", compression="zstd")
    pq.write_table(parts[3], folder / "00003.parquet", use_dictionary=False, compression="none")


def _write_many(folder: Path) -> None:
    """Write a list of four languages, weights of two of its entries, and a pool in three files with texts of more languages."""
    entries = {
        "en": ["a", "dog", "photo", "red dog"],
        "de": ["Hund", "ein", "Foto", "dog"],
        "ja": ["犬", "の", "カメラ", "赤い"],
        "tlh": ["Qapla'"],  # a language that is told by no program: "other"
    }
    pq.write_table(
        pa.table({
            "entry": [entry for some in entries.values() for entry in some],
            "language": [language for language, some in entries.items() for _ in some],
            "source": [f"words of {language}" for language, some in entries.items() for _ in some],
        }),
        folder / "many.parquet",
    )  # fmt: skip
    (folder / "many_weights.csv").write_text(
        "entry,weight,language\ndog,2,de\na,0.5,\n", encoding="utf-8"
    )
    said = {
        "en": "A photo of a red dog, number {}", "de": "Foto: ein Hund ({})", "DE-at": "a dog und ein Hund {}", "ja": "赤い犬のカメラ{}",
        "ja_JP": "カメラ {}", "fr": "photo {}, Qapla' a dog", "x-unknown": "Qapla' {}", None: "qapla' {} dog",
    }  # fmt: skip
    codes = [*said]
    (folder / "many").mkdir()
    for file in range(3):
        rows = [(codes[i * i % 8 if i % 3 else i % 8], i) for i in range(file * 40, file * 40 + 40)]
        table = {
            "url": [f"https://example.org/{i}.jpg" for _, i in rows],
            "text": [None if i % 29 == 28 else said[code].format(i) for code, i in rows],
            "LANGUAGE": pa.array([code for code, _ in rows], pa.string()),
        }
        pq.write_table(pa.table(table), folder / "many" / f"{file}.parquet")


def _write_crawl(folder: Path) -> None:
    """Write two WAT and two WARC files whose pairs partly stand in several, with whatever an extraction leaves out."""
    folder.mkdir()
    image, wat, response = crawls.image, crawls.wat, crawls.response
    odd = [
        image("/a.jpg", "two texts", "a title"), image("b.jpg", ""), image("data:image/png;base64,AA", "inline data"),
        image("//cdn.example.net/ü n.jpg?x=1#y", "  spaces\u00a0and\tumlauts ä  "), image(None, "no address"),
        image("/c.jpg", "ab"), image("/abc.jpg", "abc"), image("/long.jpg", "y" * 1000), image("/d.jpg", "a forbidden word here"), image("https://bad.example/e.jpg", "blocked host"),
        image("https://example.org/private/f.jpg", "opted out"), image("/g.jpg", "x" * 1001), image("/a.jpg", "two texts"),
        image("https://www.ads.example.org/h.jpg", "an advertisement"), image("http://[bad/i.jpg", "bad address"),
    ]  # fmt: skip
    page = """<html><head><base href="/base/"></head><body><img src="a.jpg" alt="from a page" title="its title">
      <figure><img src="b.jpg" alt="in a figure"><figcaption>The caption &amp; more</figcaption></figure>
      <img data-src="lazy.jpg" src="data:," alt="lazy one"><img srcset="s.jpg 1x, l.jpg 2x" src="s.jpg" alt="a srcset">
      <img src="/photo-3.jpg" alt="a photo of number 3"></body></html>"""
    files = {
        "0.warc.wat.gz": [crawls.photos(0, 6), crawls.photos(3, 6), wat("https://example.org/odd/", odd)],
        "1.warc.gz": [
            response("https://example.org/p/one", page),
            response("https://example.org/p/latin", "<img src=x.jpg alt='caf\xe9'>".encode("latin-1"), content_type="text/html; charset=iso-8859-1"),
            response("https://example.org/p/image", b"\x89PNG", content_type="image/png"),
            crawls.record("warcinfo", b"software: none\r\n", Content_Type="application/warc-fields"),
        ],
        "2.warc.wat.gz": [
            crawls.photos(7, 5),
            crawls.record("metadata", b"{no json", WARC_Target_URI="https://e.org/", Content_Type="application/json"),
            wat("https://optout.example/", [image("/z.jpg", "a page opted out")]),
            wat("https://example.org/based", [image("r.jpg", "relative to a base")], base="https://other.example/dir/"),
            wat(
                "https://example.org/licensed", [image("/l.jpg", "with a licence"), {"path": "A@/href", "url": "/terms", "rel": "license"}]
            ),
            wat("https://example.org/noai", [image("/n.jpg", "not for training")], metas=[{"name": "robots", "content": "noai"}]),
            wat("https://example.org/tdm", [image("/t.jpg", "reserved")], headers={"TDM-Reservation": "1"}),
        ],
        "3.warc.gz": [response("https://example.org/p/two", page), response("https://example.org/p/none", "no images")],
    }  # fmt: skip
    for name, records in files.items():
        (folder / name).write_bytes(crawls.packed(records))


def _write_tars(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write four tars of six samples, one sample in two of them, one tar without uids; and a subset of them."""
    (folder / "tars").mkdir()
    some = [row for row in rows if row["text"]][:23]
    some.insert(20, some[8])
    for shard in range(4):
        with tarfile.open(folder / "tars" / f"{shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for i, row in enumerate(some[6 * shard : 6 * shard + 6]):
                fields = {
                    "caption": row["text"],
                    "url": row["url"],
                    **({"uid": _uid(row)} if shard != 3 else {}),
                }
                for suffix, data in {
                    "jpg": b"\xff\xd8" + bytes([shard, i]) * 20,
                    "txt": row["text"].encode(),
                    "json": json.dumps(fields).encode(),
                }.items():
                    info = tarfile.TarInfo(f"{shard:05d}{i:04d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    wanted = [_uid(row) for i, row in enumerate(some) if i % 3 != 1]
    wanted += [_uid(some[0])] * 2 + [_uid(some[8])] * 2 + ["0" * 31 + "1"]
    subset = np.array(sorted((int(uid[:16], 16), int(uid[16:], 16)) for uid in wanted), np.dtype("u8,u8"))
    np.save(folder / "subset.npy", subset)


def _write_dump(folder: Path) -> None:
    """Write a dump of a wiki in two files, and the recipes of a list that is made from it."""
    words = ["the", "dog", "cat's", "x-ray", "3", "of", "été", "the", "of", "the"]
    pages = []
    for i in range(40):
        said = " ".join(f"{words[(i * j + j // 3) % len(words)]}{'.' * (j % 11 == 5)}" for j in range(40))
        link = f"\n* [[Article {i}|{said[:20]}]] {{{{template|hidden}}}} <ref>hidden</ref>"
        pages.append(dumps.Made(f"Article {i}", said + link))
        if i % 5 == 0:
            pages.append(
                dumps.Made(f"Redirect {i}", "#REDIRECT [[Article 1]] hidden", redirect=f"Article {i}")
            )
        if i % 6 == 0:
            pages.append(dumps.Made(f"Talk:{i}", "hidden", namespace=1))
    pages += [
        dumps.Made("Empty", ""),
        dumps.Made("Gone", None),
        dumps.Made("Map", "hidden", model="json"),
    ]
    (folder / "dump").mkdir()
    dumps.write(folder / "dump" / "enwiki-pages-articles1.xml-p1p30.bz2", pages[:30])
    dumps.write(folder / "dump" / "enwiki-pages-articles2.xml-p31p90.bz2", pages[30:], streams_of=10)
    for counts in ("counts", "half_counts"):
        name = "build.toml" if counts == "counts" else "build_half.toml"
        (folder / name).write_text(_RECIPE.format(counts=counts), encoding="utf-8")


_RECIPE: Final = """[build]

[[build.sources]]
source = "number"
kind = "numbers"
last = 9

[[build.sources]]
source = "toy"
kind = "list"
path = "toy.txt"
licence = "Apache-2.0"
budget = 20

[[build.sources]]
source = "unigram"
kind = "dump unigrams"
counts = "{counts}"
dump = "inputs/dump"
min_count = 2

[[build.sources]]
source = "bigram"
kind = "dump bigrams"
counts = "{counts}"
dump = "inputs/dump"
min_count = 5
rank = "npmi"
"""


def _stamp(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, ns=(STAMP, STAMP))


# --- commands


def _run(
    arguments: Iterable[Any], folder: Path, *, before: str | None = None, code: int = 0
) -> tuple[str, str]:
    """Run a command in a folder; return what it wrote. With `before` it is killed as it puts that file in place."""
    program = ["-m", "metaclip"] if before is None else ["-c", _KILLED, before]
    cache = folder.parent / f"{folder.name}.cache"
    environment = {
        **os.environ,
        "SOURCE_DATE_EPOCH": EPOCH,
        "METACLIP_CACHE": str(cache),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, *program, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    wanted = code if before is None else -signal.SIGKILL
    assert done.returncode == wanted, (arguments, done.returncode, done.stdout, done.stderr)
    return done.stdout, done.stderr


def make(folder: Path) -> None:
    """Make all golden files in a folder."""
    write_inputs(folder / "inputs")
    said, trees = {}, {}
    for command in COMMANDS:
        out, err = _run(command.arguments, folder, code=command.code)
        said[command.name] = {"code": command.code, "out": text(out, folder), "err": text(err, folder)}
    for half in HALVES:
        _run((*half.arguments, "--out", half.tree), folder, before=f"{half.tree}/{half.before}")
    _run((*PARTS, "--part", "1/2", "--out", "half_parts"), folder)
    _run(
        ("build", "inputs/build_half.toml", "--out", "half.parquet", *ONE),
        folder,
        before="dump/00001-00000.json",
    )
    torn = folder / "inputs" / "pool" / "00001.parquet"
    good = torn.read_bytes()
    # Its footer stands, so that it is cut into shards and one of them is lost.
    torn.write_bytes(b"PAR1" + b"\xff" * 196 + good[200:])
    os.utime(torn, ns=(STAMP // 2, STAMP // 2))
    _run((*CURATE, *ONE, "--out", "lost"), folder, code=3)
    torn.write_bytes(good)
    _stamp(folder / "inputs")
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            trees[path.name] = digests(path, folder)
    trees["."] = {"built.parquet": digest(folder / "built.parquet", folder)}
    made = {"versions": versions(), "commands": said, "trees": trees}
    for name in COMPARED_ALONE:
        shutil.rmtree(folder / name)
    _trim(folder / "card_rebalanced")
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if is_page(path.relative_to(folder)):
            path.unlink()
            continue
        if path.parent.name == ".state" and path.name.startswith("lock") and path.stat().st_size:
            path.write_text(OWNER, encoding="utf-8")
        elif path.suffix in TEXTS:
            path.write_bytes(path.read_bytes().replace(str(folder).encode(), PLACE.encode()))
        assert str(folder).encode() not in path.read_bytes(), path
    (folder / "digests.json").write_text(
        json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    shutil.rmtree(folder.parent / f"{folder.name}.cache")


def _trim(card: Path) -> None:
    """Leave of a card what `metaclip card diff` reads."""
    for path in sorted(card.iterdir()):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in ("card.json", "entries.parquet"):
            path.unlink()


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    if target.exists() and any(target.iterdir()):
        sys.exit(f"{target} is not empty; name a new folder")
    make(target)
