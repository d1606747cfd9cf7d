"""Compiling the library from its C sources: at installation, and again when they change in an editable installation.

The compiler is $CC, else cc, gcc or clang, else zig's from PyPI (``python -m ziglang cc``). This module needs the standard
library only, because the build hook (hatch_build.py) runs it before anything is installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
NAME: Final = {"darwin": "libmetaclip.dylib", "win32": "libmetaclip.dll"}.get(sys.platform, "libmetaclip.so")
FLAGS: Final = (
    # No fast-math and no fused multiply-add, which would change the last bit of a probability.
    "-std=c11", "-O3", "-ffp-contract=off", "-fwrapv", "-fPIC", "-shared", "-fvisibility=hidden",
)  # fmt: skip


AVX2: Final = ("-mavx2", "-mbmi")
"""Further flags of the second form of the library, libmetaclip-avx2, for x86-64 processors that have these instructions."""


class BuildError(Exception):
    """The library could not be compiled; the message says what to do."""


def source_digest(folder: Path = FOLDER) -> str:
    """Return the sha256 of the sources and flags."""
    digest = hashlib.sha256(" ".join(FLAGS + AVX2).encode())
    for file in sorted((folder / "src").glob("*.[ch]")):
        digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def digest_of(library: Path) -> str | None:
    """Return the digest of the sources that a library was compiled from; None if there is none, or it is none of ours."""
    found = library.exists() and re.search(rb"metaclip sources ([0-9a-f]{64})\0", library.read_bytes())
    return found[1].decode() if found else None


def update(folder: Path = FOLDER) -> None:
    """Compile the library again if it was compiled from other sources. Raise BuildError."""
    wanted = source_digest(folder)
    if any(digest_of(path) != wanted for path in folder.glob("libmetaclip*")):
        compile_library(folder)


def find_compiler() -> list[str] | None:
    """Return the command of a C compiler; None if there is none."""
    if given := os.environ.get("CC"):
        return shlex.split(given)
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    return [sys.executable, "-m", "ziglang", "cc"] if importlib.util.find_spec("ziglang") else None


def compile_library(
    folder: Path = FOLDER, name: str = NAME, *, command: list[str] | None = None, flags: tuple[str, ...] = (),
    x86: bool | None = None,
) -> list[Path]:  # fmt: skip
    """Compile the sources in ``folder/src`` to a shared library, in both forms for `x86`; return their paths.

    Each file is complete or absent. Raise BuildError.
    """
    command = command or find_compiler()
    if command is None:
        raise BuildError(
            "metaclip is compiled from C, and no C compiler was found: install one (Debian and Ubuntu: apt install gcc), or "
            "set METACLIP_PURE=1 to install without the compiled library, which makes matching about 40 times slower"
        )
    forms = {folder / name: flags}
    if x86 if x86 is not None else platform.machine() in ("x86_64", "AMD64"):
        forms[(folder / name).with_stem(f"{Path(name).stem}-avx2")] = (*flags, *AVX2)
    digest, sources = source_digest(folder), [str(path) for path in sorted((folder / "src").glob("*.c"))]
    for path, more in forms.items():
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        arguments = [*command, *FLAGS, *more, f'-DMC_DIGEST="{digest}"', "-o", str(temporary), *sources]
        try:
            done = subprocess.run(arguments, capture_output=True, text=True, errors="replace", check=False)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
                raise BuildError(
                    f"metaclip's C sources could not be compiled ({shlex.join(command)}: {lines[-1]}); install another "
                    "compiler and name it with CC=..., or set METACLIP_PURE=1 to install without the compiled library, "
                    "which makes matching about 40 times slower"
                )
            os.replace(temporary, path)
        except OSError as error:
            raise BuildError(
                f"{shlex.join(command)} cannot be run ({error}); name another compiler with CC=..."
            ) from None
        finally:
            temporary.unlink(missing_ok=True)
    return list(forms)
