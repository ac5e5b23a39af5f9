"""The code blocks of a cohort: from the SQL of a block to a sparse matrix over a vocabulary frozen on the training split.

Occurrences never leave DuckDB: what comes out is one number a row of the cohort and code, and no table is ever as wide
as the vocabulary. How codes are written and grouped is in `codes.py`, what a block is asked for in `block_spec.py`,
the rows that it stands beside come from `rows.py`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pipeline.errors import ConfigError, InputError, nearest
from pipeline.features.block_account import TAKEN, BlockAccount, Tally
from pipeline.features.codes import group_codes
from pipeline.features.mapping import read_mapping
from pipeline.features.query import place, select_into, sql_text
from pipeline.features.schema import CodeBlock
from pipeline.store.connection import identifier
from pipeline.store.hashing import sha256_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import duckdb
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from pipeline.features.block_spec import BlockSpec, CodesSpec
    from pipeline.features.spec import CohortSpec

_FATES: Final = (TAKEN, "beyond max_codes", "rare in training", "not in training")
"""What becomes of a code that could be written and grouped; of several groups of a code the first of these counts."""
_WHOLE: Final = {f"{sign}{size}INT" for sign in ("", "U") for size in ("TINY", "SMALL", "BIG", "HUGE")} | {
    "INTEGER",
    "UINTEGER",
}
_MOST: Final = 2**31 - 1
"""Largest number in a cell; sums beyond it are cut to it."""


@dataclass(frozen=True)
class BlockRows:
    """What the blocks need to know of the cohort's rows.

    Attributes:
        keys: column of the cohort's SQL to (n,) keys as text, one for every column that a block joins on.
        subject: (n,) subject of each row.
        train: (n,) is the row for training?
    """

    keys: Mapping[str, NDArray[np.str_]]
    subject: NDArray[np.str_]
    train: NDArray[np.bool_]


@dataclass(frozen=True)
class BuiltBlock:
    """A block: what it is, its (rows, codes) matrix, and the account of the records it was made from."""

    block: CodeBlock
    matrix: csr_matrix
    account: BlockAccount


def block_texts(spec: CohortSpec) -> dict[str, str]:
    """The text of every block's SQL; raises `ConfigError` if one cannot be read."""
    return {name: sql_text(spec.folder / block.sql) for name, block in spec.blocks.items()}


def blocks_identity(spec: CohortSpec) -> list[list[Any]]:
    """All that the blocks depend on beside the data: what is asked for, SQL, mapping files. Equal lists, equal blocks."""
    return [
        [
            name,
            block.model_dump(mode="json"),
            [sha256_bytes((spec.folder / file).read_bytes()) for file in block.files],
        ]
        for name, block in spec.blocks.items()
    ]


def build_blocks(
    spec: CohortSpec,
    texts: Mapping[str, str],
    rows: BlockRows,
    connection: duckdb.DuckDBPyConnection,
    tables: list[str],
) -> dict[str, BuiltBlock]:
    """All blocks of a cohort.

    Args:
        spec: the cohort.
        texts: what `block_texts` gave.
        rows: the cohort's rows in their final order.
        connection: with the raw tables as the cohort's own SQL sees them, confined.
        tables: what the SQL can see, for hints.

    Raises:
        ConfigError: a block's SQL or mapping is wrong, or needs more memory than there is.
        InputError: several rows of the cohort share a key, or no code is left for the vocabulary.
    """
    return {
        name: _build(name, block, spec, texts[name], rows, connection, tables) for name, block in spec.blocks.items()
    }


