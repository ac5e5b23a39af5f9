"""What a causal generator makes of rows before it learns: few bins to learn a graph from, tiers by role, notes for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.causal.learning import code_bins, complete_tiers, learn_graph, level_bins, value_bins
from pipeline.encoding.encoder import EncodingSettings, TableEncoder
from pipeline.generators.adversarial.subgroups import SMALL, information, state_names
from pipeline.generators.seeds import stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.causal.graph import CausalGraph
    from pipeline.encoding.encoder import Encoded
    from pipeline.features.cohort import Cohort

FIRST_ROLES = ("protected", "quasi_identifier")
MOSTLY = 0.5
"""Share of missing labels from which it is said that missing is drawn like a level."""


def bins_of(encoder: TableEncoder, rows: Encoded) -> dict[str, NDArray[np.int64]]:
    """Every column and code block, in the order of the table, in at most five bins."""
    out: dict[str, NDArray[np.int64]] = {}
    for column in encoder.schema.modelled():
        name = column.name
        if name in encoder.levels:
            level = encoder.levels[name]
            out[name] = level_bins(
                rows.states[name], level.states, ordered=column.kind == "ordinal", missing=level.missing_state
            )
        else:
            out[name] = value_bins(encoder.numbers[name].scaler.from_uniform(rows.uniforms[name]))
    return out | {name: code_bins(rows.blocks[name]) for name in encoder.blocks}


def default_tiers(encoder: TableEncoder, label: str | None, protected: Sequence[str]) -> list[list[str]]:
    """Tiers by role: protected and quasi-identifying columns, all others, the label."""
    columns = [c for c in encoder.schema.modelled() if c.name != label]
    first = [c.name for c in columns if c.name in protected or c.role in FIRST_ROLES]
    rest = [*(c.name for c in columns if c.name not in first), *encoder.blocks]
    return [tier for tier in (first, rest, [label] if label is not None else []) if tier]


def columns_of(encoder: TableEncoder) -> list[str]:
    """Columns and code blocks, in the order of the table."""
    return [*(c.name for c in encoder.schema.modelled()), *encoder.blocks]


def learned_graph(
    encoder: TableEncoder,
    rows: Encoded,
    tiers: Sequence[Sequence[str]],
    label: str | None,
    protected: Sequence[str],
    most_parents: int,
) -> CausalGraph:
    """The graph that is learned from encoded rows, within the given tiers or, where there are none, those of the roles."""
    asked = [list(tier) for tier in tiers] or default_tiers(encoder, label, protected)
    return learn_graph(bins_of(encoder, rows), complete_tiers(asked, columns_of(encoder)), most_parents)


def suggested_graph(train: Cohort, tiers: Sequence[Sequence[str]], most_parents: int) -> CausalGraph:
    """A proposal from training rows; label and protected columns are those of the schema's roles.

    Raises:
        ConfigError: a tier names a column that there is not.
    """
    encoder = TableEncoder.fit(train, EncodingSettings())
    label = next((c.name for c in encoder.schema.modelled() if c.role == "label"), None)
    return learned_graph(encoder, encoder.encode(train, stream(0, "encode")), tiers, label, [], most_parents)


def as_yaml(graph: CausalGraph) -> str:
    """A graph as the section `causal:` of a cohort's file, a column with causes a line."""
    import json

    lines = [
        f"    {json.dumps(effect, ensure_ascii=False)}: {json.dumps(list(causes), ensure_ascii=False)}"
        for effect, causes in graph.parents.items()
        if causes
    ]
    return "".join(f"{line}\n" for line in ["causal:", "  graph:", *lines]) if lines else ""


def label_information(encoder: TableEncoder, rows: Encoded, label: str, column: str) -> float:
    """Mutual information in nats of label and protected column among encoded rows; missing is a level."""
    sizes = encoder.levels[column].states, encoder.levels[label].states
    cell = rows.states[column] * sizes[1] + rows.states[label]
    return information(np.bincount(cell, minlength=sizes[0] * sizes[1]).reshape(sizes))


def group_notes(encoder: TableEncoder, rows: Encoded, label: str | None, protected: Sequence[str]) -> list[str]:
    """What people have to know of small groups and of labels that are missing: columns, levels and counts of 0 or few."""
    out = []
    small = []
    for column in protected:
        level = encoder.levels[column]
        count = np.bincount(rows.states[column], minlength=level.states)
        names = state_names(level)
        small += [f"{column} = {names[s]}" for s in np.flatnonzero((count > 0) & (count < SMALL))]
    if small:
        out.append(
            f"Groups of fewer than {SMALL} rows are too small for anybody to know what is fair to them: {'; '.join(small)}."
        )
    if label is not None and (state := encoder.levels[label].missing_state) is not None:
        gone = float(encoder.levels[label].frequency[state])
        if gone > MOSTLY:
            out.append(
                f"The label '{label}' is missing in {gone:.0%} of the rows. Missing is drawn like a level, and what is known of "
                "the others is what few rows say; `triple_gan` learns from rows without a label too."
            )
    return out
