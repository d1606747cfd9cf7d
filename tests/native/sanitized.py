"""Load the library of the folder that METACLIP_SANITIZED names: imported by ``python -m pytest -p tests.native.sanitized``."""

from __future__ import annotations

import os
from pathlib import Path

from metaclip import native

if folder := os.environ.get("METACLIP_SANITIZED"):
    native.FOLDER = Path(folder)  # type: ignore[misc]
