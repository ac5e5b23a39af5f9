"""Which object store holds the lake: what COHORTLOOM_STORE and COHORTLOOM_S3_ENDPOINT say. Opens no connection.

Credentials, region and proxies are boto3's business (environment, `~/.aws`, instance roles) and never pass here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from pipeline.errors import ConfigError

STORE = "COHORTLOOM_STORE"
ENDPOINT = "COHORTLOOM_S3_ENDPOINT"

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


@dataclass(frozen=True)
class StoreAddress:
    """A place on an S3 object store.

    Attributes:
        bucket: The bucket, which must exist.
        prefix: What all keys begin with, without slashes at its ends; empty for the whole bucket.
        endpoint: URL of the server; empty for AWS.
    """

    bucket: str
    prefix: str = ""
    endpoint: str = ""

    @classmethod
    def parse(cls, url: str, endpoint: str = "") -> StoreAddress:
        """The address in "s3://bucket/prefix".

        Raises:
            ConfigError: it is none, or the endpoint is no http(s) URL or holds a password.
        """
        scheme, _, rest = url.strip().partition("://")
        bucket, _, prefix = rest.rstrip("/").partition("/")
        if scheme != "s3" or not _BUCKET.fullmatch(bucket) or (prefix and not _PREFIX.fullmatch(prefix)):
            raise ConfigError(
                "This is no address of an object store.",
                where=STORE,
                todo="Write s3://bucket/prefix; the prefix takes letters, digits and . _ - in parts divided by /.",
            )
        server = urlsplit(endpoint.strip())
        if endpoint and (server.scheme not in {"http", "https"} or not server.hostname or server.username is not None):
            raise ConfigError(
                "The endpoint must be an http:// or https:// URL without user and password.",
                where=ENDPOINT,
                todo="Credentials go where boto3 looks for them (AWS_ACCESS_KEY_ID, ~/.aws, a role).",
            )
        return cls(bucket, prefix, endpoint.strip().rstrip("/"))

    @classmethod
    def from_environment(cls) -> StoreAddress | None:
        """What COHORTLOOM_STORE names, or None if the lake lies in COHORTLOOM_HOME. Raises as `parse`."""
        url = os.environ.get(STORE, "")
        return cls.parse(url, os.environ.get(ENDPOINT, "")) if url.strip() else None

    @property
    def url(self) -> str:
        """The place in words: "s3://bucket/prefix"."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def server(self) -> str:
        """The server in words."""
        return self.endpoint or "AWS S3"
