"""RLSyn: a stochastic policy over whole rows, rewarded by a discriminator (Espinosa-Dice et al. 2025; spec 7).

The default is the mended form of spec 7.3, preset 'paper' the published one (with the MIMIC-IV settings;
'paper_aireadi' the others). Actions, network, reward, update and loop are in `reinforcement/`; here they are put
together, and rows are drawn in one pass.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.errors import ConfigError, nearest
from pipeline.generators.conditions import Fixed
from pipeline.generators.reinforcement.conditions import ConditionsTold
from pipeline.generators.reinforcement.loop import PolicyTraining
from pipeline.generators.reinforcement.policy import Policy, parameters_of
from pipeline.generators.reinforcement.settings import RLSynConfig
from pipeline.generators.reinforcement.warm import warm_start
from pipeline.generators.rejection import draw_matching
from pipeline.generators.seeds import stream
from pipeline.generators.tabular import Learned, TabularGenerator
from pipeline.generators.training import choose_device, repeatable, tuning_rows
from pipeline.generators.variational.condition_vector import ConditionVector

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import Progress
    from pipeline.generators.reinforcement.policy import Told
    from pipeline.generators.reinforcement.space import Action

CHUNK = 8_192
MOST_CELLS = 16_000_000
"""Cells of rows that are held as actions at once."""
SHRINK = 0.3
"""What is left of the head's first weights at the warm start (spec 7.3)."""
CALIBRATION_ROUNDS = 3
CALIBRATION_FLOOR = 1e-3
FEWEST_BINS = 8
ROWS_A_BIN = 40
_CONDITIONS = "conditions/"


