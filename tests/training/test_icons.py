"""The pool of icons: nothing hostile is rendered or read, sets are divided by family, and it survives kill -9."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("resvg", reason="needs the extra icons: pip install -e '.[icons]'")

from PIL import Image

from metaclip import RunOptions
from metaclip.errors import MetaclipError
from metaclip.metadata.sources.packages import Package
from metaclip.training.evaluation.sets import open_set
from tests.training.shards import read_tar
from training.icons.__main__ import PINNED
from training.icons.families import Class, base_name, classes_of, families_of, held_out
from training.icons.pool import noisy_caption, write_pool
from training.icons.render import BODY, IconSet, caption_of, render_svg, uid_of

pytestmark = pytest.mark.extra

PINNED_POOL = (4_154, 48, "b4659778ebe888a8051048d3751be0b539aa57aee6a93b4c71ea970618f26dd9")
"""Pairs, classes and digest of the pool of the pinned sets with resvg 0.2.0."""
SHAPES = ("circle", "square", "arrow left", "arrow right", "heart", "star")


# -- one set


def icon_set(icons: Mapping[str, Any], **more: Any) -> IconSet:
    """A set of some icons."""
    found = {
        "prefix": "mine", "info": {"license": {"spdx": "MIT"}, "author": {"name": "Me"}}, "icons": icons, **more,
    }  # fmt: skip
    return IconSet.parse("mine", json.dumps(found).encode())


def rendered(body: Any, name: str = "dog-house", **fields: Any) -> tuple[list[Any], dict[str, int]]:
    """The icons of a set of one, and why it was left out."""
    dropped: dict[str, int] = {}
    return list(icon_set({name: {"body": body, **fields}}).render(16, dropped)), dropped


DOT = '<circle cx="8" cy="8" r="4"/>'


def test_an_icon() -> None:
    """It is drawn in the middle of a white square, and its uid is the md5 of set and name."""
    ((uid, name, png),), dropped = rendered(
        '<rect width="24" height="12" fill="red"/>', width=24, height=12
    )
    assert (uid, name, dropped) == (hashlib.md5(b"mine:dog-house").hexdigest(), "dog-house", {})
    assert caption_of(name) == "dog house"
    image = Image.open(io.BytesIO(png)).convert("RGB")
    assert image.size == (16, 16)
    rows = [image.getpixel((8, y)) for y in range(16)]
    assert rows == [(255, 255, 255)] * 4 + [(255, 0, 0)] * 8 + [(255, 255, 255)] * 4
    assert rendered('<rect width="24" height="12" fill="red"/>', width=24, height=12)[0][0].png == png


def test_a_reference_to_a_file_is_what_resvg_would_read(tmp_path: Path) -> None:
    """The reason for the rule: resvg paints a file of this machine; the icon is left out however it is written."""
    path = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), (255, 0, 0)).save(path)
    image = f'<image width="16" height="16" href="{path}"/>'
    png = render_svg(f'<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16">{image}</svg>')
    assert png is not None
    assert Image.open(io.BytesIO(png)).convert("RGB").getpixel((8, 8)) == (255, 0, 0), "it is read"
    written = str(path).replace("/", "&#x2f;")
    for body in (
        image,
        f'<image width="16" height="16" xlink:href = "{path}"/>',
        f"<image width='16' height='16' href\n=\n'{path}'/>",
        f'<image width="16" height="16" href="{written}"/>',
        f'<filter id="f"><feImage href="{path}"/></filter><rect width="16" height="16" filter="url(#f)"/>',
        f'<a:image xmlns:a="http://www.w3.org/2000/svg" width="16" height="16" href="{path}"/>',
        '<image width="16" height="16" href="data:image/png;base64,AAAA"/>',
        '<image width="16" height="16" href="http://127.0.0.1:9/x.png"/>',
    ):
        assert rendered(DOT + body) == ([], {"refused": 1}), body
    used = '<defs><circle id="a" cx="8" cy="8" r="4"/></defs><use href="#a"/>'
    assert len(rendered(used)[0]) == 1, "its own elements"


@pytest.mark.parametrize(
    ("body", "name", "fields", "reason"),
    [
        (DOT, "../dog", {}, "name"),
        (DOT, "dog--house", {}, "name"),
        (DOT, "Dog", {}, "name"),
        (DOT, "dog\n", {}, "name"),
        (DOT, "dog", {"hidden": True}, "hidden"),
        (DOT, "dog", {"width": '16" onload="x'}, "body"),
        (DOT, "dog", {"width": 0}, "body"),
        (DOT, "dog", {"height": float("inf")}, "body"),
        (DOT, "dog", {"left": True}, "body"),
        (7, "dog", {}, "body"),
        (" " * BODY + DOT, "dog", {}, "body"),
        ("", "dog", {}, "blank"),
        ("<text x='1' y='15'>no fonts</text>", "dog", {}, "blank"),
        ('<filter id="f"><feTurbulence numOctaves="9999999"/></filter>', "dog", {}, "refused"),
        ("<circle", "dog", {}, "not_rendered"),
        ("</svg><svg>", "dog", {}, "not_rendered"),
        ("<!DOCTYPE svg [<!ENTITY a 'b'>]>", "dog", {}, "not_rendered"),
        ("<g>" * 5_000 + "</g>" * 5_000, "dog", {}, "not_rendered"),
    ],
)
def test_what_is_left_out(body: Any, name: str, fields: dict[str, Any], reason: str) -> None:
    """An icon that breaks a rule is left out with the reason, and costs no other."""
    assert rendered(body, name, **fields) == ([], {reason: 1})


def test_licences() -> None:
    """Only licences that ask for no more than attribution are used; a file that is no set is refused in one line."""
    for licence, used in (
        ("MIT", True),
        ("CC-BY-4.0", True),
        ("CC-BY-SA-4.0", False),
        ("GPL-3.0", False),
        ("", False),
    ):
        found = icon_set({}, info={"license": {"spdx": licence}, "author": {"name": "a\tb\n"}})
        assert (found.permitted, found.author) == (used, "a b")
    for data in (b"", b"[]", b'{"prefix": "other"}', b'{"prefix": "mine", "info": [], "icons": {}}'):
        with pytest.raises(MetaclipError, match="the set mine of the package cannot be read"):
            IconSet.parse("mine", data)


# -- families and classes


def test_families() -> None:
    """One author, one first word or shared images make a family; every fifth by size is held out, whole."""
    authors = {
        "fa-solid": "A",
        "fa6-brands": "B",
        "bx": "C",
        "boxicons": "C",
        "copy": "D",
        "original": "E",
        "solo": "F",
    }
    sets = {name: IconSet(name, "MIT", author, "", {}, {}) for name, author in authors.items()}
    images = {name: [f"{name}{i}".encode() for i in range(20)] for name in sets}
    images["copy"][:3] = images["original"][:3]
    images["solo"][:1] = images["original"][:1]
    families = families_of(sets, images)
    assert families == {
        "fa-solid": "fa-solid", "fa6-brands": "fa-solid", "bx": "boxicons", "boxicons": "boxicons", "copy": "copy",
        "original": "copy", "solo": "solo",
    }  # fmt: skip
    assert families_of(dict(reversed(sets.items())), images) == families
    sizes = {name: 10 for name in "abcdefghijk"} | {"e": 1, "k": 30}
    assert held_out({name: name for name in sizes}, sizes) == {"d", "j"}
    assert held_out({name: "e" if name == "k" else name for name in sizes}, sizes) == {"d", "j"}


@pytest.mark.parametrize(
    ("caption", "base"),
    [
        ("arrow left outline", "arrow left"), ("access time 20 filled", "access time"), ("outline home two tone", "home"),
        ("outline", "outline"), ("24 outline", "24"), ("light bulb", "bulb"), ("clock 4 24px", "clock"), ("a 1x2", "a"),
    ],
)  # fmt: skip
def test_base_names(caption: str, base: str) -> None:
    """Style words and numbers go from both ends, and at least one word stays."""
    assert base_name(caption) == base


def test_classes() -> None:
    """A class is in two training sets and on two held-out images; it is as rare as its rarest word."""
    train = {
        "a": ["dog outline", "dog", "cat", "green tree", "one two three four", "big green tree"],
        "b": ["dog", "cat", "green tree", "24", "one two three four"],
        "c": ["bird", "bird"],
    }
    tested = [
        "dog",
        "dog fill",
        "cat",
        "cat",
        "bird",
        "bird",
        "green tree",
        "green tree",
        "24",
        "24",
        *["one two three four"] * 2,
    ]
    assert classes_of(train, [*tested, "fish", "fish"]) == [
        Class("cat", 2, 2, "tail"), Class("dog", 3, 3, "middle"), Class("green tree", 2, 3, "tail"),
    ]  # fmt: skip


# -- the pool


def write_package(folder: Path) -> Package:
    """An archive like the package's: six sets of six shapes in four styles, one set under another licence, and strangers."""
    files: dict[str, bytes] = {
        "package/readme.md": b"x",
        "package/json/../evil.json": b"{}",
        "package/json/x.txt": b"",
    }
    for number, name in enumerate(("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "share")):
        icons: dict[str, Any] = {}
        for shape, text in enumerate(SHAPES):
            for style, word in enumerate(("", "-outline", "-bold", "-24")):
                body = (
                    f'<rect x="{shape}" y="{style}" width="{3 + number}" height="5" fill="currentColor"/>'
                )
                icons[text.replace(" ", "-") + word] = {"body": body}
        icons["old"] = {"body": DOT, "hidden": True}
        licence = "CC-BY-SA-4.0" if name == "share" else "MIT"
        info = {"license": {"spdx": licence}, "author": {"name": f"author of {name}"}}
        found = {"prefix": name, "info": info, "icons": icons, "aliases": {"ball": {"parent": "circle"}}}
        files[f"package/json/{name}.json"] = json.dumps(found).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "icons-1.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info_ = tarfile.TarInfo(name)
            info_.size = len(data)
            tar.addfile(info_, io.BytesIO(data))
    return Package("npm", "icons", "1", path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def contents(pool: Path) -> dict[str, bytes]:
    """All files of a pool but its state."""
    return {
        str(path.relative_to(pool)): path.read_bytes()
        for path in pool.rglob("*")
        if path.is_file() and ".state" not in path.parts and path.name != "manifest.json"
    }


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Package]:
    """The folder of a small package, and the package."""
    folder = tmp_path_factory.mktemp("archives")
    return folder, write_package(folder)


@pytest.fixture(scope="module")
def pool(archives: tuple[Path, Package], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pool of the small package."""
    out = tmp_path_factory.mktemp("pool") / "pool"
    write_pool(out, package=archives[1], archives=archives[0], options=RunOptions(workers=1))
    return out


def test_the_pool_is_the_icons_of_sets_that_are_not_held_out(pool: Path) -> None:
    """Each icon once, with caption and source, in the tar of its uid; nothing of hidden icons, aliases and other licences."""
    samples = {}
    for number in range(16):
        members = dict(read_tar(pool / "train" / f"{number:02d}.tar"))
        for name, data in members.items():
            uid, _, suffix = name.partition(".")
            assert int(uid[0], 16) == number
            samples.setdefault(uid, {})[suffix] = data
        assert list(members) == sorted(members, key=lambda name: name.partition(".")[0])
    tested = {
        line.split("\t")[0]
        for line in (pool / "sets.tsv").read_text().splitlines()
        if "\theld_out\t" in line
    }
    assert len(samples) == 5 * 24
    assert len(tested) == 1
    for uid, sample in samples.items():
        fields, text = json.loads(sample["json"]), sample["txt"].decode()
        assert uid == fields["uid"] == uid_of(fields["set"], text.replace(" ", "-"))
        assert fields["url"] == f"https://api.iconify.design/{fields['set']}/{text.replace(' ', '-')}.svg"
        assert (fields["licence"], fields["noisy"]) == ("MIT", noisy_caption(uid, text))
        assert fields["set"] not in {*tested, "share"}
        assert text.removesuffix(" outline").removesuffix(" bold").removesuffix(" 24") in SHAPES
        assert Image.open(io.BytesIO(sample["png"])).size == (32, 32)
    assert (
        0.15
        < sum(json.loads(s["json"])["noisy"] != s["txt"].decode() for s in samples.values()) / 120
        < 0.5
    )


def test_the_evaluation_set(pool: Path) -> None:
    """Metaclip evaluate reads it: the classes are the base names, with the images of the set that is held out."""
    found = open_set(pool / "held_out")
    assert found.classes == tuple(sorted(SHAPES))
    assert found.templates == ("{c}",)
    assert len(found.images) == 24
    assert [found.labels.count(i) for i in range(6)] == [4] * 6
    lines = [line.split("\t") for line in (pool / "classes.tsv").read_text().splitlines()]
    assert lines[0] == ["class", "pairs", "rarity", "group"]
    assert [line[:3] for line in lines[1:]] == [
        [name, "20", "40" if name == "arrow" else "20"] for name in sorted(SHAPES)
    ]


def test_a_pool_that_was_killed_has_the_same_bytes(
    archives: tuple[Path, Package], pool: Path, tmp_path: Path
) -> None:
    """Kill -9 as soon as a set is done, then the same call: every file as in a pool that was never killed."""
    folder, package = archives
    out = tmp_path / "pool"
    code = (
        "from pathlib import Path; from metaclip import RunOptions; from training.icons.pool import Package, write_pool\n"
        f"if __name__ == '__main__': write_pool({str(out)!r}, package={package!r}, archives=Path({str(folder)!r}),"
        " options=RunOptions(workers=1))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], env=dict(os.environ)
    )
    until = time.monotonic() + 120
    while not list(out.glob(".state/icons/set-*.json")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    write_pool(out, package=package, archives=folder, options=RunOptions(workers=2))
    assert contents(out) == contents(pool)
    assert not list(out.rglob("*.arrow")), "what was rendered goes when the tars are there"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")}
    write_pool(out, package=package, archives=folder)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")} == before


def test_what_is_refused(archives: tuple[Path, Package], tmp_path: Path) -> None:
    """A set that is not in the package, sets without icons, and another archive end in one line."""
    folder, package = archives
    for sets, says in (
        (("alpha", "omega"), "the package has no set omega"),
        (("share",), "has no icons under the licences"),
    ):
        with pytest.raises(MetaclipError, match=says):
            write_pool(
                tmp_path / sets[-1],
                sets=sets,
                package=package,
                archives=folder,
                options=RunOptions(workers=1),
            )
    (tmp_path / "icons-1.tgz").write_bytes(b"x")
    with pytest.raises(MetaclipError, match="has sha256"):
        write_pool(tmp_path / "pool", package=package, archives=tmp_path)


@pytest.mark.network
def test_the_pinned_sets_of_the_real_package(tmp_path: Path) -> None:
    """The 15 sets of the tests give the same bytes on every machine; all are under a licence that is used."""
    record = write_pool(tmp_path / "pool", sets=PINNED)
    lines = (tmp_path / "pool" / "sets.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[0] for line in lines] == sorted(PINNED)
    assert "excluded" not in {line.split("\t")[1] for line in lines}
    digest = hashlib.sha256()
    for name, data in sorted(contents(tmp_path / "pool").items()):
        digest.update(f"{name} {len(data)} ".encode() + data)
    assert (record["pairs"], record["classes"], digest.hexdigest()) == PINNED_POOL
