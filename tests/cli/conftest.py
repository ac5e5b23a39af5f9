"""The made-up ward for the tests of the commands around a release."""

from release_ward import made_ward, ward

__all__ = ["made_ward", "ward"]
