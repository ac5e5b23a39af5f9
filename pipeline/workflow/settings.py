"""What a cohort's file says for each step, as it is recorded with what the step made, and where it has moved on.

`code_version` in the asset graph covers code and the defaults of a generator. A cohort's own settings are recorded in
`info["settings"]`, so that editing one generator of one cohort concerns exactly that cell.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.features.constraint_spec import plain_rules, reexpressible

if TYPE_CHECKING:
    from pipeline.features.spec import CohortSpec
    from pipeline.store.lake import Lake, Version


@dataclass(frozen=True)
class Moved:
    """A cell whose settings are no longer those it was made with."""

    asset: str
    month: str
    words: str


def model_settings(spec: CohortSpec, generator: str) -> dict[str, Any] | None:
    """What the training of `generator` depends on in the cohort's file; None if the cohort does not enable it."""
    if generator not in spec.generators:
        return None
    asked = spec.privacy.trainings.get(generator)
    privacy = {} if asked is None else {"privacy": asked.model_dump(mode="json")}
    tuning = spec.tuning.get(generator)
    tuned = (
        {} if tuning is None or not tuning.used else {"tuning": {"settings_from": tuning.settings_from or spec.name}}
    )
    return _plain(
        {
            "generator": spec.generators[generator],
            "replicates": spec.replicates,
            "seed": spec.seed,
            **privacy,
            **tuned,
            **learned_rules(spec),
        }
    )


def learned_rules(spec: CohortSpec) -> dict[str, Any]:
    """The rules that decide what is learned, as `{"constraints": [...]}`; nothing where there are none.

    Others only decide which rows are drawn again.
    """
    rules = plain_rules([rule for rule in spec.constraints if reexpressible(rule)])
    return {"constraints": rules} if rules else {}


def drawing_settings(spec: CohortSpec, generator: str) -> dict[str, Any] | None:
    """What drawing the synthetic rows depends on, beside the model."""
    if generator not in spec.generators:
        return None
    fairness = spec.fairness_of(generator)
    # Only where it is asked for: what was drawn before there was such a thing is still as it was.
    fair = {} if fairness is None else {"fairness": fairness.model_dump(mode="json", exclude={"generators"})}
    return _plain({"constraints": plain_rules(spec.constraints), "seed": spec.seed, **fair})


def judging_settings(spec: CohortSpec, generator: str | None) -> dict[str, Any] | None:
    """What an evaluation depends on, beside the rows; `generator` None: that of the reference rows."""
    if generator is not None and generator not in spec.generators:
        return None
    gate = {} if generator is None else {"gate": spec.gate.model_dump(mode="json")}
    return _plain(
        {
            "tasks": [t.model_dump(mode="json", exclude={"description"}) for t in spec.tasks],
            "protected": spec.protected,
            "evaluation": spec.evaluation.model_dump(mode="json"),
            **gate,
        }
    )


def release_settings(spec: CohortSpec) -> dict[str, Any]:
    """What a release depends on, beside what was judged: thresholds, candidate, formats, mode and roles, and what people say."""
    return _plain(
        {
            "gate": spec.gate.model_dump(mode="json"),
            "release": spec.release.model_dump(mode="json"),
            "card": spec.card.model_dump(mode="json"),
        }
    )


SETTINGS_OF = {"model": model_settings, "synthetic": drawing_settings, "evaluation": judging_settings}
"""First part of a generator's asset key to what it depends on in the cohort's file."""


def moved_on(version: Version, spec: CohortSpec) -> str:
    """In words, where the cohort's file has moved on since `version` was made; empty if it has not.

    Args:
        version: Of `model/<g>`, `synthetic/<g>` or `evaluation/<g>`.
        spec: The cohort as its file says now.
    """
    overrides = sorted(version.info.get("overrides", {}))
    by_hand = f"Made with launchpad overrides: {', '.join(overrides)}." if overrides else ""
    return changed_since(version, spec) or by_hand


def changed_since(version: Version, spec: CohortSpec, *, but: str = "") -> str:
    """`moved_on` for the cohort's file alone: launchpad overrides are no change of it; nor is the setting `but`."""
    stage, _, generator = version.asset.partition("/")
    now, then = SETTINGS_OF[stage](spec, generator), version.info.get("settings")
    if (now is None) != (then is None):
        return f"'{generator}' is {'no longer' if now is None else 'now'} enabled for '{spec.name}'."
    changed = sorted(k for k in {*(now or {}), *(then or {})} - {but} if (now or {}).get(k) != (then or {}).get(k))
    return f"The cohort's file has changed since: {', '.join(_named(changed, now, then))}." if changed else ""


def cells_moved_on(lake: Lake, spec: CohortSpec) -> list[Moved]:
    """All cells of a cohort whose settings have moved on, by asset and month."""
    found = []
    for stage, store in (("model", lake.models), ("synthetic", lake.tables), ("evaluation", lake.tables)):
        for asset in store.assets():
            if not asset.startswith(f"{stage}/"):
                continue
            for partition in store.partitions(asset):
                version = store.current(asset, partition) if partition.get("cohort") == spec.name else None
                words = moved_on(version, spec) if version is not None else ""
                if words:
                    found.append(Moved(asset, partition["month"], words))
    return found


def _named(changed: list[str], now: dict[str, Any] | None, then: dict[str, Any] | None) -> list[str]:
    """The names of the settings that changed; inside `generator` one by one."""
    names = []
    for key in changed:
        new, old = (now or {}).get(key), (then or {}).get(key)
        if key == "generator" and isinstance(new, dict) and isinstance(old, dict):
            names += sorted(k for k in {*new, *old} if new.get(k) != old.get(k))
        else:
            names.append(key)
    return names


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """As it reads when it comes back from the store."""
    return json.loads(json.dumps(settings, sort_keys=True, default=str))
