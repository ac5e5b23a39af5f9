"""What the entries of a privacy ledger add up to: trainings, what each holds and has spent.

The entries, in the order of the journal, are folded into one account a training. Who writes them and when is in
`ledger.py`, how losses add up in `composition.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import StoreError
from pipeline.privacy.composition import Loss, compose
from pipeline.store.hashing import sha256_json

if TYPE_CHECKING:
    from pipeline.privacy.spec import PrivacySpec

State = Literal["open", "complete", "aborted"]
UNKNOWN = ""
"""In place of a model's hash while the training has not given one yet."""
SHORT = 12
"""Digits of a hash that are enough for people."""
_MEND = "Restore the journal from a backup; a ledger with holes says nothing about what was spent."


@dataclass(frozen=True)
class Training:
    """A training of all replicates of a generator on the features of a cohort's month.

    Attributes:
        identity: SHA-256 over everything that decides which model comes of it.
        generator: Its standard name.
        month: `YYYY-MM-01`.
        replicates: Models it trains; each one costs.
        asked: What each replicate may cost.
        features: First digits of the features' SHA-256.
    """

    identity: str
    generator: str
    month: str
    replicates: int
    asked: Loss
    features: str

    @classmethod
    def of(
        cls,
        *,
        generator: str,
        month: str,
        features: str,
        settings: Mapping[str, Any],
        seeds: Sequence[int],
        privacy: PrivacySpec | None,
        code_version: str,
        engine: Mapping[str, str],
        terms: Mapping[str, Any] | None = None,
    ) -> Training:
        """The training of these inputs.

        Args:
            generator: Standard name.
            month: `YYYY-MM-01`.
            features: SHA-256 of the features.
            settings: All settings of the generator with defaults, presets and overrides resolved.
            seeds: One a replicate.
            privacy: What is asked of each replicate, None for one that is not private.
            code_version: Of the generator's class.
            engine: What else the bytes depend on: version and kind of device of the library that trains.
            terms: How the privacy was asked for (`TrainingPrivacy`): the noise depends on all of it.
        """
        asked = Loss.asked(privacy)
        decisive = {
            "generator": generator,
            "month": month,
            "features": features,
            "settings": settings,
            "seeds": [int(seed) for seed in seeds],
            "privacy": asked.to_json(),
            "code_version": code_version,
            "engine": engine,
            **({} if terms is None else {"terms": terms}),
        }
        return cls(sha256_json(decisive), generator, month, len(seeds), asked, features[:SHORT])

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> Training:
        """The training that a `reserve` entry names; `KeyError` or `ValueError` if it names none."""
        replicates = entry["replicates"]
        if isinstance(replicates, bool) or not isinstance(replicates, int) or replicates < 1:
            raise ValueError("not a count")
        return cls(
            identity=str(entry["training"]),
            generator=str(entry["generator"]),
            month=str(entry["month"]),
            replicates=replicates,
            asked=Loss.from_json(entry),
            features=str(entry["features"]),
        )

    def to_entry(self) -> dict[str, Any]:
        """What the ledger keeps of it."""
        return {
            "training": self.identity,
            "generator": self.generator,
            "month": self.month,
            "replicates": self.replicates,
            "features": self.features,
            **self.asked.to_json(),
        }

    def cost(self, loss: Loss) -> Loss:
        """What all replicates cost together if each costs `loss`."""
        return compose([loss] * self.replicates)


@dataclass(frozen=True)
class Spend:
    """What the ledger says of one training.

    Attributes:
        training: The training.
        state: "open" (something is held and not settled), "complete", or "aborted" (nothing was kept).
        models: Different models that came of it and count, stored or still held.
        loss: What it costs in all: every model, every replicate; nothing if aborted.
        reason: Why it was aborted last; empty otherwise.
    """

    training: Training
    state: State
    models: int
    loss: Loss
    reason: str = ""


@dataclass
class Account:
    """One training in the ledger.

    Attributes:
        training: The training.
        held: Model to what each replicate costs, as long as it is not known to be stored; `UNKNOWN` before it is
            trained.
        kept: The same of models that were stored.
        reason: Why it was aborted last.
    """

    training: Training
    held: dict[str, Loss] = field(default_factory=dict)
    kept: dict[str, Loss] = field(default_factory=dict)
    reason: str = ""

    def losses(self) -> list[Loss]:
        """One loss a replicate of every model that counts."""
        counted = [*self.kept.values(), *self.held.values()]
        return [loss for loss in counted for _ in range(self.training.replicates)]

    def spend(self) -> Spend:
        """What is told of it."""
        state: State = "open" if self.held else "complete" if self.kept else "aborted"
        reason = self.reason if state == "aborted" else ""
        return Spend(self.training, state, len(self.held) + len(self.kept), compose(self.losses()), reason)


def read_accounts(entries: Sequence[Mapping[str, Any]], stream: str) -> dict[str, Account]:
    """The accounts that a stream's entries add up to, by identity.

    Raises:
        StoreError: an entry says what cannot be, or belongs to a reservation that is not there.
    """
    accounts: dict[str, Account] = {}
    for number, entry in enumerate(entries):
        try:
            _apply(entry, accounts)
        except (KeyError, TypeError, ValueError):
            raise StoreError(f"Entry {number} of the privacy ledger is broken.", where=stream, todo=_MEND) from None
    return accounts


def _apply(entry: Mapping[str, Any], accounts: dict[str, Account]) -> None:
    """Add one entry to the accounts; `KeyError`, `TypeError` or `ValueError` if it says what cannot be."""
    step, identity = entry["step"], str(entry["training"])
    if step == "reserve":
        accounts.setdefault(identity, Account(Training.from_entry(entry)))
        accounts[identity].held[UNKNOWN] = Loss.from_json(entry)
        return
    account = accounts[identity]
    if step == "abort":
        for model in (UNKNOWN, *entry["models"]):
            account.held.pop(model, None)
        account.reason = str(entry["reason"])
    elif step in ("confirm", "complete"):
        model = str(entry["model"])
        account.held.pop(UNKNOWN, None)
        account.held.pop(model, None)
        if model not in account.kept:
            (account.held if step == "confirm" else account.kept)[model] = Loss.from_json(entry)
    else:
        raise ValueError(step)
