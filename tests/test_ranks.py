"""Several processes train as one does: the same numbers, one voice, nothing lost when one of them ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from several_processes import (
    assert_same_run,
    children,
    environment,
    finished,
    pretrain,
    rows,
    started,
    torchrun,
    wait_for_step,
)

from nuclr_cli.data.embeddings import load_embeddings
from nuclr_cli.errors import InputError
from nuclr_cli.workflows.launchers import Layout, is_first_process, layout_of

Nuclr = Callable[..., Any]


@pytest.fixture(scope="module")
def data(uneven_data: Path) -> Path:
    """Populations of very different size."""
    return uneven_data


@pytest.fixture(scope="module")
def alone(nuclr: Nuclr, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, 20 steps."""
    place = tmp_path_factory.mktemp("alone")
    done = nuclr(*pretrain(data, "run"), cwd=place)
    assert done.code == 0, done.err
    return place / "nuclr-runs" / "run"


@pytest.mark.parametrize("ranks", [2, 3])
def test_several_processes_train_as_one_does(data: Path, alone: Path, ranks: int, tmp_path: Path) -> None:
    done = finished([*torchrun(ranks), *pretrain(data, "run", "--json")], tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)  # one document: the first process speaks
    assert record["processes"] == ranks
    run = tmp_path / "nuclr-runs" / "run"
    assert_same_run(run, alone)
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
    assert not list((run / "checkpoints").glob(".*"))


