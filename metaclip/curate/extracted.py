"""How a pool was extracted from a crawl: what `metaclip extract` left beside its files, for the account of a run.

A manifest beside a pool is foreign data. What is not as extract writes it is left out, and never stops a run.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from typing import Any

from metaclip.errors import MetaclipError
from metaclip.pool.files import PoolFile
from metaclip.storage.files import as_path, read_json


def read_extractions(files: Iterable[PoolFile]) -> list[dict[str, Any]]:
    """Return an account of each folder of a pool that `metaclip extract` made.

    Its `ignore_noai` is None where an earlier revision, which did not read opt-outs, made the folder.
    """
    folders = dict.fromkeys(os.path.dirname(file.path) for file in files if "://" not in file.path)
    found = []
    for folder in folders:
        manifest = None
        with contextlib.suppress(MetaclipError):
            manifest = read_json(as_path(folder) / "manifest.json")
        if not isinstance(manifest, dict):
            continue
        settings, funnel = (manifest.get(key) for key in ("settings", "funnel"))
        table = settings.get("extract") if isinstance(settings, dict) else None
        if not isinstance(table, dict) or not isinstance(funnel, dict):
            continue
        ignored, agents = table.get("ignore_noai"), table.get("agents")
        found.append(
            {
                "ignore_noai": ignored if isinstance(ignored, bool) else None,
                "agents": agents if isinstance(agents, str) else None,
                "funnel": {step: n for step, n in funnel.items() if type(n) is int},
            }
        )
    return found


def render_extraction(extracted: Mapping[str, Any]) -> str:
    """Return a line of Markdown about an extraction."""
    from metaclip.extract.filters import UNMATCHED
    from metaclip.extract.opt_outs import OPT_OUTS

    funnel = extracted["funnel"]
    seen = f"extracted from a crawl: {funnel.get('images_seen', 0):,} images, {funnel.get('pairs', 0):,} pairs"
    if UNMATCHED in funnel:
        seen += f" that match an entry, {funnel[UNMATCHED]:,} that match none and were not written (rows and no_match above)"
    if "robots_page" in funnel:
        pages, images = funnel["robots_page"], funnel.get("robots_image", 0)
        seen += f"; left out by robots.txt: robots_page {pages:,}, robots_image {images:,}"
    if extracted["ignore_noai"] is None:
        return f"{seen}; opt-outs of pages (noai and the like) were not read"
    if extracted["ignore_noai"]:
        return f"{seen}; opt-outs of pages (noai and the like) were ignored"
    out = [f"{step} {funnel[step]:,}" for step in OPT_OUTS if funnel.get(step)]
    return f"{seen}; left out because their pages opt out: {', '.join(out) if out else 'none'}"
