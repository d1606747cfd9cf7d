"""The pool: sets rendered one by one, then written as tars in the order of uids.

    POOL/train/00.tar ... 15.tar     webdataset: <uid>.png, .txt, .json (uid, url, set, licence, noisy)
    POOL/held_out/                   an evaluation set in CLIP_benchmark's layout (`metaclip evaluate --data`)
    POOL/sets.tsv                    each set: train, held_out or excluded; its family, pairs, licence, author
    POOL/classes.tsv                 each class: training pairs, pairs with its rarest word, head, middle or tail
    POOL/manifest.json               what the pool was made from, and the icons left out by reason

Law: the tars depend on the package, the chosen sets, the pixels and resvg's version alone; a process that was killed and is
started again leaves the same bytes. A pair is in the tar that its uid begins with, sorted by uid, so neighbours have
nothing in common, and a stream, which shuffles 16 tars as one block, shuffles the whole pool.

`noisy` is a second caption, for the study: that of the .txt, but for a part NOISE of the pairs one of NOISE_TEXTS. Which pairs
these are is a hash of the uid.
Cost of the full pool at 32 pixels: 125 s of processor time, 1.0 GB of files, 0.4 GB of memory in each process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from metaclip.curate.draw import choice, uniform, uniforms
from metaclip.engine import PortableStep, Progress, ProgressCallback
from metaclip.errors import MetaclipError, one_line
from metaclip.metadata.sources.packages import Package, fetch
from metaclip.pool.uid import Uids
from metaclip.stage.folder import Folder
from metaclip.stage.runner import RunOptions, Task, run
from metaclip.stage.stage import Stage, StageSpec
from metaclip.storage.files import atomic_write
from training.icons.families import MOST, Class, base_name, classes_of, families_of, held_out
from training.icons.render import LICENCES, REASONS, IconSet, caption_of
from training.labelled_set import write_tar, write_texts

PACKAGE: Final = Package(
    "npm", "@iconify/json", "2.2.535", "json-2.2.535.tgz",
    "1a545f86fa224d6531d8fb101dcbe83aac2b28689a21cbed6fc68318a5af4d91",
)  # fmt: skip
STAGE: Final = StageSpec(
    "icons", outputs=("train", "held_out", "sets.tsv", "classes.tsv"), partials=("*.arrow",)
)
TARS: Final = 16
"""One for each first digit of a uid."""
NOISE: Final = 1 / 3
NOISE_TEXTS: Final = ("icon", "image", "free download", "free icon", "download image", "icon image")
_NOISE_SEED: Final = 0x69636F6E  # of draws that no curation makes
_MEMBER: Final = re.compile(r"package/json/([a-z0-9-]+)\.json")
_LARGEST: Final = 1 << 28
_SCHEMA: Final = pa.schema({"uid": pa.string(), "name": pa.string(), "png": pa.binary()})


@dataclasses.dataclass(frozen=True)
class _Source:
    """A set of the package, to be rendered."""

    name: str
    data: bytes


@dataclasses.dataclass(frozen=True)
class _Tar:
    """A tar of the pool, to be written from these sets."""

    number: int
    licences: Mapping[str, str]
    """By set."""


@dataclasses.dataclass(frozen=True)
class _IconStep(PortableStep):
    """The step of both kinds of items: renders a set, or writes a tar."""

    stage: Stage
    pixels: int

    def __call__(
        self, item: _Source | _Tar, progress: ProgressCallback
    ) -> tuple[dict[str, Any], list[Path]]:
        if isinstance(item, _Tar):
            return self._write(item, progress)
        icon_set, dropped = IconSet.parse(item.name, item.data), dict[str, int]()
        marker = {"licence": icon_set.licence, "author": icon_set.author, "url": icon_set.url}
        if not icon_set.permitted:
            return {**marker, "icons": 0, "dropped": dropped}, []
        icons = []
        for icon in icon_set.render(self.pixels, dropped):
            icons.append(icon)
            progress(1, 0)
        icons.sort()
        path = self.partial(item.name)
        with atomic_write(path) as temporary, pa.ipc.new_file(str(temporary), _SCHEMA) as writer:
            for number in range(TARS):
                rows = [icon for icon in icons if int(icon.uid[0], 16) == number]
                columns = [[row[i] for row in rows] for i in range(len(_SCHEMA))]
                writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
        return {**marker, "icons": len(icons), "dropped": dropped}, [path]

    def partial(self, name: str) -> Path:
        """Return the path of the rendered icons of a set, in a batch for each tar."""
        return Path(self.stage.path / f"set-{name}.arrow")

    def _write(self, item: _Tar, progress: ProgressCallback) -> tuple[dict[str, Any], list[Path]]:
        rows, noisy = [], 0
        for name, licence in item.licences.items():
            with opened(self.partial(name)) as reader:
                rows += [
                    (row["uid"], name, licence, row["name"], row["png"])
                    for row in reader.get_batch(item.number).to_pylist()
                ]
        path = Path(self.stage.folder / "train" / f"{item.number:02d}.tar")

        def members() -> Iterator[tuple[str, bytes]]:
            nonlocal noisy
            for uid, icon_set, licence, name, png in sorted(rows):
                text = caption_of(name)
                fields = {
                    "uid": uid, "url": f"https://api.iconify.design/{icon_set}/{name}.svg", "set": icon_set,
                    "licence": licence, "noisy": noisy_caption(uid, text),
                }  # fmt: skip
                noisy += fields["noisy"] != text
                yield f"{uid}.png", png
                yield f"{uid}.txt", text.encode()
                yield f"{uid}.json", json.dumps(fields).encode()
                progress(1, 0)

        write_tar(path, members())
        return {"pairs": len(rows), "noisy": noisy}, [path]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open the rendered icons of a set, mapped into memory, for the length of a block."""
    with pa.memory_map(str(path)) as file:
        yield pa.ipc.open_file(file)


