"""A version in the making: a hidden folder that either becomes a version as a whole or disappears.

The folder is locked for as long as its process lives, so that the collector can tell a long training from what a
killed one left behind.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, StoreError
from pipeline.store.disk import storage_errors, sync_file, sync_folder
from pipeline.store.hashing import canonical_json, sha256_file
from pipeline.store.keys import file_name
from pipeline.store.parquet import describe_parquet, write_parquet
from pipeline.store.version import StoredFile, Version

if TYPE_CHECKING:
    import pyarrow as pa

    Publish = Callable[[Path, dict[str, StoredFile], dict[str, str], dict[str, Any], str], Version]

PARQUET = ".parquet"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Draft:
    """What `VersionStore.draft` gives: add files, then commit once."""

    def __init__(self, folder: Path, where: str, publish: Publish) -> None:
        self._folder = folder
        self._where = where
        self._publish = publish
        self._committed = False

    def add_table(self, name: str, table: pa.Table, *, schema: pa.Schema | None = None) -> None:
        """Write `table` as `<name>.parquet`; rows are stored in the order given.

        Args:
            name: Key of the file in the version, e.g. "data".
            table: The rows.
            schema: Columns, order and types to hold (`parquet.conform`); by default the table's own.

        Raises:
            ConfigError: a bad name, or one that the draft has already.
            InputError: the table does not have the schema.
            StoreError: disk full or not writable.
        """
        path = self.file(f"{name}{PARQUET}")
        if path.exists():
            raise ConfigError(f"The draft has a table '{name}' already.", where=self._where)
        with storage_errors(f"{self._where}/{name}"):
            write_parquet(path, table, schema=schema)

    def file(self, name: str) -> Path:
        """Where the caller is to write the file `name` ("report.html", "data.parquet", "replicate-0/model.json").

        Its folder is made. Whatever stands in the draft at commit becomes part of the version.
        """
        self._refuse_if_committed()
        path = self._folder / file_name(name)
        with storage_errors(f"{self._where}/{name}"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def folder(self, name: str) -> Path:
        """An existing folder `name` ("replicate-0") of the draft for the caller to fill."""
        self._refuse_if_committed()
        path = self._folder / file_name(name)
        with storage_errors(f"{self._where}/{name}"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def commit(
        self, *, inputs: Mapping[str, str] = _NOTHING, info: Mapping[str, Any] = _NOTHING, run_id: str = ""
    ) -> Version:
        """Hash every file, force all to the disk, and make this the current version.

        When it returns, the version survives a crash. If it raises, the partition is as it was before (only if
        the disk fails in the very last step, after the pointer has moved, is the new version whole and current).

        Args:
            inputs: Label of an asset's partition to sha256, for everything this was made from.
            info: Small JSON about it, part of the hash; no times, no paths, no patient's value.
            run_id: The run that made it; not part of the hash.

        Raises:
            ConfigError: `info` is no JSON, a file has a bad name, or two files have one key.
            StoreError: disk full, not writable, a link or a broken Parquet file in the draft.
        """
        self._refuse_if_committed()
        plain_info = _plain_mapping(info)
        plain_inputs = {str(name): str(digest) for name, digest in sorted(inputs.items())}
        with storage_errors(self._where):
            files = self._seal()
        version = self._publish(self._folder, files, plain_inputs, plain_info, run_id)
        self._committed = True
        return version

    def _seal(self) -> dict[str, StoredFile]:
        """Describe and force to the disk every file and folder of the draft."""
        files: dict[str, StoredFile] = {}
        for folder, names, entries in os.walk(self._folder, onerror=_raise):
            names.sort()
            for entry in sorted(entries) + [name for name in names if (Path(folder) / name).is_symlink()]:
                path = Path(folder) / entry
                relative = file_name(path.relative_to(self._folder).as_posix())
                if not stat.S_ISREG(path.lstat().st_mode):
                    raise StoreError("Only plain files can be stored.", where=f"{self._where}/{relative}")
                stored = self._describe(path, relative)
                if stored.name in files:
                    raise ConfigError(
                        f"'{files[stored.name].file}' and '{stored.file}' have the same key.", where=self._where
                    )
                files[stored.name] = stored
            sync_folder(Path(folder))
        return dict(sorted(files.items()))

    def _describe(self, path: Path, relative: str) -> StoredFile:
        sync_file(path)
        rows, schema = None, None
        if relative.endswith(PARQUET):
            rows, schema = describe_parquet(path, f"{self._where}/{relative}")
        return StoredFile(
            name=relative.removesuffix(PARQUET),
            file=relative,
            sha256=sha256_file(path),
            bytes=path.stat().st_size,
            rows=rows,
            schema=schema,
        )

    def _refuse_if_committed(self) -> None:
        if self._committed:
            raise ConfigError("The draft is committed already.", where=self._where, todo="Make a new one.")


def _plain_mapping(info: Mapping[str, Any]) -> dict[str, Any]:
    """`info` as it will be read back: lists for tuples, plain numbers for numpy's."""
    import json

    plain = json.loads(canonical_json(info))
    if not isinstance(plain, dict):
        raise ConfigError("The info of a version must be a mapping.")
    return plain


def _raise(error: OSError) -> None:
    raise error
