"""Hooks: what other tools mark goes, or is to be blurred, and is counted under the hook's name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("PIL", reason="needs Pillow: pip install '.[images]'")

from metaclip import InspectSettings, MatchSettings, MetaclipError, RunOptions, curate, inspect
from metaclip.errors import BadSetting
from metaclip.inspect.settings import ScoreHook
from tests import commands
from tests.inspect.pictures import encoded, photo
from tests.inspect.test_select import kept, outcome, reasons, write
from tests.training.shards import uid

ONE = RunOptions(workers=1)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tars of 6 pictures each."""
    samples = [(encoded(photo(n), "JPEG"), f"a dog {n}") for n in range(12)]
    return write(tmp_path_factory.mktemp("hooked") / "tars", samples, 6)


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores in two files: of images 0 to 9, with a null, a NaN and images that are in no tar."""
    folder = tmp_path_factory.mktemp("scores") / "scores"
    folder.mkdir()
    nsfw = [0.1, 0.9, 0.5, None, float("nan"), 0.49, 1.0, 0.0, 0.2, 0.3]
    faces = [3, 0, 1, 0, 0, 0, 2, 1, 0, 0]
    for first, end in ((0, 5), (5, 10)):
        table = pa.table(
            {
                "uid": [uid(n) for n in range(first, end)] + [uid(100 + first)],
                "nsfw": pa.array([*nsfw[first:end], 1.0]), "faces": [*faces[first:end], 5],
            }
        )  # fmt: skip
        pq.write_table(table, folder / f"{first}.parquet")
    return folder


def test_scores(tars: Path, scores: Path, tmp_path: Path) -> None:
    """A score of at least the limit removes or marks for blurring; no score, null and NaN do nothing."""
    hooks = (
        ScoreHook("nudity", str(scores), "nsfw", 0.5),
        ScoreHook("faces", str(scores), "faces", 1, "blur"),
    )
    made = inspect(tars, out=tmp_path / "seen", settings=InspectSettings(hooks=hooks), options=ONE)
    assert [n for n, reason in enumerate(reasons(tmp_path / "seen")) if reason == "nudity"] == [1, 2, 6]
    assert [n for n, row in enumerate(outcome(tmp_path / "seen")) if row["blur"] == "faces"] == [0, 7]
    assert made.funnel["nudity"] == 3
    assert made.record["blurred"] == {"nudity": 0, "faces": 2}
    assert kept(tmp_path / "seen") == sorted(uid(n) for n in range(12) if n not in (1, 2, 6))
    blur = np.load(tmp_path / "seen" / "blur.npy").tolist()
    assert [f"{high:016x}{low:016x}" for high, low in blur] == sorted(uid(n) for n in (0, 7))
    settings = MatchSettings(subset=str(tmp_path / "seen" / "subset.npy"))
    run = curate(tars, ["dog"], out=tmp_path / "run", t=100, settings=settings, options=ONE)
    page = (run.path / "card.md").read_text().replace("&#58;", ":").replace("&#95;", "_")
    assert "| 3 | nudity | marked for removal by nudity |" in page
    assert "| 2 | faces: blur | of those that stay, to be blurred: marked by faces |" in page


def test_a_recipe_of_hooks(tars: Path, scores: Path, tmp_path: Path) -> None:
    """A recipe names scores relative to its folder; other scores or limits are another run."""
    recipe = scores.parent / "recipe.toml"
    table = '[inspect]\n[[inspect.hooks]]\nname = "nudity"\nscores = "scores"\ncolumn = "nsfw"\nat_least = {}\n'
    recipe.write_text(table.format(0.95))
    commands.done("inspect", tars, "--recipe", recipe, "--out", tmp_path / "seen", "--workers", 1)
    assert [n for n, reason in enumerate(reasons(tmp_path / "seen")) if reason] == [6]
    done = commands.done(
        "inspect",
        tars,
        "--recipe",
        tmp_path / "seen" / "recipe.toml",
        "--out",
        tmp_path / "seen",
        "--workers",
        1,
    )
    recipe.write_text(table.format(0.5))
    assert f"next      metaclip curate {tars} --subset {tmp_path}/seen/subset.npy --out run/" in done.out
    assert "hooks" in commands.refused(
        "inspect", tars, "--recipe", recipe, "--out", tmp_path / "seen", "--workers", 1
    )


def marks(rows: pa.RecordBatch) -> Sequence[str | None]:
    """Remove the first picture of each tar and blur the second."""
    return [
        {"000000000": "remove", "000000006": "remove", "000000001": "blur"}.get(key)
        for key in rows.column("key").to_pylist()
    ]


def test_a_function(tars: Path, tmp_path: Path) -> None:
    """A function of rows removes and blurs, beside scores; it is asked before duplicates are looked for."""
    made = inspect(
        tars,
        out=tmp_path / "seen",
        settings=InspectSettings(near_duplicates=True),
        functions={"by_key": marks},
        options=ONE,
    )
    assert reasons(tmp_path / "seen") == ["by_key", *[""] * 5, "by_key", *[""] * 5]
    assert made.record["blurred"] == {"by_key": 1}
    assert [row["blur"] for row in outcome(tmp_path / "seen")][:2] == [None, "by_key"]


def test_a_file_that_was_damaged_between_two_runs(tars: Path, tmp_path: Path) -> None:
    """What an interrupted run has left is read only if it is as it was written."""

    def interrupted(rows: pa.RecordBatch) -> Sequence[str | None]:
        if "000000006" in rows.column("key").to_pylist():
            raise MetaclipError("interrupted")
        return [None] * len(rows)

    settings = InspectSettings(near_duplicates=True)
    with pytest.raises(MetaclipError, match="interrupted"):
        inspect(tars, out=tmp_path / "seen", settings=settings, functions={"x": interrupted}, options=ONE)
    path = tmp_path / "seen" / ".state" / "select" / "000000.keys.npy"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(MetaclipError, match=r"000000.keys.npy is damaged"):
        inspect(tars, out=tmp_path / "seen", settings=settings, functions={"x": marks}, options=ONE)


def test_what_is_wrong_is_one_line(tars: Path, scores: Path, tmp_path: Path) -> None:
    """Names that mean something else, missing columns and odd marks are refused by name."""

    def look(*hooks: ScoreHook, **functions: object) -> None:
        inspect(
            tars,
            out=tmp_path / "x",
            settings=InspectSettings(hooks=hooks),
            functions=functions,
            options=ONE,
        )  # type: ignore[arg-type]

    with pytest.raises(MetaclipError, match="'kept' has the name of another reason"):
        look(ScoreHook("kept", str(scores)))
    with pytest.raises(MetaclipError, match="must have a name of a-z"):
        look(ScoreHook("Not a name", str(scores)))
    with pytest.raises(MetaclipError, match="has no column 'score' .columns: uid, nsfw, faces"):
        look(ScoreHook("a", str(scores)))
    with pytest.raises(MetaclipError, match="column 'uid' holds string, must hold numbers"):
        look(ScoreHook("a", str(scores), "uid"))
    with pytest.raises(MetaclipError, match="returned 1 marks for 6 rows"):
        look(odd=lambda rows: ["remove"])
    with pytest.raises(MetaclipError, match="returned 'delete', must be 'remove', 'blur' or None"):
        look(odd=lambda rows: ["delete"] * len(rows))


def test_the_example(tars: Path, scores: Path, tmp_path: Path) -> None:
    """curation/inspect_scores.py removes and blurs by a parquet of scores."""
    command = [sys.executable, ROOT / "curation" / "inspect_scores.py", tars, scores, tmp_path / "seen"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "nudity" in done.stdout
    steps = json.loads((tmp_path / "seen" / "manifest.json").read_text())["steps"]
    assert {one["step"]: one["samples"] for one in steps}["nudity"] == 3


def test_a_function_returns_arrow(tars: Path, tmp_path: Path) -> None:
    """A function of Arrow rows may return an Arrow array; what is no sequence, or no function, is refused by name."""
    made = inspect(
        tars, out=tmp_path / "seen", functions={"arrow": lambda rows: pa.array(marks(rows))}, options=ONE
    )
    assert (made.funnel["arrow"], made.record["blurred"]) == (2, {"arrow": 1})
    with pytest.raises(
        MetaclipError, match="the hook none returned None, must return one mark for each row"
    ):
        inspect(tars, out=tmp_path / "x", functions={"none": lambda rows: None}, options=ONE)  # type: ignore[dict-item,return-value]
    with pytest.raises(TypeError, match="the hook five must be a function of rows, not int"):
        inspect(tars, out=tmp_path / "x", functions={"five": 5}, options=ONE)  # type: ignore[dict-item]


@pytest.mark.parametrize("line", ["at_least = nan", "at_least = inf", 'action = "nuke"', "colum = 1"])
def test_a_hook_that_means_nothing(line: str, tars: Path, scores: Path, tmp_path: Path) -> None:
    """A limit that is no number, or an action that is none, is refused in one line, from a recipe and from Python."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'[[inspect.hooks]]\nname = "a"\nscores = "{scores}"\ncolumn = "nsfw"\n{line}\n')
    assert line.split()[0] in commands.refused(
        "inspect", tars, "--recipe", recipe, "--out", tmp_path / "x"
    )
    with pytest.raises(BadSetting, match="action is 'nuke', must be one of 'remove', 'blur'"):
        ScoreHook("a", str(scores), action="nuke")  # type: ignore[arg-type]


def test_scores_of_other_uids_are_noted(tars: Path, tmp_path: Path) -> None:
    """Scores that mark uids of which no image has one are most likely those of another column: the user is told."""
    pq.write_table(pa.table({"uid": ["a", "b"], "score": [1.0, 1.0]}), tmp_path / "scores.parquet")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[[inspect.hooks]]\nname = "faces"\nscores = "scores.parquet"\n')
    done = commands.done("inspect", tars, "--recipe", recipe, "--out", tmp_path / "seen", "--workers", 1)
    assert "the hook faces marks 2 uids, but none of an image" in done.err


def test_an_interruption_names_no_tasks_without_a_name(tars: Path, tmp_path: Path) -> None:
    """Ctrl-C while images are selected says what is left, and ends there: these tasks have no file to name."""

    def interrupted(rows: pa.RecordBatch) -> Sequence[str | None]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="each from its start$"):
        inspect(tars, out=tmp_path / "seen", functions={"x": interrupted}, options=ONE)