def noisy_uids(uids: Uids) -> npt.NDArray[np.bool_]:
    """Return which pairs have an uninformative text in the noisy setting: bool[n] for uint64[n, 2] uids."""
    return uniforms(_NOISE_SEED, 0, uids) < NOISE


def noisy_caption(uid: str, caption: str) -> str:
    """Return the caption of a pair in the noisy setting."""
    if uniform(_NOISE_SEED, 0, uid) >= NOISE:
        return caption
    return NOISE_TEXTS[choice(_NOISE_SEED, 0, uid, len(NOISE_TEXTS))]


def write_pool(
    out: str | os.PathLike[str], *, sets: Sequence[str] = (), pixels: int = 32, package: Package = PACKAGE,
    archives: Path | None = None, options: RunOptions | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the pool of the package's sets (default: all of them), or continue; return its record in the manifest.

    `archives` is the folder of the package's archive, None for that of the cache, where it is fetched to. Raise MetaclipError
    for a set that the package does not have, for an archive that is another, and if no icons are left.
    """
    options, folder = options or RunOptions(), Folder(out)
    stage = Stage(folder, STAGE)
    step = _IconStep(stage, pixels)
    fingerprint = {
        "semantics": STAGE.semantics,
        "package": package.sha256,
        "sets": sorted(sets),
        "pixels": pixels,
        "resvg": importlib.metadata.version("resvg"),
    }
    with folder.owned():
        stage.begin(fingerprint, options.overwrite)
        if (record := stage.finished()) is not None:
            stage.remove_partials()
            return record
        markers = _render(step, fetch(package, archives), set(sets), options)
        if lacking := sorted(set(sets) - markers.keys()):
            raise MetaclipError(
                f"the package has no set {lacking[0]}; sets.tsv of a whole pool names all"
            )
        if not any(marker["icons"] for marker in markers.values()):
            raise MetaclipError(
                f"{package} has no icons under the licences {', '.join(LICENCES)}; choose other sets"
            )
        return _finish(step, markers, options, fingerprint)


def _render(
    step: _IconStep, archive: Path, sets: set[str], options: RunOptions
) -> dict[str, dict[str, Any]]:
    """Render the sets that are left; return the markers of all."""
    markers: dict[str, dict[str, Any]] = {}

    def tasks() -> Iterator[Task[Any]]:
        for name, data in _members(archive, sets):
            if (found := step.stage.marker(f"set-{name}")) is not None:
                markers[name] = found
            else:
                yield Task(f"set-{name}", _Source(name, data))

    with Progress("render", None, options.progress, "icons") as progress:
        for task, marker in run(step.stage, step, tasks(), options, progress, holds_gil=True):
            markers[task.item.name] = marker or {}
    return dict(sorted(markers.items()))


def _members(archive: Path, sets: set[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the sets of the package's archive with their bytes, in the archive's order; nothing is unpacked to a disk."""
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                found = _MEMBER.fullmatch(member.name)
                if (
                    found
                    and member.isreg()
                    and member.size <= _LARGEST
                    and (not sets or found[1] in sets)
                ):
                    content = tar.extractfile(member)
                    yield found[1], content.read() if content else b""
    except (tarfile.TarError, EOFError, OSError) as error:
        raise MetaclipError(
            f"{archive} is a broken archive ({one_line(error)}); remove it, and it is fetched again"
        ) from None


def _finish(
    step: _IconStep, markers: Mapping[str, Mapping[str, Any]], options: RunOptions, fingerprint: Mapping[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """Divide the sets, write tars and tables, and write the record."""
    stage, used = step.stage, [name for name, marker in markers.items() if marker["icons"]]
    captions, images = dict[str, list[str]](), dict[str, list[bytes]]()
    for name in used:
        with opened(step.partial(name)) as reader:
            table = reader.read_all()
            captions[name] = [caption_of(one) for one in table["name"].to_pylist()]
            images[name] = [hashlib.md5(png.as_buffer()).digest() for png in table["png"]]
    described = {
        name: IconSet(name, marker["licence"], marker["author"], marker["url"], {}, {})
        for name, marker in markers.items()
    }
    families = families_of({name: described[name] for name in used}, images)
    tested = held_out(families, {name: len(captions[name]) for name in used})
    trained = [name for name in used if name not in tested]
    seen = {image for name in trained for image in images[name]}
    licences = {name: described[name].licence for name in trained}
    tasks = [Task(f"tar-{number:02d}", _Tar(number, licences)) for number in range(TARS)]
    pairs = sum(len(captions[name]) for name in trained)
    with Progress("write", pairs, options.progress, "pairs") as progress:
        left = [task for task in tasks if stage.marker(task.name) is None]
        for _ in run(stage, step, left, options, progress, holds_gil=True):
            pass
    noisy = sum((stage.marker(task.name) or {})["noisy"] for task in tasks)
    classes, tested_images = _write_held_out(
        step, {name: captions[name] for name in trained}, sorted(tested), seen
    )
    _write_table(
        stage.folder / "classes.tsv",
        "class pairs rarity group",
        [(one.name, one.pairs, one.rarity, one.group) for one in classes],
    )
    places = {name: "held_out" if name in tested else "train" for name in used}
    _write_table(
        stage.folder / "sets.tsv",
        "set split family icons licence author url",
        [
            (
                name, places.get(name, "excluded"), families.get(name, "-"), markers[name]["icons"], one.licence,
                one.author, one.url,
            )
            for name, one in described.items()
        ],
    )  # fmt: skip
    dropped = {reason: sum(m["dropped"].get(reason, 0) for m in markers.values()) for reason in REASONS}
    record = stage.finish(
        {
            "sets": len(used), "pairs": pairs, "noisy_pairs": noisy, "held_out_sets": len(tested),
            "held_out_images": tested_images, "classes": len(classes), "dropped": dropped, "made_from": dict(fingerprint),
        }
    )  # fmt: skip
    stage.remove_partials()
    return record


def _write_held_out(
    step: _IconStep, train: Mapping[str, Sequence[str]], sets: Sequence[str], seen: set[bytes]
) -> tuple[list[Class], int]:
    """Write the held-out images of all classes as an evaluation set; return the classes and the number of images."""
    rows = []
    for name in sets:
        with opened(step.partial(name)) as reader:
            for row in reader.read_all().to_pylist():
                if hashlib.md5(row["png"]).digest() not in seen:
                    rows.append((row["uid"], caption_of(row["name"]), row["png"]))
    classes = classes_of(train, [caption for _, caption, _ in rows])
    label = {one.name: number for number, one in enumerate(classes)}
    folder, written = Path(step.stage.folder / "held_out"), [0] * len(classes)

    def members() -> Iterator[tuple[str, bytes]]:
        for uid, caption, png in sorted(rows):
            number = label.get(base_name(caption))
            if number is not None and written[number] < MOST:
                yield f"{uid}.png", png
                yield f"{uid}.cls", str(number).encode()
                written[number] += 1

    write_tar(folder / "test" / "0.tar", members())
    write_texts(folder, 1, [one.name for one in classes], ["{c}"])
    return classes, sum(written)


def _write_table(path: Any, columns: str, rows: Sequence[Sequence[Any]]) -> None:
    lines = [columns.split(), *rows]
    with atomic_write(path) as temporary:
        temporary.write_text(
            "".join("\t".join(map(str, line)) + "\n" for line in lines), encoding="utf-8"
        )
