"""Training over many session files: few are open at once, little goes to a worker, nothing is read early."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nuclr_cli.data.open_files import MOST_MAPPED, most_mapped
from nuclr_cli.data.pretrain_stream import PretrainStream
from nuclr_cli.data.shares import PackedShare, ShareViews, StreamState
from nuclr_cli.data.store import Session, SourceRecord, write_population
from nuclr_cli.data.tokens import TokenSpec
from nuclr_cli.errors import InputError
from nuclr_cli.testing.simulate import tiny_population

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
N_SESSIONS = 300


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hundred small sessions of a hundred subjects."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(N_SESSIONS):
        population = tiny_population(
            number % 7, 12, intervals=[(0.0, 25.0)], subject=f"m{number // 3}", session=f"d{number}"
        )
        write_population(population, folder / f"{number}.h5", source=SourceRecord("made", "test", ""))
    return folder


def some(folder: Path, number: int) -> list[Session]:
    return [Session(path) for path in sorted(folder.iterdir())[:number]]


# Draws two epochs and counts the descriptors of this process and of its loader workers after each step.
COUNT = """
import json, multiprocessing, os, resource, sys
from pathlib import Path
limit, workers = int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
from nuclr_cli.data.pretrain_stream import PretrainStream
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.tokens import TokenSpec
count = lambda process: len(os.listdir(f"/proc/{process}/fd"))
sessions = open_sessions(Path(sys.argv[1]))
opened = count("self")
stream = PretrainStream(
    sessions, TokenSpec(), seed=1, batch_windows=16, max_tokens=10**6, min_units=2, num_workers=workers
)
most, drawn = 0, set()
for step in stream:
    drawn |= {item.window.session for item in step.drawn}
    processes = ["self", *(child.pid for child in multiprocessing.active_children())]
    most = max(most, *map(count, processes))
    if step.state_after.epoch == 2:
        break
stream.close()
print(json.dumps({"opened": opened, "most": most, "sessions": len(drawn), "processes": len(processes)}))
"""


@linux_only
@pytest.mark.parametrize(("limit", "workers"), [(64, 0), (128, 2)])
def test_an_epoch_over_three_hundred_files_keeps_few_of_them_open(
    many: Path, limit: int, workers: int
) -> None:
    command = [sys.executable, "-c", COUNT, str(many), str(limit), str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["sessions"] == N_SESSIONS
    assert found["processes"] == workers + 1
    assert found["opened"] < 24  # opening a folder leaves no session open
    assert found["most"] < limit // 4 + 40


@linux_only
def test_how_many_files_stay_mapped_follows_the_systems_limit() -> None:
    code = (
        "import resource, sys\n"
        "from nuclr_cli.data.open_files import most_mapped\n"
        "for soft in (1024, 128, 64, 12):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, 1024))\n"
        "    print(most_mapped())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["256", "32", "16", "4"]
    assert most_mapped() <= MOST_MAPPED


def test_what_goes_to_a_worker_is_small_and_holds_nothing_open(many: Path) -> None:
    sessions = some(many, 100)
    views = ShareViews(tuple(sessions), TokenSpec(), 0, (0.5, 1.0), 2, 1000)
    for session in sessions[:40]:
        assert len(session.spikes.times)  # mapped here
    packed = pickle.dumps(views)
    assert len(packed) < 100 * (len(str(many)) + 100)
    again = pickle.loads(packed)
    assert all(session._spikes is None and "_contents" not in vars(session) for session in again.sessions)
    assert [session.key for session in again.sessions] == [session.key for session in sessions]


@linux_only
def test_opening_a_folder_reads_headers_only(many: Path, tmp_path: Path) -> None:
    """Counted by the system (/proc/self/io), on files whose spikes are megabytes."""
    population = tiny_population(0, 200, minutes=15.0, median_rate_hz=8.0)
    write_population(population, tmp_path / "large.h5", source=SourceRecord("made", "test", ""))
    size = (tmp_path / "large.h5").stat().st_size
    assert size > 20e6
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from nuclr_cli.data.sessions import open_sessions\n"
        "import h5py, nuclr_cli.data.store\n"
        "read = lambda: int(Path('/proc/self/io').read_text().split()[1])\n"
        "before = read()\n"
        "[session] = open_sessions(Path(sys.argv[1]))\n"
        "assert session.intervals.size and session.n_units == 200\n"
        "print(read() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 0.05 * size


def packed(size: int = 8) -> PackedShare:
    return PackedShare(torch.arange(float(size)), (), StreamState(), (), {})


def test_a_share_is_pinned_only_where_there_is_a_gpu() -> None:
    share = packed()
    pinned = share.pin_memory()
    assert torch.equal(pinned.flat, share.flat)
    assert pinned.flat.is_pinned() == torch.cuda.is_available()
    assert (pinned is share) == (not torch.cuda.is_available())


def test_pinning_asks_torch_for_pinned_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without a GPU: the loader's own function reaches the one tensor there is."""
    from torch.utils.data._utils.pin_memory import pin_memory

    asked: list[int] = []

    def answer(tensor: torch.Tensor) -> torch.Tensor:
        asked.append(tensor.numel())
        return tensor.clone()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", answer)
    share = packed(5)
    pinned = pin_memory(share)
    assert asked == [5]
    assert pinned.flat is not share.flat
    assert pinned.state_after == share.state_after


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("workers", [0, 1])
def test_steps_for_a_gpu_are_in_pinned_memory(many: Path, workers: int) -> None:
    sessions = some(many, 4)
    with PretrainStream(
        sessions,
        TokenSpec(),
        seed=0,
        batch_windows=4,
        max_tokens=10**6,
        min_units=2,
        num_workers=workers,
        pin_memory=True,
    ) as stream:
        step = next(iter(stream))
    assert all(batch.view1.inputs.is_pinned() and batch.view2.inputs.is_pinned() for batch in step.micro)


@pytest.mark.filterwarnings("error")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to pin for")
def test_asking_for_pinned_memory_without_a_gpu_says_nothing(many: Path) -> None:
    sessions = some(many, 4)
    steps = []
    for options in ({}, {"pin_memory": True, "num_workers": 1, "prefetch": 3}):
        with PretrainStream(
            sessions,
            TokenSpec(),
            seed=0,
            batch_windows=4,
            max_tokens=10**6,
            min_units=2,
            **options,  # type: ignore[arg-type]
        ) as stream:
            steps.append(next(iter(stream)))
    assert all(
        torch.equal(one.view1.inputs, two.view1.inputs)
        for one, two in zip(steps[0].micro, steps[1].micro, strict=True)
    )


def test_drawing_nothing_ahead_is_refused(many: Path) -> None:
    with pytest.raises(InputError, match=r"train\.prefetch is 0"):
        PretrainStream(
            some(many, 1),
            TokenSpec(),
            seed=0,
            batch_windows=4,
            max_tokens=100,
            min_units=2,
            prefetch=0,
        )
