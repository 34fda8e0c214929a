"""Storage faults: which of them may pass, and how each reads in one line."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from .errors import PalaestraError, StorageError

TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
# S3 answers these with 400 or 409: a body damaged or cut short on its way, two writers at once
TRANSIENT_CODES = {
    "BadDigest", "IncompleteBody", "OperationAborted", "RequestTimeout", "XAmzContentSHA256Mismatch"
}  # fmt: skip
TRANSIENT_ERRNO = {
    errno.EAGAIN, errno.EBUSY, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH,
    errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT, socket.EAI_AGAIN,
}  # fmt: skip
# Names of exceptions or of their bases, since no store's client need be installed: Python's own,
# those of botocore, aiohttp, urllib3, requests, google.auth and azure.core
TRANSIENT_NAMES = {
    "ClientConnectionError", "ClientPayloadError", "ConnectionError", "HTTPClientError",
    "IncompleteRead", "IncompleteReadError", "ProtocolError", "ResponseParserError",
    "ServiceRequestError", "ServiceResponseError", "Timeout", "TimeoutError", "TransportError",
}  # fmt: skip
PERMANENT_NAMES = {
    "FileExistsError", "FileNotFoundError", "IsADirectoryError", "NotADirectoryError",
    "SSLError",  # botocore's and requests' for a certificate that is not trusted
}  # fmt: skip


class TransientError(StorageError):
    """A storage fault that may pass: the same call can succeed a little later."""


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Turn a storage failure inside into a TransientError or StorageError that names `where`."""
    try:
        yield
    except Exception as error:  # the stores' clients share no base class
        if isinstance(error, PalaestraError) or not _of_the_world(error):
            raise
        raise fault(where, error) from error


def _of_the_world(error: Exception) -> bool:
    """False for what only a bug raises, a TypeError say."""
    builtin = type(error).__module__ == "builtins"
    return isinstance(error, OSError | ValueError | ImportError) or not builtin


def fault(where: str, error: BaseException) -> StorageError:
    """The failure as one line: a TransientError if it may pass."""
    kind = TransientError if is_transient(error) else StorageError
    return kind(f"{where}: {reason(error)}")


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed a little later."""
    for link in _chain(error):
        names = {base.__name__ for base in type(link).__mro__}
        if names & PERMANENT_NAMES:
            return False
        if answer := _answer(link):
            return answer.status in TRANSIENT_STATUS or answer.code in TRANSIENT_CODES
        if names & TRANSIENT_NAMES or getattr(link, "errno", None) in TRANSIENT_ERRNO:
            return True
    return False


def reason(error: BaseException) -> str:
    """What went wrong, in one line."""
    answer = next(filter(None, map(_answer, _chain(error))), None)
    if isinstance(error, FileNotFoundError):
        bucket = answer is not None and answer.code == "NoSuchBucket"
        return "not found (there is no such bucket)" if bucket else "not found"
    if answer and answer.message:
        return " ".join(f"HTTP {answer.status} {answer.code}: {answer.message}".split())
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    return " ".join((str(error) or type(error).__name__).splitlines()[:1])


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, then its causes: s3fs makes built-in errors of its client's."""
    while error is not None:
        yield error
        error = error.__cause__


class _Answer(NamedTuple):
    """A server's answer, as far as an exception tells it."""

    status: int
    code: str = ""
    message: str = ""


def _answer(error: BaseException) -> _Answer | None:
    """botocore keeps the parsed answer; gcsfs has `code`, aiohttp `status`, azure `status_code`."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        told = response.get("Error", {})
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return _Answer(status, str(told.get("Code", "")), str(told.get("Message", "")))
    for holder in (error, response):  # requests keeps a Response
        for name in ("status", "status_code", "code"):
            status = getattr(holder, name, None)
            if isinstance(status, int) and 100 <= status < 600:
                return _Answer(status)
    return None
