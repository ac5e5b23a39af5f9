"""Which column is the label and which are protected, for generators whose game is about them; and a generator that is told them.

The settings come first, then the roles of the schema (a cohort's tasks and its `protected` give columns their roles); where
neither says it, the words of the refusal do. What is told stands in the outputs as it is told, so that vectors, looks and
drawn rows hold it without further ado.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pipeline.errors import ConfigError, nearest
from pipeline.generators.adversarial.networks import GeneratorNet

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pipeline.encoding.encoder import LevelCodec, TableEncoder
    from pipeline.generators.adversarial.conditions import ConditionVector
    from pipeline.generators.adversarial.vector import RowBlocks

Undeclared = Literal["refuse", "guess"]
CERTAIN = 1e4
"""Output of a told state above the others: no noise changes it."""


class TellingNet(GeneratorNet):
    """A generator whose told columns come out as they are told.

    Args:
        inputs: width of noise and condition vector, the latter last.
        hidden: widths of the hidden layers.
        outputs: width of the outputs.
        coordinates: (told width,) the outputs of the told columns, in the order of the condition vector.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, coordinates: Tensor) -> None:
        super().__init__(inputs, hidden, outputs)
        self.coordinates: Tensor
        self.register_buffer("coordinates", coordinates, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """See `GeneratorNet.forward`."""
        told = inputs[:, inputs.shape[1] - len(self.coordinates) :]
        return super().forward(inputs).index_copy(1, self.coordinates, CERTAIN * (told - 1))


def coordinates_of(blocks: RowBlocks, told: ConditionVector) -> Tensor:
    """(told width,) the coordinates of a vector, and outputs of a generator, that hold the told columns."""
    parts = [blocks.start(k) + torch.arange(size) for k, size in zip(told.columns, told.sizes, strict=True)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)


def known_states(level: LevelCodec) -> list[int]:
    """The states of a column that training rows have, missing left out."""
    return [s for s in range(level.states) if s != level.missing_state and level.frequency[s] > 0]


def label_of(
    encoder: TableEncoder, name: str | None, undeclared: Undeclared, generator: str, *, instead: str = ""
) -> str | None:
    """The label: as the settings say, else the schema, else a guess, which may find none.

    Args:
        encoder: the fitted encoder.
        name: of the settings.
        undeclared: what to do where nothing says it.
        generator: its name, for messages.
        instead: what needs no label, for the message.

    Raises:
        ConfigError: the settings name a column that is no label, or nothing says which is and guesses are not asked for.
    """
    fit = [k for k, c in encoder.levels.items() if len(known_states(c)) > 1]
    if name is not None:
        _check(encoder, name, "label")
        if name not in fit:
            raise ConfigError(f"The label '{name}' has one level only among the training rows.", where=generator)
        return name
    declared = [k for k in fit if encoder.schema.column(k).role == "label"]
    if declared:
        return declared[0]
    if undeclared == "guess":
        free = [k for k in fit if encoder.schema.column(k).role != "protected"]
        flags = [k for k in free if encoder.schema.column(k).kind == "binary"]
        return (flags or free)[-1] if free else None
    raise ConfigError(
        f"'{generator}' has to be told which column is the label.",
        where=generator,
        todo="Give the setting `label: COLUMN` (a column of levels), or declare a task in the cohort's file; `undeclared:"
        f" guess` takes the last column of two levels. {instead}".rstrip(),
    )


def protected_of(
    encoder: TableEncoder,
    names: Sequence[str],
    undeclared: Undeclared,
    generator: str,
    *,
    instead: str,
    but: Collection[str | None] = (),
) -> list[str]:
    """The protected columns: as the settings say, else the schema, else a guess, which may find none.

    Args:
        encoder: the fitted encoder.
        names: of the settings.
        undeclared: what to do where nothing says it.
        generator: its name, for messages.
        instead: what remains without one, for the message.
        but: columns that are something else.

    Raises:
        ConfigError: the settings name a column that makes no groups, or nothing says which is and guesses are not asked for.
    """
    fit = [k for k, c in encoder.levels.items() if (c.frequency > 0).sum() > 1 and k not in but]
    for name in names:
        _check(encoder, name, "protected")
        if name in but:
            raise ConfigError(f"'{name}' cannot be the label and protected as well.", where=generator)
        if name not in fit:
            raise ConfigError(f"The protected column '{name}' makes one group only.", where=generator)
    if names:
        return list(dict.fromkeys(names))
    declared = [k for k in fit if encoder.schema.column(k).role == "protected"]
    if declared or undeclared == "guess":
        return declared or fit[:1]
    raise ConfigError(
        f"'{generator}' has to be told which column is protected.",
        where=generator,
        todo="Give the setting `protected: [COLUMN]` (columns of levels), or `protected` in the cohort's file; "
        + instead,
    )


def _check(encoder: TableEncoder, name: str, what: str) -> None:
    names = [c.name for c in encoder.schema.modelled()]
    if name not in names:
        raise ConfigError(f"There is no column '{name}' to be the {what} one.", where=what, todo=nearest(name, names))
    if name not in encoder.levels:
        raise ConfigError(
            f"'{name}' is a number, and the {what} column needs levels.",
            where=what,
            todo="Make levels of it in the SQL.",
        )
