"""Sets in a cache of Hugging Face's `datasets`, where DataComp's `download_evalsets.py` puts Flickr, MSCOCO and WinoGAViL.

    hf_cache/nlphuji___winogavil/TEST/1.1.0/<digest>/winogavil-test.arrow      the rows of a split
    hf_cache/downloads/extracted/<digest>/...                                  their images, if the rows have only paths

Columns: `image` and `caption` (a list of texts); or `cue`, `candidate_images`, and the names `candidates` and `associations`
(lists), where the associations are those candidates that the cue stands for.

Law: a path that a row names is only followed below the cache's own `downloads`, wherever the cache was when it was written.
Cost: an image in an Arrow file is found as a span of bytes and read when its turn comes; texts and names are in memory.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import pyarrow as pa

from metaclip.errors import MetaclipError, one_line
from metaclip.stage.stage import digest_of
from metaclip.training.evaluation.evaluation_set import Association, EvaluationSet, ImageFile

DOWNLOADS: Final = "downloads"
CANDIDATE_IMAGES: Final = ("candidate_images", "candidates_images")
_IMAGE: Final = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def find_files(folder: str, split: str) -> list[Path]:
    """Return the Arrow files of a split below a folder; none if it is no folder of such a cache."""
    name = re.compile(rf"(.*-)?{re.escape(split)}(-\d+-of-\d+)?")
    return sorted(path for path in Path(folder).rglob("*.arrow") if name.fullmatch(path.stem))


def open_cached(folder: str, files: Sequence[Path]) -> EvaluationSet:
    """Open the set in the Arrow files of a folder of the cache. Raise MetaclipError if it is incomplete or damaged."""
    if len(places := sorted({str(file.parent) for file in files})) > 1:
        raise MetaclipError(f"{folder} holds several copies of its set; keep one of {', '.join(places)}")
    pieces = re.search(r"-of-(\d+)$", files[0].stem)
    if pieces is not None and int(pieces[1]) != len(files):
        raise MetaclipError(
            f"{folder} has {len(files)} of its {int(pieces[1])} Arrow files; fetch it again"
        )
    images: list[ImageFile] = []
    texts: list[tuple[str, ...]] = []
    associations: list[Association] = []
    indices: dict[ImageFile, int] = {}  # an image is a candidate of many cues
    known: dict[str, list[str | int]] = {}
    for file in files:
        try:
            whole = pa.memory_map(str(file)).read_buffer()
            for batch in pa.ipc.open_stream(whole):
                batch.validate(full=True)
                if "caption" in batch.schema.names:
                    texts.extend(map(_names, batch.column("caption").to_pylist()))
                    images.extend(_images(batch.column("image"), whole, file, Path(folder).parent))
                else:
                    associations.extend(_associations(batch, whole, file, Path(folder).parent, indices))
            found = [file, *(image.path for image in (*images, *indices) if image.span is None)]
            known |= {
                str(path): [path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in found
            }
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise MetaclipError(f"{file} cannot be read ({one_line(error)}); fetch it again") from None
    if bool(images) == bool(indices):
        raise MetaclipError(
            f"{folder}: its Arrow files hold neither captions alone nor associations alone"
        )
    return EvaluationSet(
        tuple(images or indices), digest_of(list(known.values())), texts=tuple(texts), associations=tuple(associations)
    )  # fmt: skip


def _associations(
    batch: Any, whole: Any, file: Path, cache: Path, indices: dict[ImageFile, int]
) -> Iterator[Association]:
    """Yield the associations of a batch, and number their images in `indices`."""
    names = (name for name in CANDIDATE_IMAGES if name in batch.schema.names)
    column = batch.column(next(names, CANDIDATE_IMAGES[0]))
    if column.type != pa.list_(_IMAGE):
        raise ValueError(f"the candidates' images are {column.type}, must be lists of images")
    images = _images(column.flatten(), whole, file, cache)
    rows = batch.select(["cue", "candidates", "associations"]).to_pylist()
    for row, number in zip(rows, column.value_lengths().to_pylist(), strict=True):
        candidates, right = _names(row["candidates"]), _names(row["associations"])
        if number != len(candidates) or not set(candidates) & set(right):
            raise ValueError(
                f"{row['cue']!r:.40} has {number} images, the candidates {candidates} and the associations {right}"
            )
        own = (indices.setdefault(image, len(indices)) for image in itertools.islice(images, number))
        yield Association(str(row["cue"]), tuple(own), tuple(name in right for name in candidates))


def _names(value: Any) -> tuple[str, ...]:
    """Return a list of texts. Raise ValueError if it is none, or is empty."""
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{value!r:.40} is no list of texts")
    return tuple(value)


def _images(column: Any, whole: Any, file: Path, cache: Path) -> Iterator[ImageFile]:
    """Yield the images of a column of `bytes` and `path`; `whole` is the file's buffer."""
    if column.type != _IMAGE:
        raise ValueError(f"a column of images is {column.type}, must be {_IMAGE}")
    data, paths = column.flatten()
    offsets = np.frombuffer(data.buffers()[1], np.int32)[data.offset :]
    start = 0 if data.buffers()[2] is None else data.buffers()[2].address - whole.address
    for number, (path, inside) in enumerate(
        zip(paths.to_pylist(), data.is_valid().to_pylist(), strict=True)
    ):
        if inside:
            begin, end = start + int(offsets[number]), start + int(offsets[number + 1])
            if not 0 < begin <= end <= whole.size:
                raise ValueError("it is compressed, must be as the library writes its cache")
            yield ImageFile(file, str(path or number), (begin, end - begin))
            continue
        below = PurePosixPath(str(path).rpartition(f"/{DOWNLOADS}/")[2])
        if below.is_absolute() or ".." in below.parts:
            raise ValueError(f"the image {path!r:.80} is not below {DOWNLOADS} of the cache")
        yield ImageFile(cache / DOWNLOADS / below)
