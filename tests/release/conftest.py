"""The made-up ward for the tests of releases."""

from release_ward import made_ward, ward

__all__ = ["made_ward", "ward"]
