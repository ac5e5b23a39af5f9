"""Commands on plain tables: schema, fit, sample (`evaluate` is in `evaluate.py`). No Dagster, no COHORTLOOM_HOME, nothing but files."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assets.cli.display import next_steps, progress, say, show
from pipeline.errors import ConfigError, StoreError, UnsupportedError
from pipeline.store.disk import remove

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.features.cohort import Cohort
    from pipeline.features.constraint_spec import ConstraintSpec
    from pipeline.features.described import Described
    from pipeline.generators.base import Generator
    from pipeline.privacy.spec import TrainingPrivacy

STATE = ".tmp-training"
"""Folder beside the model in which a training keeps its state."""
PRIVACY_FILE = "privacy.json"
"""Stands beside a model that was trained under differential privacy."""


def text_encoding(name: str | None) -> str | None:
    """The name of a text encoding, as it was given; raises `ConfigError` where there is none of that name."""
    import codecs

    known = False
    if name is not None:
        try:
            known = isinstance(b"".decode(codecs.lookup(name).name), str)
        except LookupError:
            known = False
        if not known:
            raise ConfigError(f"There is no text encoding '{name}'.", todo="For example windows-1252, latin-1, utf-16.")
    return name


Encoding = Annotated[
    str | None,
    typer.Option(callback=text_encoding, help="Text encoding of a CSV that is not UTF-8, such as windows-1252."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the app."""
    app.command("schema")(describe)
    app.command()(fit)
    app.command()(sample)


def describe(
    table: Annotated[Path, typer.Argument(help="CSV or Parquet file, plain or gzipped.")],
    out: Annotated[Path | None, typer.Option(help="Write the TableSchema here as JSON, to be corrected.")] = None,
    subject: Annotated[
        str | None, typer.Option(help="Column that identifies the subject; it is no part of the schema.")
    ] = None,
    missing: Annotated[
        list[str] | None, typer.Option(help="A text that means 'missing', such as '?'; repeat for more.")
    ] = None,
    encoding: Encoding = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print the section `columns:` of a cohort file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the TableSchema as JSON.")] = False,
) -> None:
    """Say what a table holds: kinds, levels, bounds, grids, suspected codes for missing; write it out."""
    from pipeline.features.described import columns_yaml, describe_file
    from pipeline.ingest.tables.files import table_name
    from pipeline.ingest.tables.written_otherwise import hint

    found = describe_file(table, subject=subject, missing=missing or [], encoding=encoding)
    text = found.schema.model_dump_json(indent=1) + "\n"
    if out is not None:
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise StoreError(f"The file cannot be written ({error.strerror}).", where=str(out)) from None
    if as_json:
        print(text, end="")
    elif as_yaml:
        print(columns_yaml(found, table_name(table.name)), end="")
    else:
        show(_described(found), title=f"{table.name}: {found.rows:,} rows", as_json=False, empty="")
    for name, reason in found.refused.items():
        say(f"left out: '{name}': {reason}")
    for name in found.named_like_ids:
        say(f"an identifier? '{name}': name it as --subject, or set its kind to identifier in the schema.")
    for name, forms in found.written_otherwise.items():
        say(f"a text? '{name}': {hint(name, forms)}")
    for suspect in found.suspects:
        say(f"missing? '{suspect.column}': {suspect.sentence()}")
    codes = sorted({suspect.code for suspect in found.suspects if suspect.code})
    if codes:
        say(
            f"Nothing was changed. If they mean 'missing': --missing CODE here and in fit; for a delivery, "
            f"missing: {json.dumps(codes)} under its table in sources.yaml."
        )
    if out is None:
        next_steps([f"cohortloom schema {table} --out schema.json   to correct it and use it (--yaml: for a cohort)"])
    else:
        given = "".join(f" --missing '{code}'" for code in missing or [])
        given += f" --encoding {encoding}" if encoding else ""
        stem = table.name.removesuffix(".gz").rpartition(".")[0]
        next_steps(
            [
                f"cohortloom fit {table} --generator gaussian_copula --schema {out}{given} --out MODEL/",
                f"beside the file in a delivery, as {stem}.schema.json, its rows are held to it",
            ]
        )


def _described(found: "Described") -> list[dict[str, Any]]:
    """A row a column: what was inferred, and no cell."""
    from pipeline.features.described import grid_words

    return [
        {
            "column": column.name,
            "kind": column.kind,
            "type": column.dtype,
            "values": found.different[column.name],
            "missing": f"{gone / found.rows:.1%}" if (gone := found.absent[column.name]) else "",
            "grid": grid_words(column),
        }
        for column in found.schema.columns
    ]


