"""The build hook of hatchling: compiles the library for a wheel or an editable installation, and tags the wheel.

The tag is ``py3-none-<platform>``: the library does not depend on the version of Python. METACLIP_PURE=1 installs without it.
METACLIP_TARGET=aarch64-linux-gnu.2.17 (or another target of zig's) compiles for another machine, with zig.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

ZIG = "ziglang>=0.13"
TARGETS = {
    "x86_64-linux-gnu.2.17": ("manylinux_2_17_x86_64.manylinux2014_x86_64", "libmetaclip.so"),
    "aarch64-linux-gnu.2.17": ("manylinux_2_17_aarch64.manylinux2014_aarch64", "libmetaclip.so"),
    "x86_64-macos.11.0": ("macosx_11_0_x86_64", "libmetaclip.dylib"),
    "aarch64-macos.11.0": ("macosx_11_0_arm64", "libmetaclip.dylib"),
    "x86_64-windows-gnu": ("win_amd64", "libmetaclip.dll"),
}
"""By zig's target: the platform tag of the wheel, and the file name of the library."""


class LibraryHook(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles the library before the files of a wheel are collected."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Load metaclip/native/build.py, which needs nothing that is not installed yet."""
        super().__init__(*args, **kwargs)
        path = Path(self.root, "metaclip", "native", "build.py")
        spec = importlib.util.spec_from_file_location("metaclip_native_build", path)
        assert spec is not None
        assert spec.loader is not None
        self.build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.build)
        self.pure = bool(os.environ.get("METACLIP_PURE"))
        self.target = os.environ.get("METACLIP_TARGET", "")

    def dependencies(self) -> list[str]:
        """Ask for zig if it is needed: to compile for another machine, or where there is no compiler."""
        return [ZIG] if not self.pure and (self.target or self.build.find_compiler() is None) else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the library: into the tree for an editable installation, otherwise outside of it, for the wheel alone."""
        editable = version == "editable"
        if self.pure:
            if editable:  # the library of an earlier editable installation would be used
                for path in self.build.FOLDER.glob("libmetaclip*"):
                    path.unlink()
            return
        # The first tag without a C library's version: what is compiled here is for this machine.
        platform = next(tag for tag in platform_tags() if not tag.startswith(("manylinux", "musllinux")))
        options: dict[str, Any] = {}
        if self.target:
            if self.target not in TARGETS:
                raise SystemExit(
                    f"METACLIP_TARGET is {self.target!r}, must be one of {', '.join(TARGETS)}"
                )
            platform, name = TARGETS[self.target]
            command = [*self.build.ZIG, "-target", self.target]
            options = {"name": name, "command": command, "x86": self.target.startswith("x86_64")}
        self.folder = tempfile.TemporaryDirectory()
        try:
            built = self.build.compile_library(
                out=None if editable else Path(self.folder.name), **options
            )
        except self.build.BuildError as error:
            raise SystemExit(str(error)) from None
        if not editable:
            build_data["force_include"].update(
                {str(path): f"metaclip/native/{path.name}" for path in built}
            )
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the folder of the library, which is in the wheel now."""
        if not self.pure:
            self.folder.cleanup()
