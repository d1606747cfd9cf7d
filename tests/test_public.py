"""The public names: what a notebook needs, and nothing that a later version could not keep."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import metaclip

ROOT = Path(__file__).parents[1]
PUBLIC = [
    "Balancer", "Card", "Counts", "ExtractSettings", "InspectSettings", "LostInputs", "MatchSettings", "Matcher", "MetaclipError", "Metadata", "Ray",
    "Run", "RunOptions", "TextRule", "__version__", "balance", "build", "card", "curate", "explain", "extract", "inspect", "lint",
    "match", "plan", "reshard",
]  # fmt: skip
SIGNATURES = Path(__file__).with_name("public_signatures.txt")


def test_public_names_are_frozen() -> None:
    """The package's top has these names; one that goes breaks somebody's notebook."""
    assert sorted(metaclip.__all__) == PUBLIC
    assert sorted(dir(metaclip)) == PUBLIC


def test_signatures_are_frozen() -> None:
    """The arguments of the public names, their order and defaults are those of public_signatures.txt."""
    found = [
        f"{name}{inspect.signature(value)}".replace("'", "")
        for name, value in ((name, getattr(metaclip, name)) for name in PUBLIC)
        if callable(value) and not (inspect.isclass(value) and issubclass(value, Exception))
    ]
    assert found == SIGNATURES.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_there(name: str) -> None:
    """Each public name can be had, and the same each time."""
    assert getattr(metaclip, name) is getattr(metaclip, name)


def test_a_name_that_is_not_public() -> None:
    """Another name is no attribute, as of any module."""
    with pytest.raises(AttributeError, match="module 'metaclip' has no attribute 'filter'"):
        _ = metaclip.filter  # type: ignore[attr-defined]


def test_star_import() -> None:
    """`from metaclip import *` gives the public names."""
    found: dict[str, Any] = {}
    exec("from metaclip import *", found)
    assert sorted(name for name in found if name != "__builtins__") == PUBLIC


def test_a_notebook(tmp_path: Path) -> None:
    """Five lines curate a pool and look at what came out."""
    pool, out = ROOT / "curation" / "toy_pool.jsonl", tmp_path / "run"

    from metaclip import curate

    run = curate(pool, ROOT / "metadata" / "toy.txt", t=20, out=out)
    top = run.entries.sort_by([("count", "descending")]).slice(0, 3)
    pairs = run.curated
    kept = run.account["pairs"]["kept"]

    assert (len(pairs), kept) == (312, 312)
    assert pairs.column_names == ["url", "text", "uid", "matches", "keep_probability"]
    assert top["count"].to_pylist() == sorted(run.entries["count"].to_pylist(), reverse=True)[:3]
    assert repr(run) == f"Run({str(out)!r}: 312 kept of 338 matched pairs, t = 20)"


def test_in_steps(tmp_path: Path) -> None:
    """The steps are functions too: match once, balance twice; a larger t keeps a superset."""
    from metaclip import balance, match

    pool = ROOT / "curation" / "toy_pool.jsonl"
    match(pool, ["dog", "cat", "photo", "a"], out=tmp_path / "run")
    few = balance(tmp_path / "run", t=5)
    more = balance(tmp_path / "run", t=50, out=tmp_path / "more")
    assert set(few.curated["uid"].to_pylist()) < set(more.curated["uid"].to_pylist())


def test_a_matcher_in_a_loop() -> None:
    """A matcher takes and gives Arrow, counts add up, and counts of different lists do not."""
    from metaclip import Counts, Matcher, MetaclipError, TextRule

    matcher = Matcher(["dog", "cat"], TextRule(fold_case=True), cache=False)
    texts = pa.array(["A dog.", None, "dogs", "Cat, dog"])
    matches = matcher.match(texts)
    assert matches.to_pylist() == [[0], None, [], [0, 1]]
    counts = Counts(matcher.count(matches), matcher.metadata.digest, matcher.rule.identity)
    assert (counts + counts).values.tolist() == [4, 2]
    other = Counts(np.zeros(2, np.uint64), "another list", matcher.rule.identity)
    with pytest.raises(MetaclipError, match="counts of different lists cannot be added"):
        _ = counts + other


def test_errors_reach_python_as_one_class(tmp_path: Path) -> None:
    """What a caller can mend is a MetaclipError, with the exit code that the command line gives."""
    from metaclip import LostInputs, MetaclipError, curate

    with pytest.raises(MetaclipError, match="there is no pool") as error:
        curate(tmp_path / "nowhere", ["dog"], out=tmp_path / "run")
    assert error.value.exit_code == 2
    with pytest.raises(MetaclipError, match="t is 0, must be a finite number above 0"):
        curate(ROOT / "curation" / "toy_pool.jsonl", ["dog"], out=tmp_path / "run", t=0)
    assert issubclass(LostInputs, MetaclipError)
    assert LostInputs.exit_code == 3


# Tables of any library, types, notebooks --------------------------------------------------------------------------------

POOL, LIST = ROOT / "curation" / "toy_pool.jsonl", ROOT / "metadata" / "toy.txt"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> metaclip.Run:
    return metaclip.curate(POOL, LIST, t=20, out=tmp_path_factory.mktemp("public") / "run")


@pytest.fixture(scope="module")
def pairs() -> pa.Table:
    return pa.Table.from_pylist(
        [json.loads(line) for line in POOL.read_text(encoding="utf-8").splitlines()]
    )


def as_pyarrow(table: pa.Table) -> Any:
    return table


def as_batch(table: pa.Table) -> Any:
    return table.combine_chunks().to_batches()[0]


def as_reader(table: pa.Table) -> Any:
    return table.to_reader(max_chunksize=7)


def as_polars(table: pa.Table) -> Any:
    return pytest.importorskip("polars").DataFrame(table)


def as_pandas(table: pa.Table) -> Any:
    pytest.importorskip("pandas")
    return table.to_pandas()


def as_duckdb(table: pa.Table) -> Any:
    return pytest.importorskip("duckdb").from_arrow(table)


@pytest.mark.parametrize("convert", [as_pyarrow, as_batch, as_reader, as_polars, as_pandas, as_duckdb])
def test_a_pool_in_memory(convert: Any, pairs: pa.Table, tmp_path: Path) -> None:
    """A table of any library gives the run of the same table in a parquet file, and can be balanced again later."""
    pq.write_table(pairs, tmp_path / "pairs.parquet")
    wanted = metaclip.curate(tmp_path / "pairs.parquet", LIST, t=20, out=tmp_path / "wanted")
    made = metaclip.curate(convert(pairs), LIST, t=20, out=tmp_path / "run")
    assert made.account["result_digest"] == wanted.account["result_digest"]
    assert made.curated.to_pylist() == wanted.curated.to_pylist()
    assert made.entries.equals(wanted.entries)
    assert pq.read_table(tmp_path / "run" / "pool.parquet").num_rows == len(pairs)
    again = metaclip.balance(tmp_path / "run", t=5, out=tmp_path / "again")
    assert again.entries.equals(metaclip.balance(wanted, t=5, out=tmp_path / "wanted_5").entries)


def test_a_table_moves_with_its_run(
    pairs: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run of a table can be moved and copied: its pool is a file of its folder."""
    monkeypatch.chdir(tmp_path)
    made = metaclip.curate(pairs, LIST, t=20, out="run")
    wanted = metaclip.balance(made, t=5, out=tmp_path / "wanted").entries
    (tmp_path / "run").rename(tmp_path / "moved")
    assert metaclip.balance(tmp_path / "moved", t=5, out=tmp_path / "moved_5").entries.equals(wanted)
    assert metaclip.curate(pairs, LIST, t=20, out=tmp_path / "moved").entries.equals(made.entries)
    other = metaclip.match(pairs.slice(0, 100), LIST, out=tmp_path / "other")
    both = metaclip.balance([tmp_path / "moved", other], t=20, out=tmp_path / "both")
    assert both.match["funnel"]["rows"] == len(pairs) + 100


