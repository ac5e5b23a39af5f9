"""Small values and files on an S3 object store, through boto3 (extra `dist`), which is imported at the first request.

The store must be strongly consistent and honour conditional PUTs (If-Match, If-None-Match), as AWS S3 does; the first
write of a process tries the latter out. Every request ends within a minute or two: bounded time-outs, three attempts,
then one `StoreError` that names the server and what to do.

An empty object is no value: that is how a pointer is removed by a conditional PUT, since few stores know a
conditional DELETE.
"""

from __future__ import annotations

import base64
import builtins
import hashlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, StoreError
from pipeline.store.address import StoreAddress
from pipeline.store.backend import Stored, ValueChanged
from pipeline.store.object_errors import absent, object_errors, repeated, unmet

if TYPE_CHECKING:
    from pathlib import Path

CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 5, 30, 3
PART = 64 * 1024 * 1024
"""Files above this size are sent in parts."""
_THREADS = 8

_clients: dict[tuple[int, str], Any] = {}
_clocks: dict[str, int] = {}
_tried: set[StoreAddress] = set()
_making = threading.Lock()


class ObjectStore:
    """A `Backend` over the keys below one prefix of a bucket, with uploads and downloads of files."""

    def __init__(self, address: StoreAddress, part: str = "") -> None:
        self.address = address
        self.part = part
        self.name = "/".join(filter(None, (address.url, part)))
        self._prefix = "".join(f"{segment}/" for segment in (address.prefix, part) if segment)

    def below(self, part: str) -> ObjectStore:
        """The keys below `part`."""
        return ObjectStore(self.address, "/".join(filter(None, (self.part, part))))

    # ---- small values

    def clock(self) -> int:
        """Nanoseconds since 1970 by the server's clock, to about a second, whatever this machine's says."""
        if self.address.server not in _clocks:
            self.list("")
        return time.time_ns() + _clocks.get(self.address.server, 0)

    def get(self, key: str) -> Stored | None:
        """The value, whole as some writer put it, or None. Raises `StoreError` if it cannot be read."""
        stored = self._get(key)
        return stored if stored is not None and stored.data else None

    def get_many(self, keys: Iterable[str]) -> list[Stored | None]:
        """`get` for each key, several at once."""
        keys = list(keys)
        if len(keys) < 2:
            return [self.get(key) for key in keys]
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(self.get, keys))

    def create(self, key: str, data: bytes) -> None:
        """Put a value that is not there yet.

        Raises:
            ValueChanged: there is one already.
            StoreError: the store cannot be written; without an answer it stays open whether the value is there.
        """
        self._put(key, data, IfNoneMatch="*")

    def put_if_match(self, key: str, data: bytes, etag: str | None) -> str:
        """Replace the value by a conditional PUT and give its new tag.

        Raises:
            ValueChanged: the value is not the one tagged `etag`.
            StoreError: as `create`.
        """
        if etag is not None:
            return self._put(key, data, IfMatch=etag)
        try:
            return self._put(key, data, IfNoneMatch="*")
        except ValueChanged:
            found = self._get(key)
            if found is None or found.data:
                raise
            return self._put(key, data, IfMatch=found.etag)  # what was there has been removed

    def delete_if_match(self, key: str, etag: str) -> None:
        """Make the value empty, which is none.

        Raises:
            ValueChanged: it is not the one tagged `etag`.
            StoreError: as `create`.
        """
        self._put(key, b"", IfMatch=etag)

    def list(self, prefix: str) -> builtins.list[str]:
        """Sorted names directly below `prefix`, those of folders with a "/" at the end; [] if there is nothing."""
        base = self._key(f"{prefix}/" if prefix else "")
        names = [key.removeprefix(base) for key, size in self._pages(base, delimiter="/") if size != 0]
        return sorted(names)

    def survey(self, prefix: str) -> Callable[[str], builtins.list[str]]:
        """`list` for many keys at or below `prefix`, from one listing of all of them (a request for 1,000 objects)."""
        tree: dict[str, set[str]] = {}
        for key, size in self.below_key(prefix).items():
            if size == 0:
                continue
            at, *parts = prefix, *key.split("/")
            for part in parts[:-1]:
                tree.setdefault(at, set()).add(f"{part}/")
                at = f"{at}/{part}".lstrip("/")
            tree.setdefault(at, set()).add(parts[-1])
        return lambda key: sorted(tree.get(key, ()))

    def delete(self, key: str) -> None:
        """Remove an object; no error if there is none."""
        with object_errors(self.address, self._url(key)):
            self._client().delete_object(Bucket=self.address.bucket, Key=self._key(key))

    # ---- files

    def below_key(self, prefix: str) -> dict[str, int]:
        """All objects below `prefix`, at any depth: key relative to it, and bytes."""
        base = self._key(f"{prefix}/" if prefix else "")
        return {key.removeprefix(base): size or 0 for key, size in self._pages(base, delimiter="")}

    def put_file(self, key: str, path: Path, *, alive: Callable[[], None]) -> None:
        """Send a file, in parts if it is large; `alive` is called now and then.

        Raises:
            StoreError: it cannot be sent whole; nothing of it can be seen then.
        """
        size = path.stat().st_size
        where = {"Bucket": self.address.bucket, "Key": self._key(key)}
        with object_errors(self.address, self._url(key)):
            if size <= PART:
                data = path.read_bytes()
                self._client().put_object(Body=data, **where, **_checked(data))
                alive()
                return
            from boto3.s3.transfer import TransferConfig

            parts = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=4)
            beat = threading.Lock()

            def beating(_sent: int) -> None:
                if beat.acquire(blocking=False):  # parts are sent by several threads
                    try:
                        alive()
                    finally:
                        beat.release()

            self._client().upload_file(str(path), where["Bucket"], where["Key"], Config=parts, Callback=beating)

    def pieces(self, key: str) -> Iterator[bytes] | None:
        """The bytes of an object, piece by piece; None if there is none.

        Raises:
            StoreError: the store cannot be read, or breaks off.
        """
        with object_errors(self.address, self._url(key)):
            try:
                answer = self._client().get_object(Bucket=self.address.bucket, Key=self._key(key))
            except Exception as error:
                if absent(error):
                    return None
                raise
        return self._pieces(key, answer["Body"])

    def _pieces(self, key: str, body: Any) -> Iterator[bytes]:
        with object_errors(self.address, self._url(key)), body:
            yield from body.iter_chunks(1024 * 1024)

    # ---- requests

    def _key(self, key: str) -> str:
        return f"{self._prefix}{key}"

    def _url(self, key: str) -> str:
        return f"s3://{self.address.bucket}/{self._key(key)}"

    def _get(self, key: str) -> Stored | None:
        with object_errors(self.address, self._url(key)):
            try:
                answer = self._client().get_object(Bucket=self.address.bucket, Key=self._key(key))
                with answer["Body"] as body:
                    return Stored(body.read(), answer["ETag"])
            except Exception as error:
                if absent(error):
                    return None
                raise

    def _put(self, key: str, data: bytes, **condition: str) -> str:
        self._try_conditions()
        return self._put_now(key, data, **condition)

    def _put_now(self, key: str, data: bytes, **condition: str) -> str:
        with object_errors(self.address, self._url(key)):
            try:
                answer = self._client().put_object(
                    Bucket=self.address.bucket, Key=self._key(key), Body=data, **condition, **_checked(data)
                )
            except Exception as error:
                if not unmet(error):
                    raise
                found = self._get(key) if repeated(error) else None
                if found is not None and found.data == data:
                    return found.etag  # our own first attempt, whose answer was lost
                raise ValueChanged(key) from None
        return str(answer["ETag"])

    def _pages(self, prefix: str, *, delimiter: str) -> Iterator[tuple[str, int | None]]:
        """Keys and sizes below a prefix; folders, where there is a delimiter, without size."""
        request: dict[str, Any] = {"Bucket": self.address.bucket, "Prefix": prefix, "Delimiter": delimiter}
        while True:
            with object_errors(self.address, f"s3://{self.address.bucket}/{prefix}"):
                answer = self._client().list_objects_v2(**request)
            for folder in answer.get("CommonPrefixes", []):
                yield folder["Prefix"], None
            for entry in answer.get("Contents", []):
                yield entry["Key"], entry["Size"]
            if not answer.get("IsTruncated"):
                return
            request["ContinuationToken"] = answer["NextContinuationToken"]

    def _try_conditions(self) -> None:
        """Refuse a store that overwrites what must not be overwritten, before anything is trusted to it."""
        if self.address in _tried:
            return
        probe = ObjectStore(self.address)
        key = f".probe-{uuid.uuid4().hex}"
        probe._put_now(key, b"first", IfNoneMatch="*")
        try:
            probe._put_now(key, b"second", IfNoneMatch="*")
        except ValueChanged:
            _tried.add(self.address)
        finally:
            probe.delete(key)
        if self.address not in _tried:
            raise StoreError(
                f"The object store at {self.address.server} ignores conditional writes (If-None-Match).",
                where=self.address.url,
                todo="Entries could be lost: use a store or a version of it that honours them.",
            )

    def _client(self) -> Any:
        """The client of this process for this server; a forked child must not share its parent's connections."""
        key = (os.getpid(), self.address.endpoint)
        with _making:
            if key not in _clients:
                _clients[key] = _make_client(self.address)
            return _clients[key]


