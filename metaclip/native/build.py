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
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
NAME: Final = {"darwin": "libmetaclip.dylib", "win32": "libmetaclip.dll"}.get(
    sys.platform, "libmetaclip.so"
)
FLAGS: Final = (
    # No fast-math and no fused multiply-add, which would change the last bit of a probability.
    "-std=c11", "-O3", "-ffp-contract=off", "-fwrapv", "-fPIC", "-shared", "-fvisibility=hidden",
)  # fmt: skip
AVX2: Final = ("-mavx2", "-mbmi")
"""Further flags of the second form of the library, libmetaclip-avx2, for x86-64 processors that have these instructions."""
# zig compiles for the processor that it runs on and adds debugging information, unless told otherwise.
ZIG: Final = (sys.executable, "-m", "ziglang", "cc", "-mcpu=baseline", "-s")
REMEDIES: Final = (
    "install a C compiler (Debian and Ubuntu: apt install gcc) or name one with CC=..., or set METACLIP_PURE=1 to install "
    "without the compiled library, which makes matching about 40 times slower"
)


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
    return list(ZIG) if importlib.util.find_spec("ziglang") else None


def compile_library(
    folder: Path = FOLDER, out: Path | None = None, *, name: str = NAME, command: list[str] | None = None,
    x86: bool = platform.machine() in ("x86_64", "AMD64"),
) -> list[Path]:  # fmt: skip
    """Compile the sources in ``folder/src`` to a shared library in `out`, else `folder`; for `x86` to both forms of it.

    Return their paths. Each file is complete or absent. Raise BuildError, which names two remedies.
    """
    command, out = command or find_compiler(), out or folder
    if command is None:
        raise BuildError(f"metaclip is compiled from C, and no C compiler was found; {REMEDIES}")
    forms: dict[str, tuple[str, ...]] = {name: ()}
    if x86:
        forms[name.replace(".", "-avx2.")] = AVX2
    digest, sources = (
        source_digest(folder),
        [str(path.resolve()) for path in sorted((folder / "src").glob("*.c"))],
    )
    # A linker may write more files beside the library, and writes the name of the library into it.
    with tempfile.TemporaryDirectory(prefix=".compile-", dir=out) as temporary:

        def compile_form(form: str) -> None:
            arguments = [
                *command,
                *FLAGS,
                *forms[form],
                f'-DMC_DIGEST="{digest}"',
                "-o",
                form,
                *sources,
                "-lm",
            ]
            try:
                done = subprocess.run(
                    arguments,
                    cwd=temporary,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    check=False,
                )
            except OSError as error:
                raise BuildError(
                    f"the C compiler {shlex.join(command)} cannot be run ({error}); {REMEDIES}"
                ) from None
            if done.returncode:
                lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
                raise BuildError(
                    f"metaclip's C sources could not be compiled ({shlex.join(command)}: {lines[-1]}); {REMEDIES}"
                )

        with ThreadPoolExecutor() as threads:
            list(threads.map(compile_form, forms))
        for form in forms:
            os.replace(Path(temporary, form), out / form)
    return [out / form for form in forms]
