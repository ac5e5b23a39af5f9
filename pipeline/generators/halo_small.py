"""The generator `halo_small`: people as sequences of dated visits with sets of codes, after HALO (Theodorou et al. 2023).

A generator of tables (`columns`) learns and draws the columns and blocks; an autoregressive network learns what visits
follow from them. Both are trained one after the other on the same rows: p(row, visits) = p(row) p(visits | row). The
network is in `sequences/network.py`, what a visit is in `features/visits.py`. What differs from the paper is in
docs/generators/halo_small.md.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from pipeline.errors import ConfigError, InputError, TrainingError, UnsupportedError
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.visits import Visits
from pipeline.generators.base import FitReport, Generator, Support, own_bundle
from pipeline.generators.checkpoint import Checkpoint, identity_of
from pipeline.generators.conditions import parse_conditions
from pipeline.generators.memory import memory_advice
from pipeline.generators.registry import generator_class
from pipeline.generators.seeds import derive_seed, stream
from pipeline.generators.sequences.drawing import draw_visits
from pipeline.generators.sequences.gaps import CLASSES, END, GapScale
from pipeline.generators.sequences.network import VisitNetwork
from pipeline.generators.sequences.rows import VisitRows, below, prompt
from pipeline.generators.sequences.settings import HaloConfig
from pipeline.generators.tabular import HEALTH_ROWS, SMALLEST_COHORT, TabularGenerator
from pipeline.generators.training import TrainLog, choose_device, repeatable, torch_stream, train, tuning_rows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded
    from pipeline.features.schema import TableSchema
    from pipeline.generators.base import AskedPrivacy, Conditions, Progress
    from pipeline.generators.training import Loss

COLUMNS = "columns/"
NOT_PRIVATE = (
    "'halo_small' does not train with differential privacy: a person's gradient is over all of their visits, and clipping "
    "it person by person is not built yet."
)
NO_VISITS = "It learns dated visits, and this cohort has none. Declare `events` in the cohort's file, or use a generator of rows."
EPOCH = dt.date(1970, 1, 1)


@dataclass
class _Visiting:
    """What was learned of visits.

    Attributes:
        network: on the CPU.
        gaps: days to classes and back.
        modelled: codes that the network knows, as positions in the schema's vocabulary, the commonest first.
        lone: other codes of training, drawn independently of everything.
        lone_rate: how many of a visit have each of them.
    """

    network: VisitNetwork
    gaps: GapScale
    modelled: NDArray[np.int64]
    lone: NDArray[np.int64]
    lone_rate: NDArray[np.float64]


class HaloSmall(Generator):
    """Autoregressive network over visits; conditions are those of the generator of the columns, and visits follow them.

    Attributes:
        sample_counts: What the last `sample` had to do: that of the columns, and "records_cut", people who had
            `max_visits` visits and might have had more.
    """

    name = "halo_small"
    title = "Autoregressive network over visits (HALO)"
    Config = HaloConfig
    config: HaloConfig
    uses_gpu = True
    kinds = ("torch",)
    resumes = True

    def __init__(self, config: HaloConfig | Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        self.sample_counts: Mapping[str, int] = {}
        self._schema: TableSchema | None = None
        self._columns: TabularGenerator | None = None
        self._visiting: _Visiting | None = None

    @classmethod
    def supports(cls, schema: TableSchema) -> Support:
        """Tables with visits beside them; columns and blocks may be there or not."""
        if schema.events is None:
            return Support(ok=False, reason=NO_VISITS, sequences=True)
        if not schema.events.vocabulary:
            return Support(ok=False, reason="No code of the events is in the vocabulary.", sequences=True)
        plain = without_events(schema)
        if plain.modelled() or plain.blocks:
            columns = TabularGenerator.supports(plain)
            if not columns.ok:
                return replace(columns, sequences=True)
        return Support(ok=True, blocks=True, missing=True, conditions=True, sequences=True, repeated_subjects=False)

    def fit(
        self,
        cohort: Cohort,
        *,
        seed: int,
        device: str = "auto",
        privacy: AskedPrivacy | None = None,
        progress: Progress | None = None,
        checkpoint: Path | None = None,
        noise_key: bytes | None = None,
    ) -> FitReport:
        """Learn from all rows given and their visits; see `Generator.fit`."""
        if privacy is not None:
            raise UnsupportedError(NOT_PRIVATE, todo="Ask for it without epsilon and delta.")
        support = self.supports(cohort.schema)
        if not support.ok:
            raise UnsupportedError(f"'{self.name}' refuses this table: {support.reason}")
        if cohort.n_rows < SMALLEST_COHORT:
            raise InputError(
                f"{cohort.n_rows} training rows are too few to learn from: at least {SMALLEST_COHORT} are needed.",
                todo="What a model of so few patients draws would be the patients themselves.",
            )
        if cohort.n_subjects < cohort.n_rows:
            raise UnsupportedError(
                "Several rows share a subject.", todo="Visits need one row a person (unit: patient)."
            )
        with memory_advice(self.name, cohort.n_rows):
            return self._fit(cohort, seed, device, progress, checkpoint)

    def _fit(
        self, cohort: Cohort, seed: int, device: str, progress: Progress | None, checkpoint: Path | None
    ) -> FitReport:
        from pipeline.generators.health import check_health

        began = perf_counter()
        self._schema = cohort.schema
        report = self._fit_columns(cohort, seed, device, progress, checkpoint)
        encoded = self._encoded(cohort, seed)
        all_visits = Visits.of(cohort)
        visits, cut, modelled, warnings = self._learnable(all_visits)
        scale = GapScale.fit(visits.gaps(), visits.row_of_visit, self.config.extreme_rows)
        gap = scale.classes(visits.gaps())
        lone = np.setdiff1d(np.flatnonzero(all_visits.subjects_with()), modelled)
        rate = np.bincount(all_visits.code, minlength=len(all_visits.vocabulary))[lone] / max(1, len(all_visits.day))
        vector = prompt(self._encoder(), encoded, cohort.n_rows)
        kept = None
        if checkpoint is not None:
            arrays: dict[str, NDArray[Any]] = {
                "start": visits.visit_start,
                "gap": gap,
                "codes": visits.code_start,
                "code": visits.code,
            }
            config = self.config.model_dump(mode="json")
            facts = {"generator": self.name, "code_version": self.code_version, "config": config, "seed": seed}
            kept = Checkpoint(checkpoint, identity_of(encoded, arrays, facts), stage="visits")
        place = choose_device(device)
        tune = tuning_rows(cohort)
        with repeatable(seed):
            most = int(visits.sizes.max(initial=1))
            network = VisitNetwork(self.config.shape(), vector.shape[1], max(len(modelled), 1), most)
            self._start(network, visits, gap, cut)
            network.to(place)
            log = TrainLog()
            if len(visits.code):
                log = train(
                    network,
                    _loss(network, VisitRows.of(vector, visits, gap, cut, place)),
                    fit_rows=np.flatnonzero(~tune),
                    tune_rows=np.flatnonzero(tune),
                    settings=self.config.training(cohort.n_rows),
                    seed=derive_seed(seed, "visits"),
                    device=place,
                    progress=progress,
                    checkpoint=kept,
                )
            network.to("cpu").eval()
        self._visiting = _Visiting(network, scale, modelled, lone, rate.astype(np.float64))
        drawn = self.sample(min(HEALTH_ROWS, max(200, 2 * cohort.n_rows)), seed=seed)
        health, said = check_health(cohort, drawn)
        return FitReport(
            rows=cohort.n_rows,
            seconds=perf_counter() - began,
            parameters=report.parameters + sum(p.numel() for p in network.parameters()),
            losses=log.losses,
            health={**health, **_facts(Visits.of(drawn), all_visits), "best_epoch": float(log.best_epoch)},
            warnings=[*report.warnings, *warnings, *log.warnings, *said],
        )

    def sample(self, n: int, *, seed: int, conditions: Conditions | None = None) -> Cohort:
        """Draw `n` people with their visits; see `Generator.sample`. Conditions are on columns."""
        learned, schema = self._fitted()
        if n < 1:
            raise ConfigError(f"{n} rows were asked for.", todo="Ask for at least one.")
        if self._columns is not None:
            table = self._columns.sample(n, seed=seed, conditions=conditions)
            counts = dict(self._columns.sample_counts)
        else:
            parse_conditions(conditions, schema, n)  # there is no column that could be fixed: says so
            table, counts = assemble(without_events(schema), {"": np.zeros(n)}), {}
        rng = stream(seed, "visits")
        vector = torch.as_tensor(prompt(self._encoder(), self._encoded(table, seed), n))
        with torch.inference_mode():
            drawn = draw_visits(learned.network, vector, torch_stream(seed, "visits"))
        assert schema.events is not None
        first = (self.config.index_date - EPOCH).days + rng.integers(0, self.config.index_days, n)
        visits = drawn.visits(learned.gaps.days(drawn.gap, rng), first)
        visits = replace(visits, vocabulary=[schema.events.vocabulary[i] for i in learned.modelled])
        visits = _named(visits, learned, schema.events.vocabulary, rng)
        self.sample_counts = {**counts, "records_cut": drawn.cut}
        return replace(table, schema=schema, events=visits.events())

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `model.json` into `folder`; same model, same bytes."""
        from pipeline.store.bundles import save_bundle

        learned, schema = self._fitted()
        tensors, columns = self._columns.bundle() if self._columns is not None else ({}, None)
        arrays = {f"{COLUMNS}{k}": v for k, v in tensors.items()}
        arrays |= {f"network/{k}": v.numpy() for k, v in learned.network.state_dict().items()}
        arrays |= {"modelled": learned.modelled, "lone": learned.lone, "lone_rate": learned.lone_rate}
        manifest = {
            "generator": self.name,
            "code_version": self.code_version,
            "config": self.config.model_dump(mode="json"),
            "schema": schema.model_dump(mode="json"),
            "columns": columns,
            "longest_gap": learned.gaps.last,
        }
        save_bundle(folder, arrays, manifest)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The model saved in `folder`."""
        from pipeline.features.schema import TableSchema

        tensors, manifest = own_bundle(cls, folder)
        model = cls(cls.Config(**manifest["config"]))
        model._schema = TableSchema(**manifest["schema"])
        if manifest["columns"] is not None:
            kind = generator_class(manifest["columns"]["generator"])
            assert issubclass(kind, TabularGenerator)
            model._columns = kind.restored(below(tensors, COLUMNS), manifest["columns"])
        modelled = np.asarray(tensors["modelled"], dtype=np.int64)
        state = {k: torch.as_tensor(v) for k, v in below(tensors, "network/").items()}
        shape = state["start.weight"].shape
        vector = shape[1] if "start.bias" in state else 0
        with repeatable(0):
            network = VisitNetwork(model.config.shape(), vector, max(len(modelled), 1), len(state["size.bias"]))
        network.load_state_dict(state)
        model._visiting = _Visiting(
            network.eval(), GapScale(int(manifest["longest_gap"])), modelled, tensors["lone"], tensors["lone_rate"]
        )
        return model

    # ---- the parts of a training

    def _fit_columns(
        self, cohort: Cohort, seed: int, device: str, progress: Progress | None, checkpoint: Path | None
    ) -> FitReport:
        """Let the generator of columns learn the table; without columns and blocks there is none."""
        plain = without_events(cohort.schema)
        self._columns = None
        if not plain.modelled() and not plain.blocks:
            return FitReport(cohort.n_rows, 0.0)
        kind = generator_class(self.config.columns)
        if not issubclass(kind, TabularGenerator) or kind.copies_patients or not kind.publishable:
            raise ConfigError(
                f"'{self.config.columns}' cannot draw the columns beside the visits.",
                where="setting `columns`",
                todo="For example argn, cart or gaussian_copula.",
            )
        shared = {
            name: getattr(self.config, name) for name in ("rare_level_rows", "atom_rows", "extreme_rows", "max_cells")
        }
        self._columns = kind({"preset": self.config.columns_preset, **shared})
        return self._columns.fit(
            replace(cohort, schema=plain, events=None),
            seed=seed,
            device=device,
            progress=progress,
            checkpoint=None if checkpoint is None else checkpoint / "columns",
        )

    def _learnable(self, visits: Visits) -> tuple[Visits, NDArray[np.bool_], NDArray[np.int64], list[str]]:
        """The visits as they are learned, who has more of them, the codes in the network's order, and what to say of it."""
        with_code = visits.subjects_with()
        modelled = np.flatnonzero(with_code >= self.config.rare_level_rows)
        modelled = modelled[np.argsort(-with_code[modelled], kind="stable")]
        place = np.full(len(visits.vocabulary), -1)
        place[modelled] = np.arange(len(modelled))
        known = visits.recoded(place, [visits.vocabulary[int(i)] for i in modelled])
        learned, off = known.cut(visits=self.config.max_visits, codes=self.config.max_codes)
        cut = known.counts > self.config.max_visits
        said = []
        if off.visits:
            said.append(
                f"{off.visits} visits beyond the first {self.config.max_visits} of {int(cut.sum())} people were not learned "
                "(`max_visits`)."
            )
        if off.codes:
            said.append(
                f"{off.codes} codes beyond the first {self.config.max_codes} of a visit were not learned (`max_codes`)."
            )
        rare = int(((with_code > 0) & (with_code < self.config.rare_level_rows)).sum())
        if rare:
            said.append(
                f"{rare} codes of fewer than {self.config.rare_level_rows} people are drawn independently of everything else."
            )
        if not len(modelled):
            said.append("No code is had by enough people: nobody is drawn with a visit.")
        return learned, cut, modelled, said

    def _start(self, network: VisitNetwork, visits: Visits, gap: NDArray[np.int64], cut: NDArray[np.bool_]) -> None:
        """Start as the margins: how often what comes next, and what share of visits has each code."""
        classes = np.bincount(gap, minlength=CLASSES).astype(np.float64)
        classes[END] = (~cut).sum()
        share = np.bincount(visits.code, minlength=network.codes) / max(1, len(visits.day))
        sizes = np.bincount(visits.sizes, minlength=network.size.out_features + 1)[1:] / max(1, len(visits.day))
        network.start_at(classes / max(1.0, classes.sum()), sizes, share)

    def _encoder(self) -> Any:
        return None if self._columns is None else self._columns.encoder

    def _encoded(self, cohort: Cohort, seed: int) -> Encoded:
        from pipeline.encoding.encoder import Encoded

        encoder = self._encoder()
        return Encoded(n=cohort.n_rows) if encoder is None else encoder.encode(cohort, stream(seed, "prompt"))

    def _fitted(self) -> tuple[_Visiting, TableSchema]:
        if self._visiting is None or self._schema is None:
            raise TrainingError("This generator has not been fitted.", todo="Call fit or load first.")
        return self._visiting, self._schema


