"""Errors that are written for the person who has to act on them.

Every error says what is wrong, where, and what to do. Messages carry counts, names of columns and hashes,
never a value of a patient's record.
"""

from __future__ import annotations

MOST_SHOWN = 12
"""Known names that a hint lists."""


class CohortLoomError(Exception):
    """Base of all errors that a user can cause and mend.

    Args:
        what: One sentence: what is wrong.
        where: File, line, partition or column; empty if it cannot be narrowed down.
        todo: What to do about it; empty if `what` says it.
    """

    def __init__(self, what: str, *, where: str = "", todo: str = "") -> None:
        # Names of files may hold line breaks and what a terminal obeys.
        where = "".join(character if character.isprintable() else "?" for character in where)
        self.what, self.where, self.todo = what, where, todo
        text = f"{where}: {what}" if where else what
        super().__init__(f"{text} {todo}".strip())


class ConfigError(CohortLoomError):
    """A cohort file, schema, setting or command-line option is wrong."""


class BudgetError(ConfigError):
    """A training would cost more privacy than the cohort may spend."""


class InputError(CohortLoomError):
    """A delivery or table cannot be used as a whole (single bad records go to the quarantine instead)."""


class NotFoundError(CohortLoomError):
    """Something asked for by name or partition does not exist."""


class StoreError(CohortLoomError):
    """COHORTLOOM_HOME cannot be written or read: permissions, space, a broken pointer or hash."""


class UnsupportedError(CohortLoomError):
    """A generator or metric refuses this schema; the message is the reason in words."""


class TrainingError(CohortLoomError):
    """A training could not be finished (diverged, nothing to learn from)."""


class OutOfMemoryError(TrainingError, MemoryError):
    """The machine has not enough memory for a training: a failure of the run, not a property of the generator."""


def nearest(name: str, known: list[str]) -> str:
    """A hint for a mistyped name: the nearest known one, and all of them when they are few."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    shown = ", ".join(sorted(known)[:MOST_SHOWN]) or "none"
    more = f" and {len(known) - MOST_SHOWN} more" if len(known) > MOST_SHOWN else ""
    return f"{hint}Known: {shown}{more}."
