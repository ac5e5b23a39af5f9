"""A whole table for a neural model: its input tensors, its targets, and the heads that fit its columns.

Numeric columns become bins (a categorical over pieces of the empirical distribution, uniform inside a piece) or
numbers on a normal scale; discrete columns become states; common codes of blocks become a dense matrix. Codes too rare
to model are drawn by themselves. Networks around it (encoders, decoders) live with their generators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.encoding.heads import BernoulliHead, CategoricalHead, CountHead, NumericHead
from pipeline.encoding.links import MOST_LINKS, ColumnLinks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.encoding.mode_table import ScalarHead

NumericLikelihood = Literal["binned", "gaussian", "student_t"]
INPUT_BINS = 12
"""Numbers are shown to a network as a normal score and one of about so many pieces, which tell a spike from its
neighbourhood: as good as all pieces of the likelihood, at a third of the work."""
CALIBRATION_FLOOR = 1e-3
LARGEST_SCORE = 4.0
"""Normal scores are clipped here: 3 in 100,000 rows lie beyond."""


@dataclass
class TableTensors:
    """Rows on a device, small enough to hold a million: one-hot inputs are made a batch at a time.

    Attributes:
        scores: (n, numeric columns) float32 normal scores, 0 where missing.
        states: (n, columns) int32 states of the categorical head.
        seen: (n, numeric columns) float32, 0 where missing.
        blocks: (n, common codes) int16 a block.
        coarse: (n, columns) int32 states as the network is shown them; None if they are `states`.
    """

    scores: Tensor
    states: Tensor
    seen: Tensor
    blocks: list[Tensor]
    coarse: Tensor | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: Tensor) -> TableTensors:
        """The given rows."""
        scores, states, seen = (t.index_select(0, rows) for t in (self.scores, self.states, self.seen))
        coarse = None if self.coarse is None else self.coarse.index_select(0, rows)
        return TableTensors(scores, states, seen, [b.index_select(0, rows) for b in self.blocks], coarse)


@dataclass
class Batch:
    """What a network is fed of some rows, and what its outputs are held against.

    Attributes:
        columns: (batch, column inputs) float32: normal scores, then one-hot states of all columns, numbers in few pieces.
        rows: the rows as they are stored.
        codes: (batch, common codes) float32 a block.
    """

    columns: Tensor
    rows: TableTensors
    codes: list[Tensor]

    def inputs(self) -> Tensor:
        """(batch, inputs) float32: columns, then codes (counts as log2(1 + count))."""
        codes = [c.log1p() / np.log(2) for c in self.codes]
        return torch.cat([self.columns, *codes], 1) if codes else self.columns


class MixedTable(nn.Module):
    """Likelihood of a table's rows given the outputs of a network (spec 0.3), and rows drawn from them.

    Args:
        encoder: the fitted encoder of the table.
        numeric: likelihood of numeric columns.
        bins: about how many bins a numeric column gets ("binned").
        linked: let each column also depend on the columns before it (`links.py`), levels before numbers; only where
            numeric columns are binned and the table is not too wide.
        first: columns that come before all others in the order of links.
        cuts: cumulative probabilities at which numeric columns are cut besides ("binned"; `level_cuts.py`).
        shown: about how many pieces of a numeric column the network is shown.

    Attributes:
        inputs: width of the network's input.
        width: width of the network's output.
    """

    def __init__(
        self,
        encoder: TableEncoder,
        *,
        numeric: NumericLikelihood,
        bins: int,
        linked: bool = False,
        first: Sequence[str] = (),
        cuts: Mapping[str, NDArray[np.float64]] | None = None,
        shown: int = INPUT_BINS,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.numeric = numeric
        self.edges = self._pieces(bins, cuts)
        sizes: list[int] = []
        for name, number in encoder.numbers.items():
            pieces = len(self.edges[name]) - 1 if numeric == "binned" and name in self.edges else 1
            sizes.append(pieces + int(number.has_missing and not number.scaler.empty))
        sizes += [max(1, c.states) for c in encoder.levels.values()]
        self.coarse = self._pieces(min(bins, shown) if numeric == "binned" else 1, cuts)
        seen = [
            len(self.coarse.get(k, (0, 1))) - 1 + int(c.has_missing and not c.scaler.empty)
            for k, c in encoder.numbers.items()
        ]
        seen += sizes[len(seen) :]
        numbers = NumericHead(0 if numeric == "binned" else len(self.edges), student=numeric == "student_t")
        self._assemble(CategoricalHead(sizes), numbers, seen)
        self.links = self._links(first) if linked and numeric == "binned" else None

    def _pieces(self, wanted: int, cuts: Mapping[str, NDArray[np.float64]] | None) -> dict[str, NDArray[np.float64]]:
        """Edges of about so many pieces of each numeric column that has a value, and of its cuts."""
        extra = cuts if cuts is not None and self.numeric == "binned" else {}
        numbers = {k: c.scaler for k, c in self.encoder.numbers.items() if not c.scaler.empty}
        return {k: np.union1d(scaler.bins(wanted), extra.get(k, [])) for k, scaler in numbers.items()}

    def _assemble(
        self, categorical: CategoricalHead, numbers: NumericHead | ScalarHead, shown: list[int] | None = None
    ) -> None:
        """Put the heads side by side; those of code blocks follow from the encoder.

        Args:
            categorical: of all columns.
            numbers: of the numeric columns that have a value.
            shown: states of each column as the network is shown them; None for those of `categorical`.
        """
        self.categorical = categorical
        self.gaussian = numbers
        self.common = {k: np.flatnonzero(b.common) for k, b in self.encoder.blocks.items()}
        heads = [
            BernoulliHead(len(self.common[k])) if b.binary else CountHead(len(self.common[k]))
            for k, b in self.encoder.blocks.items()
        ]
        self.block_heads = nn.ModuleList(heads)
        self.widths = [self.categorical.width, self.gaussian.width, *[h.width for h in heads]]
        self.width = sum(self.widths)
        self.input_sizes = categorical.sizes if shown is None else shown
        self.input_starts: Tensor
        starts = torch.tensor([0, *self.input_sizes[:-1]] if self.input_sizes else [], dtype=torch.long).cumsum(0)
        self.register_buffer("input_starts", starts + len(self.edges), persistent=False)
        # A network needs an input even where no column says anything.
        self.column_inputs = max(1, len(self.edges) + sum(self.input_sizes))
        self.inputs = self.column_inputs + sum(map(len, self.common.values()))

    def _links(self, first: Sequence[str]) -> ColumnLinks | None:
        names = [*self.encoder.numbers, *self.encoder.levels]
        if len(names) < 2 or self.column_inputs * self.width > MOST_LINKS:
            return None
        outputs = [slice(a, a + k) for a, k in zip(self.categorical.starts, self.categorical.sizes, strict=True)]
        starts = self.input_starts.tolist()
        inputs = [
            [*([list(self.edges).index(name)] if name in self.edges else []), *range(start, start + size)]
            for name, start, size in zip(names, starts, self.input_sizes, strict=True)
        ]
        # A number's many pieces can follow a level exactly, a level only a number's few shown ones: levels come first.
        schema = [c.name for c in self.encoder.schema.modelled()]
        order = sorted(
            range(len(names)),
            key=lambda i: (names[i] not in first, names[i] in self.encoder.numbers, schema.index(names[i])),
        )
        return ColumnLinks(inputs, outputs, order, self.column_inputs, self.width)

    def free_scales(self) -> list[Tensor]:
        """Parameters that are no weights: scales of numbers, dispersions of counts."""
        linked = {id(p) for p in self.links.parameters()} if self.links is not None else set()
        return [p for p in self.parameters() if id(p) not in linked]

    def tensors(self, rows: Encoded, device: torch.device | str) -> TableTensors:
        """Encoded rows on the device."""
        scores = [self._scaled(k, rows.uniforms[k]).astype(np.float32) for k in self.edges]
        numbers = np.stack(scores, axis=1) if scores else np.zeros((rows.n, 0), dtype=np.float32)
        return TableTensors(
            scores=torch.as_tensor(np.nan_to_num(numbers), device=device),
            states=torch.as_tensor(self._states(rows), device=device),
            seen=torch.as_tensor((~np.isnan(numbers)).astype(np.float32), device=device),
            blocks=[torch.as_tensor(rows.blocks[k][:, at], device=device) for k, at in self.common.items()],
            coarse=torch.as_tensor(self._cut(rows, self.coarse, self.input_sizes), device=device),
        )

    def batch(self, rows: TableTensors) -> Batch:
        """Inputs and targets of some rows."""
        columns = torch.zeros(len(rows), self.column_inputs, device=rows.scores.device)
        columns[:, : rows.scores.shape[1]] = rows.scores
        shown = rows.states if rows.coarse is None else rows.coarse
        columns.scatter_(1, shown.to(torch.long) + self.input_starts, 1.0)
        return Batch(columns, rows, [b.to(torch.float32) for b in rows.blocks])

    def start_bias(self, rows: Encoded) -> Tensor:
        """(width,) output bias that makes an untrained network draw the right margins."""
        states = self._states(rows)
        shares = [
            np.bincount(states[:, i], minlength=size) / max(1, rows.n) for i, size in enumerate(self.categorical.sizes)
        ]
        parts = [self.categorical.start_bias(shares), torch.zeros(self.gaussian.width)]
        for head, (name, at) in zip(self.block_heads, self.common.items(), strict=True):
            counts = rows.blocks[name][:, at]
            if isinstance(head, CountHead):
                parts.append(head.start_bias(counts))
            else:
                assert isinstance(head, BernoulliHead)
                parts.append(head.start_bias(counts.mean(axis=0)))
        return torch.cat(parts)

    def known_shares(self) -> list[NDArray[np.float64]]:
        """Share of each state of each column as the encoder knows it, no row looked at."""
        shares = []
        for name, number in self.encoder.numbers.items():
            gone = [number.missing_rate] if number.has_missing and name in self.edges else []
            pieces = np.diff(self.edges[name]) if name in self.edges and self.numeric == "binned" else np.ones(1)
            shares.append(np.r_[pieces * (1 - sum(gone)), gone])
        return [*shares, *(c.frequency if c.states else np.ones(1) for c in self.encoder.levels.values())]

    def known_bias(self) -> Tensor:
        """(width,) the same as `start_bias` from what the encoder knows: for trainings whose encoder is private."""
        parts = [self.categorical.start_bias(self.known_shares()), torch.zeros(self.gaussian.width)]
        for head, (name, at) in zip(self.block_heads, self.common.items(), strict=True):
            prevalence = self.encoder.blocks[name].prevalence[at]
            if isinstance(head, CountHead):
                parts.append(head.prevalent_bias(prevalence))
            else:
                assert isinstance(head, BernoulliHead)
                parts.append(head.start_bias(prevalence))
        return torch.cat(parts)

    def correction(self, drawn: Encoded) -> Tensor:
        """(width,) what to add to the outputs' bias so that columns are drawn as often as the encoder knows them.

        One step of iterative proportional fitting, on the logits; outputs of code blocks and numbers stay as they are.
        """
        states, out = self._states(drawn), torch.zeros(self.width)
        parts = zip(self.known_shares(), self.categorical.starts, self.categorical.sizes, strict=True)
        for i, (share, first, size) in enumerate(parts):
            found = np.bincount(states[:, i], minlength=size) / drawn.n
            gap = np.log(share + CALIBRATION_FLOOR) - np.log(found + CALIBRATION_FLOOR)
            out[first : first + size] = torch.as_tensor(np.clip(gap, -0.5, 0.5), dtype=torch.float32)
        return out

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """(batch,) negative log-likelihood of the rows."""
        if self.links is not None and self.width == self.categorical.width:
            return self.links.loss(outputs, batch.columns, self.categorical, batch.rows.states)
        if self.links is not None:
            outputs = outputs + self.links(batch.columns)
        discrete, numeric, *codes = outputs.split(self.widths, dim=1)
        total = self.categorical.loss(discrete, batch.rows.states)
        if self.gaussian.width:
            total = total + self.gaussian.loss(numeric, batch.rows.scores, batch.rows.seen)
        for head, part, counts in zip(self.block_heads, codes, batch.codes, strict=True):
            assert isinstance(head, (BernoulliHead, CountHead))
            total = total + head.loss(part, counts)
        return total

    def draw(
        self,
        outputs: Tensor,
        generator: torch.Generator,
        rng: np.random.Generator,
        known: Encoded | None = None,
    ) -> Encoded:
        """Encoded rows drawn from the likelihoods (never their means); columns in `known` are taken over from it."""
        n, known = len(outputs), known or Encoded(n=len(outputs))
        inside = rng.random((n, len(self.encoder.numbers)))
        if self.links is None:
            drawn = self.categorical.draw(outputs[:, : self.categorical.width], generator).cpu().numpy()
        else:
            drawn, outputs = self._draw_linked(self.links, outputs, inside, generator, known)
        numeric, *codes = outputs.split(self.widths, dim=1)[1:]
        scores = (
            self.gaussian.draw(numeric, generator).cpu().numpy().astype(np.float64) if self.gaussian.width else None
        )
        out = Encoded(n=n)
        for i, name in enumerate(self.encoder.numbers):
            found = self._uniform(i, name, drawn[:, i], inside[:, i], scores)
            out.uniforms[name] = known.uniforms.get(name, found)
        for i, name in enumerate(self.encoder.levels, start=len(self.encoder.numbers)):
            out.states[name] = known.states.get(name, drawn[:, i].astype(np.int64))
        for head, part, (name, places) in zip(self.block_heads, codes, self.common.items(), strict=True):
            block = self.encoder.blocks[name]
            counts = (rng.random((n, len(block.used))) < block.prevalence).astype(np.int16)
            if isinstance(head, CountHead):
                present = head.draw(part, generator, int(block.cap[places].max(initial=1)))
            else:
                assert isinstance(head, BernoulliHead)
                present = head.draw(part, generator)
            counts[:, places] = present.cpu().numpy()
            out.blocks[name] = counts
        return out

    def _draw_linked(
        self,
        links: ColumnLinks,
        outputs: Tensor,
        inside: NDArray[np.float64],
        generator: torch.Generator,
        known: Encoded,
    ) -> tuple[NDArray[np.int64], Tensor]:
        """(n, columns) states drawn one column after the other, and the outputs that then hold for code blocks."""
        n, names = len(outputs), [*self.encoder.numbers, *self.encoder.levels]
        context = outputs.new_zeros(n, self.column_inputs)
        scored = {name: i for i, name in enumerate(self.edges)}
        states = np.zeros((n, len(self.categorical.sizes)), dtype=np.int64)
        chance = torch.rand(n, len(self.categorical.sizes), generator=generator, device=outputs.device)
        for i in links.order:
            first, size = self.categorical.starts[i], self.categorical.sizes[i]
            logits = outputs[:, first : first + size] + links.column(context, i)
            edges = torch.softmax(logits, dim=1).cumsum(dim=1)
            state = (chance[:, i : i + 1] * edges[:, -1:] >= edges).sum(dim=1).clamp_max(size - 1)
            states[:, i] = shown = known.states.get(names[i], state.cpu().numpy())
            if names[i] in scored:
                uniform = self._uniform(i, names[i], states[:, i], inside[:, i], None)
                uniform = known.uniforms.get(names[i], uniform)
                shown = _shown(uniform, self.coarse[names[i]])
                score = torch.as_tensor(np.nan_to_num(self._scaled(names[i], uniform)).astype(np.float32))
                context[:, scored[names[i]]] = score.to(context.device)
            at = self.input_starts[i] + torch.as_tensor(shown, device=context.device)
            context.scatter_(1, at.unsqueeze(1), 1.0)
        if len(self.widths) > 2:
            outputs = outputs + links(context)
        return states, outputs

    def _uniform(
        self,
        i: int,
        name: str,
        states: NDArray[np.integer],
        inside: NDArray[np.float64],
        scores: NDArray[np.float64] | None,
    ) -> NDArray[np.float64]:
        """(n,) uniforms of numeric column `i` for its states (or the drawn normal scores), NaN where missing."""
        if name not in self.edges:
            return np.full(len(states), np.nan)
        edges = self.edges[name]
        if scores is None:
            piece = np.minimum(states, len(edges) - 2)
            uniform = edges[piece] + inside * (edges[piece + 1] - edges[piece])
        else:
            uniform = self._unscaled(name, scores[:, list(self.edges).index(name)], inside)
        if not self.encoder.numbers[name].has_missing:
            return uniform
        return np.where(states == self.categorical.sizes[i] - 1, np.nan, uniform)

    def _scaled(self, name: str, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) numbers as a network sees them, NaN where missing: normal scores."""
        from scipy.special import ndtri

        return np.clip(ndtri(uniform), -LARGEST_SCORE, LARGEST_SCORE)

    def _unscaled(self, name: str, scores: NDArray[np.float64], inside: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) uniforms of numbers as a network draws them; `inside` breaks ties."""
        from scipy.special import ndtr

        return np.clip(ndtr(scores), 0.0, 1.0)

    def _states(self, rows: Encoded) -> NDArray[np.int32]:
        """(n, columns) targets of the categorical head: numeric columns first, then discrete ones."""
        return self._cut(rows, self.edges, self.categorical.sizes)

    def _cut(self, rows: Encoded, edges: Mapping[str, NDArray[np.float64]], sizes: Sequence[int]) -> NDArray[np.int32]:
        """(n, columns) states, numbers cut at `edges` and missing ones last."""
        out = np.zeros((rows.n, len(sizes)), dtype=np.int32)
        for i, name in enumerate(self.encoder.numbers):
            if name in edges:
                out[:, i] = _shown(rows.uniforms[name], edges[name]) if self.numeric == "binned" else 0
                out[np.isnan(rows.uniforms[name]), i] = sizes[i] - 1
        for i, name in enumerate(self.encoder.levels, start=len(self.encoder.numbers)):
            out[:, i] = rows.states[name]
        return out


def piece_of(uniform: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) index of the piece between `edges` in which each uniform lies; -1 where NaN."""
    piece = np.clip(np.searchsorted(edges, uniform, side="right") - 1, 0, len(edges) - 2)
    return np.where(np.isnan(uniform), -1, piece)


def _shown(uniform: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) piece of each row, and the state after the last piece where missing."""
    return np.where(np.isnan(uniform), len(edges) - 1, piece_of(uniform, edges))