def without_events(schema: TableSchema) -> TableSchema:
    """The schema of the rows alone."""
    return schema.model_copy(update={"events": None})


def _loss(network: VisitNetwork, data: VisitRows) -> Loss:
    """Negative log-likelihood of the visits of rows."""

    def loss(at: torch.Tensor, noise: torch.Generator, done: float) -> torch.Tensor:
        if torch.is_grad_enabled():
            return network.loss(data, data.batch(at))
        # Many rows are judged at once; few of them are held.
        return torch.cat([network.loss(data, data.batch(part)) for part in at.split(256)])

    return loss


def _named(visits: Visits, learned: _Visiting, vocabulary: list[str], rng: np.random.Generator) -> Visits:
    """The visits under the schema's vocabulary, with lone codes put into visits at random."""
    place = learned.modelled
    if not len(learned.lone) or not len(visits.day):
        return visits.recoded(place, vocabulary)
    # As many as in training on average, each into any visit; twice the same code in a visit is one.
    number = rng.poisson(len(visits.day) * learned.lone_rate)
    code = np.repeat(learned.lone, number)
    visit = rng.integers(0, len(visits.day), len(code))
    pairs = np.unique(visit * len(vocabulary) + code)
    all_visits = np.r_[visits.visit_of_code, pairs // len(vocabulary)]
    all_codes = np.r_[place[visits.code], pairs % len(vocabulary)]
    order = np.lexsort((all_codes, all_visits))
    sizes = np.bincount(all_visits, minlength=len(visits.day))
    return Visits(
        vocabulary,
        visits.visit_start,
        visits.day,
        np.r_[0, np.cumsum(sizes)].astype(np.int64),
        all_codes[order].astype(np.int32),
    )


def _facts(drawn: Visits, real: Visits) -> dict[str, float]:
    """How drawn visits compare with real ones, as ratios of means."""
    facts = {"visits_ratio": (len(drawn.day) / drawn.n) / max(1e-9, len(real.day) / real.n)}
    if len(drawn.day) and len(real.day):
        facts["codes_per_visit_ratio"] = float(drawn.sizes.mean() / real.sizes.mean())
    return facts
