"""What servers and their packages raise: who refuses is believed, copies stand in for who is away."""

from __future__ import annotations

import asyncio
import errno
import ftplib
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import botocore.exceptions as boto
import fsspec
import google.auth.exceptions as google
import pytest
import requests
from fsspec.implementations.memory import MemoryFileSystem
from multidict import CIMultiDict, CIMultiDictProxy
from s3fs.errors import translate_boto_error
from yarl import URL

from nuclr_cli.data.file_cache import Cache, Copies
from nuclr_cli.data.remote import Away, BrokenOff, Refused
from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.errors import InputError
from nuclr_cli.testing.simulate import tiny_population

Raiser = Callable[[], BaseException]


class Moody(MemoryFileSystem):
    """Raises what it is told to instead of listing. As for FTP, its paths begin after the host."""

    protocol = "moody"
    raised: BaseException | None = None

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        if path.startswith("moody://"):
            path = path.removeprefix("moody://").partition("/")[2]
        return str(super()._strip_protocol(path))

    def find(self, *words: Any, **more: Any) -> Any:
        if Moody.raised is not None:
            raise Moody.raised
        return super().find(*words, **more)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    fsspec.register_implementation("moody", Moody, clobber=True)
    # Of its own: that of the class is the one of every memory file system in this process.
    monkeypatch.setattr(Moody, "store", {})
    monkeypatch.setattr(Moody, "pseudo_dirs", [""])
    population = tiny_population(0, 14, minutes=1.0, subject="m0", session="day")
    write_population(population, tmp_path / "m0.h5", source=SourceRecord("made", "test", ""))
    Moody().pipe_file("/lab/m0.h5", (tmp_path / "m0.h5").read_bytes())
    yield Path("moody://one/lab")
    Moody.raised = None


class HttpError(Exception):
    """As gcsfs raises them."""

    def __init__(self, code: int) -> None:
        super().__init__(f"said {code}")
        self.code = code


class ClientAuthenticationError(Exception):
    """Of azure: a login that failed before anything was asked."""

    status_code = None


class HttpResponseError(Exception):
    """Of azure."""

    def __init__(self, status: int) -> None:
        super().__init__("of azure")
        self.status_code = status


class ServiceRequestError(Exception):
    """Of azure: no connection."""


class SSHException(Exception):
    """Of paramiko."""


class AuthenticationException(SSHException):
    """Of paramiko."""


class NoValidConnectionsError(OSError):
    """Of paramiko; without a number."""


def web(status: int) -> BaseException:
    about = aiohttp.RequestInfo(URL("http://h/"), "GET", CIMultiDictProxy(CIMultiDict()), URL("http://h/"))
    return aiohttp.ClientResponseError(about, (), status=status, message="said so")


def from_web(cause: BaseException) -> BaseException:
    """As fsspec's web file system raises it."""
    error = FileNotFoundError("http://h/")
    error.__cause__ = cause
    return error


def s3(status: int, code: str) -> BaseException:
    about = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(boto.ClientError(about, "ListObjectsV2"))  # type: ignore[no-any-return]


def answered(status: int) -> BaseException:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("answered", response=response)


def connector() -> Any:
    return aiohttp.client_reqrep.ConnectionKey("h", 80, False, True, None, None, None)


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


