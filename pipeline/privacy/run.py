"""One private training: its budget, its secret randomness, its mechanisms, and what it says of itself.

Every mechanism that looks at the data goes through a `PrivateRun`, which scales the noise by what one subject can
change, writes the mechanism down, and adds up what was spent. DP-SGD is in `dpsgd.py`, the arithmetic in
`accounting.py`, the randomness in `secrets.py`; the ledger over all trainings of a cohort is `ledger.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ConfigError, TrainingError
from pipeline.privacy.accounting import zcdp_rho
from pipeline.privacy.mechanisms import SLACK, Mechanism, spent_on
from pipeline.privacy.secrets import Secret, run_secret
from pipeline.privacy.spec import PrivacySpec, TrainingPrivacy

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort

QUESTIONS_VERSION = 2
"""Raise it when the code asks the data other questions at the same settings (other bins, say): the same key must not give
two answers the same noise, which could be subtracted."""
ADJACENCY = "add or remove all rows of one subject"
INSECURE = (
    "The noise comes from fast generators with secret seeds, not from a cryptographically secure one, and is added in "
    "floating point."
)

_LIBRARIES = ("numpy", "opacus", "torch")


@dataclass
class _Shared:
    """What all parts of a run share."""

    privacy: TrainingPrivacy
    subjects: int
    secret: Secret
    seeded: bool
    ledger: list[Mechanism] = field(default_factory=list)
    parts: list[PrivateRun] = field(default_factory=list)
    domain: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class PrivateRun:
    """The budget of a private training or of a part of it.

    Sensitivities are given for one row; they are multiplied by the rows that a subject may have.

    Attributes:
        epsilon: Budget of this part, what was handed to parts of it included.
        delta: The same.
        name: Of the part, for the ledger; "" for the whole.
        noise_multiplier: What was asked for in place of epsilon; None otherwise.
    """

    def __init__(self, shared: _Shared, epsilon: float, delta: float, name: str, noise: float | None) -> None:
        self._shared = shared
        self.epsilon = epsilon
        self.delta = delta
        self.name = name
        self.noise_multiplier = noise
        self._given = 0.0
        shared.parts.append(self)

    @classmethod
    def begin(
        cls,
        privacy: PrivacySpec | TrainingPrivacy,
        cohort: Cohort,
        *,
        seed: int,
        key: bytes | None = None,
        what: Mapping[str, object] | None = None,
        epsilon: float | None = None,
    ) -> PrivateRun:
        """The run of a training.

        Args:
            privacy: What is asked of it.
            cohort: The training rows, not yet bounded.
            seed: Of the training; tells replicates apart and is never the only source of noise.
            key: Secret key of this training (`secrets.training_key`): the same key, data, settings and seed give the
                same noise. None takes fresh randomness from the system each time.
            what: Generator and settings, so that other settings under one key share no noise.
            epsilon: What a noise multiplier comes to, if that was asked for (`dpsgd.planned_epsilon`).

        Raises:
            ConfigError: delta is too weak for the number of subjects, or epsilon is not known.
        """
        asked = TrainingPrivacy.of(privacy)
        subjects = cohort.n_subjects
        delta = asked.resolved_delta(subjects)
        budget = asked.resolve(subjects).epsilon if epsilon is None else epsilon
        described = {
            "seed": int(seed),
            "privacy": asked.model_dump(mode="json"),
            "epsilon": float(budget),
            "delta": float(delta),
            "what": dict(what or {}),
            "versions": versions(),
            "questions": QUESTIONS_VERSION,
        }
        secret = Secret(run_secret(key, described, cohort))
        return cls(_Shared(asked, subjects, secret, key is not None), budget, delta, "", asked.noise_multiplier)

    # ---- what there is

    @property
    def privacy(self) -> TrainingPrivacy:
        """What was asked of the training."""
        return self._shared.privacy

    @property
    def subjects(self) -> int:
        """Number of subjects, taken as public."""
        return self._shared.subjects

    @property
    def rows_per_subject(self) -> int:
        """Rows that a subject has at most."""
        return self._shared.privacy.rows_per_subject

    @property
    def ledger(self) -> list[Mechanism]:
        """Every mechanism of the whole run, in order."""
        return self._shared.ledger

    def part(self, share: float, name: str = "") -> PrivateRun:
        """A part of this budget: a share of epsilon and of delta (basic composition), in the same ledger.

        Raises:
            ConfigError: more than the whole was handed out.
        """
        if not 0 < share <= 1 or self._given + share > 1 + 1e-9:
            raise ConfigError(
                f"{share:g} of the privacy budget cannot be taken: {self._given:g} is handed out already."
            )
        self._given = min(1.0, self._given + share)
        label = name or f"part {len(self._shared.parts)}"
        label = f"{self.name}/{label}" if self.name else label
        return PrivateRun(self._shared, self.epsilon * share, self.delta * share, label, self.noise_multiplier)

    @property
    def own_epsilon(self) -> float:
        """What is left of epsilon after all parts were handed out."""
        return self.epsilon * (1 - self._given)

    @property
    def own_delta(self) -> float:
        """What is left of delta after all parts were handed out."""
        return self.delta * (1 - self._given)

    def zcdp_rho(self) -> float:
        """The rho that what is left of (epsilon, delta) is worth (spec 8.7.1)."""
        return zcdp_rho(self.own_epsilon, self.own_delta)

    # ---- randomness

    def rng(self, *purpose: str | int) -> np.random.Generator:
        """Secret random numbers for a purpose; asked again, others."""
        return self._shared.secret.numpy(self.name, *purpose)

    def torch(self, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
        """The same as a torch generator."""
        return self._shared.secret.torch(self.name, *purpose, device=device)

    # ---- mechanisms

    def gaussian(self, values: NDArray[np.floating], *, l2: float, rho: float, what: str) -> NDArray[np.float64]:
        """Values with Gaussian noise of standard deviation l2 / sqrt(2 rho): rho-zCDP (Bun and Steinke 2016, lemma 2.4).

        Args:
            values: Any shape.
            l2: Largest L2 norm by which one row changes them.
            rho: What it may cost.
            what: What they are, in words; no values.
        """
        reach = self._reach(l2, rho)
        scale = reach / math.sqrt(2 * rho)
        noisy = np.asarray(values, dtype=np.float64) + self._noise("gaussian", what, scale, np.size(values)).normal(
            0, scale, np.shape(values)
        )
        self._enter(Mechanism("gaussian", what, self.name, scale, reach, rho=rho))
        return noisy

    def laplace(self, values: NDArray[np.floating], *, l1: float, epsilon: float, what: str) -> NDArray[np.float64]:
        """Values with Laplace noise of scale l1 / epsilon: epsilon-DP (Dwork and Roth 2014, theorem 3.6).

        Args:
            values: Any shape.
            l1: Largest L1 norm by which one row changes them.
            epsilon: What it may cost.
            what: What they are, in words; no values.
        """
        reach = self._reach(l1, epsilon)
        scale = reach / epsilon
        noisy = np.asarray(values, dtype=np.float64) + self._noise("laplace", what, scale, np.size(values)).laplace(
            0, scale, np.shape(values)
        )
        self._enter(Mechanism("laplace", what, self.name, scale, reach, rho=epsilon**2 / 2, epsilon=epsilon))
        return noisy

    def exponential(self, scores: NDArray[np.floating], *, sensitivity: float, epsilon: float, what: str) -> int:
        """Index drawn with odds exp(epsilon score / (2 sensitivity)): epsilon-DP (McSherry and Talwar 2007).

        It is epsilon^2 / 8-zCDP (Cesar and Rogers 2021), the smaller account where many are drawn.

        Args:
            scores: (n,) finite numbers, larger is better.
            sensitivity: Largest change of a score by one row.
            epsilon: What it may cost.
            what: What is chosen, in words; no values.
        """
        reach = self._reach(sensitivity, epsilon)
        scale = 2 * reach / epsilon
        gumbel = self._noise("exponential", what, scale, len(scores)).gumbel(size=len(scores))
        chosen = int(np.argmax(epsilon * np.asarray(scores, dtype=np.float64) / (2 * reach) + gumbel))
        self._enter(Mechanism("exponential", what, self.name, scale, reach, rho=epsilon**2 / 8, epsilon=epsilon))
        return chosen

    def stable(
        self, counts: NDArray[np.integer], *, epsilon: float, delta: float, what: str, known: int = 0
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Which of the values that occur are common enough to be named, and their noisy counts.

        A value is kept if its count with Laplace noise of scale k / epsilon passes k + (k / epsilon) ln(k / (2 delta)),
        k the rows of a subject: a value that only one subject has passes with chance delta at most (spec 8.5; Korolova
        et al. 2009). What never occurs is never named, which is why delta is needed.

        Args:
            counts: (n,) rows of each value that occurs; a row is counted once.
            epsilon: What it may cost.
            delta: Chance that a value of one subject is named.
            what: What is counted, in words; no values.
            known: So many of the first counts are of values known beforehand (such as "missing"), always kept.

        Returns:
            (n,) kept, and (n,) noisy counts.
        """
        reach = self._reach(1.0, epsilon)
        if not 0 < delta < 1:
            raise ConfigError(f"A stability threshold needs a delta between 0 and 1, not {delta:g}.")
        scale = reach / epsilon
        noisy = np.asarray(counts, dtype=np.float64) + self._noise("stability", what, scale, len(counts)).laplace(
            0, scale, len(counts)
        )
        threshold = reach + scale * max(0.0, math.log(reach / (2 * delta)))
        self._enter(
            Mechanism(
                "stability",
                what,
                self.name,
                scale,
                reach,
                epsilon=epsilon,
                delta=delta,
                details={"threshold": threshold},
            )
        )
        return (noisy > threshold) | (np.arange(len(counts)) < known), noisy

    def enter_dpsgd(
        self, what: str, *, clip: float, noise_multiplier: float, epsilon: float, delta: float, details: dict[str, Any]
    ) -> None:
        """Write down a training by DP-SGD (`dpsgd.train_private`)."""
        scale = noise_multiplier * clip
        facts = {"noise_multiplier": noise_multiplier, **details}
        self._enter(Mechanism("dp_sgd", what, self.name, scale, clip, epsilon=epsilon, delta=delta, details=facts))

    def enter_votes(self, what: str, *, scale: float, epsilon: float, delta: float, details: dict[str, Any]) -> None:
        """Write down labels by noisy votes (`pate.Ballot`); a subject changes one vote, however many rows it has."""
        self._enter(Mechanism("votes", what, self.name, scale, 1.0, epsilon=epsilon, delta=delta, details=details))

    def note(self, text: str) -> None:
        """A sentence for the report, e.g. what was taken as public."""
        if text not in self._shared.notes:
            self._shared.notes.append(text)

    def warn(self, text: str) -> None:
        """A sentence that people must see, told from noisy answers alone; it is a note of the report too."""
        self.note(text)
        self._shared.warnings.append(text)

    @property
    def warnings(self) -> list[str]:
        """What was warned of."""
        return list(self._shared.warnings)

    # ---- what was spent

    def ownspent_on(self) -> float:
        """Epsilon of this part's own mechanisms at what is left of its delta (`spent_on`)."""
        mine = [m for m in self.ledger if m.part == self.name]
        return spent_on(mine, self.own_delta)

    def spent(self) -> PrivacySpec:
        """(epsilon, delta) of the whole run: the sum over its parts.

        Raises:
            TrainingError: a part spent more than it had, or nothing was entered at all (a fault of the generator).
        """
        for one in self._shared.parts:
            if one.ownspent_on() > one.own_epsilon * (1 + SLACK) + 1e-12:
                raise TrainingError(
                    f"The part '{one.name or 'whole'}' of the privacy budget was overspent: epsilon {one.ownspent_on():.6g} "
                    f"of {one.own_epsilon:.6g}.",
                    todo="This is a fault of the generator; nothing of the training may be kept.",
                )
        whole = self._shared.parts[0]
        total = sum(one.ownspent_on() for one in self._shared.parts)
        if not total > 0:
            raise TrainingError("A private training entered no mechanism, so what it spent is not known.")
        return PrivacySpec(epsilon=min(total, whole.epsilon), delta=whole.delta)

    def report(self) -> dict[str, Any]:
        """What the training says of its privacy, as JSON (spec 8.3)."""
        spent, asked, whole = self.spent(), self.privacy, self._shared.parts[0]
        sgd = [m for m in self.ledger if m.type == "dp_sgd"]
        accountants = [m.details["accountant"] for m in self.ledger if "accountant" in m.details]
        sampling = "Poisson over subjects" if sgd else "none: every subject is in every mechanism"
        policy = (
            "noise and batches from the installation's key, this training's identity and its data; never from the seed"
            if self._shared.seeded
            else "noise and batches from the system's random source, not repeatable; never from the seed"
        )
        if asked.rows_per_subject > 1:
            self.note(
                f"A subject counts with at most {asked.rows_per_subject} rows; the number of rows used is public."
            )
        return {
            "epsilon": spent.epsilon,
            "delta": spent.delta,
            "headline": (
                f"({spent.epsilon:.3g}, {spent.delta:.3g})-differentially private for each of {self.subjects:,} subjects, "
                "encoding included."
            ),
            "asked": {
                "epsilon": whole.epsilon,
                "delta": whole.delta,
                **asked.model_dump(mode="json", exclude={"epsilon", "delta"}),
            },
            "unit": "subject" if asked.rows_per_subject == 1 else f"subject with at most {asked.rows_per_subject} rows",
            "adjacency": ADJACENCY,
            "n": self.subjects,
            "n_public": True,
            "mechanisms": [m.to_json() for m in self.ledger],
            "parts": {
                one.name or "whole": {"epsilon": one.ownspent_on(), "of": one.own_epsilon, "delta": one.own_delta}
                for one in self._shared.parts
                if one.ownspent_on() > 0
            },
            "composition": "basic over parts; within a part zCDP, pure epsilon, or the accountant of DP-SGD or of labels",
            "accountant": accountants[0] if accountants else "zcdp",
            "epsilon_by": {
                name: sum(m.details[name] for m in sgd)
                for name in ("prv", "rdp")
                if sgd and all(m.details.get(name) is not None for m in sgd)
            },
            "sampling": sampling,
            "seed_policy": policy,
            "secure_noise": False,
            "preprocessing_private": True,
            "notes": [*self._shared.notes, INSECURE],
            "versions": versions(),
        }

    # ---- inside

    def _reach(self, one_row: float, cost: float) -> float:
        """What a subject changes at most; refuses what costs nothing."""
        if not (0 < one_row < math.inf and 0 < cost < math.inf):
            raise ConfigError(f"A mechanism of sensitivity {one_row:g} at cost {cost:g} is none.")
        return one_row * self.rows_per_subject

    def _noise(self, kind: str, what: str, scale: float, size: int) -> np.random.Generator:
        """Random numbers for one answer; those of another size or with another noise share none with it."""
        return self.rng(kind, what, repr(float(scale)), size)

    def _enter(self, mechanism: Mechanism) -> None:
        self._shared.ledger.append(mechanism)


def versions() -> dict[str, str]:
    """Versions of the libraries that decide what noise is drawn and how it is accounted."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
