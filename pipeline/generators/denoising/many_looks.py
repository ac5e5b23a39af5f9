"""Settings of private trainings that look at a subject at several times and noises a step (spec 8.4): `mixed_flow`, `ehrdiff`."""

from __future__ import annotations

from pydantic import Field

from pipeline.generators.tabular import TabularConfig
from pipeline.privacy.dpsgd import PrivateSettings

FEW_ROWS = 20_000
LOOKS_AT_ONCE = 4_096


class ManyLooksConfig(TabularConfig):
    """Noisy steps whose gradients are means over several looks at a subject."""

    private_draws: int = Field(
        default=8,
        ge=1,
        le=64,
        description="Times and noises at which a noisy step looks at each of its subjects, averaged before the gradient is"
        " clipped: they cost no epsilon (spec 8.4; EHRDiff's publication: 4).",
    )
    private_epochs: float = Field(
        default=60.0, gt=0, description="Noisy steps under differential privacy, as passes over the subjects."
    )
    private_batch_size: int = Field(
        default=0, ge=0, description="Subjects a noisy step on average; 0: 512, or 2,048 from 20,000 subjects on."
    )
    private_learning_rate: float = Field(default=2e-3, gt=0, description="Learning rate of the noisy steps.")
    private_clip: float = Field(default=1.0, gt=0, description="Largest norm of a subject's gradient.")
    private_ema: float = Field(
        default=0.99,
        ge=0,
        lt=1,
        description="Decay of the running mean of the weights that a private training ends with.",
    )

    def private_training(self, subjects: int) -> PrivateSettings:
        """How to train under differential privacy on so many subjects."""
        return PrivateSettings(
            epochs=self.private_epochs,
            expected_batch=self.private_batch_size or (512 if subjects < FEW_ROWS else 2_048),
            clip=self.private_clip,
            learning_rate=self.private_learning_rate,
            ema=self.private_ema,
            physical_rows=max(1, LOOKS_AT_ONCE // self.private_draws),
        )