def test_a_process_without_a_window_takes_part(nuclr: Nuclr, data: Path, tmp_path: Path) -> None:
    few = {"train.batch_windows": 2}
    one = nuclr(*pretrain(data, "one", **few), cwd=tmp_path)
    assert one.code == 0, one.err
    done = finished([*torchrun(3), *pretrain(data, "three", **few)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "nuclr-runs" / "three", tmp_path / "nuclr-runs" / "one")


def test_processes_agree_when_a_step_has_its_pairs(nuclr: Nuclr, data: Path, tmp_path: Path) -> None:
    large = {"train.target_pairs": 60, "train.optimizer": "lamb", "train.ema": 0.9, "train.batch_windows": 2}
    one = nuclr(*pretrain(data, "one", **large), cwd=tmp_path)
    assert one.code == 0, one.err
    done = finished([*torchrun(2), *pretrain(data, "two", **large)], tmp_path)
    assert done.returncode == 0, done.stderr
    runs = tmp_path / "nuclr-runs"
    assert_same_run(runs / "two", runs / "one")
    batches = [row["batches_per_step"] for row in rows(runs / "two")]
    assert batches == [row["batches_per_step"] for row in rows(runs / "one")]
    assert len(set(batches)) > 1
    found, same = (
        load_file(runs / name / "checkpoints" / "step-00000020" / "average.safetensors")
        for name in ("two", "one")
    )
    for name, tensor in same.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_to_any_process_stops_all_with_one_checkpoint(
    nuclr: Nuclr, data: Path, alone: Path, number: signal.Signals, tmp_path: Path
) -> None:
    run = tmp_path / "nuclr-runs" / "run"
    newest_only = ("--set", "train.keep_best=none")
    with started([*torchrun(2), *pretrain(data, "run", *newest_only)], tmp_path) as process:
        wait_for_step(run, 3)
        os.kill(children(process.pid)[1], number)
        _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert err.count("Stopped by a signal after step") == 1
    assert "exitcode  : 143" in err
    written = sorted((run / "checkpoints").glob("step-*"))
    state = json.loads((run / "run.json").read_text())
    usual = {f"step-{step:08d}" for step in range(5, state["step"], 5)}
    assert {path.name for path in written} == {*sorted(usual)[-2:], f"step-{state['step']:08d}"}
    assert state["state"] == "stopped"
    # Any number of processes goes on with it.
    done = nuclr(*pretrain(data, "run", "--resume"), cwd=tmp_path)
    assert done.code == 0, done.err
    assert_same_run(run, alone)


def test_the_survivor_of_a_killed_process_says_how_to_go_on(data: Path, tmp_path: Path) -> None:
    with started([*torchrun(2), *pretrain(data, "my run")], tmp_path) as process:
        wait_for_step(tmp_path / "nuclr-runs" / "my run", 3)
        os.kill(children(process.pid)[1], signal.SIGKILL)
        _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    at = err.index("Another process has ended: ")
    said = " ".join(err[at : err.index("my run", at) + 7].split())
    assert "Its own message, if it could write one, says why." in said
    assert said.endswith("nuclr pretrain --resume --name 'my run'")
    assert ".cc:" not in said
    assert "GLHF" not in said


SHORT_STRETCHES = """
import sys
import nuclr_cli.data.batch as batch
from nuclr_cli.cli.app import main
batch._CHUNK_WINDOWS, batch._CHUNK_BATCHES = 2, 0  # so that these short sessions are in several parts
main()
"""


def test_embeddings_depend_on_no_number_of_processes(data: Path, alone: Path) -> None:
    (alone.parent / "nuclr3.py").write_text(SHORT_STRETCHES)
    tables = []
    for ranks in (1, 2, 3):
        out = alone.parent / f"{ranks}.parquet"
        command = ["embed", str(data), "--run", str(alone), "-o", str(out), "--select", "retrieval", "--json"]
        launcher = [sys.executable] if ranks == 1 else [*torchrun(ranks)[:-3], "--"]
        done = finished([*launcher, str(alone.parent / "nuclr3.py"), *command], alone.parent)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        tables.append((load_embeddings(out), said["selection"], said["diagnostics"]))
    (one, chosen, judged), *others = tables
    assert one.seen.sum() == 8 + 16 + 60 - 3
    assert one.n_windows.max() > 4  # in several stretches
    for table, selection, diagnostics in others:
        assert table.embedding.tobytes() == one.embedding.tobytes()
        assert table.unit_id.tolist() == one.unit_id.tolist()
        assert table.n_windows.tolist() == one.n_windows.tolist()
        assert table.n_events.tolist() == one.n_events.tolist()
        assert table.metadata == one.metadata
        assert (selection, diagnostics) == (chosen, judged)


def test_embeddings_that_cannot_be_made_are_said_once(data: Path, alone: Path, tmp_path: Path) -> None:
    broken = finished(
        [*torchrun(2), "embed", str(data), "--run", str(alone), "-o", str(tmp_path / "no" / "x.parquet"),
         "--limit", "0.1"], tmp_path,
    )  # fmt: skip
    assert broken.returncode != 0
    assert broken.stderr.count("nothing to embed") == 1
    assert "exitcode  : 3" in broken.stderr
    assert not (tmp_path / "no").exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_killed_machine_is_replaced_and_nothing_is_lost(data: Path, alone: Path, tmp_path: Path) -> None:
    """Two launchers with an address each; a process of the second is killed, the elastic restart goes on."""
    endpoint = f"127.0.0.1:{free_port()}"
    run = tmp_path / "nuclr-runs" / "run"

    def machine(address: str) -> list[str]:
        return torchrun(
            1, "--nnodes", 2, "--max-restarts", 2, "--rdzv-backend", "c10d", "--rdzv-id", "test",
            "--rdzv-endpoint", endpoint, "--local-addr", address,
        )  # fmt: skip

    command = pretrain(data, "run", "--resume")
    with (
        started([*machine("127.0.0.1"), *command], tmp_path) as first,
        started([*machine("127.0.0.2"), *command], tmp_path) as second,
    ):
        wait_for_step(run, 7)
        os.kill(children(second.pid)[0], signal.SIGKILL)
        said = [process.communicate(timeout=240)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert any("continuing run run at step" in text for text in said)
    assert_same_run(run, alone)


def test_bad_input_is_said_once_and_ends_all(data: Path, tmp_path: Path) -> None:
    done = finished([*torchrun(2), *pretrain(tmp_path / "absent", "run")], tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("absent does not exist") == 1
    assert "exitcode  : 3" in done.stderr
    assert not (tmp_path / "nuclr-runs").exists()


def test_a_loss_of_the_whole_batch_is_refused(data: Path, tmp_path: Path) -> None:
    done = finished([*torchrun(2), *pretrain(data, "run", "--set", "loss.name=vicreg")], tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("VICReg is a statistic of the whole batch") == 1
    assert "exitcode  : 3" in done.stderr
    assert not (tmp_path / "nuclr-runs").exists()


SELF_LAUNCH = """
import sys
import nuclr_cli.workflows.pretrain as pretrain
from nuclr_cli.cli.app import app
from nuclr_cli.workflows.launchers import Layout

# As --gpus 2 does where there are two GPUs: here two processes on the CPU.
pretrain.layout_of = lambda gpus, nodes: Layout(2, 1)
app()
"""


def test_processes_that_nobody_else_has_started(data: Path, alone: Path, tmp_path: Path) -> None:
    (tmp_path / "nuclr2.py").write_text(SELF_LAUNCH)
    command = [sys.executable, str(tmp_path / "nuclr2.py"), *pretrain(data, "run", "--json")]
    run = tmp_path / "nuclr-runs" / "run"
    with started(command, tmp_path) as process:
        wait_for_step(run, 3)
        process.terminate()
        out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert json.loads(out)["error"]["exit_code"] == 143  # one document
    assert err.count("Stopped by a signal after step") == 1
    done = finished([*command, "--resume"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["processes"] == 2
    assert_same_run(run, alone)
    wrong = finished([*command[:2], *pretrain(tmp_path / "absent", "other", "--json")], tmp_path)
    assert wrong.returncode == 3
    assert json.loads(wrong.stdout)["error"]["exit_code"] == 3
    assert wrong.stderr.count("absent does not exist") == 1


def test_runs_of_their_own_are_not_taken_for_one(data: Path, tmp_path: Path) -> None:
    each = "import os, runpy, sys; sys.argv += ['--seed', os.environ['RANK']]; runpy.run_module('nuclr_cli')"
    script = tmp_path / "each.py"
    script.write_text(each.replace("run_module('nuclr_cli')", "run_module('nuclr_cli', run_name='__main__')"))
    words = [word for word in torchrun(2) if word not in ("-m", "nuclr_cli")]
    words[1:1] = ["-m"]
    done = finished([*words, str(script), *pretrain(data, "run")], tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("torchrun has started 2 processes with different options") == 1
    assert not (tmp_path / "nuclr-runs").exists()


def test_a_command_that_is_one_process_says_so(data: Path, tmp_path: Path) -> None:
    command = ["scale", str(data), "--label", "cell_type"]
    done = finished([*torchrun(2), *command], tmp_path)
    assert done.returncode != 0
    assert "torchrun has started 2 processes of nuclr scale, which is one" in done.stderr
    assert not (tmp_path / "nuclr-scale").exists()


def test_other_commands_speak_in_every_process(nuclr: Nuclr, data: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nuclr_cli", "info", str(data), "--json"],
        capture_output=True,
        text=True,
        env={**environment(), **SRUN, "SLURM_PROCID": "3"},
        timeout=60,
    )
    assert len(json.loads(done.stdout)["sessions"]) == 3


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8", "RANK": "5"}
SRUN = {
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "6",
    "SLURM_NNODES": "3",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_PROCID": "0",
}
HANDS = {"MASTER_ADDR": "node0", "MASTER_PORT": "29500", "NODE_RANK": "1"}


@pytest.mark.parametrize(
    ("environ", "gpus", "nodes", "expected"),
    [
        ({}, None, None, Layout(1, 1)),
        ({}, 0, None, Layout(1, 1)),
        ({}, 4, None, Layout(4, 1)),
        (HANDS, 4, 2, Layout(4, 2)),
        (TORCHRUN, None, None, Layout(4, 2, "torchrun")),
        (TORCHRUN, 4, 2, Layout(4, 2, "torchrun")),
        (SRUN, 0, None, Layout(2, 3, "srun")),
        ({**SRUN, "SLURM_NTASKS": "1", "SLURM_NNODES": "1"}, 4, None, Layout(4, 1)),
        ({**SRUN, "SLURM_JOB_NAME": "interactive"}, None, None, Layout(1, 1)),
    ],
)
def test_processes_are_those_of_the_launcher(
    environ: dict[str, str], gpus: int | None, nodes: int | None, expected: Layout
) -> None:
    assert layout_of(gpus, nodes, environ) == expected


@pytest.mark.parametrize(
    ("environ", "gpus", "nodes", "said"),
    [
        ({}, None, 2, "how the machines find one another"),
        ({}, None, 0, "not a number of machines"),
        ({"MASTER_ADDR": "node0"}, None, 2, "MASTER_PORT, NODE_RANK not set"),
        (TORCHRUN, 3, None, "torchrun has started 4 processes on each of 2 machines"),
        ({**TORCHRUN, "WORLD_SIZE": "9"}, None, None, "not as many on each"),
        (SRUN, None, 2, "srun has started 2 processes on each of 3 machines"),
        ({**SRUN, "SLURM_NTASKS_PER_NODE": ""}, None, None, "--ntasks-per-node=N instead of --ntasks"),
        ({**SRUN, "SLURM_NTASKS": "many"}, None, None, "cannot be read"),
    ],
)
def test_a_launcher_that_says_otherwise_is_an_error(
    environ: dict[str, str], gpus: int | None, nodes: int | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        layout_of(gpus, nodes, environ)


def test_one_process_speaks() -> None:
    assert is_first_process({})
    assert not is_first_process(TORCHRUN)
    assert is_first_process(SRUN)
    assert not is_first_process({**SRUN, "SLURM_PROCID": "1"})
    assert not is_first_process({"WORLD_SIZE": "2", "LOCAL_RANK": "1"})
    assert is_first_process({"LOCAL_RANK": "1"})  # of something else
