"""Status records: a generator that is not enabled, refuses or fails still leaves a row, with a reason in words.

The words may be stored, logged and shown, so they never hold the text of an error that is not ours: such texts quote
cell values. They name the error's class and the place in our code instead.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.errors import BudgetError, CohortLoomError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.store.lake import Version

Status = Literal["ok", "not_enabled", "refused", "failed"]
ROOT = Path(__file__).resolve().parents[2]
_OURS = ("pipeline", "assets", "resources", "cohorts")


@dataclass(frozen=True)
class Record:
    """How a step ended for one generator; `reason` is empty if `status` is "ok"."""

    status: Status
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Did it end well?"""
        return self.status == "ok"

    def to_info(self) -> dict[str, str]:
        """As it is kept in a version's `info`."""
        return {"status": self.status, "reason": self.reason}

    @classmethod
    def of(cls, version: Version) -> Record:
        """The record of a stored version; versions without one ended well."""
        return cls(version.info.get("status", "ok"), version.info.get("reason", ""))

    @classmethod
    def of_error(cls, error: Exception, *, hide: Mapping[str, str] | None = None) -> Record:
        """The record of an error: "refused" if the generator or the privacy budget said no, else "failed"."""
        refused = isinstance(error, UnsupportedError | BudgetError)
        return cls("refused" if refused else "failed", words_of(error, hide=hide))


OK = Record("ok")


def words_of(error: BaseException, *, hide: Mapping[str, str] | None = None) -> str:
    """What may be told of an error: our own errors' sentence, else the class and the innermost place in our code.

    Args:
        error: The error.
        hide: Texts to replace in our sentence, e.g. an absolute path by a word: the same failure must read the same
            everywhere, since reasons are part of a version's hash.
    """
    if isinstance(error, CohortLoomError):
        text = str(error)
        for part, word in (hide or {}).items():
            text = text.replace(part, word)
        return text
    return f"{type(error).__name__} at {_place(error)}"


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        file = Path(frame.filename)
        if file.is_relative_to(ROOT) and file.relative_to(ROOT).parts[0] in _OURS:
            return f"{file.relative_to(ROOT).as_posix()}:{frame.lineno}"
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
