"""What determines the result of `metaclip inspect`: the table [inspect] of a recipe, and the reasons in its funnel."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Final, Literal

from metaclip.arguments import check_fields
from metaclip.errors import BadSetting
from metaclip.recipe import check_minimums

BROKEN: Final = (
    "malformed_json",
    "missing_image",
    "missing_text",
    "invalid_utf8",
    "oversized_image",
    "broken_image",
)
"""Why training cannot use a sample (`metaclip.training.stream.reader`), in the order of the checks."""
FILTERS: Final = ("too_few_bytes", "too_small", "too_narrow", "single_colour", "placeholder")
"""Reasons of the filters, in the order of the checks; the last one is found together with exact duplicates."""
DUPLICATES: Final = ("exact_duplicate", "near_duplicate")
NEAR_TEST_SET: Final = "near_test_set"
"""The reason of images that resemble one of an evaluation set; it is found before placeholders and duplicates."""
REASONS: Final = (*BROKEN, *FILTERS, *DUPLICATES, NEAR_TEST_SET)
"""Why a sample does not stay; the others are `kept`."""
CODES: Final = {reason: code for code, reason in enumerate(REASONS, 1)}
"""The number of each reason in files of the stage; 0 stands for a sample that stays."""

MEANING: Final = {
    "listed": "pairs that img2dataset was given",
    "not_downloaded": "could not be downloaded",
    "samples": "downloaded",
    "malformed_json": "broken: fields that are no JSON object, a member that is a link, or too large",
    "missing_image": "broken: no image",
    "missing_text": "broken: no text",
    "invalid_utf8": "broken: a text that is not valid UTF-8",
    "oversized_image": "broken: an image of too many bytes or pixels to be decoded",
    "broken_image": "broken: an image that cannot be decoded",
    "too_few_bytes": "filtered: fewer bytes than asked for",
    "too_small": "filtered: a shorter side of fewer pixels than asked for",
    "too_narrow": "filtered: a longer side of more times the shorter one than asked for",
    "single_colour": "filtered: a single colour",
    "placeholder": "filtered: the same image stands under many texts",
    "exact_duplicate": "duplicate: the bytes of another image",
    "near_duplicate": "duplicate: looks like another image",
    NEAR_TEST_SET: "resembles an image of an evaluation set",
    "kept": "images that stay",
}
"""The steps of the funnel in their order, with their meaning; the first two only if img2dataset's statistics state them."""

MAX_DISTANCE: Final = 8
MAX_TEST_DISTANCE: Final = 24
Keep = Literal["first", "matches"]


@dataclasses.dataclass(frozen=True)
class ScoreHook:
    """Scores that another tool wrote, and what they mark: a table [[inspect.hooks]] of a recipe."""

    name: str
    """The reason under which the funnel and the card count what is marked."""
    scores: str
    """A parquet file, or a folder or glob of these."""
    column: str = "score"
    """The column of scores."""
    at_least: float = 0.5
    """The lowest score that marks a sample."""
    action: Literal["remove", "blur"] = "remove"
    uid_column: str = "uid"

    def __post_init__(self) -> None:
        check_fields(self)
        if not math.isfinite(self.at_least):
            raise BadSetting(f"at_least is {self.at_least:g}, must be a finite number")


@dataclasses.dataclass(frozen=True)
class InspectSettings:
    """What determines which images stay: the table [inspect] of a recipe. Without settings only broken ones go."""

    text_column: str | None = None
    """Name of the field with the text, where it is not .txt, text, caption or alt."""
    url_column: str | None = None
    """Name of the url field, where it is not url."""
    uid_column: str | None = None
    """Name of the uid field, where it is not uid."""
    min_bytes: int | None = None
    """Leave out images of fewer bytes (LAION: 5,000)."""
    min_side: int | None = None
    """Leave out images whose shorter side has fewer pixels (DataComp: 200)."""
    max_aspect: float | None = None
    """Leave out images whose longer side is more than so many times the shorter one (LAION: 3)."""
    single_colour: bool = False
    """Leave out images of a single colour."""
    max_texts: int | None = None
    """Leave out images that stand, byte for byte, under more than so many different texts: placeholders."""
    exact_duplicates: bool = False
    """Leave out all but one of images with the same bytes."""
    near_duplicates: bool = False
    """Leave out images that look like one that stays."""
    distance: int = 4
    """Bits of 64 in which each of the two hashes of near-duplicates may differ, at most."""
    hooks: tuple[ScoreHook, ...] = ()
    """Scores of other tools that mark samples for removal or blurring."""
    against: tuple[str, ...] = ()
    """Evaluation sets (folders, zips, CLIP_benchmark's tars), or files of their hashes, whose images are kept out."""
    split: str = "test"
    """The split of these sets."""
    test_distance: int = 17
    """Bits of 128 in which the hashes of an image and of one of an evaluation set may differ for it to be kept out."""
    mirrored: bool = False
    """Keep out images near a mirrored evaluation image, too."""
    keep: Keep = "first"
    """Which of several duplicates stays: the first, or the one whose text matches most entries."""
    metadata: str | None = None
    """The query list whose matches `keep = "matches"` counts; None for the shipped one."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_minimums(self, min_bytes=1, min_side=1, max_texts=1)
        if self.max_aspect is not None and not 1 <= self.max_aspect < math.inf:
            raise BadSetting(f"max_aspect is {self.max_aspect:g}, must be at least 1, and finite")
        if not 0 <= self.distance <= MAX_DISTANCE:
            raise BadSetting(f"distance is {self.distance}, must be from 0 to {MAX_DISTANCE}")
        if not 0 <= self.test_distance <= MAX_TEST_DISTANCE:
            raise BadSetting(
                f"test_distance is {self.test_distance}, must be from 0 to {MAX_TEST_DISTANCE}"
            )
        if self.metadata is not None and self.keep != "matches":
            raise BadSetting('metadata is given, which only keep = "matches" uses; give both or none')

    @property
    def columns(self) -> list[str | None]:
        """The names of fields that are given: text, url, uid."""
        return [self.text_column, self.url_column, self.uid_column]

    @property
    def selection(self) -> dict[str, Any]:
        """The settings that decide on images, without those that say how samples are read, or name files."""
        read = ("text_column", "url_column", "uid_column", "metadata", "against", "hooks")
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in read}

    @property
    def groups(self) -> bool:
        """Whether images with the same bytes must be found."""
        return self.max_texts is not None or self.exact_duplicates or self.near_duplicates
