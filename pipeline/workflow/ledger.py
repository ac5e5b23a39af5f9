"""The privacy ledger around the store: entering a cell's trainings, finding their models, folding it into a table.

A model says in `info["privacy"]` which training it came of, so that the ledger can be settled from the store where a
process died between storing a model and saying so. How entries add up is in `pipeline/privacy/`.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, NotFoundError, StoreError, TrainingError
from pipeline.privacy.composition import NOT_PRIVATE, Loss, compose, running
from pipeline.privacy.ledger import Ledger, Reservation, Spend, Training
from pipeline.store.hashing import sha256_file, sha256_json
from pipeline.workflow.record import Record, words_of
from pipeline.workflow.settings import learned_rules

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from pipeline.features.spec import CohortSpec
    from pipeline.generators.base import FitReport, Generator
    from pipeline.privacy.spec import PrivacySpec
    from pipeline.store.lake import Lake, Version
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.compute import Compute

ASSET = "privacy_ledger"
REPLICATES = "replicates"
"""Folder of a model's version that holds what was trained."""


@dataclass(frozen=True)
class Folded:
    """The ledger of a cohort up to a month, as it was stored.

    Attributes:
        version: Of `privacy_ledger`.
        rows: One a training (`ledger_rows`).
        total: What all that count cost together.
        budget: What the cohort may spend; None if there is no limit.
        unentered: Models in the store that the ledger does not know, as `model/<g> YYYY-MM`.
    """

    version: Version
    rows: list[dict[str, Any]]
    total: Loss
    budget: PrivacySpec | None
    unentered: list[str]

    @property
    def within(self) -> bool:
        """Does the cohort keep to its budget, and is every model accounted for where there is one?"""
        return self.budget is None or (self.total.within(self.budget) and not self.unentered)

    @property
    def words(self) -> str:
        """Why it does not; empty if it does."""
        if self.within or self.budget is None:
            return ""
        if self.unentered:
            models = ", ".join(self.unentered)
            return f"The ledger has no entry of these models, so what they cost is not known: {models}."
        most = Loss.asked(self.budget)
        return f"The trainings up to this month cost {self.total}, the cohort may spend {most}."


# ---- entering a training


def training_of(
    cell: Cell, generator: str, features: Version, overrides: Mapping[str, Any], compute: Compute
) -> Training:
    """The training that the cell asks for, known by everything that decides which bytes come of it.

    Raises:
        ConfigError: a setting of the generator is wrong, the device is not there, or delta is too weak for so few people.
    """
    from pipeline.generators.registry import generator_class

    kind = generator_class(generator)
    config = kind.Config.build({**cell.spec.generators[generator], **overrides})
    terms = cell.spec.privacy.trainings.get(generator)
    return Training.of(
        generator=generator,
        month=cell.month,
        features=features.sha256,
        settings={**config.model_dump(mode="json"), **learned_rules(cell.spec)},
        seeds=cell.seeds(generator, "fit"),
        privacy=asked_privacy(cell.spec, generator, features, overrides),
        terms=None if terms is None else terms.model_dump(mode="json"),
        code_version=kind.code_version,
        engine=_engine(kind, compute),
    )


def asked_privacy(
    spec: CohortSpec, generator: str, features: Version, overrides: Mapping[str, Any] | None = None
) -> PrivacySpec | None:
    """What each training of a generator may cost, delta and a noise multiplier resolved; None if nothing is asked.

    Raises:
        ConfigError: delta is too weak for the number of training subjects, or the generator takes no noise multiplier.
    """
    from pipeline.generators.registry import generator_class

    terms = spec.privacy.trainings.get(generator)
    if terms is None:
        return None
    kind = generator_class(generator)
    model = kind(kind.Config.build({**spec.generators[generator], **(overrides or {})}))
    return model.planned_privacy(terms, int(features.info["counts"]["subjects/train"]))


def _engine(kind: type[Generator], compute: Compute) -> dict[str, str]:
    """Version and kind of device of PyTorch where the generator trains with it; other libraries change no noise."""
    if "torch" not in kind.kinds:
        return {}
    import torch

    from pipeline.generators.training import choose_device

    return {"torch": str(torch.__version__), "device": choose_device(compute.device).type}


