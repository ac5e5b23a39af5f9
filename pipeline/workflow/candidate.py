"""The candidate of a cell: replicate 0 of the generator that the cohort's file names, read again from the ground up.

Nothing is taken on trust: files are hashed again, the stored results are judged again, and everything must belong
together. What cannot have come about by working with the pipeline is a fault and raised; what is merely not fit to be
published is said in words. What people decided is in `release/signoff.py`, publishing in `releasing.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import StoreError
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import references_from_table
from pipeline.features.evaluation_spec import EvaluationSpec, GateSpec, TaskSpec
from pipeline.privacy.composition import Loss
from pipeline.privacy.ledger import Ledger
from pipeline.release.gate import GATE_VERSION, Verdict, judge
from pipeline.release.signoff import verdict_known
from pipeline.store.hashing import sha256_json
from pipeline.workflow.cards import cards
from pipeline.workflow.judging import RELEASE_STREAM, bound, claim_of, references_current, results_of
from pipeline.workflow.ledger import stored_model_hash
from pipeline.workflow.record import Record
from pipeline.workflow.settings import changed_since, release_settings
from pipeline.workflow.training import carried

if TYPE_CHECKING:
    from pipeline.features.spec import CohortSpec
    from pipeline.store.lake import Lake, Version
    from pipeline.workflow.cell import Cell

TOLD = ("words", "n_needed")
"""What a rule of a verdict only tells people."""


@dataclass(frozen=True)
class Candidate:
    """What would be published, and what is known of it.

    Attributes:
        generator: Its generator.
        model: Version of the model that it was drawn from.
        synthetic: Version of the synthetic rows, of all replicates.
        evaluation: Version of their evaluation.
        features: Version of the real rows they stand for.
        verdict: The stored results, held against the thresholds that the cohort's file has now.
        seal: What a decision is given for: these rows, this evaluation, these settings, this privacy spend.
        obstacles: What stands in the way beside the rules of the gate; nobody can waive it.
    """

    generator: str
    model: Version
    synthetic: Version
    evaluation: Version
    features: Version
    verdict: Verdict
    seal: str
    obstacles: list[str] = field(default_factory=list)

    @property
    def overrides(self) -> dict[str, Any]:
        """What the launchpad changed for this model."""
        return dict(self.model.info.get("overrides", {}))

    @property
    def settings(self) -> dict[str, Any]:
        """What the model was trained with: the cohort's settings of the generator, then tuned ones, then the launchpad's."""
        tuned = self.model.info.get("tuned", {}).get("settings", {})
        return {**(self.model.info.get("settings") or {}).get("generator", {}), **tuned, **self.overrides}

    @property
    def tuned_by(self) -> str:
        """Label of the tuning that some of the settings came from; empty if none did."""
        return str(self.model.info.get("tuned", {}).get("from", ""))

    @property
    def rows(self) -> int:
        """Rows of one replicate: as many as were judged."""
        return int(self.synthetic.info["rows"]) // int(self.synthetic.info["replicates"])


@dataclass(frozen=True)
class NoCandidate:
    """Why there is nothing that could be published; `made` tells what was tried from what was never run."""

    reason: str
    generator: str = ""
    made: bool = False


def read_candidate(lake: Lake, cell: Cell) -> Candidate | NoCandidate:
    """The candidate as it stands, or why there is none.

    Raises:
        StoreError: a file is not what was committed, or the verdict is not what the pipeline gave: somebody has
            changed something by hand.
    """
    name = cell.spec.release.generator
    if name is None:
        return NoCandidate(f"The file of '{cell.cohort}' names no generator under `release`.")
    evaluation = lake.tables.current(f"evaluation/{name}", cell.partition)
    found = {
        "features": lake.tables.current("features", cell.partition),
        "model": lake.models.current(f"model/{name}", cell.partition),
        "synthetic": lake.tables.current(f"synthetic/{name}", cell.partition),
        "references": lake.tables.current("references", cell.partition),
    }
    there = {key: version for key, version in found.items() if version is not None}
    if evaluation is None or len(there) < len(found):
        return NoCandidate(f"'{name}' was not evaluated for this month.", name)
    features, model, synthetic, references = there.values()
    broken = _broken_chain(evaluation, features, model, synthetic, references)
    if broken:
        return NoCandidate(broken, name, made=True)
    for version in (evaluation, synthetic, references):
        lake.tables.verify(version)
    lake.models.verify(model)
    stored = json.loads(lake.tables.path(evaluation, "verdict.json").read_text(encoding="utf-8"))
    if "bound" not in stored:
        return NoCandidate(
            "Its verdict does not say what it is about; run the cohort again from evaluation.", name, True
        )
    if stored.get("version") != GATE_VERSION:
        return NoCandidate(
            "It was judged by the rules of another CohortLoom; run the cohort again from evaluation.", name, made=True
        )
    tied = stored.pop("bound")
    _check_bound(tied, bound(cell.spec, synthetic, features, references, model), evaluation)
    entries = lake.journal.entries(f"{RELEASE_STREAM}/{cell.cohort}")
    if not verdict_known(entries, cell.month, evaluation.sha256):
        raise _fault("The journal knows no verdict for this evaluation.", evaluation)
    candidate = Candidate(
        name,
        model,
        synthetic,
        evaluation,
        features,
        verdict=_judged_again(lake, cell, features, evaluation, references, stored),
        seal=_seal(cell.spec, synthetic, evaluation, model),
    )
    candidate.obstacles.extend(_obstacles(lake, cell, candidate, tied["candidate"]))
    return candidate


def _broken_chain(
    evaluation: Version, features: Version, model: Version, synthetic: Version, references: Version
) -> str:
    """In words, where the versions do not belong together or one holds no result; empty if all is well."""
    for version, made_of in (
        (model, [features]),
        (synthetic, [model]),
        (references, [features]),
        (evaluation, [features, synthetic, references]),
    ):
        record = carried(version, {v.label: v.sha256 for v in made_of})
        if not record.ok:
            return record.reason
    return "" if Record.of(evaluation).ok else Record.of(evaluation).reason


def _check_bound(tied: dict[str, Any], now: dict[str, Any], evaluation: Version) -> None:
    """The verdict is about exactly these bytes; raises `StoreError` naming what is not the same."""
    other = [key for key in now if key not in ("settings", "candidate") and tied.get(key) != now[key]]
    if other:
        raise _fault(f"The verdict is about other {' and '.join(other)}.", evaluation)


def _judged_again(
    lake: Lake, cell: Cell, features: Version, evaluation: Version, references: Version, stored: dict[str, Any]
) -> Verdict:
    """The verdict by today's thresholds, after checking that the stored one follows from the stored results."""
    results = results_of(lake, evaluation)
    known = references_from_table(lake.tables.read(references))
    then = evaluation.info["settings"]
    tasks = [TaskSpec(**task) for task in then["tasks"]]
    plan = EvaluationPlan.asked(tasks, then["protected"], EvaluationSpec(**then["evaluation"]))
    claim = claim_of(cell.spec, evaluation.info["generator"], features)
    again = judge(results, GateSpec(**then["gate"]), plan, references=known, claim=claim)
    if _as_judged(json.loads(json.dumps(again.to_dict()))) != _as_judged(stored):
        raise _fault("The stored verdict does not follow from the stored results.", evaluation)
    return judge(results, cell.spec.gate, EvaluationPlan.of(cell.spec), references=known, claim=claim)


