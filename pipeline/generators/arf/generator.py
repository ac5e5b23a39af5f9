"""The generator `arf`: a mixture of leaves of forests that were grown against their own samples (Watson et al. 2023).

Trees and boxes are in `forest.py`, what is drawn inside a leaf in `leaves.py`, the rounds in `rounds.py`, and how code
blocks take part in `latent_classes.py` and `codes.py`. What differs from the paper is in docs/generators/arf.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.generators.arf.codes import BlockClasses, fit_blocks
from pipeline.generators.arf.forest import Grid, Growth
from pipeline.generators.arf.leaves import Leaves
from pipeline.generators.arf.rounds import adversarial_rounds
from pipeline.generators.column_states import StateColumn, encoded_from, likelihood_of, state_columns, states_of
from pipeline.generators.lone_codes import commonest_codes
from pipeline.generators.seeds import derive_seed, stream
from pipeline.generators.tabular import Learned, TabularConfig, TabularGenerator

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import Progress
    from pipeline.generators.conditions import Fixed

SAFE_LEAF = 20
CHUNK = 8_192


class ARFConfig(TabularConfig):
    """Settings of adversarial random forests; defaults chosen on parts of training rows (docs/generators/arf.md)."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {"leaf": 5, "trees": 30, "pieces": 256, "features": 0.0},
        "quick": {"trees": 15, "rounds": 2},
    }
    trees: int = Field(default=30, ge=1, le=1000, description="Trees of a forest (spec 6.5).")
    leaf: int = Field(
        default=20,
        ge=1,
        description="Least rows in a leaf when a tree is grown, and least subjects with a real row in a leaf that is kept"
        " (preset 'paper': 5). Smaller leaves tell more about single people.",
    )
    features: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the columns that a split chooses from; 0 takes the square root of their number.",
    )
    rounds: int = Field(
        default=10, ge=1, le=100, description="Forests, at most, each against samples of the one before."
    )
    margin: float = Field(
        default=0.0, ge=0, lt=0.5, description="How far above one half a forest's accuracy counts as chance."
    )
    pseudo_rows: float = Field(
        default=1.0,
        ge=0,
        description="Rows' worth of a column's margin, within the leaf's box, that a leaf's frequencies are shrunk to.",
    )
    pieces: int = Field(
        default=128,
        ge=2,
        le=1024,
        description="About how many pieces a numeric column has, along its repeated numbers; at most one for 20 rows, but"
        " at least 8. Inside a piece a number is drawn anew.",
    )
    forest_codes: int = Field(
        default=32,
        ge=0,
        le=1000,
        description="Commonest codes of all blocks together that are columns of the forest. The others depend on the class"
        " of a row.",
    )
    classes: int = Field(
        default=32,
        ge=1,
        le=1024,
        description="Most classes of rows by the codes of a block; fewer where they are not worth their numbers.",
    )
    most_rows: int = Field(
        default=50_000, ge=100, description="Rows that a forest is grown on, at most; with more, some at random."
    )