@contextmanager
def entered(lake: Lake, cell: Cell, training: Training) -> Iterator[Reservation]:
    """Hold what a training may cost while the block trains; let it go if the block fails before `confirm`.

    Nothing of a failed training is kept, also where the machine failed and not the generator: the draft of its model
    has been removed when this is left. Where even the entry cannot be written (the disk is full) or the process is
    killed, the reservation stays open and counts until the training is run again.

    Raises:
        BudgetError: the cohort may not spend that much; the block is not run.
        StoreError: the ledger is broken, or cannot be written.
    """
    ledger = Ledger(lake.journal, cell.cohort)
    for version in stored_models(lake, cell.cohort, training):
        settle(ledger, version)
    reservation = ledger.reserve(training, cell.spec.privacy.budget)
    try:
        yield reservation
    except BaseException as error:
        with suppress(StoreError):
            reservation.abort(words_of(error, hide={str(lake.home.root): "COHORTLOOM_HOME"}))
        raise


def spent_of(training: Training, reports: Sequence[FitReport]) -> Loss:
    """What each replicate cost at most, from what the trainings reported.

    Raises:
        TrainingError: it was to be private, and a report gives no spend or one that is none.
    """
    if not training.asked.finite:
        return NOT_PRIVATE
    try:
        losses = [Loss.from_json(report.privacy or {}) for report in reports]
    except (KeyError, ValueError):
        losses = []
    if not losses or not all(loss.finite for loss in losses):
        raise TrainingError(
            f"'{training.generator}' was asked for {training.asked} and does not report what it spent.",
            todo="Nothing of it is kept; ask no privacy of it, or choose a generator that can train with it.",
        )
    return Loss(max(loss.epsilon for loss in losses), max(loss.delta for loss in losses))


def privacy_info(training: Training, spent: Loss) -> dict[str, Any]:
    """What a model's version says of its privacy: `epsilon` ("inf" if not private) and `delta` are of one replicate."""
    return {"training": training.identity, **spent.to_json(), "replicates": training.replicates}


