"""What can go wrong on the way to an object store: one clear error, bounded in time, and nothing half visible."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3_server
from s3_server import KEY, LABEL, commit, numbers, objects

from pipeline.errors import StoreError
from pipeline.store import object_store
from pipeline.store.address import StoreAddress
from pipeline.store.object_store import ObjectStore
from pipeline.store.versions import VersionStore

pytestmark = pytest.mark.distributed


def test_a_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_to_give_up: None) -> None:
    s3_server.log_in(monkeypatch)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = StoreAddress("bucket", "p", f"http://127.0.0.1:{unused.getsockname()[1]}")
        store = s3_server.remote_versions(address, tmp_path)
        for act in (lambda: store.current("features", KEY), lambda: commit(store, 1), lambda: store.assets()):
            with pytest.raises(StoreError) as caught:
                act()
            words = str(caught.value)
            assert address.endpoint in words
            assert "does not answer" in words
            assert "See that COHORTLOOM_S3_ENDPOINT" in words


def test_a_server_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_to_give_up: None) -> None:
    """Connections are taken and never answered: three bounded attempts, no more."""
    s3_server.log_in(monkeypatch)
    taken = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(0.1)
        done = threading.Event()

        def accept() -> None:
            while not done.is_set():
                try:
                    taken.append(silent.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            address = StoreAddress("bucket", "p", f"http://127.0.0.1:{silent.getsockname()[1]}")
            with pytest.raises(StoreError, match="does not answer"):
                s3_server.remote_versions(address, tmp_path).current("features", KEY)
        finally:
            done.set()
            thread.join()
            for connection in taken:
                connection.close()
    assert len(taken) == object_store.ATTEMPTS


def test_a_bucket_that_is_missing(bucket: StoreAddress, tmp_path: Path) -> None:
    store = s3_server.remote_versions(StoreAddress("no-such-bucket", "p", bucket.endpoint), tmp_path)
    for act in (lambda: store.current("features", KEY), lambda: commit(store, 1)):
        with pytest.raises(StoreError, match=r"There is no such bucket.*Make it, or mend COHORTLOOM_STORE"):
            act()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("AccessDenied", "Access is denied.*AWS_ACCESS_KEY_ID"),
        ("ExpiredToken", "login has expired"),
        ("XMinioStorageFull", "store is full"),
        ("Strange", "refuses with 'Strange'"),
    ],
)
def test_what_the_store_refuses(here: VersionStore, monkeypatch: pytest.MonkeyPatch, code: str, words: str) -> None:
    from botocore.exceptions import ClientError

    old = commit(here, 0)
    client = objects(here)._client()

    def refuse(**_: object) -> None:
        raise ClientError({"Error": {"Code": code, "Message": "no"}}, "PutObject")

    with monkeypatch.context() as patch:
        patch.setattr(client, "put_object", refuse)
        with pytest.raises(StoreError, match=words):
            commit(here, 1)
    assert here.resolve("features", KEY) == old
    assert objects(here).list(LABEL) == ["_current.json", f"{old.version}/"]


def test_no_login_is_said(bucket: StoreAddress, monkeypatch: pytest.MonkeyPatch, quick_to_give_up: None) -> None:
    for name in s3_server.LOGIN:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    with pytest.raises(StoreError, match="There is no login for the object store"):
        ObjectStore(bucket).get("x")


def test_an_upload_cut_short_is_not_committed(here: VersionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    old = commit(here, 0)
    client = objects(here)._client()
    put = client.put_object

    def cut(**request: Any) -> Any:
        if request["Key"].endswith("data.parquet"):
            request |= {"Body": request["Body"][:-7]}
            request.pop("ContentMD5")
        return put(**request)

    with monkeypatch.context() as patch:
        patch.setattr(client, "put_object", cut)
        with pytest.raises(StoreError, match=r"data\.parquet: The store has .* bytes"):
            commit(here, 1)
    assert objects(here).list(LABEL) == ["_current.json", f"{old.version}/"]
    assert numbers(here) == [0]


def test_an_object_changed_behind_our_back(here: VersionStore, elsewhere: VersionStore, tmp_path: Path) -> None:
    version, rest = commit(here, 1), commit(here, 2)
    key = f"{LABEL}/{version.version}/data.parquet"
    client, bucket = objects(here)._client(), objects(here).address.bucket
    client.put_object(Bucket=bucket, Key=objects(here)._key(key), Body=b"x" * version.files["data"].bytes)
    for act in (
        lambda: elsewhere.read(version),
        lambda: elsewhere.verify(version),
        lambda: elsewhere.rollback("features", KEY, version.version),
    ):
        with pytest.raises(StoreError, match=r"data\.parquet: The file's sha256 is"):
            act()
    assert not [p for p in (tmp_path / "there").rglob("*") if p.is_file()]  # nothing unchecked is kept
    assert elsewhere.resolve("features", KEY) == rest


def test_a_large_file_goes_in_parts(
    here: VersionStore, elsewhere: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "PART", 5 * 1024 * 1024)
    noise = np.random.default_rng(0).bytes(12 * 1024 * 1024)
    with here.draft("model/vae", KEY) as draft:
        draft.file("model.safetensors").write_bytes(noise)
        version = draft.commit()
    assert elsewhere.path(version, "model.safetensors").read_bytes() == noise


def test_a_process_that_forks_keeps_its_connections_to_itself(here: VersionStore) -> None:
    version = commit(here, 1)
    child = os.fork()
    if child == 0:
        os._exit(0 if here.resolve("features", KEY) == version else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert here.resolve("features", KEY) == version
