"""Settings of PATE-GAN: its teachers, its labels, its student and its generator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from pipeline.generators.adversarial.settings import AdversarialConfig
from pipeline.privacy.pate import NoiseKind

if TYPE_CHECKING:
    from collections.abc import Mapping


class PateGANConfig(AdversarialConfig):
    """Settings of PATE-GAN."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {
            "votes": "laplace",
            "gamma": 1.0,
            "subjects_a_teacher": 1_000,
            "fewest_teachers": 2,
            "teacher_features": 0,
            "vote": "sign",
            "rounds": 10_000,
            "round_labels": 320,
            "memory": 1,
            "numbers": "range",
            "pieces": 0,
            "drawing": "likeliest",
            "hard": False,
            "hidden": (256, 256),
            "critic_hidden": (64,),
            "batch_size": 64,
            "critic_steps": 5,
            "steps": 10_000,
            "learning_rate": 1e-4,
            "critic_rate": 1e-4,
            "betas": (0.9, 0.999),
            "decay": "constant",
            "ema": 0.0,
        },
        "quick": {"steps": 300, "rounds": 5, "hidden": (64, 64), "critic_hidden": (64,), "noise": 32},
    }
    votes: NoiseKind = Field(
        default="gaussian",
        description="Noise on the number of teachers that say 'real': Gaussian, which buys more labels of the same accuracy"
        " (Papernot et al. 2018), or Laplace, as published.",
    )
    label_accuracy: float = Field(
        default=0.7,
        gt=0.5,
        lt=1,
        description="Chance that a label is right where 80 % of the teachers agree: sets the noise, from which the number of"
        " labels follows.",
    )
    gamma: float | None = Field(
        default=None,
        gt=0,
        description="Inverse scale of the noise in votes, in place of `label_accuracy`: 1 / b of Laplace noise, one over the"
        " standard deviation of Gaussian noise; the same number in the mechanism and in the account.",
    )
    most_labels: int = Field(
        default=20_000, ge=1, description="Labels, at most; where epsilon buys more, these get less noise instead."
    )
    teachers: int | None = Field(
        default=None, ge=2, le=10_000, description="Number of teachers. None: from the number of subjects."
    )
    subjects_a_teacher: int = Field(
        default=60, ge=1, description="Subjects of a teacher, about, where `teachers` is None."
    )
    fewest_teachers: int = Field(default=20, ge=2, description="Teachers, at least, where `teachers` is None.")
    most_teachers: int = Field(default=1_000, ge=2, description="Teachers, at most, where `teachers` is None.")
    teacher_features: int = Field(
        default=256,
        ge=0,
        le=4096,
        description="Squares of random projections that teachers see of a row, so that they can tell which values go"
        " together; 0: the row itself, as published, which tells margins alone.",
    )
    teacher_steps: int = Field(default=50, ge=1, description="Adam steps of all teachers in a round.")
    teacher_rows: int = Field(default=32, ge=1, description="Own rows that a teacher looks at in a step.")
    teacher_rate: float = Field(default=0.01, gt=0, description="Learning rate of the teachers' Adam.")
    teacher_decay: float = Field(
        default=0.01, ge=0, description="Weight decay of the teachers (ridge): they have few rows each."
    )
    vote: Literal["half", "sign"] = Field(
        default="half",
        description="What a teacher votes for: the half of drawn rows that look more real to it, so that labels are never all"
        " alike; or rows that it takes for real, as published.",
    )
    rounds: int = Field(
        default=20,
        ge=1,
        description="How often, at most, teachers are trained again and label rows that were just drawn.",
    )
    round_labels: int = Field(default=64, ge=1, description="Labels of a round, at least.")
    memory: int = Field(default=5, ge=1, description="Rounds whose labelled rows the student learns from.")
    hold_margins: float = Field(
        default=5.0,
        ge=0,
        description="Weight of the distance of a batch's margins from those of the encoder, in the generator's loss; it costs"
        " no label.",
    )
    dropout: float = Field(
        default=0.5, ge=0, lt=1, description="Share of the student's hidden units dropped in training."
    )
    critic_hidden: tuple[int, ...] = Field(default=(64,), min_length=1, description="Hidden layers of the student.")
    numbers: Literal["even", "normal", "range"] = Field(
        default="even",
        description="How a number is shown: its rank, evenly between -1 and 1 or as a normal score, or the number itself"
        " between the column's ends. Modes would be one more look at the rows.",
    )
    learning_rate: float = Field(
        default=2e-4,
        gt=0,
        description="Learning rate of the generator's Adam; low, since what few labels say is mostly noise.",
    )
    steps: int | None = Field(
        default=1_000, ge=1, le=10_000_000, description="Steps of the generator. None: as many as `epochs` passes take."
    )
    pac: int = Field(default=1, ge=1, le=1, description="Rows are judged one by one.")
    loss: Literal["logistic"] = Field(default="logistic", description="What is minimised: the logistic loss.")
    penalty: float = Field(default=0.0, ge=0, le=0, description="None: the student sees no real row to be held to.")
    bfloat16_products: Literal[False] = Field(
        default=False, description="Products of matrices are not rounded: votes are counted in full precision."
    )
    select: Literal["last"] = Field(
        default="last", description="Which weights are kept: the last. A look at tuning rows would not be private."
    )

    def teachers_of(self, subjects: int) -> int:
        """Number of teachers of so many subjects."""
        if self.teachers is not None:
            return self.teachers
        return max(self.fewest_teachers, min(self.most_teachers, subjects // self.subjects_a_teacher))