REFUSED: dict[str, Raiser] = {
    "local": lambda: PermissionError(errno.EACCES, "no"),
    "gcsfs 403": lambda: OSError("Forbidden: https://storage/b/lab\nno access"),
    "gcsfs 401": lambda: HttpError(401),
    "gcsfs 403, numbered": lambda: HttpError(403),
    "google, login expired": lambda: google.RefreshError("invalid_grant: token expired"),
    "google, again": lambda: google.ReauthFailError("reauth"),
    "google, no login": lambda: google.DefaultCredentialsError("none"),
    "boto, sso": boto.UnauthorizedSSOTokenError,
    "boto, sso file": lambda: boto.SSOTokenLoadError(error_msg="none"),
    "boto, token": lambda: boto.TokenRetrievalError(provider="sso", error_msg="expired"),
    "boto, login": boto.LoginRefreshRequired,
    "boto, retrieval": lambda: boto.CredentialRetrievalError(provider="p", error_msg="connection timed out"),
    "boto, none": boto.NoCredentialsError,
    "boto, none, its server away": lambda: caused(
        boto.NoCredentialsError(), boto.EndpointConnectionError(endpoint_url="http://169.254.169.254")
    ),
    "s3fs 403": lambda: s3(403, "AccessDenied"),
    "s3fs 403, unknown": lambda: s3(403, "SomethingNew"),
    "web 401": lambda: from_web(web(401)),
    "web 403": lambda: web(403),
    "requests 403": lambda: answered(403),
    "azure 403": lambda: HttpResponseError(403),
    "azure login": ClientAuthenticationError,
    "ssh": lambda: AuthenticationException("Authentication failed."),
}
GONE: dict[str, Raiser] = {
    "local": lambda: FileNotFoundError("lab"),
    "gcsfs": lambda: HttpError(404),
    "s3fs": lambda: s3(404, "NoSuchBucket"),
    "web 404": lambda: from_web(web(404)),
    "web 410": lambda: from_web(web(410)),
    "azure": lambda: HttpResponseError(404),
}
AWAY: dict[str, Raiser] = {
    "refused connection": lambda: ConnectionRefusedError(errno.ECONNREFUSED, "nobody"),
    "no route": lambda: OSError(errno.EHOSTUNREACH, "no route"),
    "no name": lambda: socket.gaierror(socket.EAI_NONAME, "unknown host"),
    "file server": lambda: OSError(errno.EIO, "Input/output error"),
    "timeout": TimeoutError,
    "asyncio": asyncio.TimeoutError,
    "fsspec": fsspec.exceptions.FSTimeoutError,
    "ftp": lambda: ftplib.error_temp("421 service not available"),
    "ftp, cut": EOFError,
    "web, connector": lambda: from_web(aiohttp.ClientConnectorError(connector(), OSError(111, "refused"))),
    "web, disconnected": lambda: aiohttp.ServerDisconnectedError(),
    "web, cut": lambda: aiohttp.ClientPayloadError("cut"),
    "web 500": lambda: from_web(web(500)),
    "web 503": lambda: web(503),
    "web 408": lambda: web(408),
    "boto, connection": lambda: boto.EndpointConnectionError(endpoint_url="http://h"),
    "boto, closed": lambda: boto.ConnectionClosedError(endpoint_url="http://h"),
    "boto, timeout": lambda: boto.ReadTimeoutError(endpoint_url="http://h"),
    "s3fs 500": lambda: s3(500, "InternalError"),
    "s3fs 503": lambda: s3(503, "SlowDown"),
    "gcsfs 503": lambda: HttpError(503),
    "google": lambda: google.TransportError("no route"),
    "requests": lambda: requests.ConnectionError("nobody"),
    "requests, timeout": lambda: requests.ReadTimeout("slow"),
    "requests 502": lambda: answered(502),
    "azure": lambda: ServiceRequestError("nobody"),
    "azure 500": lambda: HttpResponseError(500),
    "ssh": NoValidConnectionsError,
    "wrapped": lambda: caused(RuntimeError("failed"), ConnectionResetError("reset")),
}
NEITHER: dict[str, Raiser] = {
    "a mistake": lambda: ValueError("bucket names have no blanks"),
    "web 400": lambda: web(400),
    "s3fs 400": lambda: s3(400, "InvalidToken"),
    "s3fs 301": lambda: s3(301, "PermanentRedirect"),
    "gcsfs 429": lambda: HttpError(429),
    "requests 407": lambda: answered(407),
    "boto, profile": lambda: boto.ProfileNotFound(profile="lab"),
    "not who it says": lambda: ssl.SSLCertVerificationError("self-signed"),
    "boto, not who it says": lambda: boto.SSLError(endpoint_url="https://h", error="self-signed"),
    "requests, not who it says": lambda: requests.exceptions.SSLError("self-signed"),
    "another code": lambda: caused(ValueError("x"), SimpleCode("ENOENT")),
}


class SimpleCode(Exception):
    """Its code is no HTTP status."""

    def __init__(self, code: object) -> None:
        super().__init__("code")
        self.code = code
        self.response = SimpleNamespace(status_code=None)


def stood_in(place: Path, cache: Cache, raiser: Raiser) -> Copies:
    """What is used when a place that was fetched before raises something."""
    for _ in Copies(place, cache).fetch():
        pass
    Moody.raised = raiser()
    return Copies(place, cache)


@pytest.mark.parametrize("name", AWAY)
def test_copies_stand_in_for_who_is_away(place: Path, tmp_path: Path, name: str) -> None:
    copies = stood_in(place, Cache(tmp_path / "cache"), AWAY[name])
    assert copies.missing == []
    assert "Used instead: the copies of 1 file" in copies.doubtful
    with pytest.raises(Away):
        Copies(place, Cache(tmp_path / "another"))


@pytest.mark.parametrize("name", REFUSED)
def test_who_refuses_is_believed(place: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused, match="No permission to read moody://one/lab"):
        stood_in(place, Cache(tmp_path / "cache"), REFUSED[name])


@pytest.mark.parametrize("name", GONE)
def test_who_holds_nothing_is_believed(place: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="moody://one/lab does not exist"):
        stood_in(place, Cache(tmp_path / "cache"), GONE[name])


@pytest.mark.parametrize("name", NEITHER)
def test_what_is_no_word_of_the_connection_is_an_error(place: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(BrokenOff, match="Could not list moody://one/lab") as caught:
        stood_in(place, Cache(tmp_path / "cache"), NEITHER[name])
    assert not isinstance(caught.value, Away)


def test_a_file_of_another_host_is_another_file(place: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    for _ in Copies(place, cache).fetch():
        pass
    assert Copies(place, cache).missing == []
    assert len(Copies(Path("moody://two/lab"), cache).missing) == 1
