"""Lists of words in packages: texts of one word per line, and JSON."""

from __future__ import annotations

import pytest

from metaclip.errors import MetaclipError
from metaclip.metadata.sources.lists import WordListSettings, words
from tests.metadata.sources.conftest import Shelve


@pytest.mark.parametrize(
    ("member", "content"),
    [("w.txt", "# by someone\nb\t12\n\ncafe\u0301 \r\nb\n"), ("w.json", '["b", "", "cafe\u0301", "b"]')],
)
def test_words(shelve: Shelve, member: str, content: str) -> None:
    """Words in the file's order, each once, composed; comments, counts and empty lines are left out."""
    found = words(WordListSettings(shelve("w", {member: content}), member))
    assert found.entries.to_pylist() == ["b", "café"]
    assert found.scores.null_count == 2


@pytest.mark.parametrize("content", ["[1]", "{}", "["])
def test_another_json(shelve: Shelve, content: str) -> None:
    """JSON of another form is an error that names the file."""
    with pytest.raises(MetaclipError, match=r"w@1\.0, w\.json is no JSON array of words"):
        words(WordListSettings(shelve("w", {"w.json": content}), "w.json"))
