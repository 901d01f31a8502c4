"""What else than a URL says which server is meant: an S3 address is a bucket of whatever endpoint is set."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

_FAMILIES = (("s3", "s3a"), ("gs", "gcs"), ("az", "abfs", "abfss", "adl"))
_VARIABLES = {
    "s3": (
        "AWS_ENDPOINT_URL",
        "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE",
        "AWS_CONFIG_FILE",
    ),  # beginnings of names
    "gs": ("STORAGE_EMULATOR_HOST",),
    "az": ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_CONNECTION_STRING"),
}
_LOGIN = ("key", "secret", "token", "password", "passwd", "username", "credential")
"""In names of options that change while the server stays the same one."""


def endpoint_mark(where: str) -> str:
    """A digest of what the environment and fsspec's settings say of the server of a URL; "" = nothing.

    Secrets can be part of an endpoint's address, so that what was said is not to be had from the mark.
    """
    protocol = where.partition(":")[0].lower()
    family = next((names for names in _FAMILIES if protocol in names), (protocol,))
    beginnings = _VARIABLES.get(family[0], ())
    said: dict[str, Any] = {
        name: value for name, value in os.environ.items() if value and name.startswith(beginnings)
    }
    for name in family:
        options = _without_login(_configured(name))
        if options:
            said[f"fsspec {name}"] = options
    if not said:
        return ""
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def _configured(protocol: str) -> Mapping[str, Any]:
    try:
        from fsspec.config import conf
    except ModuleNotFoundError:  # said where the URL is opened
        return {}
    found: Mapping[str, Any] = conf.get(protocol, {})
    return found


def _without_login(options: Mapping[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in options.items():
        if any(part in name.lower() for part in _LOGIN):
            continue
        kept[name] = _without_login(value) if isinstance(value, Mapping) else value
    return kept
