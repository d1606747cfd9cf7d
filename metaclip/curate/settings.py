"""What determines a run: its two stages, the tables [match] and [balance] of a recipe."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec

from metaclip.arguments import check_fields
from metaclip.errors import BadSetting
from metaclip.matching.text_rule import PAPER, TextRule
from metaclip.metadata import Metadata
from metaclip.pool.files import FORMATS, PoolFile
from metaclip.pool.shards import UNQUOTED
from metaclip.stage.stage import Lost, Record, Size, StageSpec, funnel_kind, marker_kind

DEFAULT_TAIL_SHARE: Final = 0.06
READINGS: Final = ("largest", "nearest", "one")
"""How the t of a language follows from that of English (`metaclip.curate.language_thresholds`)."""


@dataclasses.dataclass(frozen=True)
class MatchSettings:
    """What determines the matches of a pool: the table [match] of a recipe.

    >>> from metaclip import MatchSettings, TextRule, match
    >>> settings = MatchSettings(text_column="text", limit=100, rule=TextRule(fold_case=True))
    >>> match("curation/toy_pool.jsonl", ["dog", "cat"], out="first_rows", settings=settings).match["funnel"]["rows"]
    100
    """

    metadata: str | None = None
    """The query list: a txt, json or parquet file, maybe gzipped."""
    fold_duplicates: bool = False
    """Keep the first of entries that the list has twice, instead of refusing the list."""
    text_column: str | None = None
    """Name of the text column, where it is not text, caption or alt."""
    url_column: str | None = None
    """Name of the url column, where it is not url."""
    uid_column: str | None = None
    """Name of the uid column, where it is not uid."""
    quoting: str | None = None
    """Of csv and tsv: "none" takes quotes as ordinary characters; "auto", the default, finds out what they are."""
    limit: int | None = None
    """Number of rows of the pool to read; None for all."""
    subset: str | None = None
    """A subset file: rows whose uid is not in it are left out, such as those whose image `metaclip inspect` leaves out."""
    with_text: bool = False
    """Write url and text to matched/ too."""
    language_column: str | None = None
    """Name of the column of languages, where it is not lang or language; for a query list with languages."""
    identify: bool | None = None
    """Identify the language of each text, instead of reading it from a column."""
    languages: str | None = None
    """Languages of the query list to search, such as "en,de,other"; None for all."""
    also: str | None = None
    """Languages whose entries are searched in the texts of all languages, such as "en"."""
    rule: TextRule = PAPER

    def __post_init__(self) -> None:
        check_fields(self)
        if self.limit is not None and self.limit < 1:
            raise BadSetting(f"limit is {self.limit}, must be at least 1")
        if self.quoting not in (None, "auto", "none"):
            raise BadSetting(f"quoting is {self.quoting!r:.80}, must be 'auto' or 'none'")
        if self.identify and self.language_column is not None:
            raise BadSetting(
                f"identify and language_column = {self.language_column!r:.80} are given, must be one of them"
            )
        for name in ("languages", "also"):
            if getattr(self, name) is not None and not split_codes(getattr(self, name)):
                raise BadSetting(f'{name} is empty; name languages as "en" or "en,de", or leave it out')

    @property
    def routing_names(self) -> tuple[str, ...]:
        """The names of the settings that only a query list with languages has a use for."""
        return ("language_column", "identify", "languages", "also")

    @property
    def routing(self) -> dict[str, str]:
        """These settings as far as they are given."""
        return {name: str(getattr(self, name)) for name in self.routing_names if getattr(self, name)}

    @property
    def record(self) -> dict[str, Any]:
        """The settings as manifests and cards have them; those that earlier records lack only if they are given."""
        record = dataclasses.asdict(self)
        later = ("quoting", "subset", *self.routing_names)
        return {name: value for name, value in record.items() if name not in later or value is not None}

    @property
    def columns(self) -> dict[str, str | None]:
        """The names of columns that are given, by role."""
        return {"text": self.text_column, "url": self.url_column, "uid": self.uid_column}

    def fingerprint(
        self, metadata: Metadata, files: Sequence[PoolFile], subset: str | None = None
    ) -> dict[str, Any]:
        """Return everything that determines the stage's result, except the bytes of the inputs, which markers hold.

        `subset` is the digest of the subset, if there is one.
        """
        return {
            "semantics": MATCH.semantics,
            "list": metadata.digest,
            "rule": dataclasses.asdict(self.rule),
            "columns": self.columns,
            "limit": self.limit,
            "with_text": self.with_text,
            "pool": [file.name for file in files],
            **({"quoting": "none"} if self.quoting == "none" else {}),
            **({"subset": subset} if subset is not None else {}),
            **({"languages": self._routing_identity()} if metadata.languages else {}),
        }

    def _routing_identity(self) -> dict[str, Any]:
        from metaclip.matching.routing import VERSION

        return {**self.routing, "version": VERSION}


def split_codes(codes: str) -> list[str]:
    """Return the codes in a setting such as "en, de"."""
    return [code for part in codes.split(",") if (code := part.strip())]


@dataclasses.dataclass(frozen=True)
class BalanceSettings:
    """What determines the draw: the table [balance] of a recipe; at most one of t, tail_share, target_pairs."""

    t: float | None = None
    """The threshold: entries with a larger count are thinned."""
    tail_share: float | None = None
    """Solve t so that the entries below it hold this share of all counts (0.06 if nothing is given)."""
    target_pairs: int | None = None
    """Solve t so that this many pairs are expected."""
    seed: int = 0
    weights: str | None = None
    """A csv or parquet file with the columns entry and weight, and maybe language: t[e] = t * weight[e]."""
    t_by_language: str | None = None
    """For a list with languages, how t follows from English's ("largest", the default, or "nearest"), or "one" t for all."""
    t_language: dict[str, float] | None = None
    """The t of languages that is not to follow from English's."""

    def __post_init__(self) -> None:
        check_fields(self)
        given = [f"{name} = {value}" for name, value in self._thresholds.items() if value is not None]
        if len(given) > 1:
            raise BadSetting(f"{' and '.join(given)} are given, must be one of them")
        if self.t is not None and not (self.t > 0 and math.isfinite(self.t)):
            raise BadSetting(f"t is {self.t:g}, must be a finite number above 0")
        if self.tail_share is not None and not 0 <= self.tail_share < 1:
            raise BadSetting(
                f"tail_share is {self.tail_share:g}, must be at least 0 and below 1; 6% is 0.06"
            )
        if self.target_pairs is not None and self.target_pairs < 1:
            raise BadSetting(f"target_pairs is {self.target_pairs}, must be at least 1")
        if self.t_by_language not in (None, *READINGS):
            raise BadSetting(
                f"t_by_language is {self.t_by_language!r:.80}, must be one of {', '.join(map(repr, READINGS))}"
            )
        given_t: dict[str, Any] = self.t_language or {}
        for language, t in given_t.items():
            if not isinstance(t, int | float) or not (t > 0 and math.isfinite(t)):
                raise BadSetting(
                    f"t_language: the t of {language!r:.80} is {t!r:.80}, must be a finite number above 0"
                )
        if self.t_language and self.target_pairs is not None:
            raise BadSetting(
                "target_pairs and t_language are given, must be one of them: a number of pairs is reached by one factor on the "
                "t of all languages"
            )
        if not 0 <= self.seed < 1 << 64:
            raise BadSetting(f"seed is {self.seed}, must be at least 0 and below 2**64")

    @property
    def _thresholds(self) -> dict[str, float | None]:
        return {"t": self.t, "tail_share": self.tail_share, "target_pairs": self.target_pairs}

    @property
    def asked(self) -> dict[str, float | None]:
        """What t is resolved from: one of t, tail_share and target_pairs is not None, by default a tail share of 0.06."""
        asked = self._thresholds
        return {**asked, "tail_share": DEFAULT_TAIL_SHARE} if set(asked.values()) == {None} else asked

    @property
    def by_language(self) -> dict[str, Any]:
        """The settings that only a list with languages has a use for."""
        return {"t_by_language": self.t_by_language, "t_language": self.t_language or None}

    def normalized(self) -> BalanceSettings:
        """Return the settings with the types that a recipe gives them: a notebook's t = 20 is the command line's 20.0."""
        kinds = {"t": float, "tail_share": float, "target_pairs": int, "seed": int}
        values = {name: (kind, getattr(self, name)) for name, kind in kinds.items()}
        made = {name: kind(value) for name, (kind, value) in values.items() if value is not None}
        if self.t_language is not None:
            made["t_language"] = {language: float(t) for language, t in self.t_language.items()}
        return dataclasses.replace(self, **made)

    @property
    def record(self) -> dict[str, Any]:
        """The settings as manifests and cards have them; weights and those of languages only if they are given."""
        record, later = dataclasses.asdict(self), ("weights", "t_by_language", "t_language")
        return {name: value for name, value in record.items() if name not in later or value is not None}


