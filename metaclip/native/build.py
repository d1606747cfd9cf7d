"""Compiling the library from its C sources: at installation, and again when they change in an editable installation.

The compiler is $CC, else cc, gcc or clang, else zig's from PyPI (``python -m ziglang cc``). This module needs the standard
library only, because the build hook (hatch_build.py) runs it before anything is installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).with_name("src")
LIBRARY: Final = Path(__file__).with_name(
    {"darwin": "libmetaclip.dylib", "win32": "libmetaclip.dll"}.get(sys.platform, "libmetaclip.so")
)
FLAGS: Final = (
    # No fast-math and no fused multiply-add, which would change the last bit of a probability.
    "-std=c11", "-O3", "-ffp-contract=off", "-fwrapv", "-fPIC", "-shared", "-fvisibility=hidden",
)  # fmt: skip


class BuildError(Exception):
    """The library could not be compiled; the message says what to do."""


def source_digest() -> str | None:
    """Return the sha256 of the sources and flags; None if this installation has no sources."""
    files = sorted(SOURCES.glob("*.[ch]"))
    if not files:
        return None
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for file in files:
        digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def digest_of(library: Path) -> str | None:
    """Return the digest of the sources that a library was compiled from; None if it is no library of ours."""
    found = re.search(rb"metaclip sources ([0-9a-f]{64})\0", library.read_bytes())
    return found[1].decode() if found else None


def find_compiler() -> list[str] | None:
    """Return the command of a C compiler; None if there is none."""
    if given := os.environ.get("CC"):
        return shlex.split(given)
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    return [sys.executable, "-m", "ziglang", "cc"] if importlib.util.find_spec("ziglang") else None


def compile_library(path: Path, *, compiler: list[str] | None = None, flags: tuple[str, ...] = ()) -> None:
    """Compile the sources to a shared library, with further `flags`; it is complete or absent. Raise BuildError."""
    command = compiler or find_compiler()
    if command is None:
        raise BuildError(
            "metaclip is compiled from C, and no C compiler was found: install one (Debian and Ubuntu: apt install gcc), or "
            "set METACLIP_PURE=1 to install without the compiled library, which makes matching about 40 times slower"
        )
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    arguments = [
        *command, *FLAGS, *flags, f'-DMC_DIGEST="{source_digest()}"', "-o", str(temporary),
        *map(str, sorted(SOURCES.glob("*.c"))),
    ]  # fmt: skip
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise BuildError(
                f"metaclip's C sources could not be compiled ({shlex.join(command)}: {lines[-1]}); install another compiler "
                "and name it with CC=..., or set METACLIP_PURE=1 to install without the compiled library, which makes "
                "matching about 40 times slower"
            )
        os.replace(temporary, path)
    except OSError as error:
        raise BuildError(f"{shlex.join(command)} cannot be run ({error}); name another compiler with CC=...") from None
    finally:
        temporary.unlink(missing_ok=True)
