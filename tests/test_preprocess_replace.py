"""`preprocess --overwrite` replaces the files of a source together, where they lie, or leaves them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from nuclr_cli.data.sessions import open_sessions
from nuclr_cli.data.store import SourceRecord, verify, write_population
from nuclr_cli.errors import InputError
from nuclr_cli.testing.tiny import tiny_population
from nuclr_cli.workflows.label import LabelConfig, label
from nuclr_cli.workflows.preprocess import PreprocessConfig, preprocess


@pytest.fixture
def source(shared: Path, tmp_path: Path) -> Path:
    """A temporaldata file with spikes of some units and traces of others: two populations."""
    samples = shared / "samples" / "td"
    path = shutil.copyfile(samples / "spikes_temporaldata.h5", tmp_path / "both.h5")
    with h5py.File(path, "r+") as file, h5py.File(samples / "calcium_temporaldata.h5") as calcium:
        for name in ("calcium_traces", "rois"):
            calcium.copy(name, file)
        del file["domain"]
    return path


def made(source: Path, *, overwrite: bool = False) -> dict[str, tuple[int, bytes]]:
    """Inode and bytes of the files that `preprocess` makes, by name."""
    out = source.parent / "out"
    preprocess(PreprocessConfig(sources=(source,), out=out, jobs=1, overwrite=overwrite))
    return state(out)


def state(out: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in sorted(out.iterdir())}


@pytest.mark.parametrize("links", [True, False])
def test_two_populations_are_both_replaced_or_both_left(
    source: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    before = made(source)
    assert len(before) == 2
    rename, n = Path.replace, 0

    def second_fails(self: Path, target: Path) -> Path:
        nonlocal n
        into_place = Path(target).parent == source.parent / "out" and ".old-" not in self.name
        n += into_place
        if into_place and n == 2:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "replace", second_fails)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(InputError, match=r"could not be replaced: .*Input/output error") as caught:
        made(source, overwrite=True)
    assert "Nothing was changed" in caught.value.fix
    after = state(source.parent / "out")
    assert [data for _, data in after.values()] == [data for _, data in before.values()]
    assert after.keys() == before.keys()
    monkeypatch.undo()
    again = made(source, overwrite=True)
    assert again.keys() == before.keys()
    assert not {inode for inode, _ in again.values()} & {inode for inode, _ in after.values()}


def test_a_name_that_is_taken_between_two_populations_costs_neither(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = source.parent / "other"
    write_population(tiny_population(0, minutes=0.1), other, source=SourceRecord("x", "r", "d"))
    link, n = os.link, 0

    def taken_by_another(file: Path, target: Path) -> None:
        nonlocal n
        n += 1
        if n == 2:
            shutil.copyfile(other, target)
        link(file, target)

    monkeypatch.setattr(os, "link", taken_by_another)
    made(source)
    sessions = open_sessions(source.parent / "out")
    assert sorted(session.key.population for session in sessions)[1:] == ["calcium_traces", "spikes"]
    assert [verify(session.path) for session in sessions] == [[], [], []]


def test_labels_that_come_at_the_last_moment_are_not_dropped(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(source)
    path = next(s.path for s in open_sessions(source.parent / "out") if s.modality == "spikes")
    unit = open_sessions(path)[0].unit_ids[0]
    (source.parent / "labels.csv").write_text(f"unit_id,kind\n{unit},PV\n")
    link = os.link

    def label_first(file: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        label(LabelConfig(data=path, labels=source.parent / "labels.csv"))
        link(file, target)

    monkeypatch.setattr(os, "link", label_first)  # old files get a second name right before the new ones come
    with pytest.raises(InputError, match="got other labels from another process meanwhile"):
        made(source, overwrite=True)
    (session,) = open_sessions(path)
    assert session.label("kind")[0] == "PV"


def test_a_linked_file_is_written_through(source: Path) -> None:
    (source.parent / "elsewhere").mkdir()
    out = source.parent / "out"
    path = out / sorted(made(source))[0]
    elsewhere = path.rename(source.parent / "elsewhere" / "stored.h5")
    path.symlink_to(Path("..") / "elsewhere" / "stored.h5")
    inode = elsewhere.stat().st_ino
    made(source, overwrite=True)
    assert path.is_symlink()
    assert path.samefile(elsewhere)
    assert elsewhere.stat().st_ino != inode
    assert [item.name for item in elsewhere.parent.iterdir()] == ["stored.h5"]
    assert verify(elsewhere) == []


def test_permissions_of_a_replaced_file_stay(source: Path) -> None:
    out = source.parent / "out"
    path = out / sorted(made(source))[0]
    path.chmod(0o640)
    made(source, overwrite=True)
    assert path.stat().st_mode & 0o777 == 0o640


def test_labels_that_cannot_be_read_are_not_dropped(source: Path) -> None:
    made(source)
    path = next(s.path for s in open_sessions(source.parent / "out") if s.modality == "spikes")
    (source.parent / "labels.csv").write_text(f"unit_id,kind\n{open_sessions(path)[0].unit_ids[0]},PV\n")
    label(LabelConfig(data=path, labels=source.parent / "labels.csv"))
    with h5py.File(path, "r+") as file:
        del file["units/kind"]
        file["units/kind"] = np.zeros(1)
    before = path.read_bytes()
    with pytest.raises(InputError, match="cannot be kept: units/kind no longer match"):
        made(source, overwrite=True)
    assert path.read_bytes() == before