def fit(
    table: Annotated[Path, typer.Argument(help="CSV or Parquet file, plain or gzipped: the training rows.")],
    generator: Annotated[str, typer.Option("--generator", "-g", help="Standard name; see `cohortloom generators`.")],
    out: Annotated[Path, typer.Option(help="Folder for the model; made if missing.")],
    schema: Annotated[
        Path | None, typer.Option(help="TableSchema JSON; inferred and written beside the model if left out.")
    ] = None,
    subject: Annotated[
        str | None, typer.Option(help="Column that identifies the subject; a row is a subject if left out.")
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(help="Column to leave out; repeat for more.")] = None,
    missing: Annotated[
        list[str] | None, typer.Option(help="A text that means 'missing', such as '?'; repeat for more.")
    ] = None,
    encoding: Encoding = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting as name=value (YAML); repeat for more.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Preset of the generator.")] = "default",
    constraints: Annotated[
        Path | None, typer.Option(help="YAML with a section `constraints:`: rules that every drawn row keeps.")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Train under differential privacy: privacy loss of one subject in all.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="With --epsilon: default the smaller of 1e-5 and 1/(10 n), n subjects.")
    ] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option(help="Instead of --epsilon, for generators that train by DP-SGD.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda[:i].")] = "auto",
) -> None:
    """Train a generator on a table."""
    from pipeline.features.constraint_spec import read_rules
    from pipeline.features.tables import cohort_from_file, likely_identifiers
    from pipeline.generators.base import RULES_FILE
    from pipeline.generators.constraints.constrained import Constrained, named_in
    from pipeline.generators.registry import generator_class

    chosen = generator_class(generator)
    model = chosen({"preset": preset, **parse_settings(settings or [])})
    if constraints is not None:
        model = Constrained(model, read_rules(constraints), named=named_in(parse_settings(settings or [])))
    privacy = asked_privacy(epsilon, delta, noise_multiplier)
    cohort = cohort_from_file(
        table, schema_file=schema, subject=subject, drop=drop or [], missing=missing or [], encoding=encoding
    )
    for column in cohort.schema.columns:
        if column.kind == "identifier" and column.dtype != "string" and schema is None:
            say(
                f"warning: '{column.name}' looks like an identifier and is not learned: name it as --subject if several "
                "rows of one person share it, or --drop it."
            )
    for name in likely_identifiers(cohort):
        say(
            f"warning: '{name}' looks like an identifier but is learned as a number: name it as --subject or --drop it."
        )
    support = chosen.supports(cohort.schema)
    if not support.ok:
        raise UnsupportedError(f"{generator} cannot take this table: {support.reason}", where=str(table))
    make_folder(out)
    say(f"Training {generator} on {cohort.n_rows:,} rows x {len(cohort.schema.columns)} columns ...")
    with progress(f"training {generator}") as update:
        # A killed training, started again with the same arguments, goes on from here.
        kept: dict[str, Any] = {"checkpoint": out / STATE} if model.resumes else {}
        report = model.fit(cohort, seed=seed, device=device, privacy=privacy, progress=update, **kept)
    # What an earlier model of this folder had beside it says nothing of this one.
    for name in (RULES_FILE, PRIVACY_FILE):
        remove(out / name)
    model.save(out)
    remove(out / STATE)
    # What was told from patients and not declared is not the model's to give away.
    used = cohort.schema if privacy is None else model.sample(1, seed=seed).schema
    (out / "schema.json").write_text(used.model_dump_json(indent=1) + "\n", encoding="utf-8")
    say(f"Trained in {report.seconds:.1f} s; {report.parameters:,} parameters.")
    if report.privacy is not None:
        (out / PRIVACY_FILE).write_text(json.dumps(report.privacy, indent=1) + "\n", encoding="utf-8")
        say(f"Privacy: {report.privacy['headline']}")
    for warning in report.warnings:
        say(f"warning: {warning}")
    next_steps(
        [
            f"cohortloom sample {out} -n 10000 --seed 7 --out synthetic.parquet",
            f"the schema that was used: {out / 'schema.json'}",
        ]
    )


def asked_privacy(
    epsilon: float | None, delta: float | None, noise_multiplier: float | None
) -> "TrainingPrivacy | None":
    """What the options ask for; None for a training without privacy.

    Raises:
        ConfigError: they contradict each other, or a number is none that can be asked for.
    """
    from pydantic import ValidationError

    from pipeline.privacy.spec import TrainingPrivacy

    if epsilon is None and noise_multiplier is None:
        if delta is not None:
            raise ConfigError("--delta says nothing without --epsilon or --noise-multiplier.")
        return None
    try:
        return TrainingPrivacy(epsilon=epsilon, delta=delta, noise_multiplier=noise_multiplier)
    except ValidationError as error:
        words = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"{words[:1].upper()}{words[1:]}.", where="--epsilon, --delta, --noise-multiplier") from None


