"""Errors and exit codes: the messages for users, and the codes for schedulers.

Law: a `MetaclipError` is one clear line (the file, the position, both values, the next step) and reaches the user without a
traceback. Any other exception that escapes is a bug of metaclip and keeps its traceback.

Messages name settings as Python does, in backticks: "choose another `out=...`, or replace it with
`RunOptions(overwrite=True)`". The command line shows its flags in their place (`with_flags`): "choose another --out, or
replace it with --overwrite".
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import re
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any, Final

DONE: Final = 0
FAILED: Final = 2
"""Wrong usage or bad input: nothing was produced."""
LOST: Final = 3
"""Finished, except for the inputs that the message lists."""
INTERRUPTED: Final = 130


class MetaclipError(Exception):
    """A problem that the user can solve; ``str(error)`` is the whole message and ``exit_code`` the exit code of the process."""

    exit_code: int = FAILED

    def __str__(self) -> str:
        """Return the message; what it quotes from files cannot steer a terminal."""
        return printable(super().__str__())


class BadSetting(MetaclipError, ValueError):
    """A setting has a value that means nothing."""


class BrokenInput(MetaclipError):
    """An input that cannot be read; the other inputs are not affected."""


class StoreError(MetaclipError):
    """A store refused a request or could not be reached."""


class AlreadyExists(StoreError):
    """An object that should be new exists, or the object that should be replaced has changed."""


class LostInputs(MetaclipError):
    """The work is finished except for some inputs; the message lists them."""

    exit_code = LOST


class Interrupted(MetaclipError):
    """Ctrl-C or SIGTERM: finished items are kept, and the same command does the rest."""

    exit_code = INTERRUPTED


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_disk_full(error: OSError) -> bool:
    """Return whether nothing more can be written: no space, quota exceeded, or file too large."""
    return error.errno in _FULL or (
        error.errno is None and "requested and" in str(error)
    )  # numpy's message for a short write


def printable(text: str) -> str:
    """Return text with escapes in place of the characters that a terminal would not show as they are; lines stay lines."""
    if text.isprintable():
        return text
    return "".join(c if c == "\n" or c.isprintable() else ascii(c)[1:-1] for c in text)


_SETTING: Final = re.compile(r"`(?:[A-Z]\w*\()*([a-z]\w*)=([^`()]*)\)*`")
_ON_COMMAND_LINE: Final = ContextVar("_ON_COMMAND_LINE", default=False)


def with_flags(message: str) -> str:
    """Return a message with the flags of the command line in place of Python's names of settings.

    >>> with_flags("use `tail_share=0.06`, `MatchSettings(text_column=...)` or `RunOptions(overwrite=True)`")
    'use --tail-share 0.06, --text-column or --overwrite'
    """

    def flag(found: re.Match[str]) -> str:
        value = "" if found[2] in ("...", "True") else f" {found[2]}"
        return f"--{found[1].replace('_', '-')}{value}"

    return _SETTING.sub(flag, message)


@contextlib.contextmanager
def on_command_line() -> Iterator[None]:
    """Let `for_caller` name flags within a block: the command line runs in one."""
    token = _ON_COMMAND_LINE.set(True)
    try:
        yield
    finally:
        _ON_COMMAND_LINE.reset(token)


def for_caller(message: str) -> str:
    """Return a message, which is about to be shown, with settings named as the caller gives them: `with_flags`, or as it is."""
    return with_flags(message) if _ON_COMMAND_LINE.get() else message


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return the message of an exception, or its class name, as one line of at most `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def damaged(path: object, what: str) -> MetaclipError:
    """Return the error of a file that was written by metaclip and is not as it was written."""
    return MetaclipError(
        f"{path} is damaged ({what}); delete it and run the command that made it again, or fetch it again"
    )


def import_extra(module: str, extra: str, user: str) -> Any:
    """Import a module that an extra installs. Raise MetaclipError, with the command that installs it, if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise MetaclipError(f"{user} needs the package {package}; {install_hint(extra)}") from None


def install_hint(extra: str) -> str:
    """Return the sentence that says how to install an extra; metaclip is installed from its repository."""
    return f"install it in metaclip's repository: pip install -e '.[{extra}]'"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" with the known name that is closest to a misspelled one; "" if none is close."""
    import difflib

    by_case = {one.lower(): one for one in known}
    found = [by_case[one] for one in difflib.get_close_matches(name.lower(), by_case, 1)]
    return f" (did you mean {found[0]!r}?)" if found else ""
