"""Several processes of `nuclr preprocess` in one folder: no population is there twice, no file in part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nuclr_cli.data.atomic import claim
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import verify

# The command, held at one place until so many processes are there: where it has planned what to do, or where
# its files are finished and wait for their names.
HELD = """
import sys, time
from pathlib import Path
from nuclr_cli.cli.app import main
from nuclr_cli.workflows import preprocess
from nuclr_cli.workflows.population_folder import PopulationFolder

place, own, n, where = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]

def hold():
    (place / f"ready-{own}").touch()
    while len(list(place.glob("ready-*"))) < n:
        time.sleep(0.005)

commit, plan = PopulationFolder.commit, preprocess.plan_jobs

def held(self, source, staged):
    hold()
    return commit(self, source, staged)

def planned(*args):
    jobs = plan(*args)
    hold()
    return jobs

if where == "commit":
    PopulationFolder.commit = held
else:
    preprocess.plan_jobs = planned
sys.argv = ["nuclr", "preprocess", *sys.argv[5:]]
main()
"""


def sorting(folder: Path, seed: int = 0) -> Path:
    """A numpy_folder of 20 s with 600 spikes of three units."""
    rng = np.random.default_rng(seed)
    spikes = np.zeros(600, dtype=[("sample_index", "i8"), ("unit_index", "i8"), ("segment_index", "i8")])
    spikes["sample_index"] = np.sort(rng.integers(0, 600_000, 600))
    spikes["unit_index"] = rng.integers(0, 3, 600)
    (folder / "properties").mkdir(parents=True)
    np.save(folder / "spikes.npy", spikes)
    settings = {"sampling_frequency": 30_000.0, "unit_ids": [0, 1, 2], "num_segments": 1}
    (folder / "numpysorting_info.json").write_text(json.dumps(settings))
    return folder


def started(
    place: Path, commands: Sequence[Sequence[object]], n: int, where: str = "commit"
) -> list[subprocess.Popen[str]]:
    """One process for each command; none gives its files their names (or looks at the folder) before `n` are
    ready.
    """
    meeting = place / "meeting"
    meeting.mkdir(exist_ok=True)
    return [
        subprocess.Popen(
            [sys.executable, "-c", HELD, str(meeting), str(i), str(n), where, *map(str, command), "--json"],
            cwd=place,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, command in enumerate(commands)
    ]


def together(place: Path, *commands: Sequence[object]) -> list[tuple[int, Any]]:
    """Exit code and document of each command, all run at once."""
    done = []
    for process in started(place, commands, len(commands)):
        out, err = process.communicate(timeout=120)
        assert out, err
        done.append((process.returncode, json.loads(out)))
    return done


def files(place: Path) -> list[str]:
    """Names in the DATA folder, hidden ones too."""
    return sorted(path.name for path in (place / "nuclr-data").iterdir())


def status(document: Any) -> str:
    (source,) = document["sources"]
    return str(source["status"])


def test_two_sources_of_one_key_are_not_both_written(tmp_path: Path) -> None:
    who = ("--subject", "m", "--session", "d")
    sources = [sorting(tmp_path / name, seed) for seed, name in enumerate(("one", "two"))]
    done = together(tmp_path, *((source, *who) for source in sources))
    assert sorted(code for code, _ in done) == [0, 3]
    assert files(tmp_path) == ["m_d_0.h5"]
    (session,) = open_sessions(tmp_path / "nuclr-data")
    assert verify(session.path) == []
    won = sources[[code for code, _ in done].index(0)]
    assert session.meta.source is not None
    assert session.meta.source.path == str(won)
    (refused,) = (document["error"] for code, document in done if code == 3)
    assert f"is already in nuclr-data/m_d_0.h5, made from {won}" in refused["what"]
    assert "--subject" in refused["fix"]


@pytest.mark.parametrize("more", [(), ("--overwrite",)], ids=["new", "overwrite"])
def test_one_source_ends_as_one_whole_file(tmp_path: Path, more: tuple[str, ...]) -> None:
    source = sorting(tmp_path / "one")
    done = together(tmp_path, *[(source, *more)] * 3)
    assert [code for code, _ in done] == [0, 0, 0]
    expected = ["skipped", "skipped", "written"] if not more else ["written"] * 3
    assert sorted(status(document) for _, document in done) == expected
    assert files(tmp_path) == ["one_one_0.h5"]
    (session,) = open_sessions(tmp_path / "nuclr-data")
    assert verify(session.path) == []
    assert session.columns["n_spikes"].sum() == 600


def test_one_source_with_two_sets_of_options_is_written_once(tmp_path: Path) -> None:
    source = sorting(tmp_path / "one")
    done = together(tmp_path, (source, "--duration", "20"), (source, "--duration", "30"))
    assert sorted(code for code, _ in done) == [0, 3]
    (refused,) = (document["error"] for code, document in done if code == 3)
    assert "from the same source with other options" in refused["what"]
    assert files(tmp_path) == ["one_one_0.h5"]


def test_two_keys_that_share_a_file_name_are_both_written(tmp_path: Path) -> None:
    sources = [sorting(tmp_path / name, seed) for seed, name in enumerate(("one", "two"))]
    keys = [("a_b", "c"), ("a", "b_c")]
    done = together(
        tmp_path,
        *((s, "--subject", key[0], "--session", key[1]) for s, key in zip(sources, keys, strict=True)),
    )
    assert [code for code, _ in done] == [0, 0]
    assert [status(document) for _, document in done] == ["written", "written"]
    sessions = open_sessions(tmp_path / "nuclr-data")
    assert sorted((s.key.subject, s.key.session) for s in sessions) == sorted(keys)
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize(("where", "code"), [("plan", 0), ("commit", 3)])
def test_labels_that_come_while_a_file_is_made_anew_are_not_lost(
    nuclr: Callable[..., Any], tmp_path: Path, where: str, code: int
) -> None:
    source = sorting(tmp_path / "one")
    assert nuclr("preprocess", source, cwd=tmp_path).code == 0
    (process,) = started(tmp_path, [(source, "--overwrite")], 2, where)
    while not (tmp_path / "meeting" / "ready-0").exists():
        assert process.poll() is None
        time.sleep(0.01)
    (tmp_path / "labels.csv").write_text("unit_id,cell_type\n1,PV\n")
    assert nuclr("label", "--labels", "labels.csv", cwd=tmp_path).code == 0
    (tmp_path / "meeting" / "ready-1").touch()
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    if code:
        assert "got other labels from another process meanwhile" in json.loads(out)["error"]["what"]
    assert nuclr("preprocess", source, "--overwrite", cwd=tmp_path).code == 0
    (session,) = open_sessions(tmp_path / "nuclr-data")
    assert session.label("cell_type").tolist() == ["", "PV", ""]


@pytest.mark.parametrize("links", [True, False])
def test_a_name_is_claimed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)
    claim(tmp_path / "first", tmp_path / "target")
    with pytest.raises(FileExistsError):
        claim(tmp_path / "second", tmp_path / "target")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "target": "first",
        "second": "second",
    }
