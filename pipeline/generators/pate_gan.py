"""PATE-GAN (Jordon, Yoon and van der Schaar 2019, "PATE-GAN: generating synthetic data with differential privacy guarantees"):
a generator trained against a student that never sees a real row, only drawn rows with the noisy majority labels of teachers.

Each teacher tells its own subjects' rows from drawn ones; the mechanism and its account are in `pipeline/privacy/pate.py`. The
account is of the labels alone, whatever the votes, which buys few of them: that is why the generator begins with the margins
of the private encoder, and why this is a baseline and no more. The foundation is `adversarial/`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.generators.adversarial.conditions import TellNothing
from pipeline.generators.adversarial.generator import AdversarialGenerator
from pipeline.generators.adversarial.loop import LoopSettings, Move, Player, Streams, Training
from pipeline.generators.adversarial.losses import Logistic
from pipeline.generators.adversarial.margins import Margins, counts_of
from pipeline.generators.adversarial.match import Match
from pipeline.generators.adversarial.networks import GeneratorNet
from pipeline.generators.adversarial.numbers import fit_numbers
from pipeline.generators.adversarial.pate_settings import PateGANConfig
from pipeline.generators.adversarial.teachers import Teachers
from pipeline.generators.adversarial.vector import RowBlocks
from pipeline.generators.seeds import stream
from pipeline.generators.tabular import Learned
from pipeline.generators.training import TrainLog, choose_device, repeatable, torch_stream
from pipeline.privacy.pate import AGREEMENT, Ballot, VotePlan, dealt

if TYPE_CHECKING:
    from pipeline.encoding.encoder import Encoded, TableEncoder
    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import Progress
    from pipeline.privacy.run import PrivateRun

FEW_LABELS = 1_000
"""Labels below which a student hardly learns more than margins."""
LEAST_SPREAD = 1e-3
EVEN_SPREAD = 3**-0.5
"""Standard deviation of what is even between -1 and 1."""
LEAST_VARIANCE = 0.01
HELD_OUT, FEWEST_TRIED = 4, 20
"""One labelled row in so many is not learned from, and so many of these are needed to try a student."""
SURE = 2.0
"""Standard errors by which a student has to be better than the mean of its labels."""
FIRST_SCALE = 0.02
"""What is left of the first weights of the head."""


@dataclass
class PateMatch(Match):
    """Student and generator; the match holds no real row, its teachers do.

    Attributes:
        teachers: Vote on rows.
        ballot: Makes labels of their votes.
        held: Coordinates of one-hots and flags.
        shares: How often each is 1, as the encoder knows it.
        seen: (labelled, width) rows and (labelled,) labels of each remembered round.
        done_rounds: Rounds so far.
        asked: Steps of the generator.
        taught: Those in which the student knew something.
    """

    config: PateGANConfig
    teachers: Teachers
    ballot: Ballot
    held: Tensor
    shares: Tensor
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    done_rounds: int = 0
    asked: int = 0
    taught: int = 0

    @property
    def rounds(self) -> int:
        """Rounds in all."""
        return min(self.config.rounds, -(-self.ballot.plan.labels // self.config.round_labels))

    def players(self) -> list[Player]:
        """Student and generator."""
        first, last = super().players()
        first.name, first.move = "student", self.student_move
        return [first, last]

    def student_move(self, done: float) -> Move:
        """A round, if it is time; then a step on rows that were drawn, with the labels of the last rounds."""
        if self.done_rounds < self.rounds and done * self.rounds >= self.done_rounds:
            self.round()
        rows, labels = self.labelled(held=False)
        at = torch.randint(len(rows), (self.size,), generator=self.streams.order).to(self.device)
        return Move(functional.binary_cross_entropy_with_logits(self.critic(rows[at]), labels[at]))

    def round(self) -> None:
        """Train the teachers against the generator as it is, and have rows that it draws labelled."""
        self.done_rounds += 1
        labels = -(-self.ballot.left // (self.rounds - self.done_rounds + 1))
        with torch.no_grad():
            self.teachers.train(self.drawn(self.size * self.config.teacher_steps), self.config.teacher_steps)
            rows = self.drawn(labels)
            found = self.ballot.labels(self.teachers.votes(rows).cpu().numpy())
        labelled = (rows, torch.as_tensor(found, dtype=rows.dtype, device=self.device))
        self.seen = [*self.seen, labelled][-self.config.memory :]

    def labelled(self, *, held: bool) -> tuple[Tensor, Tensor]:
        """Rows and labels of the remembered rounds that the student learns from, or one in `HELD_OUT` that it is tried on."""
        parts = [(rows[::HELD_OUT], labels[::HELD_OUT]) for rows, labels in self.seen] if held else []
        for rows, labels in self.seen if not held else ():
            kept = torch.arange(len(rows), device=rows.device) % HELD_OUT > 0
            # A single labelled row is learned from: there is nothing to try it on.
            parts.append((rows[kept], labels[kept]) if len(rows) > 1 else (rows, labels))
        return torch.cat([rows for rows, _ in parts]), torch.cat([labels for _, labels in parts])

    def knows(self) -> bool:
        """Does the student know labels that it did not learn from, better than their mean does and beyond chance?"""
        (_, learned), (rows, labels) = self.labelled(held=False), self.labelled(held=True)
        self.critic.eval()
        with torch.no_grad():
            mean = learned.mean().clamp(LEAST_SPREAD, 1 - LEAST_SPREAD).logit().expand(len(labels))
            loss = functional.binary_cross_entropy_with_logits
            gain = loss(mean, labels, reduction="none") - loss(self.critic(rows), labels, reduction="none")
        self.critic.train()
        if len(gain) < FEWEST_TRIED:
            return False
        return bool(gain.mean() > SURE * gain.std() / len(gain) ** 0.5)

    def drawn(self, n: int) -> Tensor:
        """(n, width) vectors of rows as the student sees them."""
        parts = torch.zeros(n, 0, device=self.device).split(self.size)
        return torch.cat([self.shown(self.outputs(part)) for part in parts])

    def generator_move(self, done: float) -> Move:
        """Rows that the student shall take for real, with the margins that the encoder knows.

        Only from a student that knows something: from one that has learned the noise of its labels by heart, the generator
        would learn dependence that nobody has.
        """
        drawn = self.drawn(self.size)
        knows = self.knows()
        self.asked, self.taught = self.asked + 1, self.taught + knows
        loss = self.game.generator(self.critic(drawn)) + self.config.hold_margins * self.off(drawn)
        return Move(loss if knows else 0.0 * loss)

    def off(self, drawn: Tensor) -> Tensor:
        """() how far (n, width) rows are from the margins of states and flags that the encoder knows, in squared spreads."""
        spread = self.shares * (1 - self.shares) + LEAST_VARIANCE
        return ((drawn[:, self.held].mean(dim=0) - self.shares).square() / spread).sum() / max(1, len(self.shares))

    def shown(self, outputs: Tensor) -> Tensor:
        """See `Match.shown`; a number that is a spike or missing has no place, as in real rows, and places are evened out.

        They will be in the end, where margins are brought back: no label is to be spent on them.
        """
        vectors, blocks = super().shown(outputs), self.blocks
        if not blocks.placed:
            return vectors
        there = torch.ones_like(vectors[:, : len(blocks.placed)])
        for i, name in enumerate(blocks.placed):
            if name in blocks.columns:
                there[:, i] = vectors[:, blocks.start(name)].detach()
        places = vectors[:, : len(blocks.placed)]
        if self.config.margins and self.config.numbers == "even":
            places = _even(places, there > 0.5)
        return torch.cat([places * there, vectors[:, len(blocks.placed) :]], dim=1)


class PateGAN(AdversarialGenerator):
    """Generator against a student of noisy teachers; conditions by rejection."""

    name = "pate_gan"
    title = "PATE-GAN: a generator against a student of noisy teachers"
    Config = PateGANConfig
    config: PateGANConfig
    private = True
    resumes = False

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
        plan = VotePlan(self.config.teachers_of(cohort.n_subjects), None, self.config.most_labels)
        learned = self._play(encoder, rows, cohort, plan, None, seed=seed, device=device, progress=progress)
        learned.warnings.append(
            "Trained without noise: no promise of privacy is made. PATE-GAN is meant to be asked for an epsilon."
        )
        return learned

    def _learn_private(
        self,
        encoder: TableEncoder,
        rows: Encoded,
        cohort: Cohort,
        *,
        seed: int,
        device: str,
        run: PrivateRun,
        progress: Progress | None,
    ) -> Learned:
        config = self.config
        plan = VotePlan.of(
            config.votes,
            config.teachers_of(run.subjects),
            epsilon=run.own_epsilon,
            delta=run.own_delta,
            most=config.most_labels,
            accuracy=config.label_accuracy,
            scale=None if config.gamma is None else 1 / config.gamma,
        )
        self._say(plan, run)
        return self._play(encoder, rows, cohort, plan, run, seed=seed, device=device, progress=progress)

    def _say(self, plan: VotePlan, run: PrivateRun) -> None:
        """What the budget buys, in words."""
        assert plan.noise is not None
        bought = (
            f"epsilon {run.own_epsilon:.3g} for the labels buys {plan.labels:,} of them from {plan.teachers} teachers, each "
            f"right with a chance of {plan.noise.accuracy(plan.teachers):.0%} where {AGREEMENT:.0%} of the teachers agree"
        )
        if not plan.labels:
            run.warn(
                f"{run.subjects:,} subjects are too few: {bought}. Nothing was learned beyond the margins: all columns are drawn "
                "independently. Ask for a larger epsilon, take more teachers, or use mst."
            )
        elif plan.labels < FEW_LABELS:
            run.warn(
                f"There are few labels: {bought}. Hardly more than margins can be learned from them; consider mst."
            )
        else:
            run.note(f"Labels: {bought}.")

    def _play(
        self,
        encoder: TableEncoder,
        rows: Encoded,
        cohort: Cohort,
        plan: VotePlan,
        run: PrivateRun | None,
        *,
        seed: int,
        device: str,
        progress: Progress | None,
    ) -> Learned:
        place, config = choose_device(device), self.config
        numbers = fit_numbers(encoder, config.numbers, config.pieces)
        self._blocks = RowBlocks(encoder, numbers, forced=config.force_width)
        self._told = self._conditions(encoder)
        subject = np.unique(cohort.subject, return_inverse=True)[1]
        with repeatable(seed):
            blocks = self._blocks.to(place)
            data = blocks.tensors(rows, place, stream(seed, "modes"))
            network = self._generator(blocks, 0).to(place)
            if config.margins:
                _begin(network, blocks)
            held, shares = _known(blocks, place)
            middle = torch.zeros(blocks.width, device=place)
            spread = torch.full_like(middle, EVEN_SPREAD)
            middle[held], spread[held] = shares, (shares * (1 - shares) + LEAST_VARIANCE).sqrt()
            teachers = Teachers(
                blocks,
                data,
                dealt(subject, plan.teachers, stream(seed, "teachers") if run is None else run.rng("teachers")),
                plan.teachers,
                middle=middle,
                spread=spread,
                features=config.teacher_features,
                rows=config.teacher_rows,
                rate=config.teacher_rate,
                decay=config.teacher_decay,
                halves=config.vote == "half",
                public=torch_stream(seed, "teacher features"),
                random=torch_stream(seed, "teacher rows", device=place)
                if run is None
                else run.torch("teacher rows", device=place),
            )
            match = PateMatch(
                blocks=blocks,
                data=data.take(torch.zeros(0, dtype=torch.long, device=place)),
                generator=network,
                critic=self._critic(blocks.width).to(place),
                game=Logistic(),
                teller=TellNothing(encoder, np.zeros(1, dtype=np.int64)),
                streams=Streams.of(seed, place),
                config=config,
                size=config.batch(cohort.n_subjects),
                device=place,
                teachers=teachers,
                ballot=Ballot(plan, run),
                held=held,
                shares=shares,
            )
            players = match.players()
            training = Training(
                players,
                match.streams,
                LoopSettings(
                    steps=config.all_steps(cohort.n_subjects),
                    ema=config.ema,
                    decay=config.decay,
                    patience=config.verdict_steps,
                    recover=config.recovery == "recover",
                ),
                settle=self._settle(seed, place),
            )
            log = training.run(progress) if plan.labels and blocks.width else TrainLog()
            self._network = network.to("cpu").eval()
            self._blocks = blocks.to("cpu")
        self._margins = Margins()
        if config.margins:
            self._bring_back(counts_of(self._blocks, rows) if run is None else {}, seed)
        facts = {"teachers": float(plan.teachers), "labels": float(plan.labels - match.ballot.left)}
        facts["taught_share"] = match.taught / max(1, match.asked)
        if plan.noise is not None:
            facts["label_accuracy"] = plan.noise.accuracy(plan.teachers)
        return Learned(
            parameters=sum(p.numel() for player in players for p in player.network.parameters()),
            losses=log.losses,
            warnings=list(log.warnings),
            facts=facts,
        )


def _begin(network: GeneratorNet, blocks: RowBlocks) -> None:
    """Begin with columns that are independent, with the margins that the encoder knows: the most that labels are not needed for.

    Layers say almost nothing; a number's place is one noise input, which the head sees beside them ("concat").
    """
    network.start(blocks.start_bias(), FIRST_SCALE)
    weight, placed = network.head.weight, len(blocks.placed)
    noise = int(weight.shape[1] - sum(layer.out_features for layer in network.layers if isinstance(layer, nn.Linear)))
    with torch.no_grad():
        # The inputs stand after what all layers say of them.
        weight[:, -noise:] = 0.0
        weight[range(placed), [weight.shape[1] - noise + i % noise for i in range(placed)]] = 1.0


def _known(blocks: RowBlocks, device: torch.device) -> tuple[Tensor, Tensor]:
    """(m,) coordinates of vectors that are 0 or 1, and (m,) how often each is 1, as the encoder knows it."""
    _, states, *codes = blocks.start_bias().split(blocks.head_widths)
    starts = np.cumsum([0, *blocks.widths])
    held, shares = [torch.arange(starts[1], starts[2])], [states.exp()]
    for start, width, logits, counted in zip(starts[2:], blocks.widths[2:], codes, blocks.counted, strict=False):
        if not counted:
            held.append(torch.arange(start, start + width))
            shares.append(logits.sigmoid())
    return torch.cat(held).to(device), torch.cat(shares).to(device)


def _even(places: Tensor, there: Tensor) -> Tensor:
    """(n, k) the ranks of places among those that are there, evenly between -1 and 1, with a gradient in units of theirs."""
    with torch.no_grad():
        rank = places.masked_fill(~there, torch.inf).argsort(dim=0).argsort(dim=0).to(places.dtype)
        even = (2 * rank + 1) / there.sum(dim=0).clamp_min(1) - 1
        pace = EVEN_SPREAD / places.std(dim=0).clamp_min(LEAST_SPREAD)
    return even + pace * (places - places.detach())
