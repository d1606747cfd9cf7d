"""Push a card to a dataset repository of the Hugging Face Hub: its files as they are, in one commit.

Files of an earlier card in the repository that this one has not are removed by the same commit; whatever else is there
stays. Memory holds the small files, which are sent within the commit; large ones are uploaded before it.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from metaclip.card.publish import CARD_FILES, read_card
from metaclip.card.verify import own_differences, verify
from metaclip.curate.run import RunLike
from metaclip.errors import MetaclipError, import_extra, one_line
from metaclip.metadata import Metadata
from metaclip.stage.runner import RunOptions
from metaclip.storage.files import as_path
from metaclip.storage.object_store import translate_errors

_HIDDEN: Final = re.compile(r"(^|/)\.")


def push(
    folder: str | os.PathLike[str],
    repository: str,
    *,
    run: RunLike | None = None,
    private: bool = False,
    blocked: Metadata | None = None,
    options: RunOptions | None = None,
) -> str:
    """Verify a card, and push it to a repository, which is created if there is none; return the repository's address.

    The card is verified against its `run`, or else against itself: its files, counts and fields by their digests. With
    `private`, only its owner can see the repository. Raise MetaclipError if a figure differs, without a token, and if the
    Hub refuses or cannot be reached. Needs the extra `hub`.
    """
    import_extra("huggingface_hub", "hub", "metaclip card push")
    path = as_path(folder)
    read_card(path)
    found = [] if run is None else verify(path, run, blocked=blocked, options=options)
    with path.local_folder() as local:
        found += own_differences(local)
        if found:
            more = f", and {len(found) - 1} more differences" if found[1:] else ""
            raise MetaclipError(f"{folder} is not pushed: {found[0]}{more}; make the card again")
        names = [file.relative_to(local).as_posix() for file in local.rglob("*") if file.is_file()]
        files = sorted(name for name in names if not _HIDDEN.search(name))
        with translate_errors(f"hf://datasets/{repository}"), warnings.catch_warnings():
            # The Hub's remarks on what a README.md might have besides.
            warnings.simplefilter("ignore")
            return _push(local, files, repository, private)


def _push(folder: Path, files: Sequence[str], repository: str, private: bool) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
    from huggingface_hub.errors import HFValidationError

    from metaclip.storage.hub import without_notes

    without_notes()
    if get_token() is None:
        raise MetaclipError(
            f"pushing to {repository} needs a token of the Hugging Face Hub; log in with hf auth login, or set HF_TOKEN"
        )
    api = HfApi()
    try:
        address = api.create_repo(repository, repo_type="dataset", private=private or None, exist_ok=True)
    except HFValidationError as error:
        raise MetaclipError(
            f"{repository} is no name of a repository ({one_line(error, 160)}); give USER/NAME"
        ) from None
    name = address.repo_id
    if private and not api.dataset_info(name, expand=["private"]).private:
        raise MetaclipError(
            f"{address} exists and is public; make it private in its settings, choose another name, "
            "or push without `private=True`"
        )
    before = api.list_repo_files(name, repo_type="dataset")
    old = [file for file in before if file.partition("/")[0] in CARD_FILES and file not in files]
    operations: list[Any] = [CommitOperationDelete(file) for file in old]
    operations += [CommitOperationAdd(file, folder / file) for file in files]
    try:
        api.create_commit(name, operations, repo_type="dataset", commit_message="Push a card of metaclip")
    except ValueError as error:
        raise MetaclipError(f"{address}: the Hub refuses the card ({one_line(error, 200)})") from None
    return str(address)
