"""Which edges of a causal graph are cut so that an outcome is fair (van Breugel et al. 2021, "DECAF", section 4.2).

    ftu          the direct edges from protected columns to the label (fairness through unawareness)
    parity       every edge to the label from a column that goes with a protected one: the label is independent of it
    conditional  those of these columns that go with a protected one otherwise than by way of the columns of `given`, which may
                 rightly decide: no path of causes from a protected column to the label but through `given`

Two columns go together where a trail without a meeting of arrows joins them, that is where they are not d-separated. Given
columns bring together their causes: `strict` cuts these too, which makes the label independent of the protected columns
among rows that are alike in `given`. The cut set that the paper prints for Adult is the one without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pipeline.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.causal.graph import CausalGraph

CausalNotion = Literal["none", "ftu", "parity", "conditional"]


def cut_edges(
    graph: CausalGraph,
    label: str,
    protected: Sequence[str],
    notion: CausalNotion,
    given: Sequence[str] = (),
    *,
    children: bool = True,
    strict: bool = False,
) -> dict[str, tuple[str, ...]]:
    """Effect to those of its direct causes from which it is cut; empty for `none`.

    Args:
        graph: over all columns.
        label: the outcome.
        protected: columns that are not to decide.
        notion: see this module.
        given: of `conditional`: columns that may rightly decide.
        children: cut the label's edges to those effects that go with a protected column too, since they would give it away to
            whoever learns from all columns.
        strict: of `conditional`: by d-separation, so that what `given` brings together is cut as well.

    Raises:
        ConfigError: `given` names a column that there is not, or the label or a protected one; or the label is a cause of a
            protected column, which no cut before the label mends.
    """
    for name in given:
        if name not in graph.parents:
            raise ConfigError(f"There is no column '{name}'.", where="given", todo=nearest(name, graph.columns))
        if name in (label, *protected):
            raise ConfigError(f"'{name}' cannot be the label or protected, and rightly decide as well.", where="given")
    if notion == "none":
        return {}
    caused = sorted(set(protected) & graph.descendants([label]))
    if caused:
        raise ConfigError(
            f"The graph has the label '{label}' among the causes of the protected column '{caused[0]}'.",
            where="graph",
            todo="Turn the edges on that path round, or set `notion: none`.",
        )
    if notion == "ftu":
        cut = tuple(c for c in graph.parents[label] if c in protected)
        return {label: cut} if cut else {}
    with_them = joined(graph, label, protected, given if notion == "conditional" else (), strict=strict)
    out = {label: tuple(c for c in graph.parents[label] if c in with_them)}
    if children:
        out |= {effect: (label,) for effect in graph.children(label) if effect in with_them}
    return {effect: causes for effect, causes in out.items() if causes}


def joined(
    graph: CausalGraph, label: str, protected: Sequence[str], given: Sequence[str] = (), *, strict: bool = False
) -> set[str]:
    """The columns of the label's Markov boundary that go with a protected one otherwise than through label and `given`."""
    boundary = graph.boundary(label)
    if strict and given:
        # What comes after the label is given by nobody, and the label itself opens no trail.
        before = graph.ancestors([label, *protected, *given]) | boundary
        inner = type(graph)(
            {n: tuple(c for c in p if c != label) for n, p in graph.parents.items() if n in before and n != label}
        )
        return {b for b in boundary if any(b == a or not inner.separated(b, a, given) for a in protected)}
    closed = {label, *given}
    return boundary & graph.reached(graph.reached(protected, "up", closed), "down", closed)
