"""The generator `cart`: columns drawn one after the other, each from trees on those before it (Reiter 2005, synthpop).

How columns become predictors is in `predictors.py`, the order in `order.py`, trees in `trees.py`, the trees of a column
in `columns.py`, those of codes in `codes.py`. The trade-off between fidelity and membership inference, and how the
defaults were chosen, is in docs/generators/cart.md.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
from pydantic import Field

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.generators.base import Support
from pipeline.generators.cart.codes import Code, CodeModel, codes_in_order, counts_of, draw_code, earlier_of, fit_code
from pipeline.generators.cart.columns import (
    ColumnModel,
    Smoothing,
    SmoothingKind,
    TrainingRows,
    TreeSettings,
    draw_column,
    fit_column,
)
from pipeline.generators.cart.order import association, earlier_columns, visit_order
from pipeline.generators.cart.predictors import NumericTarget, Predictors, plain_predictor
from pipeline.generators.cart.trees import pack, unpack
from pipeline.generators.conditions import Fixed
from pipeline.generators.rejection import draw_matching
from pipeline.generators.tabular import Learned, TabularConfig, TabularGenerator

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import TableSchema
    from pipeline.generators.base import Progress

Model = TypeVar("Model", ColumnModel, CodeModel)
MOST_LEVELS = 1_000
CHUNK = 20_000
MOST_THREADS = 8
SAFE_LEAF = 10


class CartConfig(TabularConfig):
    """Settings of sequential trees; defaults chosen on a part of SUPPORT's training rows (docs/generators/cart.md)."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {
            "leaf": 5,
            "gain": 0.0,
            "trees": 1,
            "share": 1.0,
            "smoothing": "none",
            "order": "table",
            "numeric_target": "numbers",
            "most_predictors": 10_000,
        },
        "quick": {"trees": 2},
    }
    leaf: int = Field(
        default=15,
        ge=1,
        description="Least rows in a leaf when a tree is grown, and least subjects among the donors of a leaf (synthpop:"
        " 5 rows). Larger leaves tell less about single people.",
    )
    gain: float = Field(
        default=2.0,
        ge=0,
        description="What a split must explain, in variances of a single row: less is mostly noise, which is about the"
        " training rows alone (synthpop: next to 0).",
    )
    trees: int = Field(
        default=5,
        ge=1,
        le=100,
        description="Trees a column has; every drawn row takes its value from one of them at random (synthpop: 1).",
    )
    share: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="Share of the subjects that a tree is grown on; donors come from all (synthpop: 1).",
    )
    smoothing: SmoothingKind = Field(
        default="window",
        description="What becomes of a donor's number: 'none' hands it over (preset 'paper'), 'window' draws it anew among"
        " the `window_rows` rows around it, 'leaf' moves it to between its neighbours in the leaf as well. Numbers that"
        " 2 % of the rows share stay; extremes are always replaced (`extreme_rows`).",
    )
    window_rows: int = Field(
        default=50,
        ge=0,
        description="Rows of a column's order among which a donor's number is drawn anew; at least those of its cell"
        " (`atom_rows`), at most a twentieth of the rows.",
    )
    order: Literal["association", "table"] | tuple[str, ...] = Field(
        default="association",
        description="Order in which columns are drawn: 'association' (the column that tells most about all others"
        " first), 'table', or names; columns that are not named follow by association.",
    )
    condition_columns: tuple[str, ...] = Field(
        default=(),
        description="Columns drawn before all others, so that conditions on the first of them are exact and need no"
        " rejection.",
    )
    numeric_target: NumericTarget = Field(
        default="scores",
        description="What the trees of a numeric column are grown for: its normal scores, or the numbers themselves"
        " (preset 'paper').",
    )
    most_predictors: int = Field(
        default=60, ge=1, description="Earlier columns that a column looks at, at most: the most associated ones."
    )
    code_predictors: int = Field(
        default=8, ge=0, le=100, description="Commoner codes that a code of a block looks at, at most."
    )
    most_rows: int = Field(
        default=50_000,
        ge=100,
        description="Rows behind one tree, at most; with more, each tree has some of the subjects.",
    )