class ARF(TabularGenerator):
    """Adversarial random forests; conditions are exact, by the chance of what is fixed in each leaf."""

    name = "arf"
    title = "Adversarial random forests"
    Config = ARFConfig
    config: ARFConfig
    kinds = ("numpy", "scikitlearn")
    not_private: ClassVar[str] = (
        "Its trees are grown and its leaves filled by looking at single training rows, and no noise makes up for that."
    )
    columns: list[StateColumn]
    leaves: Leaves
    blocks: dict[str, BlockClasses]

    def _learn(
        self,
        encoder: TableEncoder,
        rows: Encoded,
        cohort: Cohort,
        *,
        seed: int,
        device: str,
        progress: Progress | None,
    ) -> Learned:
        config = self.config
        subject = np.unique(cohort.subject, return_inverse=True)[1].astype(np.int64)
        pieces = min(config.pieces, max(8, rows.n // 20))
        self.columns = state_columns(encoder, bins=pieces, codes=commonest_codes(encoder, config.forest_codes))
        in_forest = {name: [c.code for c in self.columns if c.name == name] for name in encoder.blocks}
        self.blocks, classes = fit_blocks(encoder, rows, subject, in_forest, config.classes, seed)
        states = np.stack(
            [
                *(states_of(column, rows) for column in self.columns),
                *classes.values(),
                np.zeros(rows.n, dtype=np.int64),
            ],
            axis=1,
        )
        # The last column never varies: a table without any other has one, and no tree ever splits on it.
        ordered = [column.ordered for column in self.columns]
        extra = [*(block.size for block in self.blocks.values()), 1]
        grid = Grid(
            sizes=np.array([*(c.size for c in self.columns), *extra], dtype=np.int64),
            ordered=np.array([*ordered, *(False for _ in extra)]),
            hole=np.array([*(c.ordered and c.missing for c in self.columns), *(False for _ in extra)]),
        )
        if rows.n > config.most_rows:
            some = np.sort(stream(seed, "rows").permutation(rows.n)[: config.most_rows])
            states, subject = states[some], subject[some]
        found = adversarial_rounds(
            grid,
            states,
            subject,
            Growth(config.trees, config.leaf, config.features),
            most=config.rounds,
            margin=config.margin,
            pseudo=config.pseudo_rows,
            seed=derive_seed(seed, "arf"),
            progress=lambda k: progress(k, config.rounds, {}) if progress is not None else None,
        )
        self.leaves = found.leaves
        warnings = []
        if config.leaf < SAFE_LEAF:
            warnings.append(
                f"Leaves of fewer than {SAFE_LEAF} subjects: membership inference tells who was in training better than"
                " with the default (docs/generators/arf.md)."
            )
        return Learned(
            parameters=int(self.leaves.states.size + self.leaves.low.size * 2),
            losses=[{"step": float(k + 1), "accuracy": a} for k, a in enumerate(found.accuracy)],
            warnings=warnings,
            facts={
                "leaves": float(len(self.leaves)),
                "rounds": float(len(found.accuracy)),
                "round_kept": float(found.kept),
                "accuracy": found.accuracy[-1],
                "rows_in_no_leaf": found.lost,
            },
        )

    def log_likelihood(self, cohort: Cohort) -> NDArray[np.float64]:
        """(n,) log probability of the columns' states of each row, with the forest's codes and without the others.

        A number stands for its piece; the log probability is that of the piece.
        """
        encoder = self._fitted()
        rows = encoder.encode(cohort, stream(0, "encode"))
        states = np.zeros((rows.n, len(self.leaves.sizes)), dtype=np.int64)
        for i, column in enumerate(self.columns):
            states[:, i] = states_of(column, rows)
        for i, (name, block) in enumerate(self.blocks.items(), start=len(self.columns)):
            states[:, i] = block.classes_of(rows.blocks[name], stream(0, "classes", name))
        return self.leaves.log_density(states)

    def draws_given(self, columns: Collection[str]) -> bool:
        """See `Generator.draws_given`."""
        return True

    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        parts = [np.arange(start, min(n, start + CHUNK)) for start in range(0, n, CHUNK)]
        return Encoded.concatenate([self._draw_part(encoder, len(p), rng, fixed.take(p)) for p in parts])

    def _draw_part(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        evidence: dict[int, NDArray[np.float64]] = {}
        for i, column in enumerate(self.columns):
            likelihood = likelihood_of(encoder, column, fixed) if fixed else None
            if likelihood is not None:
                evidence[i] = likelihood
        states = self.leaves.draw(n, rng, evidence)
        out = encoded_from(encoder, self.columns, states[:, : len(self.columns)], rng)
        for i, (name, block) in enumerate(self.blocks.items(), start=len(self.columns)):
            block.fill(out.blocks[name], states[:, i], rng)
        return out

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        tensors = {f"leaves/{k}": v for k, v in self.leaves.tensors().items()}
        for i, column in enumerate(self.columns):
            tensors[f"edges-{i:05d}"] = column.edges
        for i, block in enumerate(self.blocks.values()):
            tensors |= {f"block-{i:05d}/{k}": v for k, v in block.tensors().items()}
        plain = [
            {k: getattr(c, k) for k in ("kind", "name", "code", "size", "ordered", "missing")} for c in self.columns
        ]
        return tensors, {"columns": plain, "blocks": list(self.blocks), "pseudo": self.leaves.pseudo}

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        self.columns = [
            StateColumn(**entry, edges=np.asarray(tensors[f"edges-{i:05d}"], dtype=np.float64))
            for i, entry in enumerate(extra["columns"])
        ]
        self.leaves = Leaves.restore(_below(tensors, "leaves/"), float(extra["pseudo"]))
        self.blocks = {
            name: BlockClasses.restore(_below(tensors, f"block-{i:05d}/")) for i, name in enumerate(extra["blocks"])
        }


def _below(tensors: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
