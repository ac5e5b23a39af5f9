"""Classes of rows by the codes they have: what stands for a code block in a model that takes few columns.

A mixture of products of Bernoullis by expectation maximisation (latent class analysis, Lazarsfeld 1950), with as many
classes as make rows likelier that were kept aside. Given its class a row's codes are independent; what the class has to
do with the columns is the generator's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

STEPS = 60
TOLERANCE = 1e-4
PSEUDO_ROWS = 100.0
JUDGED = 0.2
DIRECTIONS = 4
"""Rows' worth of a code's overall share that each class starts from: no code is impossible or certain in any."""


@dataclass(frozen=True)
class LatentClasses:
    """Classes and how often each code occurs in them.

    Attributes:
        share: (classes,) share of the rows.
        prevalence: (classes, codes) chance of each code.
    """

    share: NDArray[np.float64]
    prevalence: NDArray[np.float64]

    @classmethod
    def fit(
        cls, present: csr_matrix, subject: NDArray[np.integer], most: int, rng: np.random.Generator
    ) -> LatentClasses:
        """Learn from an (n, codes) matrix of zeros and ones; doubles the classes as long as that pays.

        Whether it does is told by a fifth of the subjects; `subject` has (n,) numbers from 0.
        """
        judged = (rng.random(int(subject.max(initial=0)) + 1) < JUDGED)[subject]
        best, chosen, classes = -np.inf, 1, 1
        while classes <= most and judged.any() and not judged.all():
            model = cls._expectation_maximisation(present[~judged], classes, rng)
            fit = float(np.logaddexp.reduce(model.log_joint(present[judged]), axis=1).sum())
            if fit <= best:
                break
            best, chosen = fit, classes
            classes *= 2
        return cls._expectation_maximisation(present, chosen, rng)

    @classmethod
    def _expectation_maximisation(cls, present: csr_matrix, classes: int, rng: np.random.Generator) -> LatentClasses:
        n = present.shape[0]
        overall = (np.asarray(present.sum(axis=0)).ravel() + 0.5) / (n + 1)
        chance = _start(present, classes, rng)
        weight = chance.sum(axis=0)
        found = np.asarray(present.T @ chance).T + PSEUDO_ROWS * overall
        model = cls((weight + 1.0) / (n + classes), found / (weight + PSEUDO_ROWS)[:, None])
        before = -np.inf
        for _ in range(STEPS):
            joint = model.log_joint(present)
            top = joint.max(axis=1, keepdims=True)
            chance = np.exp(joint - top)
            total = chance.sum(axis=1, keepdims=True)
            fit = float((top + np.log(total)).sum())
            chance /= total
            weight = chance.sum(axis=0)
            found = np.asarray(present.T @ chance).T + PSEUDO_ROWS * overall
            model = cls((weight + 1.0) / (n + classes), found / (weight + PSEUDO_ROWS)[:, None])
            if fit - before < TOLERANCE * n:
                break
            before = fit
        return model

    def log_joint(self, present: csr_matrix) -> NDArray[np.float64]:
        """(n, classes) log probability of each row together with each class."""
        chance = np.clip(self.prevalence, 1e-9, 1 - 1e-9)
        without = np.log1p(-chance)
        return np.asarray(present @ (np.log(chance) - without).T) + without.sum(axis=1) + np.log(self.share)

    def assign(self, present: csr_matrix, rng: np.random.Generator) -> NDArray[np.int64]:
        """(n,) a class for each row, drawn from what its codes say."""
        joint = self.log_joint(present)
        return (joint + rng.gumbel(size=joint.shape)).argmax(axis=1).astype(np.int64)

    def draw(self, classes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """(n, codes) which codes rows of (n,) classes have."""
        return rng.random((len(classes), self.prevalence.shape[1]), dtype=np.float32) < self.prevalence[classes]


def _start(present: csr_matrix, classes: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(n, classes) first guess: clusters of the rows by how many codes they have and where their codes vary most."""
    n, codes = present.shape
    if classes == 1 or min(n, codes) <= DIRECTIONS + 1:
        chance = rng.dirichlet(np.ones(classes), n)
        return np.asarray(chance)
    from scipy.sparse.linalg import LinearOperator, svds
    from sklearn.cluster import KMeans

    mean = np.asarray(present.mean(axis=0)).ravel()
    centred = LinearOperator(
        shape=(n, codes),
        dtype=np.float64,
        matvec=lambda v: present @ np.ravel(v) - mean @ np.ravel(v),
        rmatvec=lambda v: present.T @ np.ravel(v) - mean * np.ravel(v).sum(),
    )
    left, size, _ = svds(centred, k=DIRECTIONS, v0=rng.standard_normal(min(n, codes)))
    burden = np.log1p(np.asarray(present.sum(axis=1)).ravel())
    # The number of codes is the first thing that people with many illnesses share, and no single direction shows it.
    spread = left * size / max(float((left * size).std()), 1e-12)
    places = np.column_stack([3 * (burden - burden.mean()) / max(float(burden.std()), 1e-12), spread])
    labels = KMeans(classes, n_init=1, random_state=int(rng.integers(2**31))).fit_predict(places)
    return np.asarray(0.9 * (labels[:, None] == np.arange(classes)) + 0.1 / classes)