def sample(
    model: Annotated[Path, typer.Argument(help="Folder that `cohortloom fit` wrote.")],
    out: Annotated[Path, typer.Option(help="File to write: .parquet or .csv.")],
    n: Annotated[int, typer.Option("-n", "--rows", min=1, help="Rows to draw.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", help="A condition as column=value (nothing after = is a missing cell); repeat for more."
        ),
    ] = None,
    fair: Annotated[
        Path | None,
        typer.Option(help="YAML with a section `fairness:`: the rows are drawn under it (docs/fairness.md)."),
    ] = None,
    meds: Annotated[
        Path | None, typer.Option(help="Folder for a MEDS dataset of the rows' visits, where the model draws any.")
    ] = None,
) -> None:
    """Draw synthetic rows from a model."""
    from pipeline.features.tables import check_name, write_table
    from pipeline.generators.base import load_generator
    from pipeline.generators.constraints.constrained import Constrained
    from pipeline.generators.constraints.redraw import sample_constrained

    check_name(out)
    generator = load_generator(model)
    conditions = parse_conditions(where or []) or None
    rules = generator.known_rules if isinstance(generator, Constrained) else []
    if meds is not None:
        from pipeline.ingest.meds.synthetic import check_target, write_synthetic

        # One row tells what all of them come with, before they are drawn.
        check_target(generator.sample(1, seed=seed).schema, meds)
    if fair is not None:
        if conditions is not None:
            raise ConfigError("--fair draws whole cohorts, --where parts of one: give one of them.")
        drawn = _fair(generator, n, seed, fair, rules, out)
    else:
        drawn, _ = sample_constrained(generator, n, seed, rules, conditions=conditions)
    write_table(drawn.table, out)
    say(f"Wrote {drawn.n_rows:,} synthetic rows to {out}.")
    if meds is not None:
        written = write_synthetic(drawn, meds, name=out.stem, version=f"seed {seed}")
        say(f"Wrote {written.events:,} events of {written.subjects:,} made-up people to {meds}.")
    next_steps([f"cohortloom evaluate --train TRAIN --holdout HOLDOUT --synthetic {out} --out report/"])


def _fair(
    generator: "Generator", n: int, seed: int, file: Path, rules: "Sequence[ConstraintSpec]", out: Path
) -> "Cohort":
    """Rows drawn under the notion of a file; what became of it is told, and written beside the rows."""
    from pipeline.fairness.sampling import fair_sample
    from pipeline.features.fairness_spec import read_fairness

    made = fair_sample(generator, n, seed=seed, fairness=read_fairness(file), constraints=rules)
    account = made.account
    for group in account.groups:
        known = [group[f"positive_{when}"] for when in ("before", "after")]
        shares = " -> ".join("-" if share is None else f"{share:.1%}" for share in known)
        say(f"{group['group']}: {group['share_after']:.1%} of the rows; positive {shares}")
    say(f"{account.rows:,} rows out of {account.candidates:,} candidates.")
    if account.decision_gap_after is not None:
        say(
            f"Gap of a model's decisions on rows of the generator: {account.decision_gap_before:.3f} -> "
            f"{account.decision_gap_after:.3f}. How it treats real people is for `cohortloom evaluate` to say."
        )
    for warning in account.warnings:
        say(f"warning: {warning}")
    beside = out.with_name(f"{out.stem}.fairness.json")
    beside.write_text(json.dumps(account.plain(), indent=1) + "\n", encoding="utf-8")
    say(f"What was asked and what became of it: {beside}")
    return made.cohort


def parse_conditions(pairs: list[str]) -> dict[str, str | None]:
    """`column=value` pairs; a value stays text (`no` is a level, not False), and nothing at all is a missing cell."""
    return {name: value or None for name, value in map(_pair, pairs)}


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """`name=value` pairs; values are read as YAML, so numbers, booleans and lists work."""
    import yaml

    parsed: dict[str, Any] = {}
    for pair in pairs:
        name, value = _pair(pair)
        try:
            parsed[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"The value of '{name}' is not valid YAML.", todo=json.dumps(value)) from error
    return parsed


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise ConfigError(f"'{text}' is not of the form name=value.")
    return name.strip(), value.strip()


def make_folder(folder: Path) -> None:
    """Make the folder for results before the work begins, so that hours of training are not lost to a wrong path."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"The folder cannot be made ({error.strerror}).", where=str(folder)) from None
