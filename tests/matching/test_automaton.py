"""The automaton and its file: deterministic, checked for damage, small enough, and correct on real captions."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import naive
from metaclip.errors import MetaclipError
from metaclip.matching import automaton as automata
from metaclip.matching.automaton import Automaton, UntrustedFile, build, key, open_automaton, read, write
from metaclip.matching.matcher import Matcher
from metaclip.matching.native_backend import NativeBackend
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata import Metadata
from metaclip.storage.files import cache_folder
from tests.backends import needs_library
from tests.processes import environment

pytestmark = needs_library

ENTRIES = [
    "dog",
    "hot dog",
    "a hot dog stand",
    "Dog",
    "猫",
    "黒猫",
    "T恤",
    "a word of thirteenbytes",
    "",
    ". dog",
]
LIST = Metadata(ENTRIES)
RULES = [
    PAPER,
    TextRule(unspaced_scripts="fixed"),
    TextRule(longest_only=True, fold_case=True),
    TextRule(longest_only=True, unspaced_scripts="published"),
]
TEXTS = ["a hot dog stand", "大黒猫.dog", "白 T恤衫", "", "a word of thirteenbytes"]


def _arrays(of: Automaton) -> list[dict[str, Any]]:
    return [machine.arrays for machine in of.machines]


@pytest.mark.parametrize("rule", RULES)
def test_file_holds_the_same_arrays(tmp_path: Path, rule: TextRule) -> None:
    """A saved and opened automaton equals the one that was built, and is read-only."""
    built = build(LIST, rule)
    write(built, tmp_path / "file")
    opened = read(tmp_path / "file", LIST, rule)
    assert (opened.rule, opened.size, opened.list_digest) == (rule, len(LIST), LIST.digest)
    assert opened.nbytes == built.nbytes
    assert [machine.info for machine in opened.machines] == [machine.info for machine in built.machines]
    for before, after in zip(_arrays(built), _arrays(opened), strict=True):
        assert before.keys() == after.keys()
        for name, array in after.items():
            assert array.dtype == before[name].dtype
            assert np.array_equal(array, before[name])
            assert not array.flags.writeable
            assert array.ctypes.data % 64 == 0
    for folder in (tmp_path, False):
        assert Matcher(LIST, rule, cache=folder).match(TEXTS) == Matcher(
            LIST, rule, backend="pyahocorasick"
        ).match(TEXTS)


def resigned(data: bytes) -> bytes:
    """Return the bytes of a file with the digest that its content has."""
    size = struct.unpack_from("<Q", data, 24)[0]
    digest = hashlib.sha256(struct.pack("<Q", size) + data[64:]).digest()
    return data[:32] + digest + data[64:]


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    """A file in which any one byte was changed is refused."""
    rule = TextRule(unspaced_scripts="fixed")
    path = tmp_path / "file"
    write(build(LIST, rule), path)
    whole = path.read_bytes()
    for at in [*range(1000), *range(1000, len(whole), 13)]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        with pytest.raises(UntrustedFile):
            read(path, LIST, rule)


def test_another_size_is_noticed(tmp_path: Path) -> None:
    """A file that is cut off anywhere, empty, or longer than it was is refused."""
    path = tmp_path / "file"
    write(build(LIST), path)
    whole = path.read_bytes()
    for size in [0, 1, 20, 63, 64, 65, 200, *range(300, len(whole), 101), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(UntrustedFile):
            read(path, LIST, PAPER)
    path.write_bytes(whole + b"\0")
    with pytest.raises(UntrustedFile):
        read(path, LIST, PAPER)


@pytest.mark.parametrize("rule", [PAPER, TextRule(unspaced_scripts="fixed"), TextRule(longest_only=True)])
def test_a_crafted_file_is_refused_or_harmless(tmp_path: Path, rule: TextRule) -> None:
    """A file with any wrong number and a right digest is refused, or matching with it ends and gives ids of the list."""
    path = tmp_path / "file"
    write(build(LIST, rule), path)
    whole = path.read_bytes()
    refused = 0
    for at in range(64, len(whole) - 3, 5):
        for value in (b"\xff" * 4, b"\x01\0\0\0", b"\0" * 4):
            path.write_bytes(resigned(whole[:at] + value + whole[at + 4 :]))
            try:
                opened = read(path, LIST, rule)
            except UntrustedFile:
                refused += 1
                continue
            found = NativeBackend(opened).match_array(pa.array([*TEXTS, "hot dog " * 900, None]))
            assert all(entry_id < len(LIST) for entry_id in found.flatten().to_pylist())
    assert refused > 100


def with_directory(whole: bytes, text: bytes) -> bytes:
    """Return the bytes of a file with another directory, and the digest for it."""
    size = struct.unpack_from("<Q", whole, 24)[0]
    return resigned(whole[:24] + struct.pack("<Q", len(text)) + whole[32:64] + text + whole[64 + size :])


def test_arrays_that_are_not_aligned_are_refused(tmp_path: Path) -> None:
    """Every array begins at a multiple of 64 bytes: a directory of another size moves them all."""
    path = tmp_path / "file"
    write(build(LIST), path)
    whole = path.read_bytes()
    directory = whole[64 : 64 + struct.unpack_from("<Q", whole, 24)[0]]
    path.write_bytes(with_directory(whole, directory + b" " * 64))
    read(path, LIST, PAPER)
    for more in (1, 4, 8, 32):
        path.write_bytes(with_directory(whole, directory + b" " * more))
        with pytest.raises(UntrustedFile, match="not aligned"):
            read(path, LIST, PAPER)


def test_a_directory_of_another_form_is_refused(tmp_path: Path) -> None:
    """A directory that is not JSON, nested too deeply, or of another form is refused."""
    path = tmp_path / "file"
    write(build(LIST), path)
    whole = path.read_bytes()
    for text in (b"", b"{", b"[" * 100_000, b"[]", b"1", b"{}", b'"x"', b"\xff"):
        path.write_bytes(with_directory(whole, text + b" " * (-len(text) % 64)))
        with pytest.raises(UntrustedFile, match="damaged"):
            read(path, LIST, PAPER)


WORDS = [f"w{i}" for i in range(5000)]


def test_slots_that_give_more_entries_than_their_nodes_are_refused(tmp_path: Path) -> None:
    """Slots that each name a second entry would give twice as many ids as a chunk has room for."""
    metadata, path = Metadata(WORDS), tmp_path / "file"
    automaton = build(metadata)
    slots = automaton.machines[0].arrays["slots"]
    slots[:, 2] |= (slots[:, 1] & np.uint64(0xFFFFFFFF)) << np.uint64(32)
    write(automaton, path)
    with pytest.raises(UntrustedFile, match="check 7"):
        read(path, metadata, PAPER)


def test_nodes_whose_outputs_leave_out_their_last_symbol(tmp_path: Path) -> None:
    """Chains of outputs that end too early fit into memory: a symbol and the node to which it leads each give ids."""
    metadata, path = Metadata([*WORDS, *(f"w{i} w{i + 1}" for i in range(4999))]), tmp_path / "file"
    automaton = build(metadata)
    machine = automaton.machines[0]
    machine.arrays["nodes"][5001:, 2] = 0
    machine.info["most_outputs"] = 1
    write(automaton, path)
    found = NativeBackend(read(path, metadata, PAPER)).match_array(pa.array([" ".join(WORDS)] * 3))
    assert found.to_pylist() == [list(range(9999))] * 3


def test_the_file_of_another_list_is_built_again(tmp_path: Path) -> None:
    """A file under the name of this list that holds another list, or another rule, is not used."""
    path = tmp_path / f"{key(LIST, PAPER)}.automaton"
    for other in (build(Metadata(["cat", *ENTRIES]), PAPER), build(LIST, TextRule(fold_case=True))):
        write(other, path)
        with pytest.raises(UntrustedFile, match="of another"):
            read(path, LIST, PAPER)
        assert Matcher(LIST, cache=tmp_path).match(["hot dog"]).to_pylist() == [[0, 1]]
        read(path, LIST, PAPER)


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_what_others_may_write_is_built_again(tmp_path: Path, mode: int) -> None:
    """A file that other users may write to is replaced by one that only its owner may write to."""
    open_automaton(LIST, PAPER, tmp_path)
    (path,) = tmp_path.iterdir()
    path.chmod(mode)
    with pytest.raises(UntrustedFile, match="others may write"):
        read(path, LIST, PAPER)
    open_automaton(LIST, PAPER, tmp_path)
    assert path.stat().st_mode & 0o777 == 0o644


def test_another_users_file_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner must be this user, or root."""
    open_automaton(LIST, PAPER, tmp_path)
    (path,) = tmp_path.iterdir()
    if os.getuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(UntrustedFile, match="another user"):
        read(path, LIST, PAPER)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:70] + b"\xff" + b[71:]])
