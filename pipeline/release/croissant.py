"""The data card for machines: Croissant JSON-LD (MLCommons, version 1.0), one record set over the released rows.

Croissant describes files and columns and says nothing of privacy or verdicts: those are in `card.json` beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.features.card_spec import CardSpec
    from pipeline.features.schema import Column, TableSchema

_TYPES = {
    "float64": "sc:Float",
    "float32": "sc:Float",
    "int64": "sc:Integer",
    "int32": "sc:Integer",
    "bool": "sc:Boolean",
    "string": "sc:Text",
    "timestamp[us]": "sc:Date",
    "date32[day]": "sc:Date",
}
_FORMATS = {"parquet": "application/x-parquet", "csv": "text/csv"}
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
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
"""The context that the Croissant 1.0 specification asks for, word by word."""


def croissant(
    release_id: str,
    title: str,
    month: str,
    schema: TableSchema,
    files: Mapping[str, str],
    card: CardSpec,
) -> dict[str, Any]:
    """The JSON-LD document.

    Args:
        release_id: Of the release; also the version of the data set.
        title: The cohort's line for people.
        month: First day of the month; date of publication in the document, since no clock may enter it.
        schema: Of the released rows.
        files: Name of each released file of rows to its sha256.
        card: What people say of the cohort.
    """
    objects = [_file(name, sha256) for name, sha256 in sorted(files.items())]
    described = [name for name in sorted(files) if name.rpartition(".")[0] == "data"]
    record_sets = [_record_set(schema.columns, described[-1])] if described and schema.columns else []
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": release_id,
        "description": f"{title or release_id}. Every row is synthetic: no row is a person. {card.population}".strip(),
        "version": "1.0.0",
        "datePublished": month,
        "url": f"urn:cohortloom:{release_id}",
        **_said(card),
        "distribution": objects,
        "recordSet": record_sets,
    }


def _said(card: CardSpec) -> dict[str, Any]:
    """What people said; what nobody did is left out, since a harvester would take any text for an answer."""
    told: dict[str, Any] = {
        "license": card.licence,
        "citeAs": card.citation,
        "creator": {"@type": "sc:Organization", "name": card.contact} if card.contact else "",
        "usageInfo": "; ".join(card.intended_uses),
    }
    return {name: value for name, value in told.items() if value}


def _file(name: str, sha256: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "encodingFormat": _FORMATS[name.rpartition(".")[2]],
        "sha256": sha256,
    }


def _record_set(columns: Sequence[Column], file: str) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "rows",
        "name": "rows",
        "description": "One synthetic row each.",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"rows/{column.name}",
                "name": column.name,
                "description": column.description + (f" Unit: {column.unit}." if column.unit else ""),
                "dataType": _TYPES[column.dtype],
                "source": {"fileObject": {"@id": file}, "extract": {"column": column.name}},
            }
            for column in columns
        ],
    }
