"""Damage of every kind: killed writers, full disks, cut-off files, flipped bytes."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from nuclr_cli.api import Population, Spikes
from nuclr_cli.data.atomic import replacing
from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import Session, SourceRecord, verify, write_population
from nuclr_cli.errors import InputError

SOURCE = SourceRecord("sorting", "phy", "phy folder")
# A writer for other processes: `n` spikes, all by the unit that names the version.
WRITER = """
import sys
from pathlib import Path
import numpy as np
from nuclr_cli.api import Population, Spikes
from nuclr_cli.data.store import SourceRecord, write_population

def write(path, version, n=200_000):
    pop = Population("m", "s", {"id": np.array([str(version)])}, np.array([[0.0, 3600.0]]),
                     spikes=Spikes(np.linspace(0, 3599, n), np.zeros(n, int)))
    write_population(pop, Path(path), source=SourceRecord("x", "r", "d"))
"""


def population(n_spikes: int = 3000) -> Population:
    rng = np.random.default_rng(0)
    return Population(
        subject="mouse",
        session="day1",
        units={"id": np.array([f"u{i}" for i in range(100)]), "type": np.array(["é", "PV"] * 50)},
        intervals=np.array([[0.0, 60.0]]),
        spikes=Spikes(np.sort(rng.uniform(0, 60, n_spikes)), rng.integers(0, 100, n_spikes)),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_population(population(), tmp_path / "a.h5", source=SOURCE)
    return tmp_path / "a.h5"


def run(code: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_writer_leaves_the_old_file_or_the_new_one_whole(tmp_path):
    path = tmp_path / "a.h5"
    code = """
    for version in range(10**6):
        write(sys.argv[1], version)
        if version == 0:
            print("ready", flush=True)
    """
    versions = set()
    for delay_s in np.linspace(0.0, 0.06, 12):
        writer = run(code, path)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(delay_s)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        assert verify(path) == []
        (session,) = open_sessions(tmp_path)
        assert len(session.spikes.times) == 200_000
        versions.add(int(session.unit_ids[0]))
    assert len(versions) > 1
    for leftover in tmp_path.iterdir():
        assert leftover == path or leftover.name.startswith(".a.h5.")


def test_a_writer_killed_before_its_first_file_leaves_none(tmp_path):
    code = """
    import os, h5py
    class Deadly(h5py.File):
        def close(self):
            os.kill(os.getpid(), 9)
    h5py.File = Deadly
    write(sys.argv[1], 0)
    """
    writer = run(code, tmp_path / "a.h5")
    writer.communicate()
    assert writer.returncode == -signal.SIGKILL
    assert [item.suffix for item in tmp_path.iterdir()] == [".nuclr-tmp"]  # it did get as far as writing
    with pytest.raises(InputError, match=re.escape("holds no population file")):
        open_sessions(tmp_path)


def test_a_full_disk_is_an_error_for_people_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.h5"
    code = """
    import resource, signal
    write(sys.argv[1], 1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
    from nuclr_cli.errors import InputError
    try:
        write(sys.argv[1], 2, n=400_000)
    except InputError as error:
        print(error)
    """
    writer = run(code, path)
    output, _ = writer.communicate()
    assert "could not be written" in output
    assert [item.name for item in tmp_path.iterdir()] == ["a.h5"]
    assert verify(path) == []
    assert Session(path).unit_ids.tolist() == ["1"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_interrupted_write_leaves_nothing(tmp_path, interruption):
    (tmp_path / "a.h5").write_text("old")

    def write_half() -> None:
        with replacing(tmp_path / "a.h5") as temporary:
            temporary.write_text("half")
            raise interruption

    with pytest.raises(interruption):
        write_half()
    assert [item.name for item in tmp_path.iterdir()] == ["a.h5"]
    assert (tmp_path / "a.h5").read_text() == "old"


def test_a_refused_population_touches_nothing(path):
    before = path.read_bytes()
    bad = replace(population(), intervals=np.array([[0.0, 10.0]]))
    with pytest.raises(InputError, match="outside the recording"):
        write_population(bad, path, source=SOURCE)
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_an_error_for_people(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="could not be written"):
        write_population(population(), tmp_path / "file" / "a.h5", source=SOURCE)


def test_every_cut_is_noticed_at_opening_or_by_the_mapping(path):
    whole = path.read_bytes()
    for length in np.linspace(0, len(whole) - 1, 60).astype(int):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=re.escape("a.h5")):
            _ = Session(path).spikes


def test_a_dataset_that_would_end_past_the_file_is_not_mapped(path):
    # HDF5 checks the length it recorded; a file extended elsewhere and cut can pass that check.
    session = Session(path)
    with h5py.File(path) as file:
        offset = file["spikes/timestamps"].id.get_offset()
    extent = replace(session._contents.arrays["times"], offset=len(path.read_bytes()) - 8)
    assert offset < extent.offset
    session.__dict__["_contents"] = replace(
        session._contents, arrays={**session._contents.arrays, "times": extent}
    )
    with pytest.raises(InputError, match="is cut off: 'spikes/timestamps' ends at byte"):
        _ = session.spikes


def test_flipped_bytes_are_found(path):
    whole = bytearray(path.read_bytes())
    before = Session(path)
    expected = before.spikes.times.copy(), before.spikes.unit_index.copy(), before.columns, before.intervals
    before.close()
    found = 0
    rng = np.random.default_rng(0)
    # HDF5 keeps attribute text in heaps without checksums, and can hang on a damaged one.
    heaps = [match.start() for match in re.finditer(b"GCOL", whole)]
    assert heaps
    for position in rng.integers(0, len(whole), 400):
        if any(heap <= position < heap + 4096 for heap in heaps):
            continue
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            bad = verify(path)
            if bad:
                found += 1
                continue
            # Whatever verify passes (padding, unused header space) must not have changed what is read.
            session = Session(path)
            assert np.array_equal(session.spikes.times, expected[0])
            assert np.array_equal(session.spikes.unit_index, expected[1])
            assert np.array_equal(session.intervals, expected[3])
            for name, values in expected[2].items():
                assert np.array_equal(session.columns[name], values)
        except InputError:
            found += 1
    assert found > 100


def test_verify_names_the_changed_dataset(path):
    with h5py.File(path, "a") as file:
        file["spikes/unit_index"][7] ^= 1
        del file["units/type"]
    assert verify(path) == ["spikes/unit_index", "units/type"]


def test_damaged_metadata_is_found_at_opening(path):
    whole = path.read_bytes()
    assert whole.count(b'"subject": "mouse"') == 1
    path.write_bytes(whole.replace(b'"subject": "mouse"', b'"subject": "house"'))
    with pytest.raises(InputError, match="does not match its checksum"):
        _ = Session(path).key


def test_a_newer_layout_is_refused(path):
    import hashlib

    with h5py.File(path, "a") as file:
        text = file["nuclr_meta"][0].replace(b'"schema": 1', b'"schema": 9')
        file["nuclr_meta"][0] = text
        file.attrs["nuclr_meta_sha256"] = hashlib.sha256(text).hexdigest()
    with pytest.raises(InputError, match="layout version 9, this nuclr knows versions up to 1"):
        _ = Session(path).key


def test_a_file_replaced_while_open_is_noticed(path):
    session = Session(path)
    assert session.n_units == 100
    os.utime(path, ns=(0, 0))
    with pytest.raises(InputError, match="was replaced or removed while in use"):
        _ = session.spikes
    session.close()
    assert session.spikes.times.size == 3000
