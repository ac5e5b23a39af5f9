"""Rows of a table as vectors of real numbers for a noise process, and the likelihood of a row given a noisy vector.

A vector holds a normal score a number, one coordinate a level (one for two levels), one bit a column with missing cells and
one coordinate a common code. A network's outputs say how likely each endpoint is: pieces of a number's distribution (or a
Gaussian), levels, states of codes; a column's own noisy coordinates are added by Bayes' rule (`Noisy`). Rows are drawn from
these likelihoods, never their means. Networks are in `network.py`, what noise does to a vector in the generators.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.encoding.mixed import MixedTable, TableTensors
from pipeline.generators.denoising.code_states import CodeStates

if TYPE_CHECKING:
    from collections.abc import Sequence

FARTHEST_SCORE = 8.0
SMALLEST_CHANCE = 1e-30
DEFAULT_BINS = 64


@dataclass(frozen=True)
class Noisy:
    """Vectors that noise was added to: x = signal * clean + noise * e with e from N(0, I).

    Attributes:
        x: (batch, width).
        signal: (batch, 1).
        noise: (batch, 1), above 0.
    """

    x: Tensor
    signal: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Groups:
    """Where the kinds of coordinates lie in a vector."""

    numbers: slice
    bits: slice
    levels: slice
    codes: slice


@dataclass(frozen=True)
class _Among:
    """Numbers given their own coordinate, all pieces taken together, and what that says of each piece.

    Attributes:
        middle: (batch, numbers) mean of the normal score.
        width: (batch, 1) its standard deviation.
        edges: (batch, edges) ends of all pieces on that scale.
        chance: (batch, pieces) probability of each piece.
    """

    middle: Tensor
    width: Tensor
    edges: Tensor
    chance: Tensor


class RowVector(nn.Module):
    """Rows to vectors and back.

    Where a `Noisy` is given, `loss`, `mean` and `draw` add to each column's outputs what its own coordinates say: noise of
    different coordinates is independent, so that p(column | x) is proportional to p(column | the other coordinates) times
    p(its own coordinates | column), and the second factor is known exactly (numbers are uniform inside a piece, hence
    normal scores inside it are truncated normals). The outputs then only have to say how columns depend on each other.

    Args:
        encoder: the fitted encoder of the table.
        bins: about how many pieces a number's distribution is cut into ("binned").
        numeric: likelihood of numbers: a categorical over pieces, or a Gaussian on normal scores.

    Attributes:
        width: coordinates of a vector.
        head_width: outputs that the likelihood takes.
        groups: where which coordinates lie.
    """

    def __init__(
        self, encoder: TableEncoder, *, bins: int = DEFAULT_BINS, numeric: Literal["binned", "gaussian"] = "binned"
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.table = MixedTable(
            TableEncoder(encoder.schema, encoder.levels, encoder.numbers, {}), numeric=numeric, bins=bins
        )
        self.common = {k: np.flatnonzero(b.common) for k, b in encoder.blocks.items()}
        self.code_states = nn.ModuleList(
            CodeStates(b.cap[self.common[k]], binary=b.binary) for k, b in encoder.blocks.items()
        )
        self.numeric = numeric
        self.groups = self._place_columns()
        self.column_outputs = self.table.width
        self.output_widths = [self.column_outputs, *(c.width for c in self._codes())]
        self.head_width = sum(self.output_widths)
        self.width = self.groups.codes.stop

    def _codes(self) -> list[CodeStates]:
        return [c for c in self.code_states if isinstance(c, CodeStates)]

    def _place_columns(self) -> Groups:
        """Lay out numbers, bits and levels, and say which coordinate and which piece each categorical output is about."""
        head, scored = self.table.categorical, list(self.table.edges)
        bits = [i for i, (k, c) in enumerate(self.encoder.numbers.items()) if k in scored and c.has_missing]
        self.coordinates: dict[str, list[int]] = {}
        numbers, at = len(scored), len(scored) + len(bits)
        # Outputs without a coordinate of their own look at one that is always 0, the last.
        about, value = np.full(head.width, -1), np.zeros((head.width, 2))
        low: list[int] = []
        edge: list[float] = []
        edge_of: list[int] = []
        mass: list[float] = []
        pieces: list[tuple[int, int]] = []
        missing: list[tuple[int, int]] = []
        for i, name in enumerate(self.encoder.numbers):
            if name not in scored:
                self.coordinates[name] = []
                continue
            first, place = head.starts[i], scored.index(name)
            edges = (
                _scores(self.table.edges[name]) if self.numeric == "binned" else np.array([-1.0, 1.0]) * FARTHEST_SCORE
            )
            pieces += [(first + k, place) for k in range(len(edges) - 1)]
            low += range(len(edge), len(edge) + len(edges) - 1)
            edge, edge_of = [*edge, *edges], edge_of + [place] * len(edges)
            share = np.diff(self.table.edges[name]) if self.numeric == "binned" else np.ones(1)
            mass += list(share)
            value[first : first + len(edges) - 1, 0] = (_density(edges[:-1]) - _density(edges[1:])) / share
            self.coordinates[name] = [place]
            if i in bits:
                bit = numbers + bits.index(i)
                about[first + len(edges) - 1] = bit
                missing.append((first + len(edges) - 1, place))
                self.coordinates[name].append(bit)
        for i, name in enumerate(self.encoder.levels, start=len(self.encoder.numbers)):
            first, size = head.starts[i], head.sizes[i]
            own = [] if size < 2 else [at] if size == 2 else list(range(at, at + size))
            about[first + size - len(own) : first + size] = own
            self.coordinates[name] = own
            at += len(own)
        self.about: Tensor
        self.piece_at: Tensor
        self.piece_of_number: Tensor
        self.edge: Tensor
        self.number_of_edge: Tensor
        self.low_edge: Tensor
        self.log_mass: Tensor
        self.missing_at: Tensor
        self.missing_of_number: Tensor
        self.centre: Tensor
        self.column_of: Tensor
        constants = {
            "about": torch.as_tensor(np.where(about < 0, at, about)),
            "piece_at": torch.tensor([p for p, _ in pieces], dtype=torch.long),
            "piece_of_number": torch.tensor([n for _, n in pieces], dtype=torch.long),
            "edge": torch.tensor(edge, dtype=torch.float32),
            "number_of_edge": torch.tensor(edge_of, dtype=torch.long),
            "low_edge": torch.tensor(low, dtype=torch.long),
            "log_mass": torch.tensor(mass, dtype=torch.float32).log(),
            "missing_at": torch.tensor([p for p, _ in missing], dtype=torch.long),
            "missing_of_number": torch.tensor([n for _, n in missing], dtype=torch.long),
            "column_of": torch.repeat_interleave(
                torch.arange(len(head.sizes)), torch.tensor(head.sizes, dtype=torch.long)
            ),
            "centre": torch.as_tensor(value[:, 0], dtype=torch.float32),
        }
        for name, tensor in constants.items():
            self.register_buffer(name, tensor, persistent=False)
        end = at + sum(c.codes for c in self._codes())
        first = numbers + len(bits)
        return Groups(slice(0, numbers), slice(numbers, first), slice(first, at), slice(at, end))

    def start_bias(self, rows: Encoded) -> Tensor:
        """(head_width,) output bias of an untrained network that draws the right margins; takes the codes' shares over."""
        for codes, (name, places) in zip(self._codes(), self.common.items(), strict=True):
            codes.learn(rows.blocks[name][:, places])
        return torch.cat([self.table.start_bias(rows), torch.zeros(self.head_width - self.column_outputs)])

    def known_bias(self) -> Tensor:
        """(head_width,) the same from what the encoder knows, for trainings whose encoder is private."""
        for codes, (name, places) in zip(self._codes(), self.common.items(), strict=True):
            codes.know(self.encoder.blocks[name].prevalence[places])
        return torch.cat([self.table.known_bias(), torch.zeros(self.head_width - self.column_outputs)])

    def tensors(self, rows: Encoded, device: torch.device | str) -> TableTensors:
        """Encoded rows on the device, as small as they are stored; `take` gives a batch."""
        out = self.table.tensors(rows, device)
        out.blocks = [torch.as_tensor(rows.blocks[k][:, at], device=device) for k, at in self.common.items()]
        return out

    def clean(self, batch: TableTensors) -> Tensor:
        """(batch, width) vectors of rows."""
        groups, n = self.groups, len(batch)
        bits = batch.states[:, self._number_columns(self.missing_of_number)].to(torch.long)
        last = bits == self.missing_at - self._starts(self.missing_of_number)
        x = batch.scores.new_full((n, groups.levels.stop + 1), -1.0)
        x[:, groups.numbers] = batch.scores
        x[:, groups.bits] = 2.0 * last - 1
        levels = len(self.encoder.numbers)
        if self.encoder.levels:
            starts = self.table.categorical.start[levels:]
            x.scatter_(1, self.about[batch.states[:, levels:].to(torch.long) + starts], 1.0)
        parts = [codes.clean(counts) for codes, counts in zip(self._codes(), batch.blocks, strict=True)]
        return torch.cat([x[:, :-1], *parts], dim=1)

    def _number_columns(self, numbers: Tensor) -> Tensor:
        """Columns of the categorical head for places among the numbers that have values."""
        names = list(self.encoder.numbers)
        columns = torch.tensor([names.index(k) for k in self.table.edges], dtype=torch.long, device=numbers.device)
        return columns[numbers]

    def _starts(self, numbers: Tensor) -> Tensor:
        return self.table.categorical.start[self._number_columns(numbers)]

    @torch.no_grad()
    def _word(self, seen: Noisy, among: _Among) -> Tensor:
        """(batch, categorical width) log-likelihood of each state's own coordinates, less what a column's states share."""
        x, signal, noise = seen.x[:, : self.groups.levels.stop], seen.signal, seen.noise
        padded = torch.cat([x, x.new_zeros(len(x), 1)], dim=1)
        # A coordinate of 1 against one of -1: (x + s)^2 - (x - s)^2 = 4 x s, over twice the variance.
        out = (2 * signal / noise**2) * padded[:, self.about]
        if len(self.piece_at):
            total = signal**2 + noise**2
            score = x[:, self.groups.numbers]
            present = -0.5 * score**2 / total - 0.5 * total.log()
            pieces = among.chance.log() - self.log_mass + present[:, self.piece_of_number]
            out = out.index_copy(1, self.piece_at, pieces)
            if len(self.missing_at):
                gone = (-0.5 * score**2 / noise**2 - noise.log())[:, self.missing_of_number]
                out = out.index_add(1, self.missing_at, gone)
        # Words of different columns differ by thousands where there is little noise: each column's largest is 0.
        return out - _largest(out, self.column_of)

    def _among(self, seen: Noisy) -> _Among:
        """What each number's own coordinate says of its pieces."""
        total = seen.signal**2 + seen.noise**2
        middle = seen.signal * seen.x[:, self.groups.numbers] / total
        width = seen.noise / total.sqrt()
        # Neighbouring pieces share an edge: the tail beyond each is computed once.
        edges = (self.edge - middle[:, self.number_of_edge]) / width
        tail = 0.5 * torch.erfc(edges.abs() * math.sqrt(0.5))
        below, above = tail[:, self.low_edge], tail[:, self.low_edge + 1]
        inside = (edges[:, self.low_edge] < 0) & (edges[:, self.low_edge + 1] > 0)
        # Differences of small tails, not of numbers near 1, are exact far from the coordinate.
        chance = torch.where(inside, 1 - below - above, (below - above).abs()).clamp_min(SMALLEST_CHANCE)
        return _Among(middle, width, edges, chance)

    def _inside(self, among: _Among) -> Tensor:
        """(batch, pieces) mean of the normal score in each piece given its own coordinate (a truncated normal's)."""
        density = torch.exp(-0.5 * among.edges**2) / math.sqrt(2 * math.pi)
        slope = density[:, self.low_edge] - density[:, self.low_edge + 1]
        mean = among.middle[:, self.piece_of_number] + among.width * slope / among.chance
        # Far from the coordinate the quotient is lost to rounding; the mean is then at the nearer end.
        return torch.minimum(torch.maximum(mean, self.edge[self.low_edge]), self.edge[self.low_edge + 1])

    def _columns(self, outputs: Tensor, seen: Noisy | None, among: _Among | None = None) -> tuple[Tensor, Tensor]:
        """Logits of the categorical head and centres of the Gaussian one."""
        logits, centres = outputs[:, : self.column_outputs].split(self.table.widths, dim=1)
        if seen is None:
            return logits, centres
        if centres.shape[1]:
            centres = centres + seen.signal * seen.x[:, self.groups.numbers] / (seen.signal**2 + seen.noise**2)
        return logits + self._word(seen, self._among(seen) if among is None else among), centres

    def _log_odds(self, outputs: Tensor, seen: Noisy | None) -> list[Tensor]:
        """(batch, codes, states) a block."""
        out, start = [], self.groups.codes.start
        for codes, part in zip(self._codes(), outputs.split(self.output_widths, dim=1)[1:], strict=True):
            x = None if seen is None else seen.x[:, start : start + codes.codes]
            told = (None, None) if seen is None else (seen.signal, seen.noise)
            out.append(codes.log_odds(part, x, *told))
            start += codes.codes
        return out

    def losses(self, outputs: Tensor, batch: TableTensors, seen: Noisy | None = None) -> tuple[Tensor, Tensor]:
        """(batch,) negative log-likelihoods of the columns and of the codes of some rows."""
        logits, centres = self._columns(outputs, seen)
        columns = logits.new_zeros(len(logits))
        if logits.shape[1]:
            columns = self.table.categorical.loss(logits, batch.states)
        if centres.shape[1]:
            columns = columns + self.table.gaussian.loss(centres, batch.scores, batch.seen)
        blocks = columns.new_zeros(len(columns))
        for codes, odds, counts in zip(self._codes(), self._log_odds(outputs, seen), batch.blocks, strict=True):
            blocks = blocks + codes.loss(odds, counts)
        return columns, blocks

    def loss(self, outputs: Tensor, batch: TableTensors, seen: Noisy | None = None) -> Tensor:
        """(batch,) negative log-likelihood of rows."""
        columns, blocks = self.losses(outputs, batch, seen)
        return columns + blocks

    def mean(self, outputs: Tensor, seen: Noisy | None = None) -> Tensor:
        """(batch, width) the endpoint's expectation on the scale of `clean`."""
        among = None if seen is None else self._among(seen)
        logits, centres = self._columns(outputs, seen, among)
        head, levels = self.table.categorical, self.groups.levels.stop
        chance = _softmax(logits, self.column_of, head.member)
        x = chance.new_zeros(len(chance), levels + 1).index_add(1, self.about, chance)
        x = 2 * x[:, :levels] - 1
        weighted = chance.index_select(1, self.piece_at)
        if centres.shape[1]:
            numbers = weighted * centres
        else:
            numbers = chance.new_zeros(len(chance), self.groups.numbers.stop)
            inside = self.centre[self.piece_at] if among is None else self._inside(among)
            numbers = numbers.index_add(1, self.piece_of_number, weighted * inside)
        parts = [codes.mean(odds) for codes, odds in zip(self._codes(), self._log_odds(outputs, seen), strict=True)]
        return torch.cat([numbers, x[:, self.groups.numbers.stop :], *parts], dim=1)

    def draw(
        self,
        outputs: Tensor,
        generator: torch.Generator,
        rng: np.random.Generator,
        seen: Noisy | None = None,
        known: Encoded | None = None,
    ) -> Encoded:
        """Encoded rows drawn from the likelihoods; codes too rare to model by themselves, columns in `known` taken over."""
        logits, centres = self._columns(outputs, seen)
        out = self.table.draw(torch.cat([logits, centres], dim=1), generator, rng, known)
        blocks = zip(self._codes(), self._log_odds(outputs, seen), self.common.items(), strict=True)
        for codes, odds, (name, places) in blocks:
            block = self.encoder.blocks[name]
            counts = (rng.random((out.n, len(block.used))) < block.prevalence).astype(np.int16)
            counts[:, places] = codes.draw(odds, generator, rng)
            out.blocks[name] = counts
        return out

    def read_numbers(self, x: Tensor, drawn: Encoded, known: Encoded) -> Encoded:
        """`drawn` with its numbers read off (batch, width) vectors that have hardly any noise left."""
        from scipy.special import ndtr

        for place, name in enumerate(self.table.edges):
            if name not in known.uniforms:
                read = ndtr(x[:, place].cpu().numpy().astype(np.float64))
                drawn.uniforms[name] = np.where(np.isnan(drawn.uniforms[name]), np.nan, np.clip(read, 0, 1))
        return drawn

    def free_scales(self) -> list[Tensor]:
        """Parameters that are no weights."""
        return list(self.parameters())

    def known_part(self, known: Encoded, columns: Sequence[str], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Vectors of rows of which some columns are known, and (width,) which coordinates these are.

        Args:
            known: states and uniforms of those columns.
            columns: their names.
            device: where to.
        """
        n = known.n
        whole = Encoded(
            n=n,
            states={k: known.states.get(k, np.zeros(n, dtype=np.int64)) for k in self.encoder.levels},
            uniforms={k: known.uniforms.get(k, np.full(n, 0.5)) for k in self.encoder.numbers},
            blocks={k: np.zeros((n, len(b.used)), dtype=np.int16) for k, b in self.encoder.blocks.items()},
        )
        mask = torch.zeros(self.width, dtype=torch.bool, device=device)
        mask[[c for name in columns for c in self.coordinates[name]]] = True
        return self.clean(self.tensors(whole, device)), mask


def _scores(probability: np.ndarray) -> np.ndarray:
    from scipy.special import ndtri

    return np.clip(ndtri(probability), -FARTHEST_SCORE, FARTHEST_SCORE)


def _density(score: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * score**2) / math.sqrt(2 * math.pi)


def _largest(logits: Tensor, column: Tensor) -> Tensor:
    """(batch, width) the largest of each output's column."""
    most = logits.new_full((len(logits), int(column.max()) + 1 if len(column) else 0), -torch.inf)
    return most.scatter_reduce(1, column.expand_as(logits), logits, "amax")[:, column]


def _softmax(logits: Tensor, column: Tensor, member: Tensor) -> Tensor:
    """(batch, width) probabilities of many softmaxes side by side, of unequal widths."""
    weight = (logits - _largest(logits, column)).exp()
    return weight / (weight @ member)[:, column]