def model_hash(folder: Path) -> str:
    """One hash over the trained replicates in a folder; settings and reports beside them do not count."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return _one_hash({f"{REPLICATES}/{path.relative_to(folder).as_posix()}": sha256_file(path) for path in files})


def stored_model_hash(version: Version) -> str:
    """`model_hash` of a stored model, from its record."""
    return _one_hash({f.file: f.sha256 for f in version.files.values() if f.file.startswith(f"{REPLICATES}/")})


def _one_hash(files: Mapping[str, str]) -> str:
    return sha256_json(sorted(files.items()))


# ---- settling from the store


def stored_models(lake: Lake, cohort: str, training: Training) -> list[Version]:
    """The versions in the store that came of a training, also those that are no longer current."""
    versions = lake.models.history(f"model/{training.generator}", {"cohort": cohort, "month": training.month})
    return [v for v in versions if v.info.get("privacy", {}).get("training") == training.identity]


def settle(ledger: Ledger, version: Version) -> None:
    """Complete the training of a stored model, if the process that stored it could not say so any more."""
    privacy = version.info["privacy"]
    with suppress(NotFoundError):  # a model that the ledger has no training of is told by `unentered`
        ledger.complete(privacy["training"], stored_model_hash(version), Loss.from_json(privacy))


def settle_open(lake: Lake, cohort: str) -> Ledger:
    """The ledger of a cohort after every open training whose model is in the store has been completed."""
    ledger = Ledger(lake.journal, cohort)
    for spend in ledger.spends():
        for version in stored_models(lake, cohort, spend.training) if spend.state == "open" else []:
            settle(ledger, version)
    return ledger


def abort_by_hand(lake: Lake, cohort: str, training: str, reason: str, *, by: str) -> Spend:
    """Let go of what a dead run holds, after looking whether the store has a model of it.

    Args:
        lake: The lake.
        cohort: Name of the cohort.
        training: Identity, or its first digits.
        reason: Why, in words without patient data.
        by: Who decided it.

    Returns:
        What the ledger says of the training now.

    Raises:
        NotFoundError: there is no such training.
        ConfigError: no reason, several trainings begin like this, or this one is not open (its model is stored).
    """
    ledger = settle_open(lake, cohort)
    found = [s for s in ledger.spends() if training and s.training.identity.startswith(training)]
    if not found:
        todo = f"`cohortloom ledger {cohort}` lists them."
        raise NotFoundError(f"The ledger of '{cohort}' has no training '{training}'.", todo=todo)
    if len(found) > 1:
        raise ConfigError(f"{len(found)} trainings begin with '{training}'.", todo="Give more digits.")
    identity = found[0].training.identity
    ledger.abort_whole(identity, reason, by=by)
    return next(s for s in ledger.spends() if s.training.identity == identity)


# ---- folding into a table


def ledger_rows(spends: Sequence[Spend]) -> list[dict[str, Any]]:
    """One row a training, with what the ones before it and itself cost together. No times: same ledger, same rows."""
    together = running(spend.loss for spend in spends)
    return [_row(spend, cumulative) for spend, cumulative in zip(spends, together, strict=True)]


def _row(spend: Spend, cumulative: Loss) -> dict[str, Any]:
    training = spend.training
    return {
        "month": training.month,
        "generator": training.generator,
        "state": spend.state,
        "replicates": training.replicates,
        "models": spend.models,
        "asked_epsilon": training.asked.epsilon,
        "asked_delta": training.asked.delta,
        "epsilon": spend.loss.epsilon,
        "delta": spend.loss.delta,
        "cumulative_epsilon": cumulative.epsilon,
        "cumulative_delta": cumulative.delta,
        "features": training.features,
        "training": training.identity,
        "reason": spend.reason,
    }


def ledger_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The rows of `ledger_rows` as an Arrow table of a fixed schema; an infinite epsilon is an infinite number."""
    import pyarrow as pa

    losses = ("asked_epsilon", "asked_delta", "epsilon", "delta", "cumulative_epsilon", "cumulative_delta")
    fields = [(name, pa.string()) for name in ("month", "generator", "state")]
    fields += [(name, pa.int64()) for name in ("replicates", "models")]
    fields += [(name, pa.float64()) for name in losses]
    fields += [(name, pa.string()) for name in ("features", "training", "reason")]
    return pa.Table.from_pylist([dict(row) for row in rows], schema=pa.schema(fields))


def ledger_step(lake: Lake, cell: Cell, *, run_id: str = "") -> Folded:
    """Fold the cohort's ledger up to and including the cell's month into `privacy_ledger`."""
    spends = settle_open(lake, cell.cohort).spends(cell.month)
    rows, total, budget = ledger_rows(spends), compose(s.loss for s in spends), cell.spec.privacy.budget
    models = [v for asset in _models(lake) if (v := lake.models.current(asset, cell.partition)) is not None]
    unentered = unentered_models(lake, cell.cohort, cell.month)
    info: dict[str, Any] = {
        "trainings": len(rows),
        "total": total.to_json(),
        "budget": budget.model_dump(mode="json") if budget is not None else None,
        "within": budget is None or (total.within(budget) and not unentered),
        "unentered": unentered,
    }
    with lake.tables.draft(ASSET, cell.partition) as draft:
        draft.add_table("data", ledger_table(rows))
        version = draft.commit(inputs={v.label: v.sha256 for v in models}, info=info, run_id=run_id)
    return Folded(version, rows, total, budget, unentered)


def unentered_models(lake: Lake, cohort: str, until_month: str) -> list[str]:
    """Current models of the cohort that no entry of the ledger stands for (made before there was one, or it was lost)."""
    known = {spend.training.identity for spend in Ledger(lake.journal, cohort).spends() if spend.models}
    found = []
    for asset in _models(lake):
        for partition in lake.models.partitions(asset):
            if partition.get("cohort") != cohort or partition.get("month", "") > until_month:
                continue
            version = lake.models.current(asset, partition)
            if version is not None and Record.of(version).ok and _training(version) not in known:
                found.append(f"{asset} {partition['month'][:7]}")
    return sorted(found)


def _models(lake: Lake) -> list[str]:
    return [asset for asset in lake.models.assets() if asset.startswith("model/")]


def _training(version: Version) -> str | None:
    return version.info.get("privacy", {}).get("training")
