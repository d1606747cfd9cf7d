"""Damaged and hostile files of every kind that metaclip reads, for a given time.

    python -m tests.faults.fuzz SECONDS [SEED] [KIND ...]

Each problem has a seed of its own: SEED, SEED + 1, ... A whole file of one kind is changed, inside its compression or from
outside, and read by the verbs that read such files. What may come out is a result whose funnel adds up, or a MetaclipError
of a few lines; within 30 s, 400 MiB more memory than before, and 3 GiB of address space. The seed is printed before the
problem is run, so the last one on standard output is that of a failure; SECONDS=0 runs this one alone.
"""

from __future__ import annotations

import bz2
import collections
import contextlib
import faulthandler
import functools
import gzip
import io
import json
import lzma
import os
import random
import re
import resource
import secrets
import shutil
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metaclip import (
    ExtractSettings,
    Matcher,
    MatchSettings,
    MetaclipError,
    Metadata,
    Run,
    RunOptions,
    balance,
    card,
    curate,
    explain,
    extract,
    plan,
    reshard,
)
from metaclip.card.removal.removed_list import apply_removal
from metaclip.card.verify import verify
from metaclip.engine.local import Local
from metaclip.extract import extract_file
from metaclip.metadata import build
from metaclip.pool.subset import Subset
from tests import crawls, dumps
from tests.tars import write_tar

LIST = Metadata(["dog", "cat", "photo of", "a", "é", "on"])
OPTIONS = RunOptions(engine=Local(1), allow_lost=True, progress=False)
SECONDS, MEMORY, ADDRESSES = 30, 400 << 20, 3 << 30
TEXTS = [
    "a dog", 'a "cat" on a mat', '"photo of" é', "nothing", "", "a photo of\na dog", "a,b\tdog", "猫 dog", "x" * 300 + " cat",
]  # fmt: skip
ROWS = [
    {"uid": f"{i:032x}", "url": f"https://e.example/{i}.jpg", "text": TEXTS[i % len(TEXTS)], "width": i, "ok": i % 3 == 0}
    for i in range(60)
]  # fmt: skip

Random = random.Random
Files = dict[str, bytes]


# --- whole files


def pool_files() -> Files:
    """A pool in every form and compression."""
    table = pa.Table.from_pylist(ROWS)
    parquet = io.BytesIO()
    pq.write_table(table, parquet, row_group_size=20)
    other = table.set_column(0, "uid", pa.array([row["uid"] for row in ROWS]).dictionary_encode())
    dictionaries = io.BytesIO()
    pq.write_table(other.drop(["ok"]), dictionaries, compression="gzip", data_page_version="2.0")

    def delimited(tab: str, quote: bool) -> bytes:
        def field(value: Any) -> str:
            value = str(value).replace("\n", " ") if not quote else str(value)
            return '"' + value.replace('"', '""') + '"' if quote else value.replace(tab, " ")

        names = tab.join(ROWS[0])
        return "\n".join([names, *(tab.join(map(field, row.values())) for row in ROWS)]).encode()

    lines = "\n".join(json.dumps(row, ensure_ascii=i % 2 == 0) for i, row in enumerate(ROWS)).encode()
    files = {
        "p.parquet": parquet.getvalue(), "q.parquet": dictionaries.getvalue(), "p.csv": delimited(",", True),
        "p.tsv": delimited("\t", False), "q.tsv": delimited("\t", True), "p.jsonl": lines,
    }  # fmt: skip
    packed = {
        f"{name}.{codec}": pack(files[name], codec)
        for name in ("p.csv", "p.tsv", "p.jsonl")
        for codec in CODECS
    }
    return files | packed


