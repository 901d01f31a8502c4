"""`nuclr demo` refuses what cannot end well at once, says what it replaces, and names the next step."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest


def test_one_animal_is_refused_before_anything_is_made(forked: Any, tmp_path: Path) -> None:
    for animals in (1, 0):
        done = forked("demo", "--animals", animals, "-o", tmp_path / "demo", "--gpus", 0)
        assert done.code == 3, done.err
        assert "fitted on some animals and tested on others" in done.err
        assert "--animals 2" in done.err
        assert not (tmp_path / "demo").exists()


def test_a_second_demo_says_that_it_replaces_the_first(forked: Any, tmp_path: Path) -> None:
    pytest.importorskip("spikeinterface")
    pytest.importorskip("plotly")
    folder = tmp_path / "a demo"
    (folder / "nuclr-runs" / "demo").mkdir(parents=True)
    (folder / "demo.json").write_text("{}")
    small = ("--animals", 2, "--units", 20, "--minutes", 2, "--set", "train.steps=2")
    done = forked("demo", *small, "-o", folder, "--gpus", 0)
    assert done.code == 0, done.err
    assert f"warning {folder} holds an earlier demo, which is replaced, its run too" in done.err
    last = done.err.splitlines()[-1]
    assert last.startswith("next: nuclr report demo --runs ")
    report = forked(*shlex.split(last.removeprefix("next: nuclr ")), "--no-umap")
    assert report.code == 0, report.err
    assert (folder / "nuclr-runs" / "demo" / "report.html").is_file()
    other = tmp_path / "mine"
    other.mkdir()
    done = forked("demo", *small, "-o", other, "--gpus", 0)
    assert done.code == 3, done.err
    assert not list(other.iterdir())
