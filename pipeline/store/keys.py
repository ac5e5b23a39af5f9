"""Which names the store takes, and where they lie: the only gate between a caller's text and a path.

Everything else is refused with `ConfigError`: a partition key reaches the store from folder names, forms and APIs,
and must never leave its folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.errors import ConfigError

PartitionKey = Mapping[str, str]

POINTER = "_current.json"
RECORD = "_version.json"
RETIRED = "_retired-"
DRAFT = ".tmp-"
TRASH = ".trash-"
SWAP = ".ptr-"
VERSION = re.compile(r"v-[0-9a-f]{16}-[0-9a-f]{12}")

_ASSET = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
_DIMENSION = re.compile(r"[a-z][a-z0-9_]{0,49}")
_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,149}")


def asset_key(asset: str) -> str:
    """The asset key ("features", "model/vae") if it is a good one, else `ConfigError`."""
    for segment in asset.split("/"):
        if not _ASSET.fullmatch(segment) or ".." in segment or VERSION.fullmatch(segment):
            raise _refusal("asset key", asset, "lower-case letters, digits and _ . - in parts divided by /")
    return asset


def stream_key(stream: str) -> str:
    """The name of a journal's stream ("release/Support") if it is a good one, else `ConfigError`."""
    for segment in stream.split("/"):
        if not _VALUE.fullmatch(segment) or ".." in segment:
            raise _refusal("journal stream", stream, "letters, digits and _ . - in parts divided by /")
    return stream


def partition_key(partition: PartitionKey) -> dict[str, str]:
    """The partition with its dimensions in alphabetical order if all names are good, else `ConfigError`."""
    for dimension, value in partition.items():
        if not isinstance(dimension, str) or not _DIMENSION.fullmatch(dimension):
            raise _refusal("partition dimension", dimension, "lower-case letters, digits and _")
        if not isinstance(value, str) or not _VALUE.fullmatch(value) or ".." in value:
            raise _refusal(
                f"key of partition dimension '{dimension}'",
                value,
                "1 to 100 letters, digits and . _ - without '..', a letter or digit first",
            )
    return {dimension: str(partition[dimension]) for dimension in sorted(partition)}


def label(asset: str, partition: PartitionKey) -> str:
    """Name of an asset's partition and its folder below the root: "features/cohort=support/month=2026-10-01"."""
    parts = [f"{dimension}={value}" for dimension, value in partition_key(partition).items()]
    return "/".join([asset_key(asset), *parts])


def file_name(name: str) -> str:
    """A file's or folder's path inside a version if it is a good one, else `ConfigError`."""
    segments = name.split("/") if isinstance(name, str) else [""]
    for segment in segments:
        if not _FILE.fullmatch(segment) or ".." in segment:
            raise _refusal("file name", name, "letters, digits and _ . - in parts divided by /, no leading dot")
    if segments[0] in {RECORD, POINTER} or segments[0].startswith(RETIRED):
        raise ConfigError(f"'{name}' is a name the store keeps for itself.")
    return name


def _refusal(kind: str, given: object, rule: str) -> ConfigError:
    shown = repr(given) if len(repr(given)) <= 120 else repr(given)[:117] + "..."
    return ConfigError(f"The store refuses the {kind} {shown}.", todo=f"Allowed are {rule}.")
