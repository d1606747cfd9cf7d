"""A run folder holds a manifest that changes key by key."""

from __future__ import annotations

from pathlib import Path

from metaclip.stage.folder import Folder


def test_the_manifest_changes_key_by_key(tmp_path: Path) -> None:
    """Keys are replaced at the top, others stay; damaged or none is empty."""
    folder = Folder(tmp_path)
    assert folder.manifest == {}
    folder.update_manifest(a=1, b={"c": 1})
    folder.update_manifest(b={"d": 2})
    assert folder.manifest == {"a": 1, "b": {"d": 2}}
    (folder / "manifest.json").write_bytes(b"")
    assert folder.manifest == {}