def _build(
    name: str,
    block: BlockSpec,
    spec: CohortSpec,
    text: str,
    rows: BlockRows,
    connection: duckdb.DuckDBPyConnection,
    tables: list[str],
) -> BuiltBlock:
    import pyarrow as pa

    file, by = spec.folder / block.sql, block.by or spec.subject
    where = f"cohort {spec.name}, block {name}"
    if len(np.unique(rows.keys[by])) < len(rows.keys[by]):
        raise InputError(
            f"Several rows of the cohort have the same '{by}'.",
            where=where,
            todo="Let the SQL give a column that tells the rows apart, and name it in the block's `by`.",
        )
    mapping = read_mapping(block.mapping, spec.folder) if block.mapping else None
    select_into("__given", file, text, connection, tables)
    version, number = _columns(connection, by, where=f"{place(file)}")
    with about_codes(where):
        _, subject = np.unique(rows.subject, return_inverse=True)
        there = pa.table(
            {
                "key": pa.array(rows.keys[by].tolist(), pa.string()),
                "row": np.arange(len(subject), dtype=np.int32),
                "subject": subject.astype(np.int32),
                "train": pa.array(rows.train),
            }
        )
        connection.register("__rows", there)
        try:
            records = count_cells(connection, by, version, number)
        finally:
            connection.unregister("__rows")
        group_codes(connection, block, mapping, given="__codes", into="__grouped")
        fates = freeze(connection, block)
        matrix = _matrix(connection, fates, len(subject), block)
        found = account(connection, fates, records, matrix.shape, matrix.nnz)
        for table in ("__given", "__codes", "__cells", "__grouped", "__sums"):
            connection.execute(f"DROP TABLE {identifier(table)}").fetchall()
    if found.records == records["of no row"]:
        raise InputError(
            f"None of the {found.records} records of the block belongs to a row of the cohort.",
            where=f"{place(file)}, column {by}",
            todo=f"Do both SQL files give the same '{by}'?",
        )
    if not found.codes:
        raise InputError(
            f"No code of {found.records} records is left for the vocabulary.",
            where=where,
            todo=f"It needs codes that {block.min_subjects} training subjects have: lower min_subjects, or look at the SQL.",
        )
    vocabulary = [code for code, fate in fates.items() if fate == TAKEN]
    described = CodeBlock(
        name=name,
        kind=block.kind,
        vocabulary=vocabulary,
        inferred=("vocabulary",),
        description=block.description,
        source=list(block.source),
    )
    return BuiltBlock(described, matrix, found)


def _columns(connection: duckdb.DuckDBPyConnection, by: str, *, where: str) -> tuple[str, str]:
    """SQL for the version and the number of a record, told from the columns that a block's SQL gives."""
    types = {str(row[0]): str(row[1]) for row in connection.execute("DESCRIBE __given").fetchall()}
    for wanted in (by, "code"):
        if wanted not in types:
            raise ConfigError(
                f"The block's SQL does not give column '{wanted}'.", where=where, todo=nearest(wanted, list(types))
            )
    unknown = [n for n in types if n not in (by, "code", "version", "system", "n")]
    if unknown or {"version", "system"} <= set(types):
        raise ConfigError(
            f"A block's SQL gives '{by}', `code`, `version` or `system`, and `n`, not '{(unknown or ['system'])[0]}' too.",
            where=where,
        )
    if types.get("n", "BIGINT") not in _WHOLE:
        raise ConfigError(f"`n` is a whole number, not {types['n']}.", where=where, todo="CAST(... AS BIGINT)")
    system = next((n for n in ("version", "system") if n in types), None)
    return (f"CAST(g.{system} AS VARCHAR)" if system else "CAST(NULL AS VARCHAR)"), ("g.n" if "n" in types else "1")


def count_cells(connection: duckdb.DuckDBPyConnection, by: str, version: str, number: str) -> dict[str, int]:
    """Make `__codes` (id, raw, version) and `__cells` (row, subject, train, id, records, n); what is no cell is counted."""
    key = f"CAST(g.{identifier(by)} AS VARCHAR)"
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE __codes AS
        SELECT row_number() OVER () AS id, raw, version
        FROM (SELECT DISTINCT CAST(g.code AS VARCHAR) AS raw, {version} AS version FROM __given AS g)
        """
    ).fetchall()
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE __cells AS
        SELECT r."row", r.subject, r.train, c.id, count(*) AS records, least(sum({number}), {_MOST}) AS n
        FROM __given AS g
        JOIN __rows AS r ON r.key = {key}
        JOIN __codes AS c ON c.raw IS NOT DISTINCT FROM CAST(g.code AS VARCHAR)
            AND c.version IS NOT DISTINCT FROM {version}
        WHERE {number} > 0
        GROUP BY ALL
        """
    ).fetchall()
    found = connection.execute(
        f"""
        SELECT count(*), count(*) FILTER (r.key IS NULL), count(*) FILTER (r.key IS NOT NULL AND NOT coalesce({number} > 0, false))
        FROM __given AS g LEFT JOIN __rows AS r ON r.key = {key}
        """
    ).fetchall()[0]
    return {"records": found[0], "of no row": found[1], "no count": found[2]}


