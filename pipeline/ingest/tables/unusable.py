"""The error of a file that cannot be used as a table: it is set aside as a whole, and the others are read."""

from __future__ import annotations

from pipeline.errors import InputError


class UnusableFileError(InputError):
    """A file that cannot be used; the reader quarantines it as a file and goes on.

    Args:
        reason: A key of `quarantine.REASONS`.
        what: One sentence, as for every `CohortLoomError`: never a cell.
        where: The file, and its line where that helps.
        todo: What to do about it.
    """

    def __init__(self, reason: str, what: str, *, where: str = "", todo: str = "") -> None:
        self.reason = reason
        super().__init__(what, where=where, todo=todo)


def swollen(file: str) -> UnusableFileError:
    """The error of a gzip that would fill the disk."""
    what = "The gzip would unpack to far more than is likely."
    return UnusableFileError("too_large", what, where=file, todo="If that is right, hand over the file unpacked.")
