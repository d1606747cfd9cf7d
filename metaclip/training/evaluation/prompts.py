"""Class names in sentences, because a model has only seen captions.

A template is a line with {c} (or {}) in the place of the class name. It is filled in by replacing just that: a line of a
file is text, not a format that could reach into objects.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from metaclip.errors import MetaclipError
from metaclip.storage.files import decode_utf8, read_bytes

TEMPLATES: Final = {
    "name": ("{c}",),
    "photo": (
        "{c}", "a photo of a {c}.", "a picture that shows a {c}.", "one {c}, seen from close by.",
        "a {c} some way off.", "a small, blurred photo of a {c}.", "a {c} in its surroundings.", "a {c} by itself.",
    ),
}  # fmt: skip
"""Our own sets by name: the class name alone, and an ensemble."""


def read_lines(path: str | os.PathLike[str], what: str, partial: bool = False) -> tuple[str, ...]:
    """Read the lines of a text file, without spaces at their ends and without empty lines at the end of the file.

    With `partial` empty lines stay, also at the end. Raise MetaclipError, naming `what` is expected, for a file that cannot
    be read, has no lines, or has an empty line that may not stay.
    """
    name = os.fspath(path)
    text = decode_utf8(read_bytes(name, f"the file of {what}"), name)
    if partial and text.strip():
        return tuple(line.strip() for line in text.removesuffix("\n").split("\n"))
    return checked_lines(text, name, what)


def checked_lines(text: str, where: str, what: str) -> tuple[str, ...]:
    """Return the lines of a text as `read_lines` does."""
    lines = tuple(line.strip() for line in text.rstrip().split("\n"))
    if "" in lines:
        number = lines.index("") + 1
        raise MetaclipError(f"{where}, line {number}: it is empty; a file of {what} has one a line")
    return lines


def checked_templates(templates: Sequence[str], where: str) -> tuple[str, ...]:
    """Return templates as they are. Raise MetaclipError for one without a place for the class name."""
    for number, template in enumerate(templates, 1):
        if "{c}" not in template and "{}" not in template:
            raise MetaclipError(
                f"{where}, line {number}: {template!r:.80} has no {{c}} where the class name goes"
            )
    return tuple(templates)


def templates_of(given: str) -> tuple[str, ...]:
    """Return the templates of a name in TEMPLATES, or of a file."""
    if given in TEMPLATES:
        return TEMPLATES[given]
    if not Path(given).exists():
        raise MetaclipError(
            f"templates is {given!r}, which is no file and none of ours ({', '.join(TEMPLATES)})"
        )
    return checked_templates(read_lines(given, "templates"), given)


def fill(template: str, name: str) -> str:
    """Return a template with a class name in its place."""
    return template.replace("{c}" if "{c}" in template else "{}", name)


def cue_prompt(cue: str) -> str:
    """Return the text for a cue of WinoGAViL, as DataComp asks it: "A werewolf", "An owl"."""
    return f"{'An' if cue.lower()[:1] in 'aeiou' else 'A'} {cue.lower()}"


def fillers(templates: Sequence[str]) -> list[Callable[[str], str]]:
    """Return templates as functions of a class name, as open_clip's builder of classifiers takes them."""
    return [lambda name, template=template: fill(template, name) for template in templates]  # type: ignore[misc]
