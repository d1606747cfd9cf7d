"""The backends of matching that tests run: METACLIP_NATIVE=0 leaves pyahocorasick, and skips the tests of the library."""

from __future__ import annotations

import os
from typing import Final

import pytest

_NATIVE: Final = os.environ.get("METACLIP_NATIVE") != "0"

BACKENDS: Final = ("native", "pyahocorasick") if _NATIVE else ("pyahocorasick",)
needs_library = pytest.mark.skipif(
    not _NATIVE, reason="tests the compiled library, which METACLIP_NATIVE=0 leaves out"
)
