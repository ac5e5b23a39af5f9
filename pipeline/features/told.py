"""What a cohort's file says once and several generators have to know: sections that become settings of theirs.

A setting under `generators:` wins over what the sections say. Roles (a cohort's `protected`, labels of its tasks) need no
handing over: they stand in the schema.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.features.causal_spec import CausalSpec
    from pipeline.features.fairness_spec import FairnessSpec

TOLD: dict[str, tuple[str, ...]] = {
    "fairgan": ("protected",),
    "bt_gan": ("protected", "label"),
    "bt_gan_minus": ("protected", "label"),
    "decaf": ("protected", "label", "causal"),
}
"""Generator to what it is told."""


def told_settings(generator: str, fairness: FairnessSpec | None, causal: CausalSpec | None) -> dict[str, Any]:
    """The settings of a generator that follow from the sections `fairness:` and `causal:`; none of most."""
    found: dict[str, Any] = {}
    if fairness is not None and (fairness.generators is None or generator in fairness.generators):
        found |= {"protected": list(fairness.protected)} if fairness.protected else {}
        found |= {"label": fairness.label} if fairness.label is not None else {}
    if causal is not None:
        found["causal"] = causal.model_dump(mode="json", exclude_defaults=True)
    return {name: value for name, value in found.items() if name in TOLD.get(generator, ())}