def _make_client(address: StoreAddress) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise ConfigError(
            "COHORTLOOM_STORE names an object store, and boto3 is not installed.",
            todo="Install the extra: pip install -e '.[dist]'.",
        ) from None
    settings = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=8 * _THREADS,
        s3={"addressing_style": "path" if address.endpoint else "auto"},
        # Newer checksums than Content-MD5 are unknown to some stores.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    with object_errors(address, address.url):
        session = boto3.session.Session()
        region = None if session.region_name or not address.endpoint else "us-east-1"
        client = session.client("s3", endpoint_url=address.endpoint or None, region_name=region, config=settings)

    def note_time(http_response: Any, **_: object) -> None:
        _note_time(address.server, http_response.headers.get("date"))

    client.meta.events.register("after-call.s3", note_time)
    return client


def _note_time(server: str, date: str | None) -> None:
    """Note how far this machine's clock is off the server's, which tells whole seconds only."""
    if date:
        off = int(parsedate_to_datetime(date).timestamp() * 1e9) + 500_000_000 - time.time_ns()
        _clocks[server] = 0 if abs(off) < 2_000_000_000 else off


def _checked(data: bytes) -> dict[str, str]:
    """What lets the server refuse bytes that were cut or changed on their way."""
    return {"ContentMD5": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()}
