"""The frozen split: which subjects train a generator and which ones judge it.

A subject's part is a keyed hash of its id and of nothing else, so it is the same in every month, in every cohort of
the source, and however many other subjects there are. What is drawn per run (folds, bootstraps) does not live here.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import ConfigError, StoreError
from pipeline.features.cohort import PARTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.features.source import SourceSpec
    from pipeline.store.home import Home
    from pipeline.store.lake import VersionStore

ENVIRONMENT = "COHORTLOOM_SPLIT_KEY"
PUBLISHED_KEY = b"cohortloom-published-split-key-for-demo-tests-and-benchmarks"
"""Anyone can tell from this key who is in training: for data that is public or made up, never for real patients."""

SHARES: tuple[float, ...] = (0.50, 0.25, 0.125, 0.125)
"""Expected share of subjects of each of `PARTS`."""
TUNE_SHARE = 0.15
"""Expected share of the training subjects that early stopping and tuning may look at."""

_KEY_BYTES = 32
_SHORTEST_KEY = 16
_WAIT_FOR_KEY_SECONDS = 2.0


def load_key(home: Home) -> bytes:
    """The installation's split key: COHORTLOOM_SPLIT_KEY if set, else `split.key` (made on first use, mode 0600).

    Raises:
        ConfigError: the variable holds fewer than 16 characters.
        StoreError: the file cannot be read or made, is damaged, or can be read by other users.
    """
    from_environment = os.environ.get(ENVIRONMENT)
    if from_environment is not None:
        key = from_environment.strip().encode()
        if len(key) < _SHORTEST_KEY:
            raise ConfigError(
                f"The key has {len(key)} characters, at least {_SHORTEST_KEY} are needed.",
                where=ENVIRONMENT,
                todo="Use a long random text, or unset it and let CohortLoom make split.key.",
            )
        return key
    path = home.split_key
    try:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return _read_key(home)
        with os.fdopen(descriptor, "wb") as file:
            key = secrets.token_hex(_KEY_BYTES).encode()
            file.write(key + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(
            f"The split key cannot be read or made ({error.strerror}).",
            where=str(path),
            todo="See that COHORTLOOM_HOME exists and may be written.",
        ) from error
    return key


def split_key(source: SourceSpec, home: Home) -> bytes:
    """The key for a source: `PUBLISHED_KEY` where its `split_key` says `published`, else the installation's own."""
    return PUBLISHED_KEY if source.split_key == "published" else load_key(home)


def fingerprint(key: bytes) -> str:
    """Twelve hexadecimal digits that tell keys apart and give nothing of the key away."""
    return hashlib.sha256(b"cohortloom/split-key/v1\0" + key).hexdigest()[:12]


def check_key(store: VersionStore, cohort: str, key: bytes, *, new_split: bool = False) -> None:
    """Refuse a key that would reshuffle a cohort whose features were built with another one.

    A new key puts former training subjects into the holdout, so everything judged with it would look too good.

    Raises:
        ConfigError: some month of the cohort was built with another key and `new_split` is False.
    """
    if new_split:
        return
    now = fingerprint(key)
    for partition in store.partitions("features"):
        if partition.get("cohort") != cohort:
            continue
        version = store.current(
            "features",
            partition,
        )
        before = version.info.get("split_fingerprint") if version is not None else None
        if before is not None and before != now:
            raise ConfigError(
                f"The split key has changed: this cohort was split with key {before}, the key is now {now}.",
                where=f"cohort {cohort}, {partition.get('month', '')}",
                todo=f"Restore the old {ENVIRONMENT} or split.key, or accept a new split for good with --new-split.",
            )


def assign(subjects: Sequence[str] | NDArray[np.str_], key: bytes) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
    """The part of each row's subject and whether it belongs to the tuning part of train.

    HMAC-SHA256 of the id gives two independent uniform numbers: the first 8 bytes choose the part, the next 8 the
    tuning rows.

    Args:
        subjects: (n,) subject ids; equal ids get equal answers.
        key: the split key.

    Returns:
        (n,) strings out of `PARTS`, and (n,) bool that is True only where the part is train.
    """
    unique, place = np.unique(np.asarray(subjects, dtype=str), return_inverse=True)
    keyed = hmac.new(key, b"cohortloom/split/v1\0", hashlib.sha256)
    digests = bytearray()
    for subject in unique.tolist():
        one = keyed.copy()
        one.update(subject.encode("utf-8", "surrogatepass"))
        digests += one.digest()[:16]
    words = np.frombuffer(bytes(digests), dtype=">u8").reshape(-1, 2)
    uniform = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    part = np.searchsorted(np.cumsum(SHARES[:-1]), uniform[:, 0], side="right")
    tune = (part == 0) & (uniform[:, 1] < TUNE_SHARE)
    return np.array(PARTS, dtype=str)[part][place], tune[place]


def row_subjects(table: pa.Table) -> NDArray[np.str_]:
    """Ids for a table without any: a hash of the row's content and the number of its equal rows before it.

    The order of the rows, and a whole number arriving as a float, change nothing. A column that is added, dropped or
    renamed gives every row a new id.

    Args:
        table: (n rows) numbers, bools, strings, dates and timestamps, as `infer.normalise` leaves them.

    Returns:
        (n,) strings of 32 hexadecimal digits, `-1`, `-2`, ... appended to the second, third, ... equal row.
    """
    prefix = hashlib.sha256("\0".join(table.column_names).encode())
    parts = [_content(table.column(name).combine_chunks()) for name in table.column_names]
    seen: dict[str, int] = {}
    ids: list[str] = []
    for row in zip(*parts, strict=True):
        one = prefix.copy()
        one.update(b"".join(row))
        digest = one.hexdigest()[:32]
        number = seen.get(digest, 0)
        seen[digest] = number + 1
        ids.append(f"{digest}-{number}" if number else digest)
    return np.array(ids, dtype=str)


def _content(array: pa.Array) -> list[bytes]:
    """Each cell as bytes that cannot be mistaken for another cell's: a tag, then a number or a length and text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        encoded = [None if v is None else v.encode("utf-8", "surrogatepass") for v in array.to_pylist()]
        return [b"0" if v is None else b"s" + len(v).to_bytes(8, "big") + v for v in encoded]
    missing = pc.is_null(array, nan_is_null=True).to_numpy(zero_copy_only=False)
    if pa.types.is_date32(array.type):
        array = pc.cast(array, pa.int32())
    elif pa.types.is_timestamp(array.type):
        array = pc.cast(array, pa.int64())
    numbers = np.asarray(pc.fill_null(pc.cast(array, pa.float64(), safe=False), 0.0)) + 0.0  # -0.0 becomes 0.0
    raw = numbers.astype(">f8").tobytes()
    return [b"0" if gone else b"n" + raw[8 * i : 8 * i + 8] for i, gone in enumerate(missing.tolist())]


def _read_key(home: Home) -> bytes:
    """The key in `split.key`; another process may be about to write it, so an empty file is looked at again."""
    path = home.split_key
    give_up = time.monotonic() + _WAIT_FOR_KEY_SECONDS
    while not (content := path.read_bytes()).endswith(b"\n") and time.monotonic() < give_up:
        time.sleep(0.02)
    key = content.strip()
    if len(key) < _SHORTEST_KEY:
        raise StoreError(
            "The split key is empty or cut short.",
            where=str(path),
            todo="Restore it from a backup; delete it only if no cohort has been built with it.",
        )
    if path.stat().st_mode & 0o077:
        raise StoreError("The split key can be read by other users.", where=str(path), todo=f"Run: chmod 600 {path}")
    return key