class Cart(TabularGenerator):
    """Sequential classification and regression trees with donors in their leaves.

    Conditions on the columns drawn first (`condition_columns`) are exact: the others are drawn given them. All others
    are met by rejection.
    """

    name = "cart"
    title = "Sequential trees (CART, as in synthpop)"
    Config = CartConfig
    config: CartConfig
    kinds = ("numpy", "scikitlearn")
    private: ClassVar[bool] = False
    not_private: ClassVar[str] = "Its leaves hold values of training rows, and no noise makes up for that."
    _columns: list[ColumnModel]
    _codes: list[CodeModel]

    @classmethod
    def supports(cls, schema: TableSchema) -> Support:
        """As `TabularGenerator`, with up to 1,000 levels a column."""
        for column in schema.modelled():
            if column.discrete and len(column.levels or []) > MOST_LEVELS:
                return Support(
                    ok=False,
                    reason=f"Column '{column.name}' has {len(column.levels or []):,} levels, more than the "
                    f"{MOST_LEVELS:,} that trees are made for; group them in the cohort's SQL (ICD chapters instead of "
                    "codes), or make them a code block.",
                )
        return super().supports(schema)

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
        names = [c.name for c in encoder.schema.modelled()]
        cells: dict[str, NDArray[Any]] = {**rows.states, **rows.uniforms}
        codes = codes_in_order(encoder)
        plain = {name: plain_predictor(encoder, name, cells[name]) for name in names}
        plain |= {code.key: counts_of(rows, code).astype(np.float32) for code in codes}
        data = TrainingRows(encoder, rows, plain, np.unique(cohort.subject, return_inverse=True)[1].astype(np.int64))
        related = association(encoder, rows, names) if names else np.zeros((0, 0))
        order = visit_order(names, related, config.order, config.condition_columns)
        earlier = earlier_columns(order, related, config.most_predictors)
        looked_at = earlier_of(encoder, rows, codes, names, config.code_predictors)
        settings = TreeSettings(
            config.leaf,
            config.gain,
            config.trees,
            config.share,
            config.most_rows,
            config.numeric_target,
            config.smoothing,
        )
        self._columns = _side_by_side(
            lambda i: fit_column(data, names[order[i]], tuple(names[j] for j in earlier[i]), settings, seed), len(order)
        )
        if progress is not None:
            progress(1, 2, {})
        self._codes = _side_by_side(
            lambda i: fit_code(data, codes[i], looked_at[i], config.leaf, config.most_rows, seed), len(codes)
        )
        if progress is not None:
            progress(2, 2, {})
        trees = [tree for model in self._columns for tree in model.trees] + [model.tree for model in self._codes]
        warnings = []
        if config.leaf < SAFE_LEAF or config.smoothing == "none":
            warnings.append(
                "Small leaves, or donors as they are: membership inference tells who was in training better than with"
                " the defaults (docs/generators/cart.md)."
            )
        return Learned(
            parameters=sum(len(tree.feature) + len(tree.donors) for tree in trees),
            warnings=warnings,
            facts={"trees": float(len(trees)), "leaves": float(sum(tree.leaves for tree in trees))},
        )

    def draws_given(self, columns: Collection[str]) -> bool:
        """See `Generator.draws_given`."""
        return {c.name for c in self._columns[: len(set(columns))]} == set(columns)

    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        asked = {*fixed.codes, *fixed.values}
        first: list[str] = []
        for model in self._columns:
            if model.name not in asked:
                break
            first.append(model.name)
        held = Fixed(
            {k: v for k, v in fixed.codes.items() if k in first}, {k: v for k, v in fixed.values.items() if k in first}
        )
        if len(first) == len(asked):
            return self._rows(encoder, n, rng, held)
        if not _same_for_all(held):
            # Candidates are handed to whichever row they fit, so they must not be made for one row.
            held = Fixed()
        return draw_matching(
            lambda m: self._rows(encoder, m, rng, held.take(np.zeros(m, dtype=np.int64))), encoder, n, fixed
        )

    def _rows(self, encoder: TableEncoder, n: int, rng: np.random.Generator, held: Fixed) -> Encoded:
        """`n` encoded rows whose first columns are given."""
        parts: list[Encoded] = []
        for start in range(0, n, CHUNK):
            index = np.arange(start, min(start + CHUNK, n))
            parts.append(self._chunk(encoder, len(index), rng, held.take(index)))
        return Encoded.concatenate(parts)

    def _chunk(self, encoder: TableEncoder, n: int, rng: np.random.Generator, held: Fixed) -> Encoded:
        out = Encoded(n=n)
        plain: dict[str, NDArray[np.float32]] = {}
        smoothing = Smoothing(self.config.smoothing, self.config.window_rows)
        for model in self._columns:
            drawn = draw_column(model, encoder, plain, n, rng, smoothing)
            cells = _held(encoder, model.name, drawn, held)
            if model.name in encoder.numbers:
                out.uniforms[model.name] = cells
            else:
                out.states[model.name] = cells
            plain[model.name] = plain_predictor(encoder, model.name, cells)
        out.blocks = {k: np.zeros((n, len(b.used)), dtype=np.int16) for k, b in encoder.blocks.items()}
        for code_model in self._codes:
            counts = draw_code(code_model, plain, n, rng)
            plain[code_model.code.key] = counts.astype(np.float32)
            out.blocks[code_model.code.block][:, code_model.code.position] = counts
        return out

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        tensors = pack([t for m in self._columns for t in m.trees] + [m.tree for m in self._codes], "trees")
        predictors = [m.predictors for m in self._columns] + [m.predictors for m in self._codes]
        names = sorted({name for p in predictors for name in p.names})
        number = {name: i for i, name in enumerate(names)}
        places = [place for p in predictors for place in p.places.values()]
        tensors["places"] = np.concatenate(places) if places else np.empty(0, dtype=np.float32)
        tensors["predictors"] = np.array([number[name] for p in predictors for name in p.names], dtype=np.int32)
        extra = {
            "columns": [{"name": m.name, "trees": len(m.trees)} for m in self._columns],
            "codes": [[m.code.key, m.code.block, m.code.position] for m in self._codes],
            "names": names,
            "looks_at": [len(p.names) for p in predictors],
            "places": [[[name, len(place)] for name, place in p.places.items()] for p in predictors],
        }
        return tensors, extra

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        trees = iter(unpack(tensors, "trees"))
        predictors = iter(_predictors(tensors, extra))
        self._columns = [
            ColumnModel(entry["name"], next(predictors), tuple(next(trees) for _ in range(entry["trees"])))
            for entry in extra["columns"]
        ]
        self._codes = [
            CodeModel(Code(str(key), str(block), int(position)), next(predictors), next(trees))
            for key, block, position in extra["codes"]
        ]


