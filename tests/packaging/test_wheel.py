"""What a user installs: the wheel in a fresh virtual environment, far from the source tree, and the other ways to build it."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from metaclip import native
from metaclip.native import build

ROOT = Path(__file__).parents[2]

# One worker builds and installs for all of these tests.
pytestmark = pytest.mark.xdist_group("wheel")


def run(
    *command: str | Path, cwd: Path, fails: bool = False, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command with none of this environment's settings of Python and metaclip, but with `variables`."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "METACLIP"))
    }
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment | {"METACLIP_CACHE": str(cwd / "cache")} | variables,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode != 0) == fails, (
        f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    )
    return done


def build_wheel(source: Path, folder: Path, **variables: str) -> Path:
    """Build a wheel without the network: the build backend is in the test extra."""
    run(
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        folder,
        source,
        cwd=folder,
        **variables,
    )
    (built,) = folder.glob("*.whl")
    return built


def install(what: Path, home: Path, *options: str, **variables: str) -> Path:
    """Install a wheel or a source tree into a new virtual environment; return the folder of its programs.

    The dependencies are this environment's: a .pth file adds its site-packages, and a .pth file in a folder added so is
    not read, hence an editable install of ours is not active there.
    """
    environment = home / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=home)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps"]
    run(*pip, *options, what, cwd=home, **variables)
    (site,) = environment.glob("lib/python*/site-packages")
    ours = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in ours), encoding="utf-8")
    return python.parent


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this machine."""
    return build_wheel(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def binaries(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment with the wheel."""
    return install(wheel, tmp_path_factory.mktemp("user"), "--no-index")


def test_the_wheel_holds_the_package_alone(wheel: Path) -> None:
    """At the top stand metaclip/ and its dist-info alone: no training/, curation/ or metadata/."""
    assert {name.split("/")[0] for name in names_in(wheel)} == {
        "metaclip",
        f"metaclip-{wheel.name.split('-')[1]}.dist-info",
    }


def test_the_wheel_holds_the_whole_package(wheel: Path) -> None:
    """Every Python file is in it, py.typed and the licence too, but no C file."""
    names = names_in(wheel)
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "metaclip").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert not [name for name in names if "/native/src" in name]
    assert {"metaclip/py.typed", "metaclip/training/evaluation/datacomp.tsv"} <= names
    scripts = (
        "law.js",
        "elements.js",
        "data.js",
        "chart.js",
        "entries.js",
        "asking.js",
        "figures.js",
        "page.js",
    )
    page = ("index.html", *scripts, "style.css")
    assert {f"metaclip/card/explorer/page/{name}" for name in page} <= set(names)
    assert {name.rpartition("/")[2] for name in names} >= {"LICENSE", "NOTICE"}


def test_the_installed_package_is_the_wheels(binaries: Path, tmp_path: Path) -> None:
    """The tests below try the wheel, not the source tree."""
    file = run(
        binaries / "python", "-c", "import metaclip; print(metaclip.__file__)", cwd=tmp_path
    ).stdout
    assert binaries.parent in Path(file.strip()).parents


LOADED = "from metaclip.native import load; print(getattr(load(), '_name', None))"


def test_the_library_is_loaded_from_the_wheel(binaries: Path, wheel: Path, tmp_path: Path) -> None:
    """The compiled library is in the wheel, and is used where the wheel is installed."""
    file = Path(run(binaries / "python", "-c", LOADED, cwd=tmp_path).stdout.strip())
    assert binaries.parent in file.parents
    assert f"metaclip/native/{file.name}" in names_in(wheel)


def test_version(binaries: Path, wheel: Path, tmp_path: Path) -> None:
    """The command says the version that the wheel's name has."""
    assert (
        wheel.name.split("-")[1]
        in run(binaries / "metaclip", "--version", cwd=tmp_path).stdout.split()[-1]
    )


def test_help(binaries: Path, tmp_path: Path) -> None:
    """The help names the main verb."""
    assert "curate" in run(binaries / "metaclip", "--help", cwd=tmp_path).stdout


def test_the_shipped_list_is_in_it(wheel: Path) -> None:
    """The query list stands in the wheel, byte for byte, so that it can curate without another file."""
    with zipfile.ZipFile(wheel) as archive:
        shipped = archive.read("metaclip/metadata/english.parquet")
        names = {name.rpartition("/")[2] for name in archive.namelist()}
    assert shipped == (ROOT / "metadata" / "english.parquet").read_bytes()
    assert "LICENSE.wordnet" in names


def test_curate_by_the_shipped_list(binaries: Path, tmp_path: Path) -> None:
    """Without --metadata the list in the wheel is used."""
    shutil.copy(ROOT / "curation" / "toy_pool.jsonl", tmp_path)
    run(binaries / "metaclip", "curate", "toy_pool.jsonl", "--t", "20", "--out", "run", cwd=tmp_path)
    assert (
        json.loads((tmp_path / "run" / "card.json").read_text(encoding="utf-8"))["list"]["entries"]
        == 500_000
    )


def curate_toy(binaries: Path, folder: Path) -> str:
    """Curate the toy pool, far from the tree; return what was said on standard error."""
    shutil.copy(ROOT / "curation" / "toy_pool.jsonl", folder)
    shutil.copy(ROOT / "metadata" / "toy.txt", folder)
    command = ["curate", "toy_pool.jsonl", "--metadata", "toy.txt", "--t", "20", "--out", "run"]
    said = run(binaries / "metaclip", *command, cwd=folder).stderr
    assert json.loads((folder / "run" / "card.json").read_text(encoding="utf-8"))[
        "result_digest"
    ].startswith("3594d35f")
    return said


def test_curate(binaries: Path, tmp_path: Path) -> None:
    """The toy pool is curated and accounted for, by the compiled library."""
    assert "library" not in curate_toy(binaries, tmp_path)


def test_pure(tmp_path: Path) -> None:
    """METACLIP_PURE=1 installs without the library; curating gives the same result, and says once that it is slower."""
    wheel = build_wheel(ROOT, tmp_path, METACLIP_PURE="1", CC="false")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in names_in(wheel) if "libmetaclip" in name]
    binaries = install(wheel, tmp_path, "--no-index")
    assert (
        curate_toy(binaries, tmp_path).count("the compiled library is not used (it is not installed)")
        == 1
    )


@pytest.mark.parametrize("compiler", ["false", "/no/such/compiler"])
def test_a_compiler_that_fails_stops_the_installation(compiler: str, tmp_path: Path) -> None:
    """Pip installs nothing, and shows one line with both remedies."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        "site",
        ROOT,
    ]
    done = run(*command, cwd=tmp_path, fails=True, CC=compiler)
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if compiler in line]
    assert "install a C compiler" in line
    assert "CC=" in line
    assert "METACLIP_PURE=1" in line
    assert not (tmp_path / "site").exists()


REQUIRED = (
    "from hatchling.build import get_requires_for_build_wheel; print(get_requires_for_build_wheel())"
)


@pytest.mark.parametrize(
    ("variables", "asked"),
    [
        ({"CC": "cc"}, False),
        ({"CC": "cc", "METACLIP_TARGET": "x86_64-windows-gnu"}, True),
        ({"CC": "", "PATH": "", "METACLIP_PURE": "1"}, False),
    ],
)
def test_zig_is_asked_for_where_it_is_needed(variables: dict[str, str], asked: bool) -> None:
    """The build hook requests 400 MB of zig only to compile for another machine, or where there is no compiler."""
    assert ("ziglang" in run(sys.executable, "-c", REQUIRED, cwd=ROOT, **variables).stdout) == asked


@pytest.mark.slow
def test_without_a_compiler_zig_compiles(tmp_path: Path) -> None:
    """Where PATH holds no compiler, pip installs zig to build the wheel, and the library works."""
    probe = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        tmp_path,
        "hatchling",
    ]
    if subprocess.run([str(part) for part in probe], check=False, capture_output=True).returncode:
        pytest.skip("no registry can be reached")
    binaries = install(ROOT, tmp_path, PATH=str(tmp_path / "venv" / "bin"), CC="")
    file = Path(run(binaries / "python", "-c", LOADED, cwd=tmp_path).stdout.strip())
    assert tmp_path in file.parents
    assert (
        file.name == Path(native.load()._name).name
    )  # the form for this processor, whatever compiled it


@pytest.mark.slow
def test_a_wheel_from_the_sdist(wheel: Path, tmp_path: Path) -> None:
    """The sdist holds the sources and no library, and a wheel that is built from it holds the same files."""
    run(
        sys.executable,
        "-m",
        "build",
        "--sdist",
        "--no-isolation",
        "--outdir",
        tmp_path,
        ROOT,
        cwd=tmp_path,
    )
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    assert (unpacked / "hatch_build.py").exists()
    assert build.source_digest(unpacked / "metaclip" / "native") == build.source_digest()
    assert not list(unpacked.rglob("libmetaclip*"))
    assert names_in(build_wheel(unpacked, tmp_path)) == names_in(wheel)


def machine_of(binary: bytes) -> str:
    """Return the format and the processor of a shared library, from its header."""
    if binary[:4] == b"\x7fELF":
        kind, at, width = "ELF", 18, "<H"
    elif binary[:2] == b"MZ":
        kind, at, width = "PE", struct.unpack_from("<I", binary, 0x3C)[0] + 4, "<H"
        assert binary[at - 4 : at] == b"PE\0\0"
    else:
        assert binary[:4] == b"\xcf\xfa\xed\xfe"
        kind, at, width = "Mach-O", 4, "<I"
    (code,) = struct.unpack_from(width, binary, at)
    return f"{kind} {({62: 'x86-64', 0x8664: 'x86-64', 0x1000007: 'x86-64', 183: 'arm64', 0x100000C: 'arm64'})[code]}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "tag", "ending", "machine"),
    [
        ("x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64.manylinux2014_x86_64", "so", "ELF x86-64"),
        ("aarch64-linux-gnu.2.17", "manylinux_2_17_aarch64.manylinux2014_aarch64", "so", "ELF arm64"),
        ("x86_64-macos.11.0", "macosx_11_0_x86_64", "dylib", "Mach-O x86-64"),
        ("aarch64-macos.11.0", "macosx_11_0_arm64", "dylib", "Mach-O arm64"),
        ("x86_64-windows-gnu", "win_amd64", "dll", "PE x86-64"),
    ],
)
def test_a_wheel_of_another_platform(
    target: str, tag: str, ending: str, machine: str, tmp_path: Path
) -> None:
    """Zig compiles the library for each platform: its format, its exported functions, and no glibc newer than 2.17."""
    pytest.importorskip("ziglang", reason="zig is not installed (make wheels installs it)")
    before = {path: path.stat().st_mtime_ns for path in build.FOLDER.glob("libmetaclip*")}
    wheel = build_wheel(ROOT, tmp_path, METACLIP_TARGET=target)
    assert {path: path.stat().st_mtime_ns for path in build.FOLDER.glob("libmetaclip*")} == before
    assert wheel.name.endswith(f"-py3-none-{tag}.whl")
    with zipfile.ZipFile(wheel) as archive:
        libraries = {name: archive.read(name) for name in archive.namelist() if "/libmetaclip" in name}
    stems = ["libmetaclip", "libmetaclip-avx2"] if "x86-64" in machine else ["libmetaclip"]
    assert set(libraries) == {f"metaclip/native/{stem}.{ending}" for stem in stems}
    for binary in libraries.values():
        assert machine_of(binary) == machine
        assert f"metaclip sources {build.source_digest()}\0".encode() in binary
        # Without the names of inner functions, which -s strips, the names left are those that are exported.
        found = {name.decode() for name in re.findall(rb"\0_?(mc_\w+)(?=\0)", binary)}
        assert found == {*native._SIGNATURES, "mc_sources"}
        versions = [tuple(map(int, found)) for found in re.findall(rb"GLIBC_(\d+)\.(\d+)", binary)]
        assert max(versions, default=(2, 0)) <= (2, 17)
        assert bool(versions) == ("linux" in target)
