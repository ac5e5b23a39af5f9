"""What a cohort's file says of causes: a reviewed graph, or tiers that one is learned within.

Both are for generators that draw by a graph (`decaf`). That the columns exist is checked where the SQL's columns are known.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.causal.graph import check


class CausalSpec(BaseModel):
    """The section `causal:`; a graph, tiers, or nothing (then tiers are made of the columns' roles)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    graph: dict[str, list[str]] = Field(
        default_factory=dict,
        description="Column (or code block) to its direct causes, taken as it is: who is not named has neither causes nor"
        " effects.",
    )
    tiers: list[list[str]] = Field(
        default_factory=list,
        description="Columns in the order in which they come about; a graph is learned from the rows with no edge to an"
        " earlier tier. Columns that are not named come before the last tier.",
    )

    @model_validator(mode="after")
    def _sound(self) -> CausalSpec:
        if self.graph and self.tiers:
            raise ValueError("either `graph` or `tiers` says how columns hang together, not both")
        check(self.graph)
        once: set[str] = set()
        for names in self.tiers:
            if not names:
                raise ValueError("a tier names no column")
            for name in names:
                if name in once:
                    raise ValueError(f"'{name}' is named in `tiers` twice")
                once.add(name)
        return self

    @property
    def columns(self) -> list[str]:
        """Every column that is spoken of."""
        named = [*self.graph, *(c for causes in self.graph.values() for c in causes)]
        return list(dict.fromkeys([*named, *(n for names in self.tiers for n in names)]))
