"""TabDiff, light: its noise, its sampler on exact denoisers, columns that are given, and the generator around them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from generator_tables import mixed_cohort, stay_cohort
from scipy.sparse import csr_matrix
from scipy.stats import kstest

from pipeline.encoding.encoder import Encoded, EncodingSettings, TableEncoder
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import CodeBlock, TableSchema
from pipeline.generators.denoising.joint_noise import EARLY, JointNoise, reveal
from pipeline.generators.denoising.known_states import KnownStates
from pipeline.generators.denoising.split_rows import SplitRows
from pipeline.generators.denoising.state_groups import StateGroups
from pipeline.generators.tabdiff_lite import TabDiffConfig, TabDiffLite, Unmasker

FAST = {"preset": "quick", "steps": 400, "batch_size": 256, "sampling_steps": 40}
TINY = {"preset": "quick", "steps": 1, "width": 16, "blocks": 1, "sampling_steps": 2}
JOINT = torch.tensor([[0.5, 0.1], [0.05, 0.35]])
"""Of two binary columns."""
_fits: dict[str, TabDiffLite] = {}


def test_noise_levels_and_shares_are_those_of_the_paper() -> None:
    noise = JointNoise()
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    np.testing.assert_allclose(noise.level(ends), [0.002, 80.0])
    masked = noise.hidden(ends[:, None], torch.tensor([False, True]))
    np.testing.assert_allclose(masked, [[1e-5, 0], [1 - 1e-3, 1 - 1e-3 / (1 - EARLY)]], rtol=1e-6)
    times = torch.linspace(0, 1, 7, dtype=torch.float64)
    assert abs(noise.level(torch.tensor(EARLY)) - 5) < 0.1
    np.testing.assert_allclose(noise.time_of(noise.level(times)), times, atol=1e-12)


def known_of(n: int, given: torch.Tensor | None = None) -> KnownStates:
    """Nothing known of two numbers and two columns, or the first of both."""
    none, some = torch.empty(0), torch.tensor([given is not None, False])
    if given is None:
        return KnownStates(Encoded(n=n), none, none, some, some)
    scores = torch.stack([given, torch.full_like(given, torch.nan)], dim=1)
    states = torch.stack([(given > 0).long(), torch.zeros(n, dtype=torch.long)], dim=1)
    return KnownStates(Encoded(n=n), scores, states, some, some)


def drawn_from_exact(known: KnownStates, churn: float, *, early: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of two correlated normal numbers and two dependent columns, whose expectations are told exactly."""
    schedule, covariance = JointNoise(), torch.tensor([[1.0, 0.7], [0.7, 1.0]], dtype=torch.float64)

    def denoiser(
        x: torch.Tensor, states: torch.Tensor, hidden: torch.Tensor, time: float
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        level = float(schedule.level(torch.tensor(time, dtype=torch.float64)))
        own = torch.tensor([1e-12 if k else level**2 for k in known.numbers.tolist()], dtype=torch.float64)
        clean = x.double() @ torch.linalg.solve(covariance + own.diag(), covariance)
        tables = []
        for column, table in enumerate((JOINT, JOINT.T)):
            other = 1 - column
            told = torch.where(hidden[:, other], table.sum(dim=1, keepdim=True), table[:, states[:, other]])
            tables.append(told / told.sum(dim=0))
        return clean.float(), [torch.stack(tables, dim=2)]

    return reveal(
        denoiser,
        schedule,
        StateGroups([2, 2]),
        known,
        torch.Generator().manual_seed(5),
        numbers=2,
        early=torch.tensor([early, False]),
        steps=60,
        churn=churn,
    )


@pytest.mark.parametrize(("churn", "early"), [(0.0, False), (1.0, False), (1.0, True)])
def test_exact_denoisers_give_back_the_joint_distribution(churn: float, early: bool) -> None:
    x, states = drawn_from_exact(known_of(8000), churn, early=early)
    np.testing.assert_allclose(np.cov(x.numpy().T), [[1, 0.7], [0.7, 1]], atol=0.06)
    for k in range(2):
        assert kstest(x[:, k].numpy(), "norm").statistic < 0.03
    # Both columns may be revealed in one step, as if they did not depend on each other: one pair in sixty.
    np.testing.assert_allclose(np.histogram2d(*states.numpy().T, bins=2)[0] / 8000, JOINT, atol=0.03)


def test_what_is_given_stands_from_the_start_and_the_rest_follows_it() -> None:
    given = torch.linspace(-2, 2, 8000)
    x, states = drawn_from_exact(known_of(8000, given), 1.0)
    assert x[:, 0].equal(given)
    assert states[:, 0].equal((given > 0).long())
    rest = x[:, 1] - 0.7 * given
    np.testing.assert_allclose([rest.mean(), rest.std()], [0, (1 - 0.49) ** 0.5], atol=0.04)
    for k in range(2):
        np.testing.assert_allclose(states[states[:, 0] == k, 1].float().mean(), JOINT[k, 1] / JOINT[k].sum(), atol=0.03)


def model_of(cohort: Cohort, **settings: object) -> tuple[SplitRows, Unmasker, Encoded]:
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    split, rows = SplitRows(encoder, spike_share=0.1), encoder.encode(cohort, np.random.default_rng(0))
    split.learn(rows)
    model = Unmasker(split, TabDiffConfig.build({**TINY, **settings}))
    model.start(split)
    return split, model, rows


def test_a_number_and_what_it_is_are_given_together_and_in_some_rows_only() -> None:
    split, model, _ = model_of(mixed_cohort(300))
    states = torch.zeros(4000, len(split.sizes), dtype=torch.long)
    numbers, columns = model._given(states, torch.Generator().manual_seed(0))
    for name in ("glucose", "cost"):
        assert numbers[:, split.numbers.index(name)].equal(columns[:, split.names.index(name)])
    touched = (numbers.any(dim=1) | columns.any(dim=1)).float().mean()
    assert 0.2 < touched < 0.3, "three rows in ten, less those of which no column was chosen"


def test_untrained_the_loss_of_states_is_the_entropy_of_the_margins() -> None:
    """The cross-entropy of masked columns, weighted by 1 / (1 - alpha), is the negative log-likelihood in expectation."""
    cohort = mixed_cohort(1500)
    split, model, rows = model_of(cohort, given_rows=0.0, fade_numbers=True)
    data, noise = split.tensors(rows, "cpu"), torch.Generator().manual_seed(0)
    with torch.no_grad():
        losses = [
            model.losses(*split.batch(data, torch.arange(rows.n), noise), noise, done=1.0).mean() for _ in range(20)
        ]
    shares = [s[s > 0] for s in split.shares()]
    entropy = np.mean([-(s * np.log(s)).sum() for s in shares])
    assert abs(np.mean(losses) - entropy) < 0.1 * entropy


def stays() -> TabDiffLite:
    """One model of the stays, trained once for all tests."""
    if "stays" not in _fits:
        _fits["stays"] = TabDiffLite(FAST)
        _fits["stays"].fit(stay_cohort(), seed=1, device="cpu")
    return _fits["stays"]


def ranks(cohort: Cohort) -> float:
    a, b = cohort.values("length"), cohort.values("bilirubin")
    seen = ~np.isnan(b)
    return float(np.corrcoef(a[seen].argsort().argsort(), b[seen].argsort().argsort())[0, 1])


def test_columns_depend_on_each_other_as_in_training() -> None:
    real, drawn = stay_cohort(), stays().sample(3000, seed=2)
    assert abs(ranks(drawn) - ranks(real)) < 0.12
    for cohort in (real, drawn):
        long = cohort.values("length") > np.median(cohort.values("length"))
        assert (cohort.codes("ward")[long] == 2).mean() > 1.5 * (cohort.codes("ward")[~long] == 2).mean()


def test_other_columns_follow_fixed_ones() -> None:
    long = stays().sample(300, seed=3, conditions={"length": 8.0, "ward": "surgical"})
    short = stays().sample(300, seed=3, conditions={"length": 1.0, "ward": "icu"})
    assert set(long.values("length")) == {8.0}
    assert set(short.table.column("ward").to_pylist()) == {"icu"}
    assert np.nanmedian(long.values("bilirubin")) > 1.5 * np.nanmedian(short.values("bilirubin"))
    gone = stays().sample(50, seed=3, conditions={"bilirubin": None})
    assert np.isnan(gone.values("bilirubin")).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"preset": "paper", "width": 16, "blocks": 1, "steps": 5, "sampling_steps": 3},
        {"steps": 5, "sampling_steps": 3, "fade_numbers": True, "churn": 0.0},
        TINY,
    ],
)
def test_presets_draw_rows_of_the_schema(settings: dict[str, object]) -> None:
    cohort = stay_cohort(20)
    model = TabDiffLite(settings)
    model.fit(cohort, seed=0, device="cpu")
    drawn = model.sample(100, seed=0)
    assert drawn.table.schema == cohort.schema.arrow()
    assert np.isfinite(drawn.values("length")).all()


def test_odd_tables_work() -> None:
    mixed = mixed_cohort(200)
    for columns in (["age", "glucose"], ["died", "group"], ["site"], ["age", "site"]):
        schema = mixed.schema.model_copy(update={"columns": [c for c in mixed.schema.columns if c.name in columns]})
        part = Cohort(table=mixed.table.select(schema.names), schema=schema, subject=mixed.subject)
        model = TabDiffLite(TINY)
        model.fit(part, seed=0, device="cpu")
        assert model.sample(50, seed=0).n_rows == 50


def test_three_thousand_codes() -> None:
    rng = np.random.default_rng(0)
    block = CodeBlock(name="dx", kind="binary", vocabulary=[f"c{i}" for i in range(3000)])
    counts = csr_matrix((rng.random((60, 3000)) < 0.5).astype(float))
    cohort = assemble(TableSchema(columns=[], blocks=[block], unit="patient"), {}, blocks={"dx": counts})
    model = TabDiffLite(TINY)
    model.fit(cohort, seed=0, device="cpu")
    assert abs(model.sample(300, seed=0).blocks["dx"].mean() - 0.5) < 0.05
