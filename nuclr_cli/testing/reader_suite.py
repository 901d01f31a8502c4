"""The checks that every reader passes, as a class to subclass in the tests of a plugin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from nuclr_cli.api import Reader, ReadOptions
from nuclr_cli.testing.reader_case import CheckSkipped, ReaderCase
from nuclr_cli.testing.reader_checks import CHECKS


class ReaderSuite:
    """Mixin for pytest: subclass it, and every promise of a reader becomes a test.

    ::

        from nuclr_cli.testing import ReaderSuite

        class TestMyReader(ReaderSuite):
            reader = MyReader()

            def make_source(self, tmp_path):
                ...  # write a small recording
                return tmp_path / "recording"

    Attributes:
        reader: The reader; its class must stand at the top level of a module that can be imported.
        options: Handed to `read`.
        needs: Import names of optional packages without which the source cannot be read.
        cut_unnoticed: Name patterns of text files that look whole when their end is missing.
        plausible_rate_hz: Range of the median firing rate in the source.
        most_cut: Files that are cut off in turn; a source of more files is sampled evenly.
    """

    reader: ClassVar[Reader]
    options: ClassVar[ReadOptions] = ReadOptions()
    needs: ClassVar[tuple[str, ...]] = ()
    cut_unnoticed: ClassVar[tuple[str, ...]] = ("*.csv", "*.tsv", "*.txt", "*.py")
    plausible_rate_hz: ClassVar[tuple[float, float]] = (0.01, 200.0)
    most_cut: ClassVar[int] = 40

    def make_source(self, tmp_path: Path) -> Path:
        """Write (or copy) a small source below `tmp_path`, an empty folder, and return it."""
        raise NotImplementedError(f"{type(self).__name__} needs make_source(self, tmp_path)")

    def hostile_sources(self, tmp_path: Path) -> Sequence[Path]:
        """Sources that must be refused with `ReaderError`, written below `tmp_path`, an empty folder."""
        return ()

    def foreign_sources(self, tmp_path: Path) -> Sequence[Path]:
        """Files and folders that resemble the format and are not, written below `tmp_path`."""
        return ()

    def case(self, tmp_path: Path) -> ReaderCase:
        """What the checks work on; everything is made in folders of its own below `tmp_path`."""
        folders = {name: tmp_path / name for name in ("source", "hostile", "foreign", "scratch")}
        for folder in folders.values():
            folder.mkdir()
        return ReaderCase(
            reader=self.reader,
            source=self.make_source(folders["source"]),
            scratch=folders["scratch"],
            options=self.options,
            needs=self.needs,
            foreign=tuple(self.foreign_sources(folders["foreign"])),
            hostile=tuple(self.hostile_sources(folders["hostile"])),
            cut_unnoticed=self.cut_unnoticed,
            plausible_rate_hz=self.plausible_rate_hz,
            most_cut=self.most_cut,
        )

    def test_says_what_it_is(self, tmp_path: Path) -> None:
        self._run("says_what_it_is", tmp_path)

    def test_recognises_the_source(self, tmp_path: Path) -> None:
        self._run("recognises_the_source", tmp_path)

    def test_refuses_foreign_sources(self, tmp_path: Path) -> None:
        self._run("refuses_foreign_sources", tmp_path)

    def test_is_the_only_one(self, tmp_path: Path) -> None:
        self._run("is_the_only_one", tmp_path)

    def test_detection_is_cheap(self, tmp_path: Path) -> None:
        self._run("detection_is_cheap", tmp_path)

    def test_lists_its_files(self, tmp_path: Path) -> None:
        self._run("lists_its_files", tmp_path)

    def test_reads(self, tmp_path: Path) -> None:
        self._run("reads", tmp_path)

    def test_files_are_all_it_reads(self, tmp_path: Path) -> None:
        self._run("files_are_all_it_reads", tmp_path)

    def test_times_are_seconds(self, tmp_path: Path) -> None:
        self._run("times_are_seconds", tmp_path)

    def test_ids_are_text(self, tmp_path: Path) -> None:
        self._run("ids_are_text", tmp_path)

    def test_reads_alike_elsewhere(self, tmp_path: Path) -> None:
        self._run("reads_alike_elsewhere", tmp_path)

    def test_passes_nuclrs_check(self, tmp_path: Path) -> None:
        self._run("passes_nuclrs_check", tmp_path)

    def test_labels_are_complete(self, tmp_path: Path) -> None:
        self._run("labels_are_complete", tmp_path)

    def test_takes_the_names_it_is_given(self, tmp_path: Path) -> None:
        self._run("takes_the_names_it_is_given", tmp_path)

    def test_names_missing_packages(self, tmp_path: Path) -> None:
        self._run("names_missing_packages", tmp_path)

    def test_refuses_cut_off_files(self, tmp_path: Path) -> None:
        self._run("refuses_cut_off_files", tmp_path)

    def test_runs_no_pickles(self, tmp_path: Path) -> None:
        self._run("runs_no_pickles", tmp_path)

    def test_refuses_hostile_sources(self, tmp_path: Path) -> None:
        self._run("refuses_hostile_sources", tmp_path)

    def _run(self, name: str, tmp_path: Path) -> None:
        import pytest

        (check,) = (check for check in CHECKS if check.name == name)
        try:
            check.run(self.case(tmp_path))
        except CheckSkipped as reason:
            pytest.skip(str(reason))
