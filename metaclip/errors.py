"""Errors and exit codes: the messages for users, and the codes for schedulers.

Law: a `MetaclipError` is one clear line (the file, the position, both values, the next step) and reaches the user without a
traceback. Any other exception that escapes is a bug of metaclip and keeps its traceback.
"""

from __future__ import annotations

import errno
import importlib
from collections.abc import Iterable
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
    return f"install it in metaclip's repository: pip install '.[{extra}]'"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" with the known name that is closest to a misspelled one; "" if none is close."""
    import difflib

    by_case = {one.lower(): one for one in known}
    found = [by_case[one] for one in difflib.get_close_matches(name.lower(), by_case, 1)]
    return f" (did you mean {found[0]!r}?)" if found else ""