# --- the two stages, and what is read back of them: types of manifest.json and of markers

SAVED_WEIGHTS: Final = "weights.parquet"
"""The file of a run folder for weights that were given as a dict or a table."""
NO_LIST: Final = "no_list"
"""The reason in the funnel for texts whose language no list is for."""
NOT_IN_SUBSET: Final = "not_in_subset"
"""The reason in the funnel for rows that a subset leaves out."""
MATCH_REASONS: Final = (
    "malformed_row",
    "not_downloaded",
    "null_text",
    "invalid_utf8",
    NOT_IN_SUBSET,
    "empty_text",
    NO_LIST,
    "no_match",
)
"""Why a row is lost in stage match, in the order of the checks; the other rows are `matched`."""
REMOVED: Final = "removed"
"""The reason in the funnel for rows that matched and were taken out later (`metaclip.card.removal`)."""
BALANCE_REASONS: Final = ("not_drawn",)
_MATCH_FUNNEL: Final = funnel_kind(("rows", "matched"), (*MATCH_REASONS, REMOVED))
_BALANCE_FUNNEL: Final = funnel_kind(("matched", *BALANCE_REASONS, "kept"))
_Positive = Annotated[float, msgspec.Meta(ge=0, le=sys.float_info.max)]
_Threshold = Annotated[float, msgspec.Meta(gt=0, le=sys.float_info.max)]
_Form = Annotated[str, msgspec.Meta(pattern=f"^({UNQUOTED})?({'|'.join(sorted({*FORMATS.values()}))})$")]
_Natural = Annotated[int, msgspec.Meta(ge=0)]


