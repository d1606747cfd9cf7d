"""A card's croissant.json: entries.parquet described for data set search engines (MLCommons Croissant 1.0)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from metaclip.card.readme import summary


def describe(card: Mapping[str, Any], entries_digest: str) -> dict[str, Any]:
    """Return croissant.json, JSON-LD that describes entries.parquet."""
    columns = COLUMNS | CORRECTED if "removed" in card else COLUMNS
    if "t_by" in card["balance"]:
        columns = columns | VARIED
    if "by_language" in card:
        columns = columns | LANGUAGE
    kinds = {
        **dict.fromkeys(("entry_id", "count", "kept", *CORRECTED), "sc:Integer"),
        **dict.fromkeys(("probability", "expected", *VARIED), "sc:Float"),
    }

    def field(name: str) -> dict[str, Any]:
        return {
            "@type": "cr:Field", "@id": f"entries/{name}", "name": name, "description": columns[name],
            "dataType": kinds.get(name, "sc:Text"),
            "source": {"fileObject": {"@id": "entries.parquet"}, "extract": {"column": name}},
            **({"repeated": True} if name == "samples" else {}),
        }  # fmt: skip

    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": card["name"],
        "description": summary(card),
        "datePublished": card["created"][:10],
        "version": "1.0.0",
        "citeAs": f"{card['name']}: a set of image-text pairs balanced with metaclip, result {card['result_digest']}",
        "license": card["license"] or "not stated",
        "url": card["url"] or "https://example.org/",
        "distribution": [
            {
                "@type": "cr:FileObject", "@id": "entries.parquet", "name": "entries.parquet",
                "contentUrl": "entries.parquet", "encodingFormat": "application/x-parquet", "sha256": entries_digest,
            }
        ],
        "recordSet": [
            {"@type": "cr:RecordSet", "@id": "entries", "name": "entries", "field": [field(name) for name in columns]}
        ],
    }  # fmt: skip


COLUMNS: Final = {
    "entry_id": "Row of the entry in the query list.",
    "entry": "The entry: what was looked for in captions.",
    "source": "Where the list has it from.",
    "count": "Pairs of the pool that match the entry.",
    "probability": "min(1, t / count).",
    "expected": "Sum of P(keep) over the pairs that match the entry.",
    "kept": "Pairs that match the entry and were kept.",
    "samples": "Up to five kept captions that match the entry, drawn by a hash and filtered.",
}
CORRECTED: Final = {"count_corrected": "What is left of the count without the pairs that were taken out."}
"""The column that the table of a set has in addition if pairs were taken out of it."""
VARIED: Final = {
    "t": "Threshold of the entry: that of the set times the entry's weight, or that of its language."
}
"""The column that the table has in addition if t differs from entry to entry."""
LANGUAGE: Final = {"language": "Language of the entry; only texts of this language are searched for it."}
"""The column that the table has in addition if the list has languages."""
_CONTEXT: Final = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""Croissant 1.0's own context."""
