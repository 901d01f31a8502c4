"""DATA in a bucket: the S3 protocol over HTTP, spoken by s3fs with a server of this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from nuclr_cli.data.store import SourceRecord, write_population
from nuclr_cli.testing.simulate import tiny_population

KEYS = {"AWS_ACCESS_KEY_ID": "lab", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
ELSEWHERE = {
    "AWS_PROFILE": "lab",
    "AWS_DEFAULT_PROFILE": "lab",
    "AWS_SESSION_TOKEN": "old",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9/keys",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/keys",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere/token",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
    "AWS_CA_BUNDLE": "/nowhere/ca",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "all_proxy": "http://127.0.0.1:9",
}
"""What whoever runs the tests may have set for buckets of their own."""
SMALL = (
    "--preset",
    "tiny",
    "--gpus",
    "0",
    "--set",
    "train.batch_windows=2",
    "--set",
    "train.checkpoint_every=2",
)


def write(path: Path, number: int, subject: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    population = tiny_population(number, 14, minutes=1.0, subject=subject, session="day")
    write_population(population, path, source=SourceRecord("made", "test", ""))


@dataclass(frozen=True)
class Bucket:
    """A bucket that holds what a folder holds.

    Attributes:
        folder: The session files before they were uploaded.
        client: Of boto3.
        server: Of moto.
        environment: What a process must know to read the bucket, and (None) must not.
    """

    folder: Path
    client: Any
    server: ThreadedMotoServer
    environment: dict[str, str | None]

    url = "s3://lab/cohort"

    def put(self, file: Path) -> None:
        self.client.upload_file(str(file), "lab", f"cohort/{file.relative_to(self.folder).as_posix()}")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    proxies = [name for name in os.environ if name.lower().endswith("_proxy")]
    set_here = {*ELSEWHERE, *proxies, *(name for name in os.environ if name.startswith("AWS_"))}
    for name in set_here:
        monkeypatch.delenv(name, raising=False)
    missing = str(tmp_path / "no such file")
    files = {
        "AWS_CONFIG_FILE": missing,
        "AWS_SHARED_CREDENTIALS_FILE": missing,
        "NO_PROXY": "*",
        "no_proxy": "*",
    }
    for name, value in files.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            region_name=KEYS["AWS_DEFAULT_REGION"],
        )
        client.create_bucket(Bucket="lab")
        environment: dict[str, str | None] = dict.fromkeys(set_here)
        environment |= {**KEYS, **files, "AWS_ENDPOINT_URL": endpoint, "NUCLR_CACHE": str(tmp_path / "cache")}
        made = Bucket(tmp_path / "made", client, server, environment)
        for number in range(4):
            file = made.folder / ("below" if number % 2 else ".") / f"m{number}.h5"
            write(file, number, f"m{number}")
            made.put(file)
        yield made
    finally:
        server.stop()


def test_a_run_on_a_bucket_is_the_run_on_its_files(forked: Any, bucket: Bucket, tmp_path: Path) -> None:
    runs, environment = tmp_path / "runs", bucket.environment
    listed = forked("info", bucket.url, "--json", environment=environment)
    assert listed.code == 0, listed.err
    assert len(listed.json["sessions"]) == 4

    more = ("--runs", runs, "--steps", "4", "--json", *SMALL)
    local = forked("pretrain", bucket.folder, "--name", "local", *more)
    remote = forked("pretrain", bucket.url, "--name", "remote", *more, environment=environment)
    assert (local.code, remote.code) == (0, 0), local.err + remote.err
    assert remote.json["last_loss"] == local.json["last_loss"]
    assert json.loads((runs / "remote" / "run.json").read_text())["data"] == bucket.url

    embedded = forked("embed", "--run", "remote", "--runs", runs, "--json", environment=environment)
    assert embedded.code == 0, embedded.err
    assert embedded.json["n_units"] == 4 * 14

    # The server's ETag tells that a recording is another one.
    write(bucket.folder / "m0.h5", 77, "m0")
    bucket.put(bucket.folder / "m0.h5")
    resumed = forked("pretrain", "--name", "remote", "--resume", *more, environment=environment)
    assert resumed.code == 3
    assert "m0/day/0" in resumed.json["error"]["what"]


@pytest.mark.parametrize(
    ("place", "change", "said"),
    [
        ("s3://lab/elsewhere", {}, "s3://lab/elsewhere holds no population file"),  # buckets have no folders
        ("s3://lab/cohort/m9.h5", {}, "s3://lab/cohort/m9.h5 does not exist"),
        ("s3://nobodys/cohort", {}, "s3://nobodys/cohort does not exist"),
        (
            "s3://lab/cohort",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"},
            "Could not list s3://lab/cohort",
        ),
    ],
)
def test_a_bucket_that_cannot_be_read_is_named(
    forked: Any, bucket: Bucket, place: str, change: dict[str, str], said: str
) -> None:
    done = forked("info", place, "--json", environment={**bucket.environment, **change})
    assert done.code == 3, done.err
    assert said in done.json["error"]["what"]
    assert "Traceback" not in done.err


def test_a_bucket_without_credentials_says_how_to_log_in(forked: Any, bucket: Bucket, tmp_path: Path) -> None:
    nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    done = forked(
        "info", bucket.url, "--json", environment={**bucket.environment, **nobody, "HOME": str(tmp_path)}
    )
    assert done.code == 3, done.err
    assert "No permission to read s3://lab/cohort" in done.json["error"]["what"]
    assert "AWS_PROFILE" in done.json["error"]["fix"]


def test_what_a_developer_has_set_does_not_reach_the_bucket(forked: Any, bucket: Bucket) -> None:
    done = forked("info", bucket.url, "--json", environment={**ELSEWHERE, **bucket.environment})
    assert done.code == 0, done.err
    assert len(done.json["sessions"]) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
        {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"},
    ],
)
def test_another_endpoint_that_is_away_does_not_hold_what_the_first_held(
    forked: Any, bucket: Bucket, change: dict[str, str]
) -> None:
    here = {**bucket.environment, "AWS_MAX_ATTEMPTS": "1"}
    assert forked("info", bucket.url, environment=here).code == 0
    away = forked("info", bucket.url, "--json", environment={**here, **change})
    assert away.code == 3
    assert "Could not list s3://lab/cohort" in away.json["error"]["what"]
    assert "Used instead" not in away.err


def test_the_same_endpoint_that_is_away_is_stood_in_for(forked: Any, bucket: Bucket) -> None:
    here = {**bucket.environment, "AWS_MAX_ATTEMPTS": "1"}
    assert forked("info", bucket.url, environment=here).code == 0
    bucket.server.stop()
    away = forked("info", bucket.url, "--json", environment=here)
    assert away.code == 0, away.err
    assert len(away.json["sessions"]) == 4
    assert "Used instead: the copies of 4 files" in away.err