def test_another_table_in_a_run_folder(pairs: pa.Table, tmp_path: Path) -> None:
    """The same table continues a run, another one is refused and leaves the run whole, or replaces it on request."""
    first = metaclip.curate(pairs, LIST, t=20, out=tmp_path)
    kept = (tmp_path / "pool.parquet").read_bytes()
    assert repr(metaclip.curate(pairs, LIST, t=20, out=tmp_path)) == repr(first)
    assert repr(metaclip.curate(tmp_path / "pool.parquet", LIST, t=20, out=tmp_path)) == repr(first)
    with pytest.raises(metaclip.MetaclipError, match="is a run of another pool"):
        metaclip.curate(pairs.slice(0, 50), LIST, t=20, out=tmp_path)
    assert (tmp_path / "pool.parquet").read_bytes() == kept
    replace = metaclip.RunOptions(overwrite=True)
    less = metaclip.curate(pairs.slice(0, 50), LIST, t=20, out=tmp_path, options=replace)
    assert less.account["funnel"]["rows"] == 50
    metaclip.match(POOL, LIST, out=tmp_path / "files")
    with pytest.raises(metaclip.MetaclipError, match="is a run of another pool"):
        metaclip.match(pairs, LIST, out=tmp_path / "files")
    assert not (tmp_path / "files" / "pool.parquet").exists()


