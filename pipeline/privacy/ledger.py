"""The privacy ledger of a cohort: what every training may cost, held before its first gradient, settled after it.

Journal stream `privacy/<cohort>`, one entry a step:

    reserve   before the training: what it may cost
    confirm   before its model is stored: which model (by hash) that is, and what it cost
    complete  after the model was stored
    abort     nothing of it was kept

A training is known by its identity (`Training.of`). Its cost counts once for every different model that came of it:
running it again gives the same bytes and costs nothing, running it where the bytes differ is fresh noise on the same
people and costs again. A reservation that a killed run left counts until the same training is run again, which takes
it over, or somebody aborts it. What entries add up to is in `accounts.py`; how trainings are entered and models found
in the store in `pipeline/workflow/ledger.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import BudgetError, ConfigError, NotFoundError
from pipeline.privacy.accounts import SHORT, UNKNOWN, Account, Spend, Training, read_accounts
from pipeline.privacy.composition import Loss, compose

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.privacy.spec import PrivacySpec
    from pipeline.store.journal import Journal

__all__ = ["SHORT", "BudgetError", "Ledger", "Reservation", "Spend", "Training"]

_LONGEST_REASON = 400


@dataclass(frozen=True)
class Reservation:
    """What `Ledger.reserve` gives: the right to train, and the steps that settle it, in this order."""

    ledger: Ledger
    training: Training
    budget: PrivacySpec | None

    def confirm(self, model: str, spent: Loss) -> None:
        """Before the model is stored: hold what it cost (see `Ledger.confirm`)."""
        self.ledger.confirm(self.training, model, spent, self.budget)

    def complete(self, model: str, spent: Loss) -> None:
        """After the model was stored (see `Ledger.complete`)."""
        self.ledger.complete(self.training.identity, model, spent)

    def abort(self, reason: str) -> None:
        """The training ended without a model (see `Ledger.abort`)."""
        self.ledger.abort(self.training.identity, reason)


class Ledger:
    """The ledger of one cohort. Many processes may use it at once: every step reads and appends as one."""

    def __init__(self, journal: Journal, cohort: str) -> None:
        self.journal = journal
        self.cohort = cohort
        self.stream = f"privacy/{cohort}"

    # ---- settling a training

    def reserve(self, training: Training, budget: PrivacySpec | None) -> Reservation:
        """Hold what a training may cost, before it begins.

        One that was completed reserves nothing: it is expected to give the same model, which `confirm` checks. One
        that a killed run left open is taken over. A budget takes no training without privacy, not even a repeated one.

        Raises:
            BudgetError: with it the cohort's trainings would cost more than the budget; nothing is held.
            StoreError: the ledger is broken, or cannot be written.
        """

        def decide(accounts: dict[str, Account]) -> dict[str, Any] | None:
            account = accounts.setdefault(training.identity, Account(training))
            repeated = bool(account.kept) and not account.held
            if repeated and (budget is None or training.asked.finite):
                return None
            taken_over = bool(account.held)
            if not taken_over:
                account.held[UNKNOWN] = training.asked
            self._refuse_beyond(budget, accounts, account)
            return None if taken_over else {"step": "reserve", **training.to_entry()}

        self._write(decide)
        return Reservation(self, training, budget)

    def confirm(self, training: Training, model: str, spent: Loss, budget: PrivacySpec | None) -> None:
        """Hold what a trained model cost, before it is stored.

        Takes the place of the reservation. A model that the ledger has already costs nothing; another one of the same
        training costs again.

        Args:
            training: The training.
            model: SHA-256 of the model's files.
            spent: What each replicate cost at most.
            budget: What the cohort may spend.

        Raises:
            BudgetError: the cohort's trainings would cost more than the budget; the model must not be kept.
            StoreError: the ledger is broken, or cannot be written.
        """

        def decide(accounts: dict[str, Account]) -> dict[str, Any] | None:
            account = self._known(accounts, training.identity)
            if model in account.kept or model in account.held:
                return None
            account.held.pop(UNKNOWN, None)
            account.held[model] = spent
            self._refuse_beyond(budget, accounts, account)
            return {"step": "confirm", "training": training.identity, "model": model, **spent.to_json()}

        self._write(decide)

    def complete(self, training: str, model: str, spent: Loss) -> None:
        """A model of the training is in the store; entered once, however often it is said.

        Args:
            training: Identity.
            model: SHA-256 of the model's files.
            spent: What each replicate cost at most.

        Raises:
            NotFoundError: the ledger has no such training.
            StoreError: the ledger is broken, or cannot be written.
        """

        def decide(accounts: dict[str, Account]) -> dict[str, Any] | None:
            if model in self._known(accounts, training).kept:
                return None
            return {"step": "complete", "training": training, "model": model, **spent.to_json()}

        self._write(decide)

    def abort(self, training: str, reason: str) -> None:
        """The training ended without a model: what is held for one that has no hash yet is let go.

        What was confirmed stays held: its model may be in the store (`abort_by_hand` in `workflow/ledger.py` looks).

        Args:
            training: Identity; one that holds nothing is left as it is.
            reason: Why, in words without patient data.
        """

        def decide(accounts: dict[str, Account]) -> dict[str, Any] | None:
            if training not in accounts or UNKNOWN not in accounts[training].held:
                return None
            return {"step": "abort", "training": training, "models": [], "reason": reason[:_LONGEST_REASON]}

        self._write(decide)

    def abort_whole(self, training: str, reason: str, *, by: str) -> None:
        """Let go of everything that a dead run holds; the caller knows that the store has no model of it.

        Args:
            training: Identity.
            reason: Why, in words without patient data.
            by: Who decided it.

        Raises:
            ConfigError: no reason is given, or the training holds nothing.
            NotFoundError: the ledger has no such training.
        """
        if not reason.strip():
            raise ConfigError("An abort needs a reason.", todo="Say why with --reason.")

        def decide(accounts: dict[str, Account]) -> dict[str, Any]:
            account = self._known(accounts, training)
            if not account.held:
                raise ConfigError(
                    f"Training {training[:SHORT]} is {account.spend().state}; only an open one can be aborted.",
                    where=self.stream,
                )
            models = sorted(set(account.held) - {UNKNOWN})
            words = " ".join(reason.split())[:_LONGEST_REASON]
            return {"step": "abort", "training": training, "models": models, "reason": words, "by": by}

        self._write(decide)

    # ---- reading

    def spends(self, until_month: str | None = None) -> list[Spend]:
        """Every training that was entered, by month, generator and identity.

        Args:
            until_month: `YYYY-MM-01`: only trainings of this month's cell and of earlier ones.

        Raises:
            StoreError: the ledger is broken.
        """
        found = [account.spend() for account in self._accounts().values()]
        chosen = [s for s in found if until_month is None or s.training.month <= until_month]
        return sorted(chosen, key=lambda s: (s.training.month, s.training.generator, s.training.identity))

    def total(self, until_month: str | None = None) -> Loss:
        """(epsilon, delta) of all trainings that count, completed and open; unpacks as a pair."""
        accounts = self._accounts().values()
        chosen = [a for a in accounts if until_month is None or a.training.month <= until_month]
        return compose(loss for account in chosen for loss in account.losses())

    def models(self, training: str) -> set[str]:
        """Hashes of the models of a training that were completed; empty if it is not known."""
        accounts = self._accounts()
        return set(accounts[training].kept) if training in accounts else set()

    # ---- inside

    def _accounts(self) -> dict[str, Account]:
        return read_accounts(self.journal.entries(self.stream), self.stream)

    def _write(self, decide: Callable[[dict[str, Account]], Mapping[str, Any] | None]) -> None:
        """Append what `decide` gives for the accounts as they stand, as one step; it may be asked several times."""
        self.journal.transact(self.stream, lambda entries: decide(read_accounts(entries, self.stream)))

    def _known(self, accounts: dict[str, Account], training: str) -> Account:
        if training not in accounts:
            raise NotFoundError(f"The ledger has no training {training[:SHORT]}.", where=self.stream)
        return accounts[training]

    def _refuse_beyond(self, budget: PrivacySpec | None, accounts: dict[str, Account], account: Account) -> None:
        """Raise `BudgetError` if the accounts, with what `account` now holds, cost more than the budget."""
        total = compose(loss for a in accounts.values() for loss in a.losses())
        if budget is None or total.within(budget):
            return
        training = account.training
        others = compose(loss for a in accounts.values() if a is not account for loss in a.losses())
        most = f"epsilon {budget.epsilon:g}, delta {budget.delta:g}"
        who = f"'{training.generator}' for {training.month[:7]}"
        todo = "Raise `privacy: budget:` in the cohort's file if the privacy officer agrees."
        if not others.finite:
            what = f"{who} is refused: earlier trainings were not private, so the spend is infinite already."
            todo = "No later training can take it back. Start a new cohort, or take out the budget."
        elif not training.asked.finite:
            what = f"{who} would train without differential privacy, and the cohort may spend {most} at most."
            todo = (
                f"Where the generator can (docs/generators.md), ask for it under `privacy: trainings: {training.generator}:`; "
                "else enable another one, or take out the budget."
            )
        elif account.kept:
            what = (
                f"{who} gave another model than before, which is fresh noise and costs {training.cost(training.asked)} "
                f"again; the others cost {others} and the cohort may spend {most}."
            )
        else:
            times = f" ({training.replicates} replicates)" if training.replicates > 1 else ""
            cost = compose(account.losses())
            what = f"{who} costs {cost}{times}; the others cost {others} and the cohort may spend {most}."
        raise BudgetError(what, where=f"cohort {self.cohort}", todo=todo)
