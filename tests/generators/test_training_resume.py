"""A training that is killed goes on where it was and ends with the same bytes; what makes it diverge or starve."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from generator_tables import stay_cohort
from torch import nn

from pipeline.errors import OutOfMemoryError, StoreError, TrainingError
from pipeline.generators.checkpoint import Checkpoint
from pipeline.generators.memory import memory_advice, out_of_memory
from pipeline.generators.precision import wide_layers_in_bfloat16
from pipeline.generators.registry import generator_class
from pipeline.generators.training import TrainLog, TrainSettings, repeatable, train

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")
SMALL = {"preset": "quick", "epochs": 7, "dropout": 0.1, "patience": 0}
KILLED = """
import os, signal, sys
from itertools import count
from pathlib import Path

from generator_tables import stay_cohort
from pipeline.generators import training
from pipeline.generators.registry import generator_class

training.monotonic = count(0, 3600).__next__  # an hour passes between two looks at the clock

def progress(done, total, entry):
    if done == 4:
        os.kill(os.getpid(), signal.SIGKILL)

model = generator_class(sys.argv[1])({settings})
model.fit(stay_cohort(400), seed=3, device="cpu", progress=progress, checkpoint=Path(sys.argv[2]))
"""


def network_with_dropout() -> tuple[nn.Module, Callable[..., torch.Tensor]]:
    """A small network whose training needs every kind of randomness, and its loss."""
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(1))
    y = torch.sin(x).sum(dim=1)
    network = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 1))

    def loss(rows: torch.Tensor, noise: torch.Generator, done: float) -> torch.Tensor:
        jitter = 0.1 * torch.randn(len(rows), generator=noise)
        return (network(x[rows])[:, 0] - y[rows] + jitter) ** 2

    return network, loss


def fit(
    stop_after: int | None = None, checkpoint: Checkpoint | None = None, rows: int = 300, **settings: object
) -> tuple[nn.Module, TrainLog, int]:
    """Train, perhaps interrupted after some epochs; gives the network, the log and the epochs of this run."""
    seen = []

    def progress(done: int, total: int, entry: object) -> None:
        seen.append(done)
        if done == stop_after:
            raise KeyboardInterrupt

    with repeatable(0):
        network, loss = network_with_dropout()
        log = TrainLog()
        with suppress(KeyboardInterrupt):
            log = train(
                network,
                loss,
                fit_rows=np.arange(rows),
                tune_rows=np.arange(rows, 400),
                settings=TrainSettings(**{"epochs": 12, "batch_size": 50, "learning_rate": 0.02, **settings}),
                seed=0,
                device=CPU,
                progress=progress,
                checkpoint=checkpoint,
            )
    return network, log, len(seen)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "settings", [{}, {"patience": 3, "plateau": 1, "settled": 0.3}, {"schedule": "cosine"}, {"steps": 70, "ema": 0.9}]
)
def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path: Path, settings: dict[str, object]) -> None:
    whole, log, epochs = fit(**settings)
    kept = Checkpoint(tmp_path / "state", identity="a", seconds=0)
    fit(stop_after=3, checkpoint=kept, **settings)
    resumed, again, rest = fit(checkpoint=kept, **settings)
    assert same(whole, resumed)
    assert again == log
    # The state of an epoch is kept after its progress was told.
    assert rest == epochs - 2


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "state", identity="a")
    first, log, _ = fit(checkpoint=kept)
    second, again, epochs = fit(checkpoint=kept)
    assert same(first, second)
    assert again == log
    assert epochs == 0
    kept.remove()
    assert not kept.folder.exists()


def test_the_state_of_another_training_is_not_taken(tmp_path: Path) -> None:
    fit(stop_after=3, checkpoint=Checkpoint(tmp_path, identity="a", seconds=0))
    _, _, epochs = fit(checkpoint=Checkpoint(tmp_path, identity="b"))
    assert epochs == 12
    fit(stop_after=3, checkpoint=Checkpoint(tmp_path, identity="a", seconds=0))
    _, _, epochs = fit(checkpoint=Checkpoint(tmp_path, identity="a"), rows=299)
    assert epochs == 12, "the same settings on other rows are another training"


def test_half_a_file_is_no_state(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path, identity="a", seconds=0)
    fit(stop_after=3, checkpoint=kept)
    data = kept.path.read_bytes()
    kept.path.write_bytes(data[: len(data) // 2])
    assert kept.load() is None
    _, _, epochs = fit(checkpoint=kept)
    assert epochs == 12


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError):
        fit(checkpoint=Checkpoint(tmp_path / "file" / "state", identity="a", seconds=0))


@pytest.mark.parametrize("name", ["vae", "tvae"])
def test_a_killed_process_is_resumed_with_the_same_bytes(name: str, tmp_path: Path) -> None:
    here = Path(__file__).resolve().parent
    state = tmp_path / "state"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED.replace("{settings}", repr(SMALL)), name, str(state)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parents[1]), str(here)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list(state.iterdir()), "nothing was kept"
    cohort, seen = stay_cohort(400), []
    for place, checkpoint in (("whole", None), ("resumed", state)):
        model = generator_class(name)(SMALL)
        model.fit(cohort, seed=3, device="cpu", progress=lambda done, *_: seen.append(done), checkpoint=checkpoint)
        (tmp_path / place).mkdir()
        model.save(tmp_path / place)
    assert seen == [1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]
    for file in ("model.json", "model.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "resumed" / file).read_bytes(), file


def test_the_last_good_weights_are_kept_where_it_diverges_later() -> None:
    with repeatable(0):
        network, good = network_with_dropout()

        def bad_at_last(rows: torch.Tensor, noise: torch.Generator, done: float) -> torch.Tensor:
            return good(rows, noise, done) * (float("nan") if done >= 0.5 else 1.0)

        log = train(
            network,
            bad_at_last,
            fit_rows=np.arange(300),
            tune_rows=np.arange(0),
            settings=TrainSettings(epochs=10, batch_size=50),
            seed=0,
            device=CPU,
        )
    assert log.best_epoch == 5
    assert "epoch 5" in log.warnings[0]
    assert all(torch.isfinite(p).all() for p in network.parameters())


def test_who_never_learned_anything_is_told_so_also_with_one_step_an_epoch() -> None:
    network, good = network_with_dropout()
    with pytest.raises(TrainingError, match="not finite in 6 steps"):
        train(
            network,
            lambda rows, noise, done: good(rows, noise, done) * float("nan"),
            fit_rows=np.arange(300),
            tune_rows=np.arange(300, 400),
            settings=TrainSettings(epochs=10, batch_size=500, patience=0),
            seed=0,
            device=CPU,
        )


def test_no_memory_is_said_in_words_and_is_no_property_of_the_generator() -> None:
    for error, word in (
        (MemoryError(), "batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory."), "larger GPU"),
    ):
        with pytest.raises(OutOfMemoryError, match=word) as caught, memory_advice("vae", 1000):
            raise error
        assert out_of_memory(caught.value)
        assert "1,000 rows" in str(caught.value)
    with pytest.raises(RuntimeError, match="something else"), memory_advice("vae", 1000):
        raise RuntimeError("something else")


def test_wide_layers_alone_multiply_in_bfloat16() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 8))
    x = torch.randn(4, 512)
    whole = network(x)
    with wide_layers_in_bfloat16(network):
        inside = network[0](x)
        assert inside.dtype == torch.float32
        assert not torch.equal(inside, nn.functional.linear(x, network[0].weight, network[0].bias))
        assert torch.equal(network[1](x), nn.functional.linear(x, network[1].weight, network[1].bias))
        inside.sum().backward()
        assert network[0].weight.grad is not None
        assert network[0].weight.grad.dtype == torch.float32
    assert torch.equal(network(x), whole)
