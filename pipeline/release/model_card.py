"""The model card that goes with a released cohort: how the generator was made, what it was judged by, where it fails.

Two forms of one content: `model_card.json` and `model_card.md`. The model itself never leaves the house.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.features.card_spec import TO_BE_SAID
from pipeline.release.markdown import bullets, figures, settings, spend, table
from pipeline.store.hashing import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.features.card_spec import CardSpec
    from pipeline.release.cards import Provenance, Sanction
    from pipeline.release.evidence import Evidence

MODEL_CARD_FORMAT = 1


@dataclass(frozen=True)
class Trained:
    """How the generator was trained.

    Attributes:
        title: The generator in one line.
        code_version: Of its class and defaults.
        kinds: Libraries it is made with.
        seeds: One a replicate.
        reports: What each training said (`fit.json`): rows, parameters, losses, health, warnings.
        training_rows: Hash of the features it was trained on.
    """

    title: str
    code_version: str
    kinds: Sequence[str]
    seeds: Sequence[int]
    reports: Sequence[Mapping[str, Any]] = field(default_factory=list)
    training_rows: str = ""


def model_card(
    release_id: str, provenance: Provenance, sanction: Sanction, trained: Trained, said: CardSpec, measured: Evidence
) -> dict[str, Any]:
    """The content, JSON-able."""
    first = trained.reports[0] if trained.reports else {}
    losses = list(first.get("losses", []))
    return {
        "format": MODEL_CARD_FORMAT,
        "release_id": release_id,
        "generator": provenance.generator,
        "trained": {**asdict(trained), "reports": [], "kinds": list(trained.kinds), "seeds": list(trained.seeds)},
        "parameters": first.get("parameters", 0),
        "training": {
            "rows": first.get("rows", 0),
            "loss_first": losses[0] if losses else {},
            "loss_last": losses[-1] if losses else {},
            "steps_logged": len(losses),
            "health": dict(first.get("health", {})),
            "warnings": sorted({w for report in trained.reports for w in report.get("warnings", [])}),
        },
        "settings": dict(provenance.settings),
        "overrides": dict(provenance.overrides),
        "tuning": _search(provenance),
        "privacy": dict(provenance.privacy),
        "verdict": {"status": sanction.verdict.status, "seeds": sanction.verdict.seeds},
        "signatures": [{"role": s.role, "name": s.name, "at": s.at} for s in sanction.signatures],
        "licence": said.licence,
        "evidence": measured.to_dict(),
    }


def _search(provenance: Provenance) -> str:
    """How the settings were found."""
    if not provenance.tuned_by:
        return "The settings above are those of the cohort's file; no search was made by this pipeline."
    return (
        f"Some of the settings above were found by a search that looked at the tuning part of the training rows, and at "
        f"no others ({provenance.tuned_by})."
    )


def model_card_json(card: Mapping[str, Any]) -> str:
    """`model_card.json`."""
    return canonical_json(card) + "\n"


def model_card_markdown(card: Mapping[str, Any]) -> str:
    """`model_card.md`."""
    trained, training, measured = card["trained"], card["training"], card["evidence"]
    losses = [
        (name, _losses(training[key])) for name, key in (("first loss", "loss_first"), ("last loss", "loss_last"))
    ]
    groups = [f for f in measured["figures"] if f["family"] == "fairness"]
    others = [f for f in measured["figures"] if f["family"] != "fairness"]
    lines = [
        f"# Model card: {card['generator']} of {card['release_id']}",
        "",
        "> The model does not leave the house: it may hold training rows. What leaves are rows drawn from it.",
        "",
        "## What it is",
        "",
        *table(
            ("what", "value"),
            [
                ("generator", trained["title"]),
                ("version of the code", trained["code_version"]),
                ("made with", ", ".join(trained["kinds"])),
                ("learned numbers", f"{card['parameters']:,}"),
                ("settings", settings(card["settings"])),
                ("changed in the launchpad", settings(card["overrides"]) if card["overrides"] else "nothing"),
                ("seeds", ", ".join(str(seed) for seed in trained["seeds"])),
                ("training rows", f"{training['rows']:,}, `{trained['training_rows']}`"),
                ("search of settings", card["tuning"]),
                *losses,
                ("privacy spent", spend(card["privacy"])),
                ("licence", card["licence"] or f"**{TO_BE_SAID}**"),
                ("signed by", ", ".join(f"{s['name']} ({s['role']})" for s in card["signatures"]) or "nobody"),
            ],
        ),
        "## Known failure modes",
        "",
        *bullets(training["warnings"], "Its training gave no warning."),
        "## Attacks",
        "",
        "Tried:",
        "",
        *bullets(measured["tried"], "None."),
        "Not tried:",
        "",
        *bullets(measured["not_tried"], "None of those that this pipeline knows."),
        f"## Figures (verdict: {card['verdict']['status']}, {card['verdict']['seeds']} seeds)",
        "",
        *figures(others),
    ]
    if groups:
        lines += ["## Groups", "", *figures(groups)]
    return "\n".join(lines).rstrip() + "\n"


def _losses(step: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in step.items()) or "it has none"