def _predictors(tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> list[Predictors]:
    """What every model looks at, back from what `_state` gave."""
    out: list[Predictors] = []
    begin = place = 0
    for count, ordered in zip(extra["looks_at"], extra["places"], strict=True):
        names = tuple(extra["names"][i] for i in tensors["predictors"][begin : begin + count])
        places: dict[str, NDArray[np.float32]] = {}
        for name, size in ordered:
            places[name] = tensors["places"][place : place + size]
            place += size
        begin += count
        out.append(Predictors(names, places))
    return out


def _held(encoder: TableEncoder, name: str, drawn: NDArray[Any], held: Fixed) -> NDArray[Any]:
    """The drawn cells, or where the column is given those; a state that training never had says nothing."""
    if name in held.codes:
        states = encoder.levels[name].encode(held.codes[name])
        return np.where((states >= 0) & (states < encoder.levels[name].states), states, drawn)
    if name not in held.values or encoder.numbers[name].scaler.empty:
        return drawn
    values = held.values[name]
    cells = np.full(len(values), np.nan)
    seen = ~np.isnan(values)
    start, end = encoder.numbers[name].scaler.interval(values[seen])
    cells[seen] = (start + end) / 2
    return cells


def _same_for_all(held: Fixed) -> bool:
    """Do all rows ask for the same?"""
    cells: Sequence[NDArray[Any]] = [*held.codes.values(), *held.values.values()]
    return all(bool((c == c[:1]).all() or (c != c).all()) for c in cells)


def _side_by_side(make: Callable[[int], Model], count: int) -> list[Model]:
    """`make(0) .. make(count - 1)`, in threads; every tree has a seed of its own, so their number changes nothing.

    As many threads as numeric libraries are allowed (OMP_NUM_THREADS, which a run sets), else as there are cores.
    """
    from concurrent.futures import ThreadPoolExecutor

    allowed = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(allowed) if allowed.isdigit() and int(allowed) > 0 else min(MOST_THREADS, os.cpu_count() or 1)
    if threads == 1 or count < 2:
        return [make(i) for i in range(count)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(make, range(count)))
