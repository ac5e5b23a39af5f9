"""What all adversarial generators of plain rows share: put a match together, play it, bring margins back, draw, save, load.

A subclass says what is its own by overriding `_networks`, `_teller` and `_match`, and by its settings; most say less. The map
of the family is in `__init__.py`.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.generators.adversarial.conditions import UNTOLD, ConditionVector, Teller, TellNothing, TellOne, tell_one
from pipeline.generators.adversarial.fidelity import Fidelity
from pipeline.generators.adversarial.health import collapsed
from pipeline.generators.adversarial.loop import Look, LoopSettings, Streams, Training
from pipeline.generators.adversarial.losses import game
from pipeline.generators.adversarial.margins import Margins, counts_of, shift
from pipeline.generators.adversarial.match import Match
from pipeline.generators.adversarial.networks import Critic, GeneratorNet, LeakyCritic, refreshed
from pipeline.generators.adversarial.numbers import fit_numbers, number_arrays, restore_numbers
from pipeline.generators.adversarial.settings import AdversarialConfig
from pipeline.generators.adversarial.vector import RowBlocks, RowTensors
from pipeline.generators.precision import factors_in_bfloat16
from pipeline.generators.rejection import draw_matching
from pipeline.generators.seeds import stream
from pipeline.generators.tabular import Learned, TabularGenerator
from pipeline.generators.training import TrainLog, choose_device, repeatable, torch_stream, tuning_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import Progress
    from pipeline.generators.conditions import Fixed

CHUNK = 8_192
CHUNK_CELLS = 8_000_000
"""Outputs that are held at once while drawing."""
LOOKED_AT = 4_096
LOOK_ROUNDS = 3
FEWEST_TUNED = 50
"""Tuning rows below which a look says nothing."""
MARGIN_ROWS = 16_384
SETTLE_BATCHES = 50
START_SCALE = 0.5
"""What is left of the first weights of the head where a generator begins with the right margins."""


class AdversarialGenerator(TabularGenerator):
    """A generator network that a critic could not tell from the data; base of the family."""

    Config = AdversarialConfig
    config: AdversarialConfig
    uses_gpu = True
    kinds = ("torch", "scikitlearn")
    resumes = True
    not_private: ClassVar[str] = "Its critic is trained on real rows without noise."
    _blocks: RowBlocks
    _network: GeneratorNet
    _told: ConditionVector
    _margins: Margins

    # ---- what a generator of the family says

    def _conditions(self, encoder: TableEncoder) -> ConditionVector:
        """The columns that may be told; none by default."""
        return ConditionVector(encoder, [])

    def _teller(self, states: NDArray[np.int64], rows: NDArray[np.integer]) -> Teller:
        """What is told of which training rows, for (n, conditions) states; one column a row by default."""
        if not self._told.columns:
            return TellNothing(self._told.encoder, rows)
        return TellOne(self._told, states, rows, self.config.frequencies)

    def _generator(self, blocks: RowBlocks, conditions: int) -> GeneratorNet:
        """The untrained generator."""
        config = self.config
        return GeneratorNet(config.noise + conditions, config.hidden, blocks.head_width)

    def _critic(self, width: int) -> Critic:
        """The untrained critic of vectors so wide."""
        config = self.config
        return LeakyCritic(width, config.critic_hidden, pac=config.pac, dropout=config.dropout)

    def _match(self, match: Match) -> Match:
        """The match that is played; another class of match is made from this one."""
        return match

    def draws_given(self, columns: Collection[str]) -> bool:
        """See `Generator.draws_given`: one of the columns that are told in training."""
        return len(columns) == 1 and set(columns) <= set(self._told.columns)

    # ---- learning

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
        place, config = choose_device(device), self.config
        tune = tuning_rows(cohort) if config.select == "probe" else np.zeros(rows.n, dtype=bool)
        tune = tune if tune.sum() >= FEWEST_TUNED else np.zeros(rows.n, dtype=bool)
        fit_rows = np.flatnonzero(~tune)
        numbers = fit_numbers(encoder, config.numbers, config.pieces, rows, seed)
        self._blocks = RowBlocks(encoder, numbers, forced=config.force_width)
        self._told = self._conditions(encoder)
        with repeatable(seed):
            blocks = self._blocks.to(place)
            data = blocks.tensors(rows, place, stream(seed, "modes"))
            teller = self._teller(self._told.states(rows), fit_rows)
            network = self._generator(blocks, self._told.width).to(place)
            if config.margins:
                network.start(blocks.start_bias(), START_SCALE)
            match = self._match(
                Match(
                    blocks=blocks,
                    data=data,
                    generator=network,
                    critic=self._critic(blocks.width + self._told.width).to(place),
                    game=game(config.loss, config.penalty),
                    teller=teller,
                    streams=Streams.of(seed, place),
                    config=config,
                    size=config.batch(len(fit_rows)),
                    device=place,
                )
            )
            players = match.players()
            training = Training(
                players,
                match.streams,
                LoopSettings(
                    steps=config.all_steps(len(fit_rows)),
                    ema=config.ema,
                    decay=config.decay,
                    patience=config.verdict_steps,
                    recover=config.recovery == "recover",
                ),
                look=self._look(blocks, data, tune, seed, place) if tune.any() and blocks.width else None,
                settle=self._settle(seed, place),
                facts=(str(rows.n), *map(str, fit_rows[:: max(1, len(fit_rows) // 1000)])),
            )
            quick = place.type == "cpu" and config.bfloat16_products
            with factors_in_bfloat16() if quick else nullcontext():
                # A table whose columns all have one state, or no value at all, has nothing to be judged.
                log = training.run(progress, self._checkpoint) if blocks.width else TrainLog()
            self._network = network.to("cpu").eval()
            self._blocks = blocks.to("cpu")
        self._margins = Margins()
        if config.margins:
            self._bring_back(counts_of(self._blocks, rows), seed)
        parameters = sum(p.numel() for player in players for p in player.network.parameters())
        return Learned(
            parameters=parameters,
            losses=log.losses,
            warnings=list(log.warnings),
            facts={
                "chosen_step": float(log.best_epoch),
                **{f"verdict_{k.replace(' ', '_')}": float(v) for k, v in training.watch.verdicts.items()},
            },
        )

    def _settle(self, seed: int, place: torch.device) -> Callable[[nn.Module], None]:
        """Takes the statistics of normalised layers of averaged weights, with the same inputs every time."""

        def settle(network: nn.Module) -> None:
            assert isinstance(network, GeneratorNet)
            if self.config.ema:
                noise, rng = torch_stream(seed, "settle", device=place), stream(seed, "settle")
                size = self.config.batch_size
                refreshed(network, [self._inputs(self._tell(size, rng), noise, place) for _ in range(SETTLE_BATCHES)])

        return settle

    def _look(
        self, blocks: RowBlocks, data: RowTensors, tune: NDArray[np.bool_], seed: int, place: torch.device
    ) -> Callable[[nn.Module], Look]:
        """Holds rows of a network against tuning rows, with the same noise every time."""
        at = torch.as_tensor(np.flatnonzero(tune)[:LOOKED_AT], device=place)
        real = blocks.real(data.take(at))
        fidelity = Fidelity(real)

        def look(network: nn.Module) -> Look:
            noise, rng = torch_stream(seed, "look", device=place), stream(seed, "look")
            told = self._tell(LOOKED_AT, rng)
            with torch.no_grad():
                outputs = network(self._inputs(told, noise, place))
                if self.config.margins:
                    # Margins are brought back in the end: what is judged is what is left.
                    outputs = outputs + shift(blocks, outputs, rounds=LOOK_ROUNDS)
                drawn = self._activated(blocks, outputs, noise)
            return Look(fidelity(drawn), collapsed(real, drawn))

        return look

    def _bring_back(self, counts: Mapping[str, NDArray[np.float64]], seed: int) -> None:
        """Set the head's bias and the maps of numbers and counts, from what the generator draws.

        Args:
            counts: quantiles of the counts of counted blocks (`counts_of`), where they are known.
            seed: of what is drawn for it.
        """
        noise, rng = torch_stream(seed, "margins"), stream(seed, "margins")
        told = self._tell(max(256, min(MARGIN_ROWS, 2 * self._chunk())), rng)
        with repeatable(0), torch.no_grad():
            outputs = self._network(self._inputs(told, noise, torch.device("cpu")))
            places = [self._blocks.columns.index(k) for k in self._told.columns]
            free = torch.ones(len(told), len(self._blocks.columns))
            free[:, places] = (told == UNTOLD).float()
            change = shift(self._blocks, outputs, free)
            self._network.head.bias.add_(change)
            vectors = self._activated(self._blocks, outputs + change, noise)
        drawn = self._blocks.read(vectors, rng)
        self._margins = Margins.fit(self._blocks, vectors, drawn, counts)

    # ---- drawing

    def _tell(self, n: int, rng: np.random.Generator) -> Tensor:
        """(n, conditions) states that are told of rows to be drawn, where a caller fixes nothing."""
        return tell_one(self._told, n, rng)

    def _tell_fixed(self, fixed: Fixed, n: int, rng: np.random.Generator) -> Tensor:
        """(n, conditions) states that are told where a caller fixes some: one of them a row, as in training."""
        asked = torch.as_tensor(self._told.fixed(fixed, n))
        known = asked != UNTOLD
        chance = torch.as_tensor(rng.random(asked.shape)).masked_fill(~known, -1.0)
        chosen = torch.zeros_like(known).scatter_(1, chance.argmax(dim=1, keepdim=True), value=True) & known
        return torch.where(known.any(dim=1, keepdim=True), torch.where(chosen, asked, UNTOLD), self._tell(n, rng))

    def _inputs(self, told: Tensor, noise: torch.Generator, place: torch.device) -> Tensor:
        """(n, inputs) of the generator network."""
        z = torch.randn(len(told), self.config.noise, generator=noise, device=place)
        return torch.cat([z, self._told.vector(told.to(place))], dim=1)

    def _chunk(self) -> int:
        return max(256, min(CHUNK, CHUNK_CELLS // max(1, self._blocks.head_width)))

    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        if not fixed:
            return self._rows(self._tell(n, rng), noise, rng)
        owner = lambda size: np.arange(size) % n  # noqa: E731
        return draw_matching(
            lambda size: self._rows(self._told_for(fixed.take(owner(size)), size, rng), noise, rng), encoder, n, fixed
        )

    def _told_for(self, fixed: Fixed, n: int, rng: np.random.Generator) -> Tensor:
        return self._tell_fixed(fixed, n, rng) if self._told.columns else self._tell(n, rng)

    def _activated(self, blocks: RowBlocks, outputs: Tensor, noise: torch.Generator) -> Tensor:
        """(n, width) vectors of rows to be read."""
        if self.config.drawing == "likeliest":
            return blocks.activate(outputs, None, tau=1.0)
        return blocks.activate(outputs, noise, hard=True)

    def _rows(self, told: Tensor, noise: torch.Generator, rng: np.random.Generator) -> Encoded:
        """Rows drawn under what is told; a told level is taken over."""
        # One thread, so that the bytes do not depend on how many cores there are.
        with repeatable(0), torch.inference_mode():
            parts = [self._part(part, noise, rng) for part in told.split(self._chunk())]
        return Encoded.concatenate(parts)

    def _part(self, told: Tensor, noise: torch.Generator, rng: np.random.Generator) -> Encoded:
        outputs = self._network(self._inputs(told, noise, torch.device("cpu")))
        vectors = self._activated(self._blocks, outputs, noise)
        rows = self._blocks.read(vectors, rng, self._margins.amounts)
        self._margins.apply(self._blocks, rows)
        for i, name in enumerate(self._told.columns):
            # What is told of a number is one of its states, which says less than the number.
            if name in rows.states:
                state = told[:, i].numpy()
                rows.states[name] = np.where(state == UNTOLD, rows.states[name], state)
        return rows

    # ---- what is saved

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        arrays = {f"network/{k}": v.numpy() for k, v in self._network.state_dict().items()}
        arrays |= number_arrays(self._blocks.numbers) | self._margins.arrays()
        return arrays, {"margins": self._margins.names()}

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        config = self.config
        numbers = restore_numbers(encoder, config.numbers, config.pieces, tensors)
        self._blocks = RowBlocks(encoder, numbers, forced=True)
        self._told = self._conditions(encoder)
        with repeatable(0):
            self._network = self._generator(self._blocks, self._told.width)
        weights = {k.removeprefix("network/"): v for k, v in tensors.items() if k.startswith("network/")}
        self._network.load_state_dict({k: torch.as_tensor(np.array(v)) for k, v in weights.items()})
        self._network.eval()
        self._margins = Margins.restore(tensors, extra["margins"])