def tar_files() -> Files:
    """A tar of samples, and one without .txt."""
    samples = [
        (
            f"{i:05d}",
            {
                "jpg": b"\xff\xd8" + bytes(range(i)),
                "txt": row["text"].encode(),
                "json": json.dumps(row).encode(),
            },
        )
        for i, row in enumerate(ROWS[:20])
    ]
    captions = [(key, {"json": members["json"], "jpg": b"\xff\xd8"}) for key, members in samples]
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, written in (("p.tar", samples), ("q.tar", captions)):
            write_tar(Path(folder, name), written)
            made[name] = Path(folder, name).read_bytes()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for key, members in samples:
            for suffix, data in members.items():
                info = tarfile.TarInfo("é" * 60 + f"/{key}.{suffix}")
                info.size, info.pax_headers = len(data), {"comment": "x" * 30}
                tar.addfile(info, io.BytesIO(data))
    return made | {"r.tar": out.getvalue()}


def crawl_files() -> Files:
    """A WAT and a WARC, in gzip members and in one."""
    wats = [crawls.photos(10 * i, 4) for i in range(8)]
    links = [
        crawls.image("../a b.jpg?x#y", "a \\ \"dog\"\n é", "title"), crawls.image("//cdn.example/\u017f.svg", "x"), crawls.image("data:,x", "猫"),
        {"path": "A@/href", "url": "//creativecommons.org/licenses/by/4.0/", "rel": "license"}, {"path": "A@/href", "url": "/b", "text": "b"},
    ]  # fmt: skip
    for i, base in enumerate((None, "/base/", "https://[x")):
        said = {"X-Robots-Tag": ["noindex", "otherbot: noai"], "Server": "x"}
        metas = [{"name": "robots", "content": "noml"}] * (i == 1)
        wats.append(crawls.wat(f"https://e.example/p/{i}?q", links, base, metas=metas, headers=said))
    pages = [
        crawls.response(
            f"https://e.example/{i}",
            f"<html><head><title>t</title><base href='/b/'></head><body><img src=/{i}.jpg alt='a dog é {i}'>"
            f"<img data-src=x.png srcset='a.jpg 1x, b.jpg 2x' alt='a cat'><figure><img src=y.gif><figcaption>z</figcaption>",
        )
        for i in range(8)
    ]
    return {
        "a.warc.wat.gz": crawls.packed(wats), "a.warc.gz": crawls.packed(pages),
        "b.warc.wat.gz": gzip.compress(b"".join(wats), mtime=0), "b.warc.gz": gzip.compress(b"".join(pages), mtime=0),
        "c.warc.wat": b"".join(wats), "wat.paths.gz": gzip.compress(b"a.warc.wat.gz\nb.warc.wat.gz\n", mtime=0),
    }  # fmt: skip


def dump_files() -> Files:
    """A dump of one stream and one of many."""
    pages = [
        dumps.Made(f"Dog {i}", f"The dog [[Cat|cats]] {{{{x|{i}}}}} ran. <ref>no</ref> " * 5)
        for i in range(12)
    ]
    pages[3:5] = [dumps.Made("Hound", "", redirect="Dog 1"), dumps.Made("Talk:Dog", "no", namespace=1)]
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, streams in (
            ("enwiki-1-pages-articles.xml.bz2", None),
            ("enwiki-1-pages-articles-multistream.xml.bz2", 3),
        ):
            made[name] = dumps.write(Path(folder, name), pages, streams_of=streams).read_bytes()
    return made


def list_files() -> Files:
    """Query lists and a recipe."""
    entries = LIST.entries.to_pylist()
    parquet = io.BytesIO()
    pq.write_table(
        pa.table({"entry": entries, "source": ["x"] * len(entries), "score": [1.0] * len(entries)}),
        parquet,
    )
    text, array = "\n".join(entries).encode(), json.dumps(entries).encode()
    recipe = (
        b'[build]\ntotal = 3\n[[build.sources]]\nsource = "n"\nkind = "numbers"\nfirst = 1\nlast = 3\n'
    )
    return {
        "l.txt": text, "l.json": array, "l.txt.gz": gzip.compress(text), "l.json.gz": gzip.compress(array),
        "l.parquet": parquet.getvalue(), "l.toml": recipe,
    }  # fmt: skip


def subset_files() -> Files:
    """A subset."""
    out = io.BytesIO()
    np.save(out, np.array([(0, i) for i in range(60)], "u8,u8"))
    return {"s.npy": out.getvalue()}


