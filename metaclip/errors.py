"""Messages and exit codes: what a user reads when something is wrong, and what a scheduler reads.

Law: a `MetaclipError` is one clear line - the file, the place, both values, the next step - and reaches the user without a
traceback. Everything else that escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import errno
import importlib
from typing import Any, Final

DONE: Final = 0
FAILED: Final = 2
"""Usage, bad input, nothing produced."""
LOST: Final = 3
"""Finished, except for inputs that are listed."""
INTERRUPTED: Final = 130


class MetaclipError(Exception):
    """Something the user can mend; ``str(error)`` is the whole message and ``exit_code`` the process's answer."""

    exit_code: int = FAILED


class BrokenInput(MetaclipError):
    """An input that cannot be read, while the others are still worth reading."""


class LostInputs(MetaclipError):
    """The work is finished except for some inputs; the message lists them."""

    exit_code = LOST


class Interrupted(MetaclipError):
    """Ctrl-C or SIGTERM: what is finished stays, and the same command takes the rest up."""

    exit_code = INTERRUPTED


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_disk_full(error: OSError) -> bool:
    """Tell whether `error` says that no more can be written: no space, over quota, file too large."""
    return error.errno in _FULL or (error.errno is None and "requested and" in str(error))  # what numpy makes of it


def one_line(error: BaseException, limit: int = 300) -> str:
    """Give an exception's message as one line of at most `limit` characters, its class name where it has none."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def import_extra(module: str, extra: str, user: str) -> Any:
    """Import a module that an extra installs. Raise MetaclipError, with the command that installs it, if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise MetaclipError(f"{user} needs the package {package}; pip install 'metaclip[{extra}]'") from None
