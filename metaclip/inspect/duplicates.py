"""Duplicates among images: those with the same bytes, those with the same hashes, and which image of a cluster stays.

The rank of an image is one number: 255 less the entries that its text matches (of at most 255, 0 if that does not count),
then the number of its tar, then its row. Of duplicates, the one of lowest rank stays, whatever the number of workers.

    keys     uint64[n, 8], sorted: sha256 (its first 16 bytes), rank, hash of the text, pHash, dHash, uid
    hashes   uint64[n, 5], sorted: pHash, dHash, rank, uid        images that no exact duplicate leaves out
    ranked   uint64[n, 5], sorted: rank, pHash, dHash, uid        the first of each pair of hashes
    pairs    uint64[n, 2], sorted: rows of `ranked` within the distance, the later one first
    dropped  uint64[n, 4], sorted: position, code of the reason, uid of the image that stays

Law of clusters: images are taken by rank, and one stays unless it is within the distance of one that stays. So no two
images that stay are near-duplicates, and each that goes is a near-duplicate of one that stays, which is named: a chain of
images, each near the next, never leaves out an image that is unlike all that stay. (The image that an exact duplicate, or
one with the same two hashes, is left out for may itself be left out for one that is near.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from metaclip.inspect.settings import CODES
from metaclip.pool.sorted_uids import load_between, merge_runs, sort_rows, sorted_writer, write_rows

KEY_COLUMNS: Final = 8
HASH_COLUMNS: Final = 5
DROPPED_COLUMNS: Final = 4
KEY_BYTES: Final = 350
"""Memory per image of a range while images with the same bytes are found."""
_RANK, _TEXT = 2, 3
_ROW_BITS: Final = 32
_POSITION_BITS: Final = 56
_MOST_MATCHES: Final = 255
_SPAN: Final = 1 << 64

Rows = npt.NDArray[np.uint64]


def ranks_of(tar: int, rows: npt.NDArray[np.int64], matches: npt.NDArray[np.int64] | None = None) -> Rows:
    """Return the ranks of rows of a tar, given how many entries their texts match, if that counts."""
    position = np.uint64(tar << _ROW_BITS) | rows.astype(np.uint64)
    if matches is None:
        return position
    after = (_MOST_MATCHES - np.minimum(matches, _MOST_MATCHES)).astype(np.uint64)
    return (after << np.uint64(_POSITION_BITS)) | position


def positions_of(ranks: Rows) -> Rows:
    """Return the positions of ranks: tar << 32 | row."""
    return ranks & np.uint64((1 << _POSITION_BITS) - 1)


def rows_of_tar(path: Path, tar: int) -> Rows:
    """Load the dropped rows of a tar: uint64[n, 4] of (row, code, uid)."""
    found = load_between(path, DROPPED_COLUMNS, tar << _ROW_BITS, (tar + 1) << _ROW_BITS)
    found[:, 0] &= np.uint64((1 << _ROW_BITS) - 1)
    return found


def _dropped(ranks: Rows, code: int, uids: Rows) -> Rows:
    codes = np.full(len(ranks), code, np.uint64)
    return np.concatenate([positions_of(ranks)[:, None], codes[:, None], uids], axis=1)


# --- the same bytes


def split_exact(
    runs: Iterable[Path],
    part: int,
    parts: int,
    max_texts: int | None,
    leave_out: bool,
    dropped: Path,
    hashes: Path,
) -> tuple[int, int]:
    """Find images with the same bytes in one of `parts` ranges of their digests.

    Write those that go, and the hashes of the others; return the numbers of placeholders and of duplicates. Placeholders
    stand under more than `max_texts` texts; duplicates go if `leave_out`.
    """
    begin, end = _SPAN * part // parts, _SPAN * (part + 1) // parts
    pieces = [np.zeros((0, KEY_COLUMNS), np.uint64)]
    pieces += [load_between(path, KEY_COLUMNS, begin, end) for path in runs]
    keys = sort_rows(np.concatenate(pieces))
    del pieces
    new = np.ones(len(keys), np.bool_)
    new[1:] = (keys[1:, :2] != keys[:-1, :2]).any(axis=1)
    group = np.cumsum(new) - 1
    first = keys[new]
    gone: list[Rows] = [np.zeros((0, DROPPED_COLUMNS), np.uint64)]
    stays = np.ones(len(keys), np.bool_)
    if max_texts is not None and len(keys):
        crowded = _texts_of_groups(group, keys[:, _TEXT]) > max_texts
        stays = ~crowded[group]
        gone.append(
            _dropped(keys[~stays, _RANK], CODES["placeholder"], np.zeros(((~stays).sum(), 2), np.uint64))
        )
    again = stays & ~new & leave_out
    gone.append(_dropped(keys[again, _RANK], CODES["exact_duplicate"], first[group[again], 6:]))
    write_rows(dropped, sort_rows(np.concatenate(gone)))
    left = keys[stays & ~again]
    write_rows(hashes, sort_rows(left[:, [4, 5, _RANK, 6, 7]]))
    return int((~stays).sum()), int(again.sum())


def _texts_of_groups(group: npt.NDArray[np.int64], texts: Rows) -> npt.NDArray[np.int64]:
    """Return the number of different texts of each group."""
    order = np.lexsort((texts, group))
    group, texts = group[order], texts[order]
    differs = np.ones(len(group), np.bool_)
    differs[1:] = (group[1:] != group[:-1]) | (texts[1:] != texts[:-1])
    return np.bincount(group[differs])


# --- the same hashes


def split_hashes(runs: Sequence[Path], ranked: Path, dropped: Path, threads: int = 1) -> tuple[int, int]:
    """Write the first image of each pair of hashes, by rank, and the others as dropped; return how many there are of each."""
    stay = go = 0
    with sorted_writer(ranked, HASH_COLUMNS) as keep, sorted_writer(dropped, DROPPED_COLUMNS) as drop:
        for block in merge_runs(runs, threads=threads, columns=HASH_COLUMNS):
            new = np.ones(len(block), np.bool_)
            new[1:] = (block[1:, :2] != block[:-1, :2]).any(axis=1)
            first = block[new]
            again = block[~new]
            drop(_dropped(again[:, 2], CODES["near_duplicate"], first[np.cumsum(new)[~new] - 1, 3:]))
            keep(first[:, [2, 0, 1, 3, 4]])
            stay, go = stay + len(first), go + len(again)
    return stay, go


# --- clusters


def split_clusters(pairs: Sequence[Path], ranked: Rows, dropped: Path, threads: int = 1) -> int:
    """Write the images that go because one that stays is near; return their number."""
    gone = bytearray(len(ranked))
    count = 0
    with sorted_writer(dropped, DROPPED_COLUMNS) as drop:
        for block in merge_runs(pairs, threads=threads):
            later, like = [], []
            for one, other in block.tolist():
                # Pairs of a later image follow each other, those with lower ranks first.
                if not gone[other] and not gone[one]:
                    gone[one] = 1
                    later.append(one)
                    like.append(other)
            rows = ranked[np.array(later, np.int64)]
            drop(_dropped(rows[:, 0], CODES["near_duplicate"], ranked[np.array(like, np.int64)][:, 3:]))
            count += len(later)
    return count
