"""Progress is shown at a terminal and nowhere else, and counts from any number of threads."""

from __future__ import annotations

import concurrent.futures

import pytest

from metaclip.engine import Progress


def test_silent_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard error that is no terminal stays empty."""
    with Progress("match", 100) as progress:
        progress.advance(100, 50)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("verb", "word"), [("match", "matched"), ("balance", "kept")])
def test_rows_and_what_came_through(capsys: pytest.CaptureFixture[str], verb: str, word: str) -> None:
    """Rows, total and rate of the verb, and the rows that came through, added up over threads; on standard error."""
    with Progress(verb, 8_000, shown=True) as progress, concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: progress.advance(10, 3), range(800)))
    out, err = capsys.readouterr()
    assert out == ""
    last = err.rstrip().rpartition("\r")[2]
    assert last.startswith(f"{verb}: 100%")
    assert "8.00k/8.00k" in last
    assert f"2,400 {word}" in last


def test_a_total_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a total there is no share and no time left, but rows and rate."""
    with Progress("match", None, shown=True) as progress:
        progress.advance(1_000, 10)
    last = capsys.readouterr().err.rstrip().rpartition("\r")[2]
    assert "1.00k rows" in last
    assert "%" not in last


@pytest.mark.parametrize("shown", [True, False])
def test_a_note_has_a_line_of_its_own(capsys: pytest.CaptureFixture[str], shown: bool) -> None:
    """What must be said is said in either case, and stands on a line alone."""
    with Progress("match", 10, shown=shown) as progress:
        progress.note("3 rows left out")
    assert "3 rows left out" in [
        line.rpartition("\r")[2] for line in capsys.readouterr().err.splitlines()
    ]