class RLSyn(TabularGenerator):
    """A policy over rows; conditions on `condition_columns` are native, on others by rejection."""

    name = "rlsyn"
    title = "Reinforcement learning: a row policy rewarded by a discriminator"
    Config = RLSynConfig
    config: RLSynConfig
    code_version = "2"
    uses_gpu = True
    kinds = ("torch", "scikitlearn")
    resumes = True
    not_private: ClassVar[str] = (
        "Its discriminator alone sees real rows, but needs thousands of steps on them, each paid for, and its warm start "
        "and choice of weights look at them too."
    )

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
        judged_by_rows = config.select == "c2st" or config.warm == "vae"
        tune = tuning_rows(cohort) if judged_by_rows else np.zeros(rows.n, dtype=bool)
        fit_rows, tune_rows = np.flatnonzero(~tune), np.flatnonzero(tune)
        self._bins = min(config.numeric_bins, max(FEWEST_BINS, rows.n // ROWS_A_BIN))
        self._told = self._fit_conditions(encoder, rows)
        warm_epochs = config.warm_epochs if config.warm == "vae" else 0
        with repeatable(seed):
            policy = self._network(encoder).to(place)
            policy.space.to(place)
            actions = policy.space.actions(rows, place)
            if config.warm != "none":
                policy.start(actions, SHRINK)
            tell = self._tell(policy, rows, place)
            losses: list[dict[str, float]] = []
            if config.warm == "vae":
                warm_start(
                    policy,
                    actions,
                    tell,
                    config,
                    fit_rows=fit_rows,
                    tune_rows=tune_rows,
                    seed=seed,
                    device=place,
                    progress=_shifted(progress, 0, config.updates(len(fit_rows))),
                    checkpoint=None if self._checkpoint is None else replace(self._checkpoint, stage="warm"),
                )
            training = PolicyTraining(
                policy, actions, tell, config, fit_rows=fit_rows, tune_rows=tune_rows, seed=seed, device=place
            )
            done = training.run(_shifted(progress, warm_epochs, 0), self._checkpoint)
            losses += done.losses
            known = policy.heads.shares(actions)
            policy.to("cpu")
            policy.space.to("cpu")
            critic_parameters = parameters_of([training.critic])
        self._policy = policy
        if config.calibrate:
            self._calibrate(known.cpu(), seed)
        invalid = self._invalid_share(seed)
        return Learned(
            parameters=parameters_of([policy]) + critic_parameters,
            losses=losses,
            warnings=[*done.warnings, *self._remarks(invalid)],
            facts={**training.facts(), "invalid_rows": invalid},
        )

    def _network(self, encoder: TableEncoder) -> Policy:
        """The untrained policy."""
        width = 0 if self._told is None else self._told.width
        first = [] if self._told is None else self._told.columns
        return Policy(self.config.space(encoder, self._bins), self.config.shape(width, first))

    def _fit_conditions(self, encoder: TableEncoder, rows: Encoded) -> ConditionVector | None:
        names = [c.name for c in encoder.schema.modelled()]
        for name in self.config.condition_columns:
            if name not in names:
                raise ConfigError(f"There is no column '{name}' to condition on.", todo=nearest(name, names))
        if not self.config.condition_columns:
            return None
        return ConditionVector.fit(encoder, rows, self.config.condition_columns, self.config.rare_level_rows)

    def _tell(self, policy: Policy, rows: Encoded, place: torch.device) -> Any:
        """What is told of given training rows; None without conditions."""
        if self._told is None:
            return lambda at, generator: None
        conditions, states = ConditionsTold(policy.space, self._told), self._told.states(rows)

        def tell(at: torch.Tensor, generator: torch.Generator) -> Told:
            return conditions.some(states, at, self.config.condition_dropout, generator, place)

        return tell

    def _calibrate(self, known: torch.Tensor, seed: int) -> None:
        """Shift the head's bias until states and bits are drawn as often as the training rows have them."""
        for k in range(CALIBRATION_ROUNDS):
            drawn = self._actions(self._chunk(), stream(seed, "calibrate", k))
            with torch.no_grad():
                self._policy.head.bias.add_(self._policy.heads.correction(known, drawn, CALIBRATION_FLOOR))

    def _invalid_share(self, seed: int) -> float:
        if self.config.levels == "categorical":
            return 0.0
        drawn = self._actions(self._chunk(), stream(seed, "invalid"))
        return self._policy.space.rows(drawn, stream(seed, "invalid-rows"))[1] / len(drawn)

    def _remarks(self, invalid: float) -> list[str]:
        """Sentences for people about what was learned."""
        found: list[str] = []
        if self.config.levels == "bernoulli":
            found.append(
                "Levels are independent bits, as published: "
                f"{invalid:.1%} of the rows had none or several levels in a column, of which one was chosen at random. "
                "Use the default, whose rows are always valid."
            )
        if self.config.reward == "sigmoid":
            found.append(
                "The reward is the discriminator's sigmoid, as published: near 0 for all rows it tells surely."
            )
        return found

    # ---- drawing

    def draws_given(self, columns: Collection[str]) -> bool:
        """See `Generator.draws_given`."""
        return self._told is not None and set(columns) <= set(self._told.columns)

    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        if not fixed:
            return self._rows(n, rng)
        columns = [] if self._told is None else self._told.columns
        if all(name in columns for name in [*fixed.codes, *fixed.values]):
            return self._rows(n, rng, fixed)
        return draw_matching(lambda m: self._rows(m, rng), encoder, n, fixed)

    def _rows(self, n: int, rng: np.random.Generator, fixed: Fixed | None = None) -> Encoded:
        """`n` encoded rows, those of `fixed` told to the policy; memory does not grow with n but for the rows."""
        parts, chunk = [], self._chunk()
        for start in range(0, n, chunk):
            size = min(chunk, n - start)
            part = None if fixed is None else fixed.take(np.arange(start, start + size))
            parts.append(self._policy.space.rows(self._actions(size, rng, part), rng)[0])
        return Encoded.concatenate(parts)

    def _chunk(self) -> int:
        """Rows that are drawn at once."""
        return min(CHUNK, max(256, MOST_CELLS // max(1, self._policy.heads.columns)))

    def _actions(self, n: int, rng: np.random.Generator, fixed: Fixed | None = None) -> Action:
        """`n` rows of the policy, as actions."""
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        told = None
        if self._told is not None:
            asked = Fixed() if fixed is None else fixed
            states = self._told.drawn(self._told.asked(asked, n), rng)
            told = ConditionsTold(self._policy.space, self._told).told(states, "cpu", asked, rng)
        with torch.inference_mode():
            return self._policy.act(self._policy.noise(n, noise, "cpu"), told, noise)

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        tensors = {f"policy/{k}": v.detach().numpy() for k, v in self._policy.state_dict().items()}
        columns: list[str] = []
        if self._told is not None:
            tensors |= {f"{_CONDITIONS}{k}": v for k, v in self._told.tensors().items()}
            columns = self._told.columns
        return tensors, {"bins": self._bins, "conditions": columns}

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        self._bins = int(extra["bins"])
        arrays = {k.removeprefix(_CONDITIONS): v for k, v in tensors.items() if k.startswith(_CONDITIONS)}
        columns = list(extra["conditions"])
        self._told = ConditionVector.restore(encoder, columns, arrays) if columns else None
        with repeatable(0):
            self._policy = self._network(encoder)
        weights = {k.removeprefix("policy/"): torch.as_tensor(v) for k, v in tensors.items() if k.startswith("policy/")}
        if "state_edges" in weights:
            states = [weights[k] for k in ("state_edges", "state_means", "state_factors")]
            self._policy.draw_states_from(*states)
        self._policy.load_state_dict(weights)
        self._policy.eval()


def _shifted(progress: Progress | None, before: int, after: int) -> Progress | None:
    """Progress of one stage as progress of both: so many steps before it and after it."""
    if progress is None:
        return None

    def both(done: int, total: int, entry: Mapping[str, float]) -> None:
        progress(before + done, before + total + after, entry)

    return both