def _as_judged(verdict: dict[str, Any]) -> dict[str, Any]:
    """A verdict without what it only tells people, which a newer CohortLoom may put in other words.

    Nothing is decided or published by a stored verdict's words: the candidate's are always today's.
    """
    rules = verdict.get("rules")
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        return verdict  # edited by hand: equal to no verdict of the pipeline
    return {**verdict, "rules": [{k: v for k, v in rule.items() if k not in TOLD} for rule in rules]}


def _seal(spec: CohortSpec, synthetic: Version, evaluation: Version, model: Version) -> str:
    return sha256_json(
        {
            "synthetic": synthetic.sha256,
            "evaluation": evaluation.sha256,
            "settings": release_settings(spec),
            "privacy": model.info.get("privacy"),
        }
    )


def _obstacles(lake: Lake, cell: Cell, candidate: Candidate, named: str | None) -> list[str]:
    spec = cell.spec
    versions = (candidate.model, candidate.synthetic, candidate.evaluation)
    # Thresholds may be edited after the evaluation: today's are the ones that count.
    changes = [(v.asset, changed_since(v, spec, but="gate")) for v in versions]
    found = [f"{asset}: {words}" for asset, words in changes if words]
    if not spec.enabled:
        found.append(
            f"The cohort is retired (`enabled: false` in the file of '{spec.name}'): nothing new is published."
        )
    if not cards([candidate.generator])[candidate.generator].publishable:
        found.append(f"'{candidate.generator}' is a control that gives patients away: nothing it draws is published.")
    if not references_current(lake, cell):
        found.append("references: the cohort's file has changed since.")
    found.extend(_privacy_obstacles(lake, cell, candidate.model))
    if named != candidate.generator:
        found.append(
            f"When it was evaluated, the cohort's file named {named or 'nobody'} for release; a candidate is named "
            "before its evaluation: run the cohort again from evaluation."
        )
    if spec.release.rows is not None and spec.release.rows > candidate.rows:
        found.append(f"`release.rows` asks for {spec.release.rows:,} rows, {candidate.rows:,} were judged.")
    return found


def _privacy_obstacles(lake: Lake, cell: Cell, model: Version) -> list[str]:
    """The training must be in the ledger with exactly this model, and the cohort must still keep to its budget."""
    ledger = Ledger(lake.journal, cell.cohort)
    training = (model.info.get("privacy") or {}).get("training")
    if training is None or stored_model_hash(model) not in ledger.models(training):
        return [f"{model.asset}: the privacy ledger has no finished training of it; train it again."]
    spent, budget = ledger.total(), cell.spec.privacy.budget
    if spent.within(budget):
        return []
    return [f"The cohort's trainings have spent {spent}, more than its budget of {Loss.asked(budget)}."]


def _fault(what: str, evaluation: Version) -> StoreError:
    return StoreError(
        f"{what} It may have been changed by hand.",
        where=evaluation.label,
        todo="Nothing is published. Run the cohort again from evaluation, and find out who changed it.",
    )
