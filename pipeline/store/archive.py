"""The tar file of a backup: plain files only, each with its SHA-256 in a list that comes last.

Bytes are hashed while they are written and while they are unpacked, so both need one pass. What is backed up, and
when a restored home appears, is in `backup.py`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import time
import uuid
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from pipeline.errors import StoreError
from pipeline.store.disk import sync_folder
from pipeline.store.hashing import canonical_json, sha256_json

if TYPE_CHECKING:
    from collections.abc import Iterator

BACKUP_FORMAT = 1
MANIFEST = "BACKUP.json"
_BLOCK = 1 << 20


def files_below(path: Path) -> Iterator[str]:
    """Relative paths of the files below a folder, without hidden ones; of a file, its name."""
    if not path.is_dir():
        yield path.name
        return
    for found in sorted(path.rglob("*")):
        relative = found.relative_to(path)
        if found.is_file() and not any(part.startswith(".") for part in relative.parts):
            yield relative.as_posix()


def make_private(folder: Path) -> None:
    """A folder and its missing parents, for the owner only; all of them are forced to the disk at the end."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700)


class _Hashing(io.RawIOBase):
    """A file that is hashed while it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data = self._file.read(size)
        self.digest.update(data)
        return data


def write_archive(work: Path, target: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Write the files below a folder into a tar file beside the target, renamed when it is on the disk.

    Args:
        work: The folder; nobody changes it meanwhile.
        target: The tar file.
        facts: What else to say in its list of files.

    Returns:
        The list of files.
    """
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    entries: dict[str, dict[str, Any]] = {}
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", bufsize=_BLOCK) as tar:
                for name in sorted(files_below(work)):
                    entries[name] = _add(tar, work / name, name)
                manifest = {"format": BACKUP_FORMAT, **facts, "files": entries}
                text = (canonical_json({**manifest, "sha256": sha256_json(manifest)}) + "\n").encode()
                member = _member(MANIFEST, len(text), time.time())
                tar.addfile(member, io.BytesIO(text))
            file.flush()
            os.fsync(file.fileno())
        aside.rename(target)
        sync_folder(target.parent)
    finally:
        aside.unlink(missing_ok=True)
    return manifest


def _add(tar: tarfile.TarFile, path: Path, name: str) -> dict[str, Any]:
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        hashing = _Hashing(file)
        tar.addfile(_member(name, found.st_size, found.st_mtime), hashing)
    return {"bytes": found.st_size, "sha256": hashing.digest.hexdigest()}


def _member(name: str, size: int, mtime: float) -> tarfile.TarInfo:
    """A plain file of nobody; whole seconds, because only those are covered by the header's checksum."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, int(mtime), 0o600
    return member


def unpack(archive: Path, work: Path) -> dict[str, Any]:
    """Write every member below `work`, then compare with the list of files; gives that list.

    Raises:
        StoreError: it is no backup, damaged, changed, or holds what could leave the folder.
    """
    found: dict[str, dict[str, Any]] = {}
    manifest = b""
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                _check(member, work, archive)
                content = tar.extractfile(member)
                if content is None or member.name in found:
                    raise _refusal(archive, "It holds something twice, or something that is no file.")
                if member.name == MANIFEST:
                    manifest = content.read()
                else:
                    found[member.name] = _put(content, work / member.name, member)
    except (tarfile.TarError, EOFError, UnicodeDecodeError) as error:
        raise _refusal(archive, f"It cannot be read as a tar file ({type(error).__name__}).") from None
    known = _manifest(manifest, archive)
    wrong = sorted(name for name in {*found, *known["files"]} if found.get(name) != known["files"].get(name))
    if wrong:
        raise _refusal(archive, f"{len(wrong)} files are not what was backed up. The first: {wrong[0][:120]}.")
    return known


def _check(member: tarfile.TarInfo, work: Path, archive: Path) -> None:
    """Refuse what could leave the folder or is no plain file."""
    path = PurePosixPath(member.name)
    odd = path.is_absolute() or ".." in path.parts or path.as_posix() != member.name or member.name.startswith(".")
    try:
        tarfile.data_filter(member, str(work))
    except tarfile.FilterError:
        odd = True
    if odd or not member.isreg():
        raise _refusal(archive, f"It holds an unsafe member: {member.name[:120]!r}.")


def _put(content: Any, path: Path, member: tarfile.TarInfo) -> dict[str, Any]:
    make_private(path.parent)
    mode = 0o400 if member.name.startswith("journal/") else 0o600
    digest, size = hashlib.sha256(), 0
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        while data := content.read(_BLOCK):
            digest.update(data)
            size += len(data)
            file.write(data)
    os.utime(path, (member.mtime, member.mtime))  # the day of a delivery without a date of its own
    return {"bytes": size, "sha256": digest.hexdigest()}


def _manifest(data: bytes, archive: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(data)
        whole = manifest.pop("sha256") == sha256_json(manifest)
        known = manifest["format"] == BACKUP_FORMAT
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _refusal(archive, f"Its list of files {MANIFEST} is missing or broken: was it cut short?") from None
    if not whole:
        raise _refusal(archive, f"Its list of files {MANIFEST} was changed.")
    if not known:
        raise _refusal(archive, f"It has format {manifest['format']}, which this CohortLoom does not know.")
    return dict(manifest)


def _refusal(archive: Path, what: str) -> StoreError:
    return StoreError(
        f"This is no sound backup. {what}", where=str(archive), todo="Take another one; nothing was restored."
    )