def test_columns_of_any_library(run: metaclip.Run, pairs: pa.Table) -> None:
    """Texts, uids, urls, matches and entries can be series, arrays or lists."""
    polars = pytest.importorskip("polars")
    texts, urls = pairs["text"].to_pylist(), pairs["url"].to_pylist()
    matcher = metaclip.Matcher(polars.Series(LIST.read_text().splitlines()))
    matches = matcher.match(polars.Series(texts))
    assert matches.equals(matcher.match(texts))
    assert matches.equals(matcher.match(pa.array(texts, pa.string_view())))
    assert (matcher.count(polars.Series(matches)) == matcher.count(matches)).all()
    balancer = metaclip.Balancer(run)
    kept = balancer.keep(polars.Series(texts), urls=polars.Series(urls))
    assert kept.tolist() == balancer.keep(texts, urls=urls).tolist()
    assert kept.sum() == 312
    uids = [f"{n:032x}" for n in range(len(texts))]
    assert (balancer.keep(texts, polars.Series(uids)) == balancer.keep(texts, uids)).all()
    assert balancer.p_keep(polars.Series(texts)).tolist() == balancer.p_keep(texts).tolist()


WRONG: dict[str, tuple[Callable[[Any, Path], Any], str]] = {
    "t": (lambda run, out: metaclip.curate(POOL, LIST, t="20", out=out), "t must be a number, not str '20'; write it without quotes, e.g. 20_000"),
    "t of balance": (lambda run, out: metaclip.balance(run, t=True, out=out), "t must be a number, not bool True"),
    "seed": (lambda run, out: metaclip.curate(POOL, LIST, seed=0.5, out=out), "seed must be a whole number, not float 0.5"),
    "pool": (lambda run, out: metaclip.curate(5, LIST, out=out), "pool must be a path, not int 5"),
    "a column as pool": (lambda run, out: metaclip.curate(run.curated["text"], LIST, out=out), "pool must be a table, not"),
    "metadata": (lambda run, out: metaclip.match(POOL, 5, out=out), "metadata must be strings, a path or a Metadata, not"),
    "a table as metadata": (lambda run, out: metaclip.Matcher(run.entries), "metadata must be one column, not a table"),
    "out": (lambda run, out: metaclip.match(POOL, LIST, out=run.entries), "out must be a path, not Table"),
    "settings": (lambda run, out: metaclip.match(POOL, LIST, out=out, settings={}), "settings must be a MatchSettings, not dict"),
    "options": (lambda run, out: metaclip.curate(POOL, LIST, out=out, options=2), "options must be a RunOptions, not int 2"),
    "workers": (lambda run, out: metaclip.RunOptions(workers="2"), "workers must be a whole number, not str '2'"),
    "limit": (lambda run, out: metaclip.MatchSettings(limit="9"), "limit must be a whole number, not str '9'"),
    "run": (lambda run, out: metaclip.balance(run.entries), "run must be a Run or a path, not Table"),
    "run of Run": (lambda run, out: metaclip.Run(run.entries), "run must be a path, not Table"),
    "run of card": (lambda run, out: metaclip.card(run.entries, out=out), "run must be a Run or a path, not Table"),
    "source": (lambda run, out: metaclip.Balancer(run.entries), "source must be a Run or a Counts or a path, not Table"),
    "crawl": (lambda run, out: metaclip.extract(run.entries, out=out), "crawl must be a path, not Table"),
    "tars": (lambda run, out: metaclip.reshard(run.entries, subset="x", out=out), "tars must be a path, not Table"),
    "subset": (lambda run, out: metaclip.reshard("x", subset=run.entries, out=out), "subset must be a path, not Table"),
    "recipe": (lambda run, out: metaclip.build(run.entries, out=out), "recipe must be a path, not Table"),
    "pool of plan": (lambda run, out: metaclip.plan(run.curated["text"], LIST), "pool must be a table, not"),
    "text": (lambda run, out: metaclip.explain(["a dog"]), "text must be a string, not list"),
    "texts": (lambda run, out: metaclip.Matcher(LIST).match("a dog"), "texts is one string"),
    "a table of texts": (lambda run, out: metaclip.Matcher(LIST).match(run.curated), "texts must be one column, not a table"),
    "rule": (lambda run, out: metaclip.lint(LIST, "paper"), "rule must be a TextRule, not str 'paper'"),
    "fold_case": (lambda run, out: metaclip.TextRule(fold_case=1), "fold_case must be True or False, not int 1"),
    "engine": (lambda run, out: metaclip.RunOptions(engine="ray"), "engine must be an engine, such as Ray(), not 'ray'"),
    "epoch": (lambda run, out: metaclip.Balancer(run, epoch="1"), "epoch must be a whole number, not str '1'"),
    "numbers as texts": (lambda run, out: metaclip.Matcher(LIST).match([1]), "texts must be strings, or a column: "),
    "pairs": (lambda run, out: metaclip.plan(POOL, LIST, pairs=10**9), "pairs must be a Sequence, not int"),
    "words for pairs": (lambda run, out: metaclip.plan(POOL, LIST, pairs=["1G"]), "pairs must be a whole number, not str"),
    "a slice": (lambda run, out: run.metadata[1:3], "entry_id must be a whole number, not slice"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_types_are_named(case: str, run: metaclip.Run, tmp_path: Path) -> None:
    """An argument of a wrong type is refused with a TypeError that names it, before anything is written."""
    call, message = WRONG[case]
    with pytest.raises(TypeError, match=re.escape(message)):
        call(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


NONE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no workers": (lambda run: metaclip.RunOptions(workers=0), "workers is 0, must be at least 1"),
    "no pairs": (lambda run: metaclip.plan(POOL, LIST, pairs=[0]), "pairs is 0, must be at least 1"),
    "workers of a plan": (lambda run: metaclip.plan(POOL, LIST, workers=[0]), "workers is 0, must be at least 1"),
    "no shards": (lambda run: metaclip.plan(POOL, LIST, shards=0), "shards is 0, must be at least 1"),
    "nothing ahead": (lambda run: list(metaclip.Balancer(run).kept([], ahead=0)), "ahead is 0, must be at least 1"),
    "a list for runs": (lambda run: metaclip.plan(run, LIST), "runs are matched: plan them without a query list"),
}  # fmt: skip


@pytest.mark.parametrize("case", NONE)
def test_values_that_mean_nothing(case: str, run: metaclip.Run) -> None:
    """They are refused, and not taken for something else."""
    call, message = NONE[case]
    with pytest.raises(metaclip.MetaclipError, match=re.escape(message)):
        call(run)


def test_runs_are_planned_as_objects(run: metaclip.Run) -> None:
    """A run, and several, as the object or its folder."""
    assert metaclip.plan(run).combined
    assert metaclip.plan([run]).pairs == metaclip.plan(str(run.path)).pairs == 400


def test_counts_are_compared_by_identity(run: metaclip.Run) -> None:
    """Counts can be compared and hashed, as other objects that hold arrays."""
    assert run.counts == run.counts
    assert len({run.counts, metaclip.Run(run.path).counts}) == 2


def test_categories_of_polars(pairs: pa.Table, tmp_path: Path) -> None:
    """A column of categories, of texts or of something else, is one of strings."""
    polars = pytest.importorskip("polars")
    frame = polars.from_arrow(pairs).with_columns(
        polars.col("text").cast(polars.Categorical), kind=polars.lit("x").cast(polars.Enum(["x", "y"]))
    )
    made = metaclip.curate(frame, LIST, t=20, out=tmp_path / "run")
    assert made.balance is not None
    assert made.balance["kept"] == 312
    entries = polars.Series(["dog", "cat"], dtype=polars.Categorical)
    assert metaclip.Metadata(entries).entries.to_pylist() == ["dog", "cat"]


def test_a_frame_that_arrow_cannot_hold(tmp_path: Path) -> None:
    """A table whose columns mix types, or share a name, is refused as what it is."""
    pandas = pytest.importorskip("pandas")
    for frame in (
        pandas.DataFrame({"text": ["a", "b"], "mixed": [1, "x"]}),
        pandas.DataFrame([["a", "b"]], columns=["text", "text"]),
    ):
        with pytest.raises(
            (TypeError, metaclip.MetaclipError),
            match=r"pool, a DataFrame, is no table|columns with the name",
        ):
            metaclip.match(frame, ["a"], out=tmp_path / "run")


def test_numbers_of_numpy_are_numbers(run: metaclip.Run) -> None:
    """t, seed and entry ids may come out of an array."""
    assert metaclip.Balancer(run, t=np.float32(3), seed=np.int64(2)).t == 3
    assert run.metadata[np.uint32(0)] == "a"


def test_every_class_shows_what_it_is(run: metaclip.Run) -> None:
    """The repr of an object of a public class names the class and what tells it from others."""
    shown = [
        (metaclip.Matcher(["dog"], cache=False), "Matcher(Metadata(1 entries: 'dog'"),
        (metaclip.Ray("auto", 3), "Ray(address='auto', workers=3)"),
        (run.counts, "Counts(157 entries, 1,200 matches; list 5a422d2f35bc)"),
        (metaclip.Balancer(run), "Balancer(t = 20, seed 0, Metadata(157 entries"),
        (metaclip.RunOptions(workers=2), "RunOptions(workers=2"),
        (metaclip.MatchSettings(limit=3), "MatchSettings("),
        (metaclip.TextRule(nfc=True), "TextRule("),
        (metaclip.explain("a dog", run=run), "looked in  ' a dog '"),
        (metaclip.plan(POOL, LIST), "pool      400 pairs in 1 shard\n"),
    ]  # fmt: skip
    for value, begins in shown:
        assert repr(value).startswith(begins), repr(value)


def test_what_a_notebook_shows(run: metaclip.Run, tmp_path: Path) -> None:
    """Runs, lists and cards are shown with tables and a plot, as well-formed markup in which every string is escaped."""
    evil = "</td><script>alert(1)</script>"
    matched = metaclip.match(pa.table({"text": ["a dog", evil]}), ["dog", evil], out=tmp_path / "<b>run")
    shown = [run, matched, run.metadata, matched.metadata]
    if importlib.util.find_spec("altair"):
        shown.append(metaclip.card(run, out=tmp_path / "card", name="<i>Toy"))
    for value in shown:
        html = value._repr_html_()  # type: ignore[attr-defined]
        root = ElementTree.fromstring(f"<div>{html}</div>")
        assert len(root.findall("table")) == 2
        assert (
            root.find("figure/svg") is not None
            or root.find("figure/{http://www.w3.org/2000/svg}svg") is not None
        )
        assert not {element.tag for element in root.iter()} & {"script", "b", "i"}
    assert "312" in run._repr_html_()
    assert "None" not in run._repr_html_()  # the toy list names no sources
    assert evil in "".join(ElementTree.fromstring(f"<div>{matched._repr_html_()}</div>").itertext())


# Docstrings -----------------------------------------------------------------------------------------------------------

MODULES = sorted(
    ".".join(["metaclip", *path.relative_to(ROOT / "metaclip").with_suffix("").parts]).removesuffix(
        ".__init__"
    )
    for path in (ROOT / "metaclip").rglob("*.py")
    if path.name != "__main__.py"
)


def named(module: ModuleType) -> list[tuple[str, Any]]:
    """Return the public functions and classes that a module defines, and the public methods of these classes."""
    found = []
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", "") != module.__name__:
            continue
        if "<locals>" in getattr(
            value, "__qualname__", ""
        ):  # made by another function; the words are below the assignment
            continue
        if inspect.isclass(value):
            members = vars(value).items()
            found += [
                (f"{name}.{n}", _function(m))
                for n, m in members
                if not n.startswith("_") and _function(m)
            ]
        if inspect.isclass(value) or inspect.isfunction(value):
            found.append((name, value))
    return found


def _function(member: Any) -> Any:
    if isinstance(member, property):
        return member.fget
    if isinstance(member, classmethod | staticmethod):
        return member.__func__
    return member if inspect.isfunction(member) else getattr(member, "func", None)


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name: str) -> None:
    """Each public function, class, method and property says in its first line what it does."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("metaclip"):
            raise
        pytest.skip(f"needs the extra with {error.name}")
    silent = [who for who, value in named(module) if not (inspect.getdoc(value) or "").strip()]
    # A dataclass without a docstring has its signature for one.
    silent += [who for who, value in named(module) if (value.__doc__ or "").startswith(f"{who}(")]
    assert not silent, f"{name}: {', '.join(silent)}"
