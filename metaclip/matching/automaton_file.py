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
import stat
import struct
import unicodedata
from pathlib import Path
from typing import Any, Final

import numpy as np

from metaclip.errors import MetaclipError
from metaclip.matching.automaton import ARRAYS, INFO, Automaton, Machine, build
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata.entries import Metadata
from metaclip.native.library import load as native
from metaclip.storage.files import atomic_write, cache_folder

VERSION: Final = 3
"""Increased when the arrays, or what the library does with them, change; part of the key."""

_MAGIC: Final = b"metaclip automaton\n\0"
_HEADER: Final = struct.Struct("<20sIQ32s")
"""Magic, version, size of the JSON directory, sha256 of this size and everything behind the header."""
_ALIGN: Final = 64


class UntrustedFile(Exception):
    """A file of the cache that is damaged, or was made by another user or for another list."""


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
            sections[name] = {"rows": len(array), "at": at}
            data = np.ascontiguousarray(array).data.cast("B")
            chunks += [data, bytes(-len(data) % _ALIGN)]
            at += len(data) + len(chunks[-1])
        machines.append({"info": machine.info, "arrays": sections})
    rule = json.loads(automaton.rule.identity)
    directory = {
        "rule": rule,
        "list": automaton.list_digest,
        "size": automaton.size,
        "machines": machines,
    }
    text = json.dumps(directory, sort_keys=True).encode()
    text += b" " * (-(_HEADER.size + len(text)) % _ALIGN)
    digest = hashlib.sha256(struct.pack("<Q", len(text)))
    digest.update(text)
    for chunk in chunks:
        digest.update(chunk)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        temporary.chmod(0o644)
        file.write(_HEADER.pack(_MAGIC, VERSION, len(text), digest.digest()))
        file.write(text)
        for chunk in chunks:
            file.write(chunk)


def load(path: Path, metadata: Metadata, rule: TextRule) -> Automaton:
    """Memory-map the automaton of a list under a rule. Raise UntrustedFile, or OSError.

    Checked are the owner and the mode of the file, magic, version and digest, the identities of list and rule, and every
    index of the arrays: so a file can be damaged or crafted, but never lead to other matches or to other memory.
    """
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if found.st_uid not in (0, os.getuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UntrustedFile("it belongs to another user, or others may write to it")
        if found.st_size < _HEADER.size:
            raise UntrustedFile("it is not complete")
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    magic, version, size, digest = _HEADER.unpack_from(memory)
    view = memoryview(memory)
    hashed = hashlib.sha256(struct.pack("<Q", size))
    hashed.update(view[_HEADER.size :])
    if magic != _MAGIC or version != VERSION or hashed.digest() != digest:
        raise UntrustedFile("it is damaged, or of another version")
    if size % _ALIGN:
        raise UntrustedFile("its arrays are not aligned")
    try:
        directory = json.loads(bytes(view[_HEADER.size : _HEADER.size + size]))
        if (directory["list"], directory["size"]) != (metadata.digest, len(metadata)):
            raise UntrustedFile("it is of another list")
        if directory["rule"] != json.loads(rule.identity):
            raise UntrustedFile("it is of another text rule")
        arrays = view[_HEADER.size + size :]
        machines = [_machine(arrays, stored, rule, len(metadata)) for stored in directory["machines"]]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UntrustedFile(f"its directory is damaged ({error})") from None
    if not 1 <= len(machines) <= 2:
        raise UntrustedFile("it has another number of machines")
    return Automaton(machines, rule, len(metadata), metadata.digest)


def _machine(data: memoryview, stored: dict[str, Any], rule: TextRule, n_entries: int) -> Machine:
    arrays = {}
    for name, (dtype, columns) in ARRAYS.items():
        begin, rows = (int(stored["arrays"][name][what]) for what in ("at", "rows"))
        if begin < 0 or begin % _ALIGN or rows < 0:
            raise UntrustedFile(f"the array {name} lies outside")
        # Raises ValueError for an array that is longer than the file.
        arrays[name] = np.frombuffer(data, dtype, rows * columns, begin).reshape(
            (rows, columns) if columns > 1 else rows
        )
    info = {name: int(stored["info"][name]) for name in INFO}
    if (info["longest"], info["fold_spaces"]) != (rule.longest_only, rule.fold_spaces):
        raise UntrustedFile("it is of another text rule")
    machine = Machine(arrays, info)
    if fault := native().mc_check(machine.struct, n_entries):
        raise UntrustedFile(f"its arrays are damaged (check {fault})")
    return machine


def open_automaton(metadata: Metadata, rule: TextRule = PAPER, folder: Path | None = None) -> Automaton:
    """Open the automaton of a list under a rule from `folder` (default: `cache_folder`), or build and save it.

    A file that cannot be trusted is built again. Failing to read or write the cache never fails the run.
    """
    path = (folder or cache_folder()) / f"{key(metadata, rule)}.automaton"
    with contextlib.suppress(OSError, UntrustedFile):
        return load(path, metadata, rule)
    automaton = build(metadata, rule)
    with contextlib.suppress(OSError, MetaclipError, UntrustedFile):
        save(automaton, path)
        return load(path, metadata, rule)
    return automaton