def test_a_damaged_file_is_built_again(tmp_path: Path, damage: Any) -> None:
    """A damaged cache is rebuilt and does not change the result."""
    open_automaton(LIST, PAPER, tmp_path)
    path = tmp_path / f"{key(LIST, PAPER)}.automaton"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert Matcher(LIST, cache=str(tmp_path)).match(["hot dog"]).to_pylist() == [
        [0, 1]
    ]  # a path in either form
    assert path.read_bytes() == whole


def test_key_is_of_list_order_and_every_setting() -> None:
    """Another list, another order, or another value of any setting is another automaton."""
    lists = [
        LIST,
        Metadata(ENTRIES[:-1]),
        Metadata(ENTRIES[::-1]),
        Metadata([*ENTRIES, "cat"]),
        Metadata(["x"]),
    ]
    rules = [PAPER, TextRule(unspaced_scripts="published"), TextRule(unspaced_scripts="fixed")]
    flags = [field.name for field in dataclasses.fields(TextRule) if field.name != "unspaced_scripts"]
    assert len(flags) == 7
    rules += [TextRule(**{flag: True}) for flag in flags]
    assert len({key(metadata, rule) for metadata in lists for rule in rules}) == len(lists) * len(rules)
    assert key(Metadata(list(ENTRIES)), TextRule()) == key(LIST, PAPER)