def freeze(connection: duckdb.DuckDBPyConnection, block: CodesSpec) -> dict[str, str]:
    """Make `__sums` (row, grouped, n), and choose the vocabulary: code to its fate, in the order of the codes.

    Only training subjects count, so that nothing of the others decides which columns a generator sees.
    """
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE __sums AS
        SELECT c."row", c.subject, c.train, g.grouped, sum(c.n) AS n
        FROM __cells AS c
        JOIN (SELECT DISTINCT d.id, o.grouped FROM __grouped AS o JOIN __codes AS d
            ON d.raw IS NOT DISTINCT FROM o.raw AND d.version IS NOT DISTINCT FROM o.version
            WHERE o.grouped IS NOT NULL) AS g ON g.id = c.id
        GROUP BY ALL
        """
    ).fetchall()
    subjects: dict[str, int] = dict(
        connection.execute(
            "SELECT grouped, count(DISTINCT subject) FILTER (train) FROM __sums GROUP BY grouped"
        ).fetchall()
    )
    enough = sorted((c for c, n in subjects.items() if n >= block.min_subjects), key=lambda c: (-subjects[c], c))
    kept, beyond = set(enough[: block.max_codes]), set(enough[block.max_codes :] if block.max_codes else [])
    beside = {code: "rare in training" if subjects[code] else "not in training" for code in subjects}
    return {
        code: TAKEN if code in kept else "beyond max_codes" if code in beyond else beside[code]
        for code in sorted(subjects)
    }


def _matrix(connection: duckdb.DuckDBPyConnection, fates: Mapping[str, str], rows: int, block: BlockSpec) -> csr_matrix:
    """The (rows, codes) matrix of the vocabulary, and `__fates` (grouped, fate, place) beside it for the account."""
    import pyarrow as pa
    from scipy.sparse import csr_matrix

    vocabulary = [code for code, fate in fates.items() if fate == TAKEN]
    places = pa.table(
        {"grouped": pa.array(vocabulary, pa.string()), "place": np.arange(len(vocabulary), dtype=np.int32)}
    )
    connection.register("__places", places)
    try:
        cells = connection.sql(
            f'SELECT s."row", p.place, CAST(least(s.n, {_MOST}) AS INTEGER) AS n FROM __sums AS s JOIN __places AS p USING (grouped)'
        ).to_arrow_table()
    finally:
        connection.unregister("__places")
    row, column, n = (cells.column(i).to_numpy() for i in range(3))
    values = np.ones(len(n), dtype=np.int32) if block.kind == "binary" else n
    matrix = csr_matrix((values, (row, column)), shape=(rows, len(vocabulary)))
    matrix.sort_indices()
    return matrix


def account(
    connection: duckdb.DuckDBPyConnection,
    fates: Mapping[str, str],
    records: Mapping[str, int],
    shape: tuple[int, int],
    cells: int,
) -> BlockAccount:
    """Every record under one heading: of no row, no count, why its code was left out, or taken."""
    import pyarrow as pa

    ranks = pa.table(
        {
            "grouped": pa.array(list(fates), pa.string()),
            "rank": pa.array([_FATES.index(fate) for fate in fates.values()], pa.int32()),
        }
    )
    connection.register("__ranks", ranks)
    try:
        found = connection.execute(
            """
            WITH each AS (
                SELECT c.id, any_value(g.reason) AS reason, min(r.rank) AS rank
                FROM __grouped AS g
                JOIN __codes AS c ON c.raw IS NOT DISTINCT FROM g.raw AND c.version IS NOT DISTINCT FROM g.version
                LEFT JOIN __ranks AS r ON r.grouped = g.grouped
                GROUP BY c.id
            )
            SELECT e.reason, e.rank, count(*), CAST(sum(s.records) AS BIGINT)
            FROM each AS e JOIN (SELECT id, sum(records) AS records FROM __cells GROUP BY id) AS s USING (id)
            GROUP BY ALL
            """
        ).fetchall()
    finally:
        connection.unregister("__ranks")
    taken = sum(n for _, rank, _, n in found if rank == 0)
    left_out = {reason: Tally(0, records[reason]) for reason in records if reason != "records" and records[reason]}
    as_they_are: dict[str, Tally] = {}
    for reason, rank, codes, n in sorted(found, key=str):
        if rank is None:
            left_out[reason] = Tally(codes, n)
        elif reason is not None:
            before = as_they_are.get(reason, Tally(0, 0))
            as_they_are[reason] = Tally(before.codes + codes, before.records + n)
    for rank, fate in enumerate(_FATES[1:], 1):
        codes = sum(1 for f in fates.values() if f == fate)
        if codes:
            left_out[fate] = Tally(codes, sum(n for _, r, _, n in found if r == rank))
    return BlockAccount(
        rows=shape[0],
        codes=shape[1],
        cells=cells,
        records=records["records"],
        taken=taken,
        left_out=left_out,
        as_they_are=as_they_are,
    )


@contextmanager
def about_codes(where: str) -> Iterator[None]:
    """DuckDB's errors on the block's tables in our words: its messages may quote cells."""
    import duckdb

    problem: ConfigError | None = None
    try:
        yield
    except duckdb.OutOfMemoryException:
        problem = ConfigError("The block needs more memory than it was given.", where=where, todo="Raise the limit.")
    except duckdb.Error as error:
        problem = ConfigError(f"The block could not be counted ({type(error).__name__}).", where=where)
    if problem is not None:
        raise problem