def run_files() -> Files:
    """Every file of a finished run and of one whose second stage is not finished, by its name below the folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run")
        curate(pa.Table.from_pylist(ROWS), LIST, out=path, t=9, options=OPTIONS)
        return {
            str(file.relative_to(path)): file.read_bytes()
            for file in sorted(path.rglob("*"))
            if file.is_file()
        }


def automaton_files() -> Files:
    """The automaton of the list, as it lies in a cache."""
    with tempfile.TemporaryDirectory() as folder:
        Matcher(LIST, cache=folder)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def checkpoint_files() -> Files:
    """A checkpoint."""
    import torch

    out = io.BytesIO()
    torch.save(
        {"step": 3, "state_dict": {"a": torch.arange(40.0), "b": torch.ones(3, 4)}, "loader": "[]"}, out
    )
    return {"c.pt": out.getvalue()}


CODECS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "gz": (gzip.compress, gzip.decompress),
    "bz2": (bz2.compress, bz2.decompress),
    "xz": (lzma.compress, lzma.decompress),
    "zst": (lambda data: pa.compress(data, codec="zstd", asbytes=True), lambda data: zstd(data)),
}


def zstd(data: bytes) -> bytes:
    return pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()


def pack(data: bytes, codec: str) -> bytes:
    return CODECS[codec][0](data)


# --- changes

WORDS = [
    b"\x00", b"\xff", b'"', b"\n", b"\r\n", b"\t", b",", b"{", b"[", b"}", b"\\u", b"\xed\xa0\x80", b"\xf0\x9f", b"<page>", b"</page>",
    b"<!--", b"&#x41;", b"NaN", b"1e999", b"-1", b"null", b"18446744073709551616", b"\x1f\x8b\x08", b"BZh9", b"PK\x03\x04",
]  # fmt: skip
NUMBERS = [
    0,
    1,
    -1,
    127,
    255,
    1 << 15,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 40,
    (1 << 63) - 1,
    -(1 << 63),
]


def change(rng: Random, data: bytes, others: list[bytes]) -> bytes:
    """Change bytes once to four times."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        data = rng.choice(CHANGES)(rng, data, others)
    return data


def piece(rng: Random, data: bytes) -> tuple[int, int]:
    begin = rng.randrange(len(data) + 1)
    return begin, min(len(data), begin + rng.choice([1, 2, 8, 64, 512, 4096]))


def flip(rng: Random, data: bytes, _: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _i in range(rng.choice([1, 1, 2, 8, 64]) if data else 0):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: Random, data: bytes, _: list[bytes]) -> bytes:
    begin, end = piece(rng, data)
    return data[:begin] + data[end:] if rng.random() < 0.5 else data[:begin]


def put(rng: Random, data: bytes, others: list[bytes]) -> bytes:
    begin, end = piece(rng, data)
    kind = rng.randrange(4)
    if kind == 0:
        new = rng.choice(WORDS) * rng.choice([1, 1, 2, 100, 100_000])
    elif kind == 1:
        new = (
            rng.choice(NUMBERS).to_bytes(8, rng.choice(["little", "big"]), signed=True)
            if rng.random() < 0.8
            else b""
        )
        new = new[-rng.choice([1, 2, 4, 8]) :]
    elif kind == 2:
        other = rng.choice(others)
        new = other[slice(*piece(rng, other))]
    else:
        new = data[slice(*piece(rng, data))] * rng.choice([1, 2, 30])
    return (
        data[:begin]
        + new
        + data[begin if rng.random() < 0.5 else begin + len(new) :]
        + (data[end:] if kind > 2 else b"")
    )


def put_number(rng: Random, data: bytes, _: list[bytes]) -> bytes:
    """Replace digits: sizes in headers of tars, records, arrays, JSON."""
    begin = next(
        (i for i in range(rng.randrange(len(data) + 1), len(data)) if data[i : i + 1].isdigit()), None
    )
    if begin is None:
        return data
    end = begin
    while data[end : end + 1].isdigit():
        end += 1
    new = str(rng.choice([0, 1, 7, 8, 511, 512, 513, 10**6, 10**9, 10**12, 2**63, 10**40])).encode()
    return (
        data[:begin]
        + (new[: end - begin].rjust(end - begin, b"0") if rng.random() < 0.5 else new)
        + data[end:]
    )


