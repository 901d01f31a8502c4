"""Names of runs, subjects and settings that are nearly right are answered with the right one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nuclr_cli.errors import InputError
from nuclr_cli.workflows.presets import preset_settings, with_changes
from nuclr_cli.workflows.pretrain_sessions import check_subjects

TINY = ("--preset", "tiny", "--gpus", 0, "--steps", 2, "--set", "model.dim=16", "--set", "model.heads=2",
        "--set", "model.head_dim=8", "--set", "train.max_tokens=1200")  # fmt: skip


def test_a_misspelt_run(forked: Any, tiny_data: Path, tmp_path: Path) -> None:
    done = forked("pretrain", tiny_data, "--runs", tmp_path, "--name", "short", *TINY)
    assert done.code == 0, done.err
    for words in (("embed",), ("probe", "--label", "cell_type"), ("report",)):
        done = forked(*words, *(() if words[0] == "report" else ("--run",)), "shrot", "--runs", tmp_path)
        assert done.code == 3
        assert "There is no run 'shrot'." in done.err
        assert f"Did you mean 'short'? Runs in {tmp_path}: short" in done.err
    done = forked("embed", "--run", "another", "--runs", tmp_path)
    assert done.code == 3
    assert "Did you mean" not in done.err


def test_a_misspelt_subject(forked: Any, tiny_data: Path, tmp_path: Path) -> None:
    done = forked("pretrain", tiny_data, "--runs", tmp_path, "--hold-out-subjects", "s1,ss3,mouse", *TINY)
    assert done.code == 3
    assert "without a session: mouse, ss3 (did you mean s3?)." in done.err
    assert "Subjects here: s0, s1, s2, s3" in done.err
    assert not list(tmp_path.iterdir())


def test_subjects_that_are_not_named_yet_are_suggested_first() -> None:
    with pytest.raises(InputError, match=r"m22 \(did you mean m12\?\)"):
        check_subjects("--test-subjects", ["m2", "m22"], ["m2", "m12"])


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("train.lerning_rate", "'train.learning_rate'"),
        ("model.headz", "'model.heads'"),
        ("steps", "'train.steps'"),
        ("model.learning_rate", "'train.learning_rate'"),
        ("batch", "'train.batch_windows'"),
        ("train.batch_size", "'train.batch_windows'"),
        ("train.window", "'train.batch_windows'"),
        ("train.lr", "'train.learning_rate'"),
        ("lr", "'train.learning_rate'"),
        ("views.dropout", "'views.dropout_low' or 'views.dropout_high'"),
        ("model.dropout_low", "'views.dropout_low'"),
    ],
)
def test_a_misspelt_setting_is_not_answered_with_all(key: str, meant: str) -> None:
    with pytest.raises(InputError) as caught:
        with_changes(preset_settings("tiny"), {key: "1"})
    assert caught.value.fix.startswith(f"Did you mean {meant}")
    assert "docs/settings.md" in caught.value.fix
    assert caught.value.fix.count("'") <= 6
    assert "seed" not in caught.value.fix


def test_a_setting_like_no_other_is_answered_with_all() -> None:
    with pytest.raises(InputError) as caught:
        with_changes(preset_settings("tiny"), {"train.qqq": "1"})
    assert "train.steps, " in caught.value.fix
    assert "data.subjects" in caught.value.fix
