"""What leaves with a release: rows, schema, data card, model card, Croissant, the verdict, the public report, checksums.

Nothing of it comes from real rows but by way of the synthetic ones and of published figures; never a model, a
neighbour, or who was in training. When a release is published is in `releasing.py`.
"""

from __future__ import annotations

import json
from importlib.metadata import version as installed
from typing import TYPE_CHECKING, Any

from pipeline.fairness.words import drawn_under
from pipeline.privacy.composition import Loss
from pipeline.release.cards import Provenance, Sanction, card_json, card_markdown, release_card
from pipeline.release.croissant import croissant
from pipeline.release.evidence import evidence
from pipeline.release.model_card import Trained, model_card, model_card_json, model_card_markdown
from pipeline.release.payload import SCHEMA, write_checksums, write_rows
from pipeline.store.hashing import canonical_json, sha256_file
from pipeline.workflow.cards import cards
from pipeline.workflow.judging import results_of
from pipeline.workflow.reports import write_release_report

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.features.cohort import Cohort
    from pipeline.release.payload import Folder
    from pipeline.store.lake import Lake
    from pipeline.workflow.candidate import Candidate
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.releasing import ReleaseState

CARD_JSON, CARD_MD = "card.json", "card.md"
MODEL_JSON, MODEL_MD = "model_card.json", "model_card.md"
CROISSANT, GATE, EVALUATION = "croissant.json", "gate.json", "evaluation.html"


def bundle_cards(
    lake: Lake, cell: Cell, found: Candidate, state: ReleaseState, release_id: str, rows: Cohort
) -> dict[str, str]:
    """The texts of both cards and of the verdict, by file name; the same release gives the same texts."""
    measured = evidence(results_of(lake, found.evaluation))
    provenance = _provenance(found, state)
    sanction = Sanction(cell.spec.release.mode, found.verdict, state.signatures, state.waivers)
    said = cell.spec.card
    data = release_card(release_id, cell.spec.title, cell.month, found.seal, rows, provenance, sanction, said, measured)
    model = model_card(release_id, provenance, sanction, _trained(lake, cell, found), said, measured)
    return {
        CARD_JSON: card_json(data),
        CARD_MD: card_markdown(data),
        MODEL_JSON: model_card_json(model),
        MODEL_MD: model_card_markdown(model),
        GATE: canonical_json({"verdict": data["verdict"], "waivers": data["waivers"], "seal": found.seal}) + "\n",
    }


def write_bundle(
    lake: Lake,
    cell: Cell,
    found: Candidate,
    state: ReleaseState,
    release_id: str,
    rows: Cohort,
    texts: Mapping[str, str],
    folder: Folder,
) -> None:
    """Write every file of a release into `folder`, checksums last."""
    names = write_rows(rows, cell.spec.release.formats, folder)
    hashes = {name: sha256_file(folder.file(name)) for name in names if name != SCHEMA}
    described = croissant(release_id, cell.spec.title, cell.month, rows.schema, hashes, cell.spec.card)
    for name, text in {**texts, CROISSANT: json.dumps(described, indent=1, ensure_ascii=False) + "\n"}.items():
        folder.file(name).write_text(text, encoding="utf-8")
        names.append(name)
    signed = ", ".join(f"{s.name} ({s.role})" for s in state.signatures) or "nobody: released by its gate"
    facts = {"release": release_id, "signed by": signed}
    write_release_report(
        lake, cell, found.evaluation, found.verdict, folder.file(EVALUATION), waivers=state.waivers, facts=facts
    )
    write_checksums([*names, EVALUATION], folder)


def _provenance(found: Candidate, state: ReleaseState) -> Provenance:
    budget = state.ledger.budget
    spent: dict[str, Any] = {**state.ledger.cohort.to_json()}
    if budget is not None:
        spent["budget"] = Loss.asked(budget).to_json()
    versions = (found.features, found.model, found.synthetic, found.evaluation)
    return Provenance(
        generator=found.generator,
        settings=found.settings,
        overrides=found.overrides,
        replicates=int(found.synthetic.info["replicates"]),
        versions={v.asset: v.sha256 for v in versions},
        privacy=state.ledger.model,
        cohort_privacy=spent,
        software=installed("cohortloom"),
        tuned_by=found.tuned_by,
        drawn_under=drawn_under(found.synthetic.info.get("fairness", [])),
    )


def _trained(lake: Lake, cell: Cell, found: Candidate) -> Trained:
    known = cards([found.generator])[found.generator]
    reports = json.loads(lake.models.path(found.model, "fit.json").read_text(encoding="utf-8"))
    return Trained(
        title=known.title or found.generator,
        code_version=known.code_version,
        kinds=known.kinds,
        seeds=cell.seeds(found.generator, "fit"),
        reports=reports,
        training_rows=found.features.sha256,
    )
