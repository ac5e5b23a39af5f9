"""medGAN, medBGAN, medWGAN: the autoencoder and its decoder, critics that see a batch's mean, losses, tables of many kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from generator_tables import code_cohort, mixed_cohort
from scipy.sparse import csr_matrix
from torch.nn import functional

from pipeline.encoding.encoder import EncodingSettings, TableEncoder
from pipeline.errors import UnsupportedError
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import CodeBlock, TableSchema
from pipeline.generators.adversarial.latent import Encoder, LatentNet, MeanCritic, reconstruction, rounded_counts
from pipeline.generators.adversarial.losses import Boundary, Logistic, Wasserstein, game
from pipeline.generators.adversarial.match import Match
from pipeline.generators.adversarial.vector import RowBlocks
from pipeline.generators.base import load_generator
from pipeline.generators.medgan import MedBGAN, MedGAN, MedMatch, MedWGAN
from pipeline.privacy.spec import PrivacySpec

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.generators.adversarial.loop import Move

CPU = torch.device("cpu")
SHORT = {"preset": "quick", "steps": 40, "batch_size": 128, "autoencoder_steps": 40, "autoencoder_epochs": 1}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def codes_alone(n: int = 600, codes: int = 30, kind: str = "binary") -> Cohort:
    """A block of codes that hang on one lean, and nothing else."""
    rng = np.random.default_rng(0)
    lean = rng.standard_normal(n)[:, None]
    rate = np.exp(np.linspace(-0.5, -2.5, codes) + lean * np.where(np.arange(codes) % 2, 1.0, -1.0))
    counts = rng.poisson(rate)
    counts = np.minimum(counts, 1) if kind == "binary" else counts
    block = CodeBlock(name="dx", kind=kind, vocabulary=[f"D{i:04d}" for i in range(codes)])
    return assemble(TableSchema(columns=[], blocks=[block]), {}, blocks={"dx": csr_matrix(counts.astype(float))})


# ---- losses and critics


def test_each_has_its_loss() -> None:
    scores = torch.tensor([1.0, -3.0])
    kinds = {MedGAN: Logistic, MedBGAN: Boundary, MedWGAN: Wasserstein}
    for kind, loss in kinds.items():
        for preset in ("default", "paper", "quick"):
            config = kind({"preset": preset}).config
            found = game(config.loss, config.penalty)
            assert type(found) is loss
            if loss is Boundary:
                torch.testing.assert_close(found.generator(scores), 0.5 * (scores**2).mean())
    assert MedWGAN({"preset": "paper"}).config.penalty == 10
    assert MedGAN({"preset": "paper"}).config.penalty == 0


def test_critics_see_the_mean_of_a_batch_of_one_kind() -> None:
    torch.manual_seed(0)
    critic = MeanCritic(4, (8, 6))
    real, drawn = torch.randn(2, 10, 4, generator=generator())
    first, second = critic.layers
    assert isinstance(first, torch.nn.Linear)
    assert isinstance(critic.of_mean, torch.nn.Linear)
    both = torch.cat([first.weight, critic.of_mean.weight], dim=1)
    beside = torch.cat([real, real.mean(dim=0).expand(10, 4)], dim=1)
    hidden = functional.relu(beside @ both.T + first.bias)
    wanted = critic.last(functional.relu(second(hidden)))[:, 0]
    torch.testing.assert_close(critic(real), wanted)
    on_real, on_drawn, _ = critic.apart(real, drawn, generator())
    torch.testing.assert_close(on_real, wanted)
    torch.testing.assert_close(on_drawn, critic(drawn))
    # The same row in another batch is judged otherwise.
    assert not torch.allclose(critic(torch.cat([real[:1], drawn[1:]]))[0], on_real[0])


def test_penalties_are_on_the_gradient_to_the_row_alone() -> None:
    """Exact where the critic is linear: all units on, so that the gradient is a product of two weights."""
    torch.manual_seed(0)
    critic = MeanCritic(3, (5,))
    first = critic.layers[0]
    assert isinstance(first, torch.nn.Linear)
    with torch.no_grad():
        first.bias.fill_(100.0)
    real, drawn = torch.randn(2, 8, 3, generator=generator())
    norm = (critic.last.weight @ first.weight).norm()
    judged = Wasserstein(10.0).critic(critic, real, drawn, generator())
    torch.testing.assert_close(judged.loss, critic(drawn).mean() - critic(real).mean() + 10 * (norm - 1) ** 2)
    gradient = critic.with_gradient(real)[1]
    torch.testing.assert_close(gradient.norm(dim=1), norm.expand(8))


def test_counts_are_judged_as_counts_where_they_are_rounded() -> None:
    critic = MeanCritic(3, (5,), mean=False, counted=torch.tensor([False, True, True]))
    counts = torch.tensor([[0.5, 0.0, 7.0]])
    shown = torch.tensor([[0.5, 0.0, 3.0]])
    torch.testing.assert_close(critic.packs(shown), counts)


# ---- the autoencoder and the game


def test_the_autoencoder_says_what_rows_are() -> None:
    cohort = codes_alone(800)
    still = {"steps": 1, "learning_rate": 1e-9, "margins": False, "ema": 0.0}
    model = MedGAN({**SHORT, **still, "latents": 64, "autoencoder_steps": 500})
    kept: list[tuple[MedMatch, Encoder]] = []
    made = MedMatch.reconstructed

    def watched(match: MedMatch, encoder: Encoder, rows: torch.Tensor) -> torch.Tensor:
        kept[:] = [(match, encoder)]
        return made(match, encoder, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MedMatch, "reconstructed", watched)
        model.fit(cohort, seed=0, device="cpu")
    match, encoder = kept[0]
    vectors = match.blocks.real(match.data)
    with torch.no_grad():
        back = match.blocks.activate(encoder(vectors), None)
    wrong = ((back > 0.5) != (vectors > 0.5)).float().mean()
    assert wrong < 0.2 * vectors.mean()
    assert encoder.decoder is match.generator.head


def test_what_an_autoencoder_loses() -> None:
    cohort = code_cohort(300)
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    rows = encoder.encode(cohort, np.random.default_rng(0))
    blocks = RowBlocks(encoder, {})
    vectors = blocks.real(blocks.tensors(rows, CPU, np.random.default_rng(1)))[:3]
    outputs = torch.randn(3, blocks.head_width, generator=generator())
    states, present, amount_part = (vectors[:, :2], blocks.widths[2], blocks.widths[3])
    assert blocks.widths[:2] == [0, 2]
    has, counts = vectors[:, 2 : 2 + present], torch.exp2(vectors[:, 2 + present :]) - 1
    wanted = -(states * outputs[:, :2].log_softmax(dim=1)).sum(dim=1)
    own = outputs[:, 2 : 2 + present]
    wanted = wanted + functional.binary_cross_entropy_with_logits(own, has, reduction="none").sum(dim=1)
    amount = outputs[:, -amount_part:]
    rounded = wanted + (functional.relu(amount) - counts).square().sum(dim=1)
    torch.testing.assert_close(reconstruction(blocks, vectors, outputs, rounded=True), rounded)
    assert (reconstruction(blocks, vectors, outputs, rounded=False) > wanted).all()
    shown = rounded_counts(blocks, outputs, torch.zeros_like(vectors))
    torch.testing.assert_close(torch.exp2(shown[:, -amount_part:]) - 1, functional.relu(amount))


def test_the_generator_is_as_when_it_draws_while_the_critic_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: dict[str, set[bool]] = {"critic": set(), "generator": set()}

    def noted(move: str, made: object) -> object:
        def call(match: Match, done: float) -> Move:
            modes[move].add(match.generator.training)
            return made(match, done)  # type: ignore[operator]

        return call

    for name in modes:
        monkeypatch.setattr(Match, f"{name}_move", noted(name, getattr(Match, f"{name}_move")))
    MedGAN({**SHORT, "steps": 3}).fit(codes_alone(200), seed=0, device="cpu")
    assert modes == {"critic": {False}, "generator": {True}}


def test_latents_are_residual() -> None:
    torch.manual_seed(0)
    network = LatentNet(4, (4,), 4, 6, squashed="relu").eval()
    x = torch.randn(5, 4, generator=generator())
    hidden = x
    for layer, norm in zip(network.layers, network.norms, strict=True):
        hidden = hidden + functional.relu(norm(layer(hidden)))
    torch.testing.assert_close(network(x), network.head(hidden))


# ---- tables


@pytest.mark.parametrize(("kind", "codes"), [(MedGAN, "count"), (MedBGAN, "binary"), (MedWGAN, "count")])
def test_codes_alone_as_published_and_by_default(kind: type[MedGAN], codes: str, tmp_path: Path) -> None:
    cohort = codes_alone(kind=codes)
    real = cohort.blocks["dx"].toarray()
    for preset in ("quick", "paper"):
        model = kind({**SHORT, "preset": preset, "epochs": 1, "autoencoder_batch": 100})
        report = model.fit(cohort, seed=0, device="cpu")
        model.save(tmp_path / preset)
        drawn = model.sample(500, seed=1)
        again = load_generator(tmp_path / preset).sample(500, seed=1)
        found = drawn.blocks["dx"].toarray()
        assert (found == again.blocks["dx"].toarray()).all()
        assert found.max() <= real.max()
        assert any("rounding" in w for w in report.warnings) == (preset == "paper")
        if preset == "quick":
            assert np.abs((found > 0).mean(axis=0) - (real > 0).mean(axis=0)).max() < 0.1


def test_columns_beside_codes() -> None:
    for cohort in (code_cohort(300), mixed_cohort(300)):
        model = MedWGAN(SHORT)
        model.fit(cohort, seed=0, device="cpu")
        drawn = model.sample(800, seed=1)
        assert drawn.table.schema == cohort.schema.arrow()
        for column in cohort.schema.modelled():
            if column.discrete:
                shares = [np.bincount(c.codes(column.name) + 1, minlength=8) / c.n_rows for c in (drawn, cohort)]
                assert np.abs(shares[0] - shares[1]).max() < 0.1, column.name
        assert set(drawn.blocks) == set(cohort.blocks)


def test_six_thousand_codes_stay_bytes() -> None:
    codes, n = 6_000, 600
    rng = np.random.default_rng(0)
    chance = np.clip(0.3 / np.arange(1, codes + 1) ** 0.4, 0.03, 0.3)
    present = csr_matrix((rng.random((n, codes)) < chance).astype(float))
    block = CodeBlock(name="dx", kind="binary", vocabulary=[f"D{i:04d}" for i in range(codes)])
    cohort = assemble(TableSchema(columns=[], blocks=[block]), {}, blocks={"dx": present})
    kept: list[RowBlocks] = []
    made = MedMatch.reconstructed

    def watched(match: MedMatch, encoder: Encoder, rows: torch.Tensor) -> torch.Tensor:
        assert sum(c.numel() * c.element_size() for c in match.data.codes) <= n * codes
        kept[:] = [match.blocks]
        return made(match, encoder, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MedMatch, "reconstructed", watched)
        short = {
            "steps": 2,
            "autoencoder_steps": 2,
            "latents": 16,
            "hidden": (16,),
            "noise": 16,
            "select": "last",
            "ema": 0.0,
        }
        model = MedGAN({**SHORT, **short})
        model.fit(cohort, seed=0, device="cpu")
    assert kept[0].width > 5_000
    assert model._chunk() * kept[0].head_width <= 8_000_000
    drawn = model.sample(300, seed=0).blocks["dx"]
    assert drawn.shape == (300, codes)
    assert abs(drawn.mean() / present.mean() - 1) < 0.1


def test_privacy_is_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedError, match="gradient of a gradient"):
        MedWGAN(SHORT).fit(codes_alone(100), seed=0, device="cpu", privacy=PrivacySpec(epsilon=1.0, delta=1e-5))