class _Columns(msgspec.Struct):
    text: str | None
    url: str | None
    uid: str | None


class _MatchedShard(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(pattern="^[0-9]{6,}-[0-9]{4,}$")]
    first: Size
    groups: list[Size] | None
    rows: Size | None
    read: Size
    columns: _Columns | None = None


class ImageStep(msgspec.Struct):
    """What became of some samples when `metaclip inspect` looked at the images of a pool; accounts show it."""

    step: str
    samples: Size
    meaning: str


class _LostInput(Lost, kw_only=True):
    """An account names it."""

    name: str


class _Combined(msgspec.Struct):
    name: str
    identity: str
    rows: Size
    matched: Size


_REQUESTED: Final[Any] = funnel_kind(("uids", "urls", "domains"))
_VERSION: Final[Any] = msgspec.defstruct(
    "Version",
    [
        ("parent", str), ("digest", str), ("pairs", Size), ("kept", Size), ("urls", str | None), ("asked", _REQUESTED),
        ("found", _REQUESTED),
    ],
)  # fmt: skip
_REMOVED: Final[Any] = msgspec.defstruct(
    "Removed",
    [("versions", list[_VERSION]), ("pairs", Size), ("count", Size), ("counts_digest", str)],
)
_MATCH_RECORD: Final[Any] = marker_kind(
    Record, semantics=int, identity=str, list=str, rule=TextRule, columns=_Columns, counts_digest=str,
    funnel=_MATCH_FUNNEL, duplicates=funnel_kind(("uids", "rows")), lost=list[_LostInput], wanted=Size,
    shards=list[_MatchedShard], runs=(list[_Combined], []), removed=(_REMOVED | None, None), images=(list[ImageStep], []),
    texts=(dict[str, Size] | None, None),
)  # fmt: skip
_SOURCE: Final[Any] = msgspec.defstruct(
    "Source", [("folder", str | None), ("beside", str | None), ("record", _MATCH_RECORD | None)]
)
_VARIED: Final[Any] = msgspec.defstruct(
    "Varied",
    [
        ("base", _Threshold), ("by", str), ("digest", str), ("weights", str | None, None),
        ("languages", dict[str, _Threshold] | None, None),
    ],
)  # fmt: skip
"""t where it differs from entry to entry. It is no number, so that versions that know only one t refuse such a run."""
_OF_LANGUAGE: Final[Any] = msgspec.defstruct(
    "OfLanguage", [("matched", Size), ("expected", _Positive), ("kept", Size)]
)
_BALANCE_RECORD: Final[Any] = marker_kind(
    Record, semantics=int, match=_SOURCE, t=_Threshold | _VARIED, asked=str, seed=_Natural, expected=_Positive,
    deviation=_Positive, kept=Size, funnel=_BALANCE_FUNNEL, languages=(dict[str, _OF_LANGUAGE] | None, None),
)  # fmt: skip

