"""The generator `argn`: an autoregressive network that predicts every column from any others (after TabularARGN).

Columns and codes as digits and groups are in `units.py`, the network in `network.py`, how rows are drawn in `drawing.py`.
What differs from the paper, and why, is in docs/generators/argn.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.errors import ConfigError
from pipeline.generators.argn.drawing import draw_codes, draw_parts
from pipeline.generators.argn.grouped import GroupedLinear, teach_opacus
from pipeline.generators.argn.network import Network
from pipeline.generators.argn.settings import ARGNConfig
from pipeline.generators.argn.units import GROUP, UnitRows, code_groups, unit_columns
from pipeline.generators.cart.order import association, visit_order
from pipeline.generators.lone_codes import count_frequencies
from pipeline.generators.seeds import stream
from pipeline.generators.tabular import Learned, TabularGenerator
from pipeline.generators.training import TrainLog, choose_device, repeatable, torch_stream, train, tuning_rows
from pipeline.privacy.dpsgd import PrivateSettings, train_private

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import Progress
    from pipeline.generators.conditions import Fixed
    from pipeline.generators.training import Loss
    from pipeline.privacy.run import PrivateRun

CHUNK = 8_192
LIKELIHOOD_ROWS = 1_024
FEWEST_PIECES = 8
ROWS_A_PIECE = 40
CALIBRATION_ROUNDS = 2
CALIBRATION_FLOOR = 1e-3


class ARGN(TabularGenerator):
    """Any-order autoregressive network; conditions on any columns are met in every row, and the others follow them."""

    name = "argn"
    title = "Any-order autoregressive network over pieces"
    Config = ARGNConfig
    config: ARGNConfig
    uses_gpu = True
    kinds = ("torch",)
    private = True
    resumes = True
    _private = False
    _order: list[int]
    _net: Network

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
        place = choose_device(device)
        tune = tuning_rows(cohort)
        self._private = False
        self._pieces = min(self.config.pieces, max(FEWEST_PIECES, rows.n // ROWS_A_PIECE))
        counts = {name: count_frequencies(rows.blocks[name]) for name, b in encoder.blocks.items() if not b.binary}
        with repeatable(seed):
            network = self._network(encoder, counts)
            self._order = self._home(encoder, network, rows)
            network.to(place)
            # A table of constants and lone codes has nothing to learn.
            log = TrainLog()
            if network.columns or network.groups:
                log = train(
                    network,
                    self._loss(network, rows, place),
                    fit_rows=np.flatnonzero(~tune),
                    tune_rows=np.flatnonzero(tune),
                    settings=self.config.training(rows.n),
                    seed=seed,
                    device=place,
                    progress=progress,
                    checkpoint=self._checkpoint,
                )
            network.to("cpu").eval()
        self._net = network
        self._calibrate(encoder, seed)
        return Learned(
            parameters=sum(p.numel() for p in network.parameters()),
            losses=log.losses,
            warnings=list(log.warnings),
            facts={"best_epoch": float(log.best_epoch)},
        )

    def noise_settings(self, subjects: int) -> PrivateSettings:
        """How DP-SGD trains on so many subjects with these settings."""
        return self.config.private_training(subjects)

    def _learn_private(
        self,
        encoder: TableEncoder,
        rows: Encoded,
        cohort: Cohort,
        *,
        seed: int,
        device: str,
        run: PrivateRun,
        progress: Progress | None,
    ) -> Learned:
        """The same loss by noisy steps, on a smaller network: no tuning rows, columns drawn in table order (spec 8.4)."""
        place = choose_device(device)
        teach_opacus()
        self._private = True
        self._pieces = self.config.private_pieces
        with repeatable(seed):
            network = self._network(encoder, {})
            self._order = self._home(encoder, network, None)
            network.to(place)
            log = train_private(
                network,
                self._loss(network, rows, place),
                rows=rows.n,
                settings=self.config.private_training(run.subjects),
                run=run,
                init_seed=seed,
                device=place,
                subject=np.unique(cohort.subject, return_inverse=True)[1],
                progress=progress,
            )
            network.to("cpu")
        self._net = network
        self._calibrate(encoder, seed)
        return Learned(
            parameters=sum(p.numel() for p in network.parameters()), losses=log.losses, warnings=list(log.warnings)
        )

    def _network(self, encoder: TableEncoder, counts: Mapping[str, NDArray[np.float64]]) -> Network:
        """The untrained network; `counts` are (used codes, counts) shares of the blocks for which they are known."""
        columns = unit_columns(encoder, self._pieces, 1 if self._private else self.config.seconds)
        groups = code_groups(encoder)
        counted = [g for g in groups if not g.binary]
        most = max([int(encoder.blocks[g.block].cap[g.places].max()) for g in counted], default=1)
        table = np.full((len(counted), GROUP, most), -1e9)
        for i, group in enumerate(counted):
            cap = encoder.blocks[group.block].cap[group.places]
            k = np.arange(1, most + 1)
            # Where nothing is known of counts, half as many for each one more.
            shares = np.where(k <= cap[:, None], 0.5**k, 0.0)
            if group.block in counts:
                known = counts[group.block][group.places, 1 : most + 1]
                shares = np.zeros((len(group.places), most))
                shares[:, : known.shape[1]] = known
            with np.errstate(divide="ignore"):
                table[i, : len(group.places)] = np.maximum(np.log(shares), -1e9)
        network = Network(columns, groups, table, self.config.shape(private=self._private))
        network.start_at()
        return network

    def _home(self, encoder: TableEncoder, network: Network, rows: Encoded | None) -> list[int]:
        """Columns in the order of drawing; without rows to look at, in table order."""
        names = [c.name for c in network.columns]
        labels = [n for n in names if encoder.schema.column(n).role == "label"]
        by_rows = rows is not None and self.config.order == "association" and len(names) > 1
        related = association(encoder, rows, names) if by_rows and rows is not None else np.zeros((len(names),) * 2)
        order = visit_order(names, related, "association" if by_rows else "table", ())
        at = [names.index(n) for n in labels]
        if self.config.label == "first":
            return [*(i for i in order if i in at), *(i for i in order if i not in at)]
        if self.config.label == "last":
            return [*(i for i in order if i not in at), *(i for i in order if i in at)]
        return order

    def _loss(self, network: Network, rows: Encoded, place: torch.device) -> Loss:
        """Negative log-likelihood of rows, some in the order of drawing and each other one in a random order."""
        data = UnitRows.of(rows, network.columns, network.groups, place)
        home = _keys(self._order, place)
        share = self.config.home_share if self.config.order != "random" else 0.0
        # A private step clips by row: the mean over columns keeps the norm where the clip is.
        scale = 1 / max(1, len(network.columns) + len(network.groups)) if self._private else 1.0

        def loss(at: torch.Tensor, noise: torch.Generator, done: float) -> torch.Tensor:
            keys = torch.rand(len(at), len(home), generator=noise, device=place)
            usual = torch.rand(len(at), 1, generator=noise, device=place) < share
            return scale * network.loss(data.take(at), torch.where(usual, home, keys))

        return loss

    def _calibrate(self, encoder: TableEncoder, seed: int) -> None:
        """Shift the outputs' biases until columns are drawn as often as the encoder knows them.

        What is drawn early is seen by all that comes later, so that small errors add up to hundredths of a margin. How
        often states are is known to the encoder: this looks at no row, and costs nothing under differential privacy.
        """
        network = self._net
        for k in range(CALIBRATION_ROUNDS if network.columns else 0):
            random = torch_stream(seed, "calibrate", k)
            with torch.inference_mode():
                parts, _ = draw_parts(network, CHUNK, self._order, {}, random)
            for layer, part in zip(network.out, network.classes, strict=True):
                for row, i in enumerate(part):
                    column = network.columns[i]
                    known = np.bincount(column.first, weights=column.frequency, minlength=column.size)
                    found = np.bincount(column.first[parts[:, i]], minlength=column.size) / CHUNK
                    gap = np.log(known + CALIBRATION_FLOOR) - np.log(found + CALIBRATION_FLOOR)
                    step = torch.as_tensor(np.clip(gap, -0.5, 0.5), dtype=torch.float32)
                    assert isinstance(layer, GroupedLinear)
                    assert layer.bias is not None
                    with torch.no_grad():
                        layer.bias[row, : column.size] += step

    def log_likelihood(self, cohort: Cohort, *, orders: int = 4) -> NDArray[np.float64]:
        """(n,) log density of rows: the mean over orders, of drawing and `orders` - 1 random ones (spec 6.5).

        Exact for each order. Numbers are on the scale of their order (0 to 1); codes too rare to be modelled are left
        out.

        Raises:
            ConfigError: less than one order.
        """
        if orders < 1:
            raise ConfigError(f"{orders} orders were asked for.", todo="Ask for at least one.")
        encoder = self._fitted()
        rows = encoder.encode(cohort, stream(0, "likelihood"))
        data = UnitRows.of(rows, self._net.columns, self._net.groups, torch.device("cpu"))
        random = torch_stream(0, "likelihood-orders")
        found = torch.empty(orders, rows.n)
        with torch.inference_mode():
            for k in range(orders):
                keys = _keys(self._order, torch.device("cpu"))
                if k:
                    keys = torch.rand(len(self._order), generator=random)
                for part in torch.arange(rows.n).split(LIKELIHOOD_ROWS):
                    each = keys.expand(len(part), -1)
                    found[k, part] = -self._net.loss(data.take(part), each, density=True)
        return (found.logsumexp(dim=0) - np.log(orders)).numpy().astype(np.float64)

    def draws_given(self, columns: Collection[str]) -> bool:
        """See `Generator.draws_given`."""
        return self.config.order == "random"

    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        random = torch.Generator().manual_seed(int(rng.integers(2**62)))
        parts = [np.arange(start, min(n, start + CHUNK)) for start in range(0, n, CHUNK)]
        with torch.inference_mode():
            drawn = [self._draw_part(encoder, len(p), rng, random, fixed.take(p)) for p in parts]
        return Encoded.concatenate(drawn)

    def _draw_part(
        self, encoder: TableEncoder, n: int, rng: np.random.Generator, random: torch.Generator, fixed: Fixed
    ) -> Encoded:
        network = self._net
        known = {i: p for i, c in enumerate(network.columns) if (p := c.fixed(encoder, fixed)) is not None}
        order = self._order
        if self.config.order == "random":
            order = rng.permutation(len(order)).tolist()
        parts, total = draw_parts(network, n, order, known, random)
        out = Encoded(
            n=n,
            states={k: np.zeros(n, dtype=np.int64) for k in encoder.levels},
            uniforms={k: np.full(n, np.nan) if c.scaler.empty else rng.random(n) for k, c in encoder.numbers.items()},
        )
        for i, column in enumerate(network.columns):
            part = np.maximum(parts[:, i], 0)
            if column.numeric:
                out.uniforms[column.name] = column.uniform(part, rng)
            else:
                out.states[column.name] = part
        for name, block in encoder.blocks.items():
            counts = np.zeros((n, len(block.used)), dtype=np.int16)
            lone = np.flatnonzero(~block.common)
            counts[:, lone] = rng.random((n, len(lone)), dtype=np.float32) < block.prevalence[lone]
            out.blocks[name] = counts
        if network.groups:
            codes = draw_codes(network, total, random)
            for i, group in enumerate(network.groups):
                out.blocks[group.block][:, group.places] = codes[:, i, : len(group.places)]
        return out

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        tensors = {f"network/{k}": v.numpy() for k, v in self._net.state_dict().items()}
        tensors["log_counts"] = self._net.log_counts.numpy()
        return tensors, {"order": self._order, "private": self._private, "pieces": self._pieces}

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        self._order, self._private = [int(i) for i in extra["order"]], bool(extra["private"])
        self._pieces = int(extra["pieces"])
        columns = unit_columns(encoder, self._pieces, 1 if self._private else self.config.seconds)
        table = np.asarray(tensors["log_counts"], dtype=np.float64)
        with repeatable(0):
            self._net = Network(columns, code_groups(encoder), table, self.config.shape(private=self._private))
        state = {k.removeprefix("network/"): torch.as_tensor(v) for k, v in tensors.items() if k.startswith("network/")}
        self._net.load_state_dict(state)
        self._net.eval()


def _keys(order: list[int], place: torch.device) -> torch.Tensor:
    """(columns,) place of each column in an order."""
    keys = torch.zeros(len(order), device=place)
    keys[torch.tensor(order, dtype=torch.long)] = torch.arange(len(order), dtype=torch.float32, device=place)
    return keys
