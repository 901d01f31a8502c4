"""The list of a place belongs to the endpoint that was set when it was kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fsspec.config import conf

from nuclr_cli.data.file_lists import keep_list, last_list
from nuclr_cli.data.remote import RemoteFile

FILES = (RemoteFile("lab/m0.h5", 7, "ETag=1"),)


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE",
        "AWS_CONFIG_FILE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(conf, "s3", raising=False)
    monkeypatch.delitem(conf, "s3a", raising=False)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AWS_ENDPOINT_URL", "https://minio.lab"),
        ("AWS_ENDPOINT_URL_S3", "https://minio.lab"),
        ("AWS_PROFILE", "other"),
    ],
)
def test_a_variable_that_names_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    keep_list(tmp_path, "s3://lab", FILES)
    keep_list(tmp_path, "https://lab", FILES)
    assert last_list(tmp_path, "s3://lab/") is not None
    monkeypatch.setenv(variable, value)
    assert last_list(tmp_path, "s3://lab") is None
    assert last_list(tmp_path, "https://lab") is not None  # whose address says all
    keep_list(tmp_path, "s3://lab", FILES)
    assert last_list(tmp_path, "s3://lab") is not None
    monkeypatch.setenv(variable, value + "2")
    assert last_list(tmp_path, "s3://lab") is None


@pytest.mark.parametrize(
    "options",
    [{"endpoint_url": "https://minio.lab"}, {"client_kwargs": {"endpoint_url": "https://minio.lab"}}],
)
def test_a_setting_of_fsspec_that_names_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    keep_list(tmp_path, "s3://lab", FILES)
    monkeypatch.setitem(conf, "s3", options)
    assert last_list(tmp_path, "s3://lab") is None
    assert last_list(tmp_path, "s3a://lab") is None
    keep_list(tmp_path, "s3://lab", FILES)
    assert last_list(tmp_path, "s3://lab") is not None


def test_another_login_at_the_same_server_changes_nothing_and_is_kept_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(conf, "s3", {"endpoint_url": "https://minio.lab", "secret": "hidden-1"})
    monkeypatch.setenv("AWS_SESSION_TOKEN", "hidden-2")
    keep_list(tmp_path, "s3://lab", FILES)
    monkeypatch.setitem(conf, "s3", {"endpoint_url": "https://minio.lab", "secret": "hidden-3"})
    monkeypatch.setenv("AWS_SESSION_TOKEN", "hidden-4")
    assert last_list(tmp_path, "s3://lab") is not None
    for file in tmp_path.rglob("*"):
        assert "hidden" not in file.name
        assert file.is_dir() or "hidden" not in file.read_text()
        assert file.is_dir() or "minio" not in file.read_text()
