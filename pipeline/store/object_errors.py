"""What can go wrong between us and an object store, in words for the person who has to act on it.

boto3's errors become `StoreError` here, with the server, the key and what to do; what its answers say about
conditions and absence is read here too. Keys hold names of assets and partitions, never a patient's value.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import StoreError
from pipeline.store.address import ENDPOINT, STORE, StoreAddress

_LOGIN = (
    "See that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the profile or role) are those of a user who may "
    "list, read, write and delete below the prefix."
)
_REACH = f"See that {ENDPOINT} and the network are right and the server runs. What was committed before is safe."
_WORDS = {
    "AccessDenied": ("Access is denied.", _LOGIN),
    "403": ("Access is denied.", _LOGIN),
    "InvalidAccessKeyId": ("The access key is unknown there.", _LOGIN),
    "SignatureDoesNotMatch": ("The secret key does not belong to the access key.", _LOGIN),
    "ExpiredToken": ("The login has expired.", "Log in again."),
    "InvalidToken": ("The login is not valid.", "Log in again."),
    "NoSuchBucket": ("There is no such bucket.", f"Make it, or mend {STORE}."),
    "PermanentRedirect": ("The bucket lies in another region.", "Set AWS_DEFAULT_REGION to the bucket's."),
    "AuthorizationHeaderMalformed": ("The bucket lies in another region.", "Set AWS_DEFAULT_REGION to the bucket's."),
    "RequestTimeTooSkewed": ("The clock of this machine is too far off.", "Set it right."),
    "SlowDown": ("The store asks to slow down.", "Run fewer things at once, and then again."),
    "BadDigest": ("The bytes that arrived are not those that were sent.", "Try again; see that the network is sound."),
    "QuotaExceeded": ("The store is full.", "Free space there; nothing half-written can be seen."),
    "XMinioStorageFull": ("The store is full.", "Free space there; nothing half-written can be seen."),
}


@contextmanager
def object_errors(address: StoreAddress, where: str) -> Iterator[None]:
    """Turn every error of boto3 in the block into a `StoreError` that names `where`."""
    try:
        yield
    except Exception as error:
        translated = _translate(error, address, where)
        if translated is None:
            raise
        raise translated from error


def code(error: BaseException) -> str:
    """The store's own code for what went wrong ("NoSuchKey"); empty if it gave none."""
    return str((getattr(error, "response", None) or {}).get("Error", {}).get("Code", ""))


def absent(error: BaseException) -> bool:
    """Whether the store says that there is no such object (no such bucket is another thing)."""
    return code(error) in {"NoSuchKey", "404"}


def unmet(error: BaseException) -> bool:
    """Whether the store refused a conditional PUT: another value, none any more, or somebody else at it just now."""
    return absent(error) or code(error) in {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}


def repeated(error: BaseException) -> bool:
    """Whether boto3 had sent the request before, without getting an answer."""
    return bool((getattr(error, "response", None) or {}).get("ResponseMetadata", {}).get("RetryAttempts", 0))


def _translate(error: Exception, address: StoreAddress, where: str) -> StoreError | None:
    module = type(error).__module__.partition(".")[0]
    if module not in {"botocore", "boto3", "s3transfer", "urllib3"}:
        return None
    found = code(error)
    if found:
        what, todo = _WORDS.get(found, (f"The store refuses with '{found}'.", "Look into its log."))
        return StoreError(f"{what} ({address.server})", where=where, todo=todo)
    name = type(error).__name__
    if "Credential" in name or name in {
        "ProfileNotFound",
        "TokenRetrievalError",
        "SSOError",
        "UnauthorizedSSOTokenError",
    }:
        return StoreError("There is no login for the object store.", where=where, todo=_LOGIN)
    if name == "NoRegionError":
        return StoreError("No region is set.", where=where, todo="Set AWS_DEFAULT_REGION to the bucket's.")
    if name == "SSLError":
        return StoreError(
            f"The certificate of {address.server} is not trusted.", where=where, todo="Set AWS_CA_BUNDLE."
        )
    return StoreError(f"The object store at {address.server} does not answer ({name}).", where=where, todo=_REACH)
