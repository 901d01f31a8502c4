"""What an error of a server, or of the package that speaks with it, means: nothing there, refused, or away.

Protocols come from packages that need not be installed, so that attributes and names tell their errors.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator, Mapping

_GONE = (404, 410)
_NOT_ALLOWED = (401, 403)
_TIMED_OUT = 408
_FAILED = 500  # and above
_MOST_CAUSES = 5
_LOGIN = ("Credential", "RefreshError", "SSOToken", "TokenRetrieval", "LoginError", "Authentication")
"""In names of errors of boto, google.auth, azure and paramiko: whoever asks has to log in."""
_CONNECTION = ("Connection", "Timeout", "TransportError", "PayloadError", "ChunkedEncoding", "IncompleteRead")
"""In names of errors of aiohttp, requests, boto, google.auth and paramiko."""
_AZURE_CONNECTION = ("ServiceRequestError", "ServiceResponseError")
_UNTRUSTED = ("SSL", "Certificate", "Fingerprint")  # some are errors of the connection by their bases


def reason_of(error: BaseException) -> BaseException:
    """fsspec's web file system says of every refusal that there is no such file; what it was made from."""
    cause = error.__cause__
    from_web = cause is not None and type(cause).__module__.partition(".")[0] == "aiohttp"
    return cause if cause is not None and from_web and isinstance(error, FileNotFoundError) else error


def is_gone(error: BaseException) -> bool:
    """Whether the server says that it holds no such thing."""
    return isinstance(error, FileNotFoundError) or _status(error) in _GONE


def is_refusal(error: BaseException) -> bool:
    """Whether the server, or the place where one logs in, gives nothing to who asks.

    Credentials that cannot be had count as refused, also where it is their server that is away: what is kept
    of earlier may not be for whoever asks now.
    """
    if isinstance(error, PermissionError) or _status(error) in _NOT_ALLOWED:
        return True
    if any(_named(one, _LOGIN) for one in _causes(error)):
        return True
    return str(error).startswith("Forbidden")  # gcsfs: an OSError without a number


def is_away(error: BaseException) -> bool:
    """Whether there was no connection, no answer in time, or only that of a server out of order."""
    status = _status(error)
    if status is not None:
        return status >= _FAILED or status == _TIMED_OUT
    chain = list(_causes(error))
    if any(isinstance(one, ssl.SSLError) or _named(one, _UNTRUSTED) for one in chain):
        return False
    return any(_is_connection(one) for one in chain)


def _is_connection(error: BaseException) -> bool:
    from ftplib import error_temp

    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror | EOFError | error_temp):
        return True
    if isinstance(error, OSError) and error.errno in _NETWORK:
        return True
    return _named(error, _CONNECTION) or type(error).__name__ in _AZURE_CONNECTION


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error, or what it was made from, holds; None where there is none."""
    for one in _causes(error):
        for name in ("status", "status_code", "code"):  # aiohttp; azure; gcsfs and urllib
            found = _number(getattr(one, name, None))
            if found is not None:  # aiohttp warns of those who ask for `code`, too
                return found
        response = getattr(one, "response", None)
        if isinstance(response, Mapping):  # boto
            about = response.get("ResponseMetadata")
            found = _number(about.get("HTTPStatusCode")) if isinstance(about, Mapping) else None
        else:  # requests
            found = _number(getattr(response, "status_code", None))
        if found is not None:
            return found
    return None


def _number(value: object) -> int | None:
    """An HTTP status; other things are called `code`, too."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    return value if isinstance(value, int) and 100 <= value < 600 else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__


def _named(error: BaseException, parts: tuple[str, ...]) -> bool:
    return any(part in kind.__name__ for kind in type(error).__mro__ for part in parts)


def _network() -> frozenset[int]:
    """EIO is what a file system of another machine says when its server does not answer."""
    names = ("EIO", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ENOTCONN")
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


_NETWORK = _network()
