"""The build hook of hatchling: compiles the library for a wheel or an editable installation, and tags the wheel.

The tag is ``py3-none-<platform>``: the library does not depend on the version of Python. METACLIP_PURE=1 installs without it.
METACLIP_TARGET=aarch64-linux-gnu.2.17 (or another target of zig's) compiles for another machine, with zig.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ZIG = "ziglang>=0.13"
PLATFORMS = {
    "x86_64-linux-gnu.2.17": ("manylinux_2_17_x86_64.manylinux2014_x86_64", "libmetaclip.so"),
    "aarch64-linux-gnu.2.17": ("manylinux_2_17_aarch64.manylinux2014_aarch64", "libmetaclip.so"),
    "x86_64-macos.11.0": ("macosx_11_0_x86_64", "libmetaclip.dylib"),
    "aarch64-macos.11.0": ("macosx_11_0_arm64", "libmetaclip.dylib"),
    "x86_64-windows-gnu": ("win_amd64", "libmetaclip.dll"),
}
"""By zig's target: the platform tag of the wheel, and the file name of the library."""


class LibraryHook(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles the library before the files of a wheel are collected."""

    @property
    def _target(self) -> str:
        return os.environ.get("METACLIP_TARGET", "")

    def _build_module(self) -> Any:
        path = Path(self.root, "metaclip", "native", "build.py")
        spec = importlib.util.spec_from_file_location("metaclip_native_build", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def dependencies(self) -> list[str]:
        """Ask for zig if it is needed: to compile for another machine, or where there is no compiler."""
        needs_zig = self._target or self._build_module().find_compiler() is None
        return [ZIG] if self.target_name == "wheel" and needs_zig and not os.environ.get("METACLIP_PURE") else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the library, and add it to the wheel."""
        build = self._build_module()
        if os.environ.get("METACLIP_PURE"):
            for path in build.FOLDER.glob("libmetaclip*"):  # of an earlier editable installation
                path.unlink()
            return
        platform, options = sysconfig.get_platform().replace("-", "_").replace(".", "_"), {}
        if self._target:
            if self._target not in PLATFORMS:
                raise ValueError(f"METACLIP_TARGET is {self._target!r}, must be one of {', '.join(PLATFORMS)}")
            platform, name = PLATFORMS[self._target]
            zig = [sys.executable, "-m", "ziglang", "cc", "-target", self._target]
            options = {"name": name, "command": zig, "x86": self._target.startswith("x86_64")}
        for path in build.compile_library(**options):
            build_data["artifacts"].append(f"/metaclip/native/{path.name}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
