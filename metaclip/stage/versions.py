"""The versions of everything that a result may depend on."""

from __future__ import annotations

import platform
import unicodedata
from importlib import metadata as installed
from typing import Final

from metaclip._version import __version__

_PACKAGES: Final = ("numpy", "numba", "pyarrow")


def versions() -> dict[str, str]:
    """Give the versions that a result was made with."""
    return {
        "metaclip": __version__,
        "python": platform.python_version(),
        "unicode": unicodedata.unidata_version,  # what the text rule's options follow
        **{name: installed.version(name) for name in _PACKAGES},
    }