CHANGES = [flip, flip, cut, put, put, put_number]


def changed_file(rng: Random, name: str, data: bytes, others: list[bytes]) -> bytes:
    """Change a file, or what is inside its compression."""
    codec = name.rpartition(".")[2]
    if codec in CODECS and rng.random() < 0.6:
        return pack(change(rng, CODECS[codec][1](data), others), codec)
    return change(rng, data, others)


# --- what reads them


def check_pool(path: Path, out: Path, rng: Random) -> None:
    """Curate a pool, and balance it again; of tars, write the kept samples to new ones."""
    settings = MatchSettings(quoting=rng.choice([None, "none"]), limit=rng.choice([None, None, 7]))
    run = curate(path, LIST, out=out / "run", t=4, settings=settings, options=OPTIONS)
    check_run(run)
    lines = count_lines(path, quoting=settings.quoting is None)
    if settings.limit is None and lines is not None:
        assert run.account["funnel"]["rows"] == lines, "rows that nobody counted"
    check_run(balance(run, out=out / "again", t=1000, options=OPTIONS))
    if path.suffix == ".tar":
        made = reshard(path, subset=run.path / "curated.npy", out=out / "tars", options=OPTIONS)
        keys: dict[Any, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for tar in made.path.glob("*.tar"):
            with tarfile.open(tar) as opened:
                for member in opened:
                    folder, _, name = member.name.rpartition("/")
                    key, _, suffix = name.partition(".")
                    keys[tar, folder, key][suffix] += 1
        # A key may come again, as another whole sample.
        samples = sum(max(suffixes.values()) for suffixes in keys.values())
        assert samples == made.record["written"], "samples that are missing or partial"
        assert all(suffixes.keys() & {"txt", "json"} for suffixes in keys.values())
    if rng.random() < 0.1:
        plan(path, LIST, settings=settings, options=OPTIONS)


def count_lines(path: Path, quoting: bool) -> int | None:
    """Return the number of rows of a file that has one on each line; None if lines do not tell."""
    data, names = path.read_bytes(), path.name.split(".")
    if len(names) == 3:
        try:
            data = CODECS[names[2]][1](data)
        except Exception:  # of damage behind the end, which is no concern of the reader
            return None
    if names[1] == "jsonl":
        return sum(not line.isspace() and line != b"" for line in data.split(b"\n"))
    if names[1] not in ("csv", "tsv") or (quoting and b'"' in data):
        return None
    return sum(line != b"" for line in re.split(rb"\r\n|\r|\n", data)) - 1


def check_run(run: Run) -> None:
    """Check that the figures of a run agree with one another and with its pairs."""
    funnel, pairs = run.account["funnel"], run.account["pairs"]
    dropped = sum(
        rows for reason, rows in funnel.items() if reason not in ("rows", "matched", "not_drawn", "kept")
    )
    assert funnel["rows"] == funnel["matched"] + dropped, funnel
    assert funnel["matched"] == funnel["kept"] + funnel["not_drawn"], funnel
    assert funnel["matched"] == pairs["matched"]
    assert run.curated.num_rows == pairs["kept"] <= pairs["matched"]
    assert (
        sum(pq.read_metadata(file).num_rows for file in run.matched.path.glob("matched/*"))
        == pairs["matched"]
    )
    assert len(Subset(run.path / "curated.npy")) == pairs["kept"]
    for column in run.curated.columns:
        column.validate(full=True)


def check_crawl(path: Path, out: Path, rng: Random) -> None:
    """Extract a crawl file."""
    more = {name: rng.random() < 0.5 for name in ("titles", "captions", "lazy", "srcset")}
    settings = ExtractSettings(
        prefix=f"{path.parent}/", identify=False, dedupe=rng.choice(["uid", "url", "none"]), **more
    )
    made = extract(path, out=out / "pool", settings=settings, options=OPTIONS)
    funnel = made.funnel
    with mock.patch.object(extract_file, "load", return_value=None):
        plain = extract(path, out=out / "plain", settings=settings, options=OPTIONS)
    assert (plain.funnel, plain.record["records"]) == (funnel, made.record["records"])
    for file in plain.path.glob("*.parquet"):
        assert pq.read_table(file).equals(pq.read_table(made.path / file.name))
    rows = [pq.read_table(file) for file in made.path.glob("*.parquet")]
    assert sum(map(len, rows)) == funnel["pairs"], funnel
    assert funnel["images_seen"] + funnel["more_texts"] == funnel["candidates"] >= funnel["pairs"], funnel
    for table in rows:
        table.validate(full=True)


def check_dump(path: Path, out: Path, rng: Random) -> None:
    """Count a dump."""
    from metaclip.metadata.sources import dump_count

    made = dump_count.count(
        str(path), "enwiki", out / "counts", engine=Local(1), shard_bytes=rng.choice([1 << 9, 1 << 20])
    )
    assert made.record["tokens"] > 0


def check_list(path: Path, out: Path, rng: Random) -> None:
    """Read a query list and match with it, or read a recipe."""
    if path.suffix == ".toml":
        build.read(path)
        return
    found = Metadata.read(path)
    assert len(found) > 0
    Matcher(found, cache=out).match(TEXTS)


def check_subset(path: Path, out: Path, rng: Random) -> None:
    """Open a subset, pick from tars by it, and take pairs out of it."""
    uids = Subset(path)
    assert len(uids.digest()) == 64
    tar = out / "p.tar"
    tar.write_bytes(whole_files("tar")["p.tar"])
    reshard(tar, subset=path, out=out / "tars", options=OPTIONS)
    removed = out / "removed.parquet"
    if rng.random() < 0.3:
        apply_removal(removed, path, out / "left")


RUN_VERBS: list[Callable[[Path, Path], object]] = [
    lambda run, out: Run(run).entries,
    lambda run, out: Run(run).curated,
    lambda run, out: Run(run).account,
    lambda run, out: balance(run, out=out / "again", t=50, options=OPTIONS),
    lambda run, out: balance(run, t=9, options=OPTIONS),
    lambda run, out: balance([run, CLEAN / "other"], t=9, out=out / "both", options=OPTIONS),
    lambda run, out: curate(run / "pool.parquet", LIST, out=run, t=9, options=OPTIONS),
    lambda run, out: explain("a dog", run=run),
    lambda run, out: plan(run, options=OPTIONS),
    lambda run, out: verify(CLEAN / "card", run, options=OPTIONS) if HAS_CARD else None,
]
CLEAN = Path()
HAS_CARD = False


def check_run_files(name: str, data: bytes, out: Path, rng: Random) -> None:
    """Read a run of which one file was changed, by any verb."""
    run = out / "run"
    shutil.copytree(CLEAN / "run", run)
    (run / name).write_bytes(data)
    rng.choice(RUN_VERBS)(run, out)


def check_automaton(name: str, data: bytes, out: Path, rng: Random) -> None:
    """Match with a damaged automaton in the cache: it is made again, and the matches are the right ones."""
    (out / name).write_bytes(data)
    found = Matcher(LIST, cache=out).match(TEXTS)
    assert found.to_pylist() == WANTED.to_pylist(), "another result"


WANTED = Matcher(LIST, cache=False).match(TEXTS)


def check_checkpoint(path: Path, out: Path, rng: Random) -> None:
    """Read a checkpoint: what is read is what was written."""
    import torch

    from metaclip.training.models import load_tensors

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_tensors(path)
    state = found.get("state_dict")
    assert isinstance(state, dict)
    assert torch.equal(state["a"], torch.arange(40.0)), "other weights"


CHECKS: dict[str, tuple[Callable[[], Files], Callable[..., None], bool]] = {
    "pool": (pool_files, check_pool, True),
    "tar": (tar_files, check_pool, True),
    "crawl": (crawl_files, check_crawl, True),
    "dump": (dump_files, check_dump, True),
    "list": (list_files, check_list, True),
    "subset": (subset_files, check_subset, True),
    "run": (run_files, check_run_files, False),
    "automaton": (automaton_files, check_automaton, False),
    "checkpoint": (checkpoint_files, check_checkpoint, True),
}
"""By kind: what makes the files, what checks one, and whether it takes a path, not a name and bytes."""
SHARES = {
    "pool": 6,
    "tar": 3,
    "crawl": 4,
    "dump": 1,
    "list": 2,
    "subset": 1,
    "run": 4,
    "automaton": 1,
    "checkpoint": 1,
}


@functools.cache
def whole_files(kind: str) -> Files:
    """Return the whole files of a kind, by name."""
    return CHECKS[kind][0]()


def problem(seed: int, kinds: list[str], folder: Path) -> str:
    """Run the problem of a seed in an empty folder; return what it was of."""
    rng = Random(seed)
    kind = rng.choices(kinds, [SHARES[kind] for kind in kinds])[0]
    _, check, takes_path = CHECKS[kind]
    files = whole_files(kind)
    name = rng.choice(sorted(files))
    others = [files[name], *whole_files("pool").values(), *whole_files("crawl").values()]
    data = changed_file(rng, name, files[name], others)
    label = f"{kind} {name}"
    print(f"{seed} {label}", flush=True)
    if takes_path:
        (folder / "in").mkdir()
        path = folder / "in" / name
        path.write_bytes(data)
        (folder / "out").mkdir()
        arguments: tuple[Any, ...] = (path, folder / "out", rng)
    else:
        arguments = (name, data, folder, rng)
    try:
        check(*arguments)
    except MetaclipError as error:
        message = str(error)
    else:
        return f"{kind} read"
    assert message.count("\n") <= 5, "a long message"
    assert message.replace("\n", "").isprintable(), f"control characters: {message:.300}"
    return f"{kind} refused"


@contextlib.contextmanager
def bounded(folder: Path) -> Iterator[None]:
    """Bound time and memory of a block."""
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_memory()
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    assert peak_memory() - before < MEMORY, f"{(peak_memory() - before) >> 20} MiB more memory"


def peak_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) << 10


