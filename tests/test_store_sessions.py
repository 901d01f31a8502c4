"""Finding sessions in a folder, and holding many of them."""

import contextlib
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from nuclr_cli.api import Population, Spikes
from nuclr_cli.data.open_files import RecentlyUsed
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import Session, SessionKey, SourceRecord, write_population
from nuclr_cli.errors import InputError

SOURCE = SourceRecord("x", "r", "d")


def write(path: Path, subject: str = "m", session: str = "s", population: str = "0") -> Path:
    rng = np.random.default_rng(0)
    pop = Population(
        subject=subject,
        session=session,
        population=population,
        units={"id": np.array(["a", "b"])},
        intervals=np.array([[0.0, 60.0]]),
        spikes=Spikes(np.sort(rng.uniform(0, 60, 500)), rng.integers(0, 2, 500)),
    )
    write_population(pop, path, source=SOURCE)
    return path


def test_sessions_come_sorted_by_key_from_every_depth(tmp_path):
    write(tmp_path / "z.h5", "m1", "s2")
    write(tmp_path / "deep" / "er" / "a.h5", "m2", "s1")
    write(tmp_path / "deep" / "b.h5", "m1", "s2", "probeB")
    write(tmp_path / "c.h5", "m1", "s1")
    keys = [session.key for session in open_sessions(tmp_path)]
    assert keys == sorted(keys)
    assert [str(key) for key in keys] == ["m1/s1/0", "m1/s2/0", "m1/s2/probeB", "m2/s1/0"]
    assert keys[0] == SessionKey("m1", "s1", "0")


def test_stray_hidden_and_temporary_files_are_passed_over(tmp_path):
    write(tmp_path / "a.h5")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".a.h5.12-ab.nuclr-tmp").write_bytes(b"half")
    (tmp_path / ".hidden.h5").write_bytes(b"half")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "b.h5").write_bytes(b"half")
    (tmp_path / "folder.h5").mkdir()
    assert [session.path.name for session in open_sessions(tmp_path)] == ["a.h5"]


def test_a_data_folder_inside_a_hidden_folder_is_fine(tmp_path):
    write(tmp_path / ".scratch" / "data" / "a.h5")
    assert len(open_sessions(tmp_path / ".scratch" / "data")) == 1


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="does not exist") as caught:
        open_sessions(tmp_path / "nuclr-data")
    assert "nuclr preprocess" in caught.value.fix
    with pytest.raises(InputError, match="holds no population file") as caught:
        open_sessions(tmp_path)
    assert "nuclr preprocess" in caught.value.fix


def test_two_files_with_one_key(tmp_path):
    write(tmp_path / "a.h5", "m1")
    write(tmp_path / "b.h5", "m1")
    with pytest.raises(InputError) as caught:
        open_sessions(tmp_path)
    assert "a.h5" in caught.value.what
    assert "b.h5" in caught.value.what
    assert "--subject" in caught.value.fix


@pytest.mark.parametrize(
    ("build", "missing"),
    [
        (lambda f: None, "its root has no attribute object = 'Data'"),
        (lambda f: f.attrs.update(object="Data"), "neither a group 'spikes' nor a group 'calcium_traces'"),
        (lambda f: (f.attrs.update(object="Data"), f.create_group("spikes")), "no group 'units'"),
        (
            lambda f: (f.attrs.update(object="Data"), f.create_group("spikes"), f.create_group("units")),
            "its group '/units' has no dataset 'id'",
        ),
        (lambda f: (f.attrs.update(object="Data"), f.create_group("calcium_traces")), "'rois'"),
    ],
)
def test_hdf5_of_another_layout_is_named_with_what_is_missing(tmp_path, build, missing):
    write(tmp_path / "good.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        build(file)
    with pytest.raises(InputError) as caught:
        open_sessions(tmp_path)
    assert "other.h5" in caught.value.what
    assert missing in caught.value.what


@pytest.mark.parametrize("missing", ["spikes/timestamps", "spikes/unit_index", "units/id", "domain"])
def test_a_file_that_lost_a_part(tmp_path, missing):
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        del file[missing]
        if missing == "domain":
            del file["spikes/domain"]
        del file["nuclr_meta"]
    with pytest.raises(InputError, match=missing.rsplit("/", maxsplit=1)[-1]):
        open_sessions(tmp_path)


def test_no_hdf5_at_all(tmp_path):
    (tmp_path / "a.h5").write_text("hello")
    with pytest.raises(InputError, match=r"a\.h5 cannot be read"):
        open_sessions(tmp_path)


def test_foreign_files_are_checked_and_keep_their_warnings(tmp_path):
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        del file["nuclr_meta"]
        file["spikes/unit_index"][:] = 0
    (session,) = open_sessions(tmp_path)
    assert session.warnings == ("1 unit ('b') without spikes; kept in the table, not trained on.",)
    assert Session(path).warnings == ()


def test_a_session_is_closed_and_used_again(tmp_path):
    session = Session(write(tmp_path / "a.h5"))
    times = session.spikes.times
    first = times.copy()
    session.close()
    assert np.array_equal(times, first)  # arrays already handed out live on
    assert np.array_equal(session.spikes.times, first)


def test_no_file_stays_open_for_metadata_and_one_for_data(tmp_path):
    session = Session(write(tmp_path / "a.h5"))

    if not Path("/proc/self/fd").exists():
        pytest.skip("this system does not list open files")
    assert session.n_units == 2
    assert n_open("a.h5") == 0
    _ = session.spikes
    assert n_open("a.h5") <= 1


def n_open(name: str) -> int:
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own descriptor
            count += descriptor.readlink().name == name
    return count


def test_more_sessions_than_the_process_may_open(tmp_path):
    code = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (320, 320))
from nuclr_cli.data.store import Session
sessions = [Session(Path(sys.argv[1])) for _ in range(600)]
print(sum(len(session.spikes.times) for _ in range(2) for session in sessions))
"""
    command = [sys.executable, "-c", code, str(write(tmp_path / "a.h5"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == f"{500 * 1200}\n", done.stderr


def test_the_least_recently_used_mapping_goes_first():
    class Holder:
        mapped = True

        def unmap(self) -> None:
            self.mapped = False

    holders = [Holder() for _ in range(4)]
    recent = RecentlyUsed(lambda: 3)
    for number in (0, 1, 2, 0, 3):
        recent.used(holders[number])
    assert [holder.mapped for holder in holders] == [True, False, True, True]


def test_sessions_survive_pickling_inside_a_list(tmp_path):
    write(tmp_path / "a.h5", "m1")
    write(tmp_path / "b.h5", "m2")
    sessions = open_sessions(tmp_path)
    again = pickle.loads(pickle.dumps(sessions))
    assert [session.key for session in again] == [session.key for session in sessions]
    assert again[1].duration_s == 60.0


def test_importing_the_data_package_is_cheap():
    code = "import sys, nuclr_cli.data; print({'h5py', 'torch', 'pyarrow', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
