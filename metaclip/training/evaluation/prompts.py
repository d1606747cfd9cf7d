"""Class names in sentences: what a model is asked that has only seen captions.

A template is a line with {c} (or {}) where the class name goes. It is filled in by replacing just that: a line of a
file is text, not a format that could reach into objects.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from metaclip.errors import MetaclipError, one_line

TEMPLATES: Final = {
    "name": ("{c}",),
    "photo": (
        "{c}", "a photo of a {c}.", "a picture that shows a {c}.", "one {c}, seen from close by.",
        "a {c} some way off.", "a small, blurred photo of a {c}.", "a {c} in its surroundings.", "a {c} by itself.",
    ),
}  # fmt: skip
"""Our own sets by name: the class name alone, and an ensemble."""

PLACES: Final = ("{c}", "{}")


def lines_of(path: str | os.PathLike[str], what: str) -> tuple[str, ...]:
    """Read the lines of a text file, without blanks at their ends and without empty ones at the file's end.

    Raise MetaclipError, naming `what` was wanted, for a file that cannot be read, has none, or has an empty line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MetaclipError(f"there is no file {path} of {what}; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MetaclipError(f"{path}, {what}: it cannot be read ({one_line(error)}); give lines of UTF-8") from None
    return checked_lines(text, os.fspath(path), what)


def checked_lines(text: str, where: str, what: str) -> tuple[str, ...]:
    """Give the lines of a text as `lines_of` does."""
    lines = [line.strip() for line in text.rstrip().split("\n")]
    for number, line in enumerate(lines, 1):
        if not line:
            raise MetaclipError(f"{where}, line {number}: it is empty; a file of {what} has one a line")
    return tuple(lines)


def checked_templates(templates: Sequence[str], where: str) -> tuple[str, ...]:
    """Give templates back. Raise MetaclipError for one without a place for the class name."""
    for number, template in enumerate(templates, 1):
        if not any(place in template for place in PLACES):
            raise MetaclipError(f"{where}, line {number}: {template!r:.80} has no {{c}} where the class name goes")
    return tuple(templates)


def templates_of(given: str, folder: Path | None = None) -> tuple[str, ...]:
    """Give the templates of a name in TEMPLATES, or of a file; a relative path is below `folder`."""
    if given in TEMPLATES:
        return TEMPLATES[given]
    path = (folder or Path()) / given
    if not path.exists():
        raise MetaclipError(f"templates is {given!r}, which is no file and none of ours ({', '.join(TEMPLATES)})")
    return checked_templates(lines_of(path, "templates"), os.fspath(path))


def fill(template: str, name: str) -> str:
    """Put a class name into a template."""
    for place in PLACES:
        if place in template:
            return template.replace(place, name)
    raise ValueError(f"{template!r} has no place for a class name")


def fillers(templates: Sequence[str]) -> list[Callable[[str], str]]:
    """Give templates as functions of a class name, as open_clip's builder of classifiers takes them."""
    return [lambda name, template=template: fill(template, name) for template in templates]  # type: ignore[misc]
