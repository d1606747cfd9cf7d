"""Repositories of the Hugging Face Hub, for reading: ``hf://datasets/USER/NAME[@REVISION]/path``.

A branch changes, a commit does not: a path of a branch or a tag is read as a path of the commit that it names at that
moment, ``hf://datasets/USER/NAME@COMMIT/path``. So all files of a pool are of one commit, whatever is pushed meanwhile,
and listings may be cached. Cost: one request for each path without a commit, one for each 1,000 files listed, one for
each 5 MiB read.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any, Final

from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.utils import disable_progress_bars, logging

from metaclip.errors import MetaclipError, StoreError

_COMMIT: Final = re.compile("[0-9a-f]{40}")
_DATASET: Final = re.compile(r"datasets/[\w.-]+/[\w.-]+(@[^/]+)?(/|$)")


def without_notes() -> None:
    """Keep the client from reporting requests that are tried again, as that of S3 does, and from bars outside a terminal.

    HF_HUB_VERBOSITY and HF_HUB_DISABLE_PROGRESS_BARS=0 bring them back.
    """
    if "HF_HUB_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()
    if not sys.stderr.isatty() and "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ:
        disable_progress_bars()


class HubFileSystem(HfFileSystem):  # type: ignore[misc]
    """The files of the Hub's repositories; the token is that of ``hf auth login``, or HF_TOKEN."""

    def __init__(self, **named: Any) -> None:
        """Set the client up as `without_notes` says."""
        super().__init__(**named)
        without_notes()

    def pinned(self, path: str) -> str:
        """Return a path with the commit that its revision names now; the path itself if there is no such repository.

        Raise MetaclipError if it is none of a dataset repository.
        """
        if not _DATASET.match(path):
            raise MetaclipError(
                f"hf://{path} names no dataset repository; the form is hf://datasets/USER/NAME/path, or "
                "hf://datasets/USER/NAME@REVISION/path"
            )
        try:
            found = self.resolve_path(path)
        except FileNotFoundError:
            self.invalidate_cache()  # it may be created before it is asked for again
            return path
        return f"datasets/{found.repo_id}@{self._commit(found)}/{found.path_in_repo}".rstrip("/")

    def _commit(self, found: Any) -> str:
        if _COMMIT.fullmatch(found.revision):
            return str(found.revision)
        info = HfApi().dataset_info(found.repo_id, revision=found.revision, expand=["sha"])
        return str(info.sha)

    def find(self, path: str, *args: Any, detail: bool = False, **named: Any) -> Any:
        """Find all files below a path, or the file itself."""
        found = super().find(path, *args, detail=detail, **named)
        # Up to release 2.0, a path that is a file has no details.
        return {name: info or self.info(name) for name, info in found.items()} if detail else found

    def _open(self, path: str, mode: str = "rb", *args: Any, **named: Any) -> Any:
        if mode != "rb":
            _refuse_writing(path)
        return super()._open(path, mode, *args, **named)

    def cp_file(self, path1: str, path2: str, *args: Any, **named: Any) -> None:
        """Raise StoreError."""
        _refuse_writing(path2)

    def _rm(self, path: str, *args: Any, **named: Any) -> None:
        _refuse_writing(path)


def _refuse_writing(path: str) -> None:
    raise StoreError(
        f"hf://{path}: runs cannot be written to the Hub, where each file would be a commit; choose a folder or a store, and "
        "upload it when it is finished (metaclip card push for a card)"
    )
