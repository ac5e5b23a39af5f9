"""Settings of `halo_small`: the published sizes, a default for a CPU, and a quick one."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from pipeline.generators.sequences.network import Shape
from pipeline.generators.tabular import TabularConfig
from pipeline.generators.train_settings import TrainSettings

if TYPE_CHECKING:
    from collections.abc import Mapping


class HaloConfig(TabularConfig):
    """Settings of the autoregressive network over visits, and of the generator that draws the columns beside them."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {
            "layers": 12,
            "width": 768,
            "heads": 12,
            "hidden": 768,
            "max_visits": 48,
            "learning_rate": 1e-4,
            "batch_size": 48,
            "epochs": 50,
            "patience": 0,
        },
        "quick": {
            "columns_preset": "quick",
            "layers": 1,
            "width": 64,
            "heads": 2,
            "hidden": 64,
            "epochs": 8,
            "learning_rate": 3e-3,
        },
    }
    columns: str = Field(
        default="argn",
        description="Generator that learns and draws the columns and blocks of the table; visits follow from its rows.",
    )
    columns_preset: str = Field(default="default", description="Preset of that generator.")
    max_visits: int = Field(
        default=32, ge=1, le=1_000, description="First visits of a person that are learned and drawn, at most."
    )
    max_codes: int = Field(
        default=200,
        ge=1,
        le=10_000,
        description="Codes of a visit that are learned and drawn, at most (the commonest).",
    )
    layers: int = Field(default=2, ge=1, le=48, description="Layers of the transformer over visits.")
    width: int = Field(default=128, ge=4, le=4_096, description="Length of a visit's vector.")
    heads: int = Field(default=4, ge=1, le=64, description="Heads of attention; they divide the width.")
    hidden: int = Field(default=128, ge=4, le=4_096, description="Units of the head over a visit's codes.")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Share of the units dropped while training.")
    epochs: int = Field(default=60, ge=1, le=100_000, description="Passes over the people, at most.")
    batch_size: int = Field(
        default=64, ge=1, description="People a step; at most an eighth of the training rows, but at least 16."
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="Learning rate of AdamW.")
    weight_decay: float = Field(default=1e-2, ge=0, description="Weight decay of AdamW.")
    clip: float = Field(default=1.0, gt=0, description="Largest norm of a step's gradient.")
    patience: int = Field(
        default=4, ge=0, description="Epochs without gain on the tuning rows before training stops; 0 trains them all."
    )
    index_date: dt.date = Field(
        default=dt.date(2100, 1, 1),
        description="First visits lie on this day or, evenly, up to `index_days` later; no real date is used.",
    )
    index_days: int = Field(default=365, ge=1, le=36_525, description="Days over which first visits are spread.")

    @model_validator(mode="after")
    def _divides(self) -> HaloConfig:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")
        return self

    def shape(self) -> Shape:
        """Sizes of the network."""
        return Shape(self.layers, self.width, self.heads, self.hidden, self.dropout, self.max_visits)

    def training(self, rows: int) -> TrainSettings:
        """How to train on so many rows."""
        return TrainSettings(
            epochs=self.epochs,
            batch_size=min(self.batch_size, max(16, rows // 8)),
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            clip=self.clip,
            patience=self.patience,
            plateau=max(1, self.patience // 2),
        )
