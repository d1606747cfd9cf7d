"""The file of an automaton: built once for a list and a rule, and shared by all workers of a machine.

One file holds all arrays and is memory-mapped: a header with the digest of everything behind it, a directory in JSON, and
the arrays, each aligned to 64 bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import struct
import unicodedata
from pathlib import Path
from typing import Any, Final

import numpy as np

from metaclip.errors import MetaclipError
from metaclip.matching.automaton import Automaton, Machine, build
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata.entries import Metadata
from metaclip.storage.files import atomic_write, cache_folder

VERSION: Final = 2
"""Increased when the arrays, or what kernels do with them, change; part of the key."""

_MAGIC: Final = b"metaclip automaton\n\0"
_HEADER: Final = struct.Struct("<20sIQ32s")
"""Magic, version, size of the JSON directory, sha256 of this size and everything behind the header."""
_ALIGN: Final = 64


def key(metadata: Metadata, rule: TextRule) -> str:
    """Return the key of an automaton: 64 hex digits of the list, the rule, and the versions of the format and of Unicode."""
    parts = (str(VERSION), unicodedata.unidata_version, metadata.digest, rule.identity)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def save(automaton: Automaton, path: Path) -> None:
    """Write an automaton as one file, whole or not at all."""
    machines: list[dict[str, Any]] = []
    chunks: list[bytes | memoryview] = []
    at = 0
    for machine in automaton.machines:
        sections = {}
        for name, array in machine.arrays.items():
            sections[name] = {"dtype": array.dtype.str, "shape": array.shape, "at": at}
            data = np.ascontiguousarray(array).data.cast("B")
            chunks += [data, bytes(-len(data) % _ALIGN)]
            at += len(data) + len(chunks[-1])
        machines.append({"info": machine.info, "arrays": sections})
    rule = json.loads(automaton.rule.identity)
    directory = {"rule": rule, "list": automaton.list_digest, "size": automaton.size, "machines": machines}
    text = json.dumps(directory, sort_keys=True).encode()
    text += b" " * (-(_HEADER.size + len(text)) % _ALIGN)
    digest = hashlib.sha256(struct.pack("<Q", len(text)))
    digest.update(text)
    for chunk in chunks:
        digest.update(chunk)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(_HEADER.pack(_MAGIC, VERSION, len(text), digest.digest()))
        file.write(text)
        for chunk in chunks:
            file.write(chunk)


def load(path: Path) -> Automaton:
    """Memory-map a file and check its digest. Raise MetaclipError if it is damaged."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < _HEADER.size:
            raise MetaclipError(f"{path} is not a complete automaton; delete it, and it will be built again")
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    magic, version, size, digest = _HEADER.unpack_from(memory)
    view = memoryview(memory)
    found = hashlib.sha256(struct.pack("<Q", size))
    found.update(view[_HEADER.size :])
    if magic != _MAGIC or version != VERSION or found.digest() != digest:
        raise MetaclipError(
            f"{path} is not a complete automaton of version {VERSION}; delete it, and it will be built again"
        )
    directory = json.loads(bytes(view[_HEADER.size : _HEADER.size + size]))
    begin = _HEADER.size + size
    machines = []
    for stored in directory["machines"]:
        arrays = {
            name: np.frombuffer(
                view, np.dtype(section["dtype"]), int(np.prod(section["shape"])), begin + section["at"]
            ).reshape(section["shape"])
            for name, section in stored["arrays"].items()
        }
        machines.append(Machine(arrays, stored["info"]))
    return Automaton(machines, TextRule(**directory["rule"]), directory["size"], directory["list"])


def is_built(metadata: Metadata, rule: TextRule = PAPER, folder: Path | None = None) -> bool:
    """Return whether `open_automaton` would find a file."""
    return _path(metadata, rule, folder).exists()


def _path(metadata: Metadata, rule: TextRule, folder: Path | None) -> Path:
    return (folder or cache_folder()) / f"{key(metadata, rule)}.automaton"


def open_automaton(metadata: Metadata, rule: TextRule = PAPER, folder: Path | None = None) -> Automaton:
    """Open the automaton of a list under a rule from `folder` (default: `cache_folder`), or build and save it."""
    path = _path(metadata, rule, folder)
    # A cache that is damaged, or cannot be read or written, must never fail the run.
    with contextlib.suppress(OSError, MetaclipError):
        return load(path)
    automaton = build(metadata, rule)
    with contextlib.suppress(OSError, MetaclipError):
        save(automaton, path)
        return load(path)
    return automaton
