"""Settings of `argn`: the published configuration, the default chosen on parts of training rows, and a quick one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from pipeline.generators.argn.network import Shape
from pipeline.generators.tabular import TabularConfig
from pipeline.generators.train_settings import TrainSettings
from pipeline.privacy.dpsgd import PrivateSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

FEW_ROWS = 20_000


class ARGNConfig(TabularConfig):
    """Settings of the any-order autoregressive network; defaults chosen on parts of SUPPORT's training rows."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {
            "pieces": 100,
            "seconds": 1,
            "home_share": 0.0,
            "width": 256,
            "hidden": 64,
            "dropout": 0.25,
            "patience": 4,
            "learning_rate": 3e-3,
            "order": "random",
        },
        "quick": {
            "epochs": 20,
            "width": 64,
            "hidden": 32,
            "dropout": 0.1,
            "learning_rate": 3e-3,
            "ema": 0.98,
            "private_epochs": 5.0,
            "private_learning_rate": 5e-3,
        },
    }
    pieces: int = Field(
        default=32,
        ge=2,
        le=512,
        description="About how many first digits a number has, cut along its repeated values; at most one for 40 training"
        " rows, but at least 8 (preset 'paper': 100).",
    )
    seconds: int = Field(
        default=8,
        ge=1,
        le=64,
        description="About how many second digits a piece of a number is cut into; 1 for none (preset 'paper').",
    )
    width: int = Field(default=128, ge=4, le=4096, description="Length of the vectors that known columns add.")
    hidden: int = Field(
        default=32, ge=4, le=4096, description="Units between what is known and the digits of a column."
    )
    dropout: float = Field(default=0.4, ge=0, lt=1, description="Share of these units dropped while training.")
    order: Literal["association", "table", "random"] = Field(
        default="table",
        description="Order in which columns are drawn: 'table', 'association' (the column that tells most about all others"
        " first), or 'random' (another one for every chunk of rows). Fixed columns always come first.",
    )
    label: Literal["in_place", "first", "last"] = Field(
        default="in_place",
        description="Where labels stand in that order: where they fall, before all others, or after.",
    )
    home_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of the rows of a step that are learned in the order of drawing; the others each in a random"
        " one, so that anything can be known (TabularARGN: all random).",
    )
    epochs: int = Field(default=100, ge=1, le=100_000, description="Passes over the training rows, at most.")
    batch_size: int = Field(
        default=256, ge=1, description="Rows a step; at most an eighth of the training rows, but at least 32."
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="Learning rate of AdamW.")
    weight_decay: float = Field(default=1e-5, ge=0, description="Weight decay of AdamW.")
    clip: float = Field(default=1.0, gt=0, description="Largest norm of a step's gradient.")
    patience: int = Field(
        default=8, ge=0, description="Epochs without gain on the tuning rows before training stops; 0 trains them all."
    )
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="Decay of a running mean of the weights that is kept; 0: the weights."
    )
    private_width: int = Field(default=64, ge=4, le=4096, description="`width` under differential privacy.")
    private_hidden: int = Field(default=32, ge=4, le=4096, description="`hidden` under differential privacy.")
    private_pieces: int = Field(default=20, ge=2, le=512, description="`pieces` under differential privacy.")
    private_epochs: float = Field(
        default=60.0, gt=0, description="Noisy steps under differential privacy, as passes over the subjects."
    )
    private_batch_size: int = Field(
        default=0, ge=0, description="Subjects a noisy step on average; 0: 512, or 2,048 from 20,000 subjects on."
    )
    private_learning_rate: float = Field(default=2e-3, gt=0, description="Learning rate of the noisy steps.")
    private_clip: float = Field(default=1.0, gt=0, description="Largest norm of a subject's gradient.")

    def shape(self, *, private: bool = False) -> Shape:
        """Sizes of the network."""
        if private:
            return Shape(self.private_width, self.private_hidden, 0.0)
        return Shape(self.width, self.hidden, self.dropout)

    def training(self, rows: int) -> TrainSettings:
        """How to train on so many rows."""
        return TrainSettings(
            epochs=self.epochs,
            batch_size=min(self.batch_size, max(32, rows // 8)),
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            clip=self.clip,
            patience=self.patience,
            plateau=max(1, self.patience // 2),
            ema=self.ema,
        )

    def private_training(self, subjects: int) -> PrivateSettings:
        """How to train under differential privacy on so many subjects."""
        return PrivateSettings(
            epochs=self.private_epochs,
            expected_batch=self.private_batch_size or (512 if subjects < FEW_ROWS else 2_048),
            clip=self.private_clip,
            learning_rate=self.private_learning_rate,
        )