def test_file_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second opening neither builds nor writes."""
    open_automaton(LIST, PAPER, tmp_path)
    (path,) = tmp_path.iterdir()
    before = path.stat()
    monkeypatch.setattr(automata, "build", lambda *_: pytest.fail("built again"))
    again = open_automaton(LIST, PAPER, tmp_path)
    after = path.stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert again.list_digest == LIST.digest
    assert list(tmp_path.iterdir()) == [path]


def test_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """METACLIP_CACHE names the folder; else it is metaclip/ in the user's cache folder."""
    monkeypatch.setenv("METACLIP_CACHE", str(tmp_path / "here"))
    Matcher(LIST)
    assert [path.name for path in (tmp_path / "here").iterdir()] == [f"{key(LIST, PAPER)}.automaton"]
    monkeypatch.delenv("METACLIP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "metaclip"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "metaclip"


def test_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder that cannot be made, written or read does not change the result."""
    (tmp_path / "file").write_text("no folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        assert Matcher(LIST, cache=folder).match(["hot dog"]).to_pylist() == [[0, 1]]

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    for function in ("write", "read"):
        with monkeypatch.context() as patch:
            patch.setattr(automata, function, refuse)
            assert Matcher(LIST, cache=tmp_path / function).match(["hot dog"]).to_pylist() == [[0, 1]]


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a file could not be written completely, nothing is left."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert Matcher(LIST, cache=tmp_path).match(["hot dog"]).to_pylist() == [[0, 1]]
    assert list(tmp_path.iterdir()) == []


def test_built_by_several_at_once(tmp_path: Path) -> None:
    """Threads that find no file at the same time all get the automaton, and one whole file is left."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for number in range(20):
            folders = [tmp_path / str(number)] * 4
            for opened in pool.map(lambda folder: open_automaton(LIST, PAPER, folder), folders):
                assert opened.list_digest == LIST.digest
            (path,) = folders[0].iterdir()
            read(path, LIST, PAPER)


def test_bytes_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    """Two processes with different hashes of strings write the same bytes."""
    program = """
import sys, hashlib, pathlib
from metaclip.matching.automaton import build
from metaclip.matching.automaton import write
from metaclip.matching.text_rule import TextRule
from metaclip.metadata import Metadata
entries = [f"{a}{b} {b}{a}" for a in "abcdefg" for b in "hijklm"] + [f"猫{a}" for a in "abc犬鳥"]
for rule in (TextRule(), TextRule(unspaced_scripts="fixed", longest_only=True)):
    path = pathlib.Path(sys.argv[1])
    write(build(Metadata(entries), rule), path)
    print(hashlib.sha256(path.read_bytes()).hexdigest())
"""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / seed)],
            env=environment(PYTHONHASHSEED=seed),
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    one, two = (process.communicate()[0].split() for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert len(set(one)) == 2
    assert one == two


def test_word_beyond_the_limit_is_refused() -> None:
    """An entry whose word is longer than a key can say is refused with the limit."""
    with pytest.raises(MetaclipError, match="16777215 bytes"):
        build(Metadata(["dog", "x" * 0xFFFFFF]))


def test_longest_word_of_a_text() -> None:
    """A word of a text may be longer than any entry's can be."""
    assert Matcher(["dog", "x" * 100], cache=False).match(["x" * 0x1000005 + " dog"]).to_pylist() == [[0]]


def test_real_list_on_real_captions(data_folder: Path, tmp_path: Path) -> None:
    """500,000 real entries take at most 64 MiB, and find in 10,000 real captions what a dict of all entries finds."""
    metadata = Metadata.read(data_folder / "entries_500k.txt.gz")
    texts = pq.read_table(data_folder / "alt_text_10k.parquet")["TEXT"]
    matcher = Matcher(metadata, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size <= 64 * 2**20
    assert read(path, metadata, PAPER).nbytes <= 64 * 2**20
    found = matcher.match(texts).to_pylist()
    entries = metadata.entries.to_pylist()
    ids, most = (
        {entry: i for i, entry in enumerate(entries)},
        1 + max(entry.count(" ") for entry in entries),
    )
    for text, row in zip(texts.to_pylist(), found, strict=True):
        words = naive.pad_text(text)[1:-1].split(" ")
        spans = (
            " ".join(words[i : i + n]) for n in range(1, most + 1) for i in range(len(words) - n + 1)
        )
        assert row == sorted({ids[span] for span in spans if span in ids})
    sizes = [len(row) for row in found]
    assert (len(sizes), sum(size > 0 for size in sizes), sum(sizes)) == (10_000, 6_588, 32_049)


@pytest.mark.parametrize(
    "rule",
    [
        TextRule(
            space_entries=True,
            fold_spaces=True,
            unicode_separators=True,
            nfc=True,
            unescape_html=True,
            fold_case=True,
        ),
        TextRule(longest_only=True, fold_case=True, fold_spaces=True),
        TextRule(unspaced_scripts="fixed", nfc=True),
        TextRule(unspaced_scripts="published", longest_only=True),
    ],
)
def test_rules_on_real_captions(data_folder: Path, rule: TextRule) -> None:
    """Under rules with every option, real entries find in real captions what pyahocorasick finds."""
    entries = Metadata.read(data_folder / "entries_500k.txt.gz").entries.to_pylist()[::48]
    metadata = Metadata([*entries, "猫", "日本", "写真", "ー"])
    texts = pq.read_table(data_folder / "alt_text_10k.parquet")["TEXT"]
    found = Matcher(metadata, rule, cache=False).match(texts)
    assert found.equals(Matcher(metadata, rule, backend="pyahocorasick").match(texts))
    assert sum(bool(ids) for ids in found.to_pylist()) > 1000