def main(seconds: float, seed: int, kinds: list[str]) -> Mapping[str, int]:
    """Run problems; return how many of each kind were read and refused."""
    global CLEAN, HAS_CARD
    outcomes: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="metaclip-fuzz-") as folder:
        CLEAN = Path(folder, "clean")
        for name, text in (("run", "a dog"), ("other", "a cat")):
            table = pa.Table.from_pylist(ROWS) if name == "run" else pa.table({"text": [text] * 9})
            curate(table, LIST, out=CLEAN / name, t=9, options=OPTIONS)
        if "run" in kinds:
            with contextlib.suppress(MetaclipError):  # without its plots' libraries there is no card
                card(CLEAN / "run", out=CLEAN / "card", options=OPTIONS)
                HAS_CARD = True
        for kind in {*kinds, "pool", "tar", "crawl"}:
            whole_files(kind)  # before memory is bounded
        resource.setrlimit(resource.RLIMIT_AS, (mapped() + ADDRESSES, resource.RLIM_INFINITY))
        end = time.monotonic() + seconds
        while True:
            work = Path(folder, "work")
            work.mkdir()
            with bounded(work):
                outcomes[problem(seed, kinds, work)] += 1
            shutil.rmtree(work)
            seed += 1
            if time.monotonic() >= end:
                return outcomes


def mapped() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def command(arguments: list[str]) -> None:
    """Run problems as the command line says; print how many of each kind were read and refused."""
    seed = int(arguments[1]) if len(arguments) > 1 else secrets.randbits(31)
    for line in sorted(main(float(arguments[0]), seed, arguments[2:] or list(CHECKS)).items()):
        print(*line, flush=True)


if __name__ == "__main__":
    command(sys.argv[1:])
