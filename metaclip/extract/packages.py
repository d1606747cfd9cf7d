"""What the extra `crawl` brings, imported when it is used."""

from __future__ import annotations

import importlib
from typing import Any

from metaclip.errors import MetaclipError


def needed(name: str) -> Any:
    """Import a module. Raise MetaclipError, with the command that installs it, where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise MetaclipError(f"extract needs the package {package}; pip install 'metaclip[crawl]'") from None
