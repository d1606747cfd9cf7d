"""The command line, called in this process: a process of its own takes a second to import and load what it uses."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import signal

from metaclip import cli


@dataclasses.dataclass(frozen=True)
class Done:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


def call(*arguments: str | os.PathLike[str] | float) -> Done:
    """Run ``metaclip`` with these arguments; an exception other than SystemExit is raised."""
    out, err, handler = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main([os.fspath(a) if isinstance(a, os.PathLike) else str(a) for a in arguments])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    finally:
        signal.signal(signal.SIGTERM, handler)
    return Done(code, out.getvalue(), err.getvalue())


def done(*arguments: str | os.PathLike[str] | float) -> Done:
    """Run a command that must succeed."""
    result = call(*arguments)
    assert result.code == 0, result.err
    return result


def refused(*arguments: str | os.PathLike[str] | float) -> str:
    """Run a command that must be refused: exit code 2, one line on standard error, nothing else. Return the line."""
    result = call(*arguments)
    assert result.code == 2, (result.code, result.out, result.err)
    assert result.out == ""
    assert result.err.endswith("\n")
    line = result.err.removesuffix("\n")
    assert "\n" not in line, result.err
    assert line.startswith("metaclip"), line
    assert "Traceback" not in line
    return line