MATCH: Final = StageSpec(
    "match",
    outputs=("matched", "counts.parquet", "duplicates.npy"),
    partials=("*.counts.npy", "*.uids.npy"),
    semantics=1,
    record=_MATCH_RECORD,
)
"""Raise its semantics when the same input would give other matches, counts or uids."""

BALANCE: Final = StageSpec(
    "balance",
    outputs=("entries.parquet", "curated", "curated.npy", "card.json", "card.md", SAVED_WEIGHTS),
    partials=("*.tally.npy", "*.uids.npy", "*.repeats.npy"),
    semantics=1,
    record=_BALANCE_RECORD,
)
"""Raise its semantics when the same counts and seed would give other pairs."""

SHARD_MATCHED: Final = marker_kind(
    shard=dict[str, Any], funnel=_MATCH_FUNNEL, places=(dict[str, str], {}), texts=(dict[str, Size], {})
)
"""The kind of the markers of stage match."""
SHARD_DRAWN: Final = marker_kind(
    funnel=_BALANCE_FUNNEL,
    expected=_Natural,
    variance=_Natural,
    languages=(dict[str, tuple[_Natural, _Natural, _Natural]], {}),
)
"""The kind of the markers of stage balance."""
SOLVED: Final = marker_kind(t=_Threshold, languages=(dict[str, _Threshold] | None, None))
"""The kind of the marker of t in stage balance."""


class Input(msgspec.Struct):
    """What manifest.json, and the marker of its digest, say of a file of the pool."""

    index: Size
    name: str
    path: str
    size: Size
    stamp: str
    sha256: str
    form: _Form


DIGEST: Final = marker_kind(
    index=Size,
    name=str,
    path=str,
    size=Size,
    stamp=str,
    sha256=str,
    form=_Form,
    codec=(str | None, None),
)
"""The kind of the markers of files' digests in stage match; they become the inputs of the manifest."""


class _Settings(msgspec.Struct):
    match: MatchSettings
    balance: BalanceSettings | None = None


class RunManifest(msgspec.Struct):
    """What the manifest of a run holds beside the records of its stages."""

    inputs: list[Input]
    settings: _Settings
    versions: dict[str, str]
    list_digest: str = msgspec.field(name="list")
    rule: TextRule
    funnel: dict[str, Size]
