"""What the documents say is run: every block, in order, one temporary folder per document."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import typer

from nuclr_cli.cli.app import app
from nuclr_cli.testing.simulate import SimulationConfig, save_animals

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL_PAGES = [
    *ROOT.glob("*.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("benchmarks/**/*.md")),
]
NOTE = re.compile(r"<!-- (?P<what>not run|file): *(?P<text>.*?) *-->")

# Documents train as a user would; here a few small steps have to do.
FEWER_STEPS = """
nuclr() {
  if [ "${1:-}" = pretrain ]; then command nuclr "$@" --steps 3 --set train.batch_windows=4
  elif [ "${1:-}" = scale ]; then command nuclr "$@" --steps 3 --points 2 --seeds 1
  else command nuclr "$@"; fi
}
"""


@dataclass(frozen=True)
class Block:
    """A fenced block, and what the comment above it says."""

    line: int
    language: str
    text: str
    file: str = ""
    not_run: str | None = None


def blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    note, begun, opened = None, 0, ""
    for number, line in enumerate(lines, start=1):
        if opened:
            if line.startswith("```"):
                text = "\n".join(lines[begun : number - 1]) + "\n"
                said: dict[str, str] = {note["what"]: note["text"]} if note else {}
                language = opened.removeprefix("```").strip()
                yield Block(begun, language, text, said.get("file", ""), said.get("not run"))
                opened, note = "", None
        elif line.startswith("```"):
            opened, begun = line, number
        elif line.strip():
            note = NOTE.fullmatch(line.strip())


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader of the documents has: a sorting, another animal's, four in a manifest, a label table."""
    place = tmp_path_factory.mktemp("docs")
    config = SimulationConfig(n_animals=4, units_per_animal=30, minutes=2, seed=2)
    save_animals(config, place / "saved", formats=("numpy_folder",))
    shutil.copytree(place / "saved" / "sim00", place / "sorting")
    shutil.copytree(place / "saved" / "sim01", place / "new-animal")
    (place / "sortings").mkdir()
    with (place / "sessions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "subject", "session", "duration_s", "genotype"))
        for i in range(4):
            (place / "saved" / f"sim{i:02d}").rename(place / "sortings" / f"m{i + 1}_day1")
            writer.writerow((f"sortings/m{i + 1}_day1", f"m{i + 1}", "day1", 120, ("wt", "ko")[i % 2]))
    known = np.load(place / "sorting" / "properties" / "cell_type.npy").tolist()
    with (place / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("unit_id", "cell_type", "layer"))
        writer.writerows((unit, name or "SST", ("L4", "L5")[unit % 2]) for unit, name in enumerate(known))
    shutil.rmtree(place / "saved")
    shutil.copytree(ROOT / "tests" / "golden", place / "tests" / "golden")
    return place


def write(block: Block, place: Path) -> None:
    """Write a block that stands for a file; for a package, also what installing it would leave behind."""
    path = place / block.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text, encoding="utf-8")
    if path.name == "pyproject.toml":
        project = tomllib.loads(block.text)["project"]
        folder = path.parent / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        folder.mkdir()
        head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        (folder / "METADATA").write_text(head)
        entries = "".join(
            f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
            for group, points in project["entry-points"].items()
        )
        (folder / "entry_points.txt").write_text(entries)


def run(block: Block, place: Path) -> subprocess.CompletedProcess[str]:
    packages = [str(path.parent) for path in place.rglob("*.dist-info")]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "PYTHONPATH": os.pathsep.join(packages),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    command = (
        [sys.executable, "-c", block.text]
        if block.language == "python"
        else ["bash", "-euo", "pipefail", "-c", FEWER_STEPS + block.text]
    )
    return subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def run_page(page: Path, place: Path) -> str:
    """Run the blocks of a page in order. Returns what went wrong, or nothing."""
    for block in blocks(page):
        if block.not_run is not None:
            continue
        if block.file:
            write(block, place)
        elif block.language in ("bash", "python"):
            done = run(block, place)
            if done.returncode:
                said = f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
                return f"{page.name}, line {block.line}: exit code {done.returncode}\n{block.text}\n{said}"
    return ""


@pytest.fixture(scope="module")
def outcomes(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Future[str]]:
    """Every page, two at a time, since most of the time is spent on importing libraries."""

    def outcome(page: Path) -> str:
        place = tmp_path_factory.mktemp(page.stem.lower()) / "here"
        shutil.copytree(workplace, place)
        return run_page(page, place)

    with ThreadPoolExecutor(max_workers=2) as pool:
        return {page: pool.submit(outcome, page) for page in PAGES}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_runs(page: Path, outcomes: dict[Path, Future[str]]) -> None:
    assert not outcomes[page].result()


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_blocks_that_are_not_run_say_why(page: Path) -> None:
    for block in blocks(page):
        if block.not_run is not None:
            assert block.not_run, f"{page.name}, line {block.line}: say why the block is not run"
            print(f"{page.name}, line {block.line} is not run: {block.not_run}")


def test_blocks_are_found_with_their_notes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: slow -->\n\n```bash\nmake\n```\n\n```python\nx = 1\n```\n"
        "<!-- file: a/b.csv -->\n```csv\nc\n```\n<!-- not run: -->\n```bash\nls\n```\n"
    )
    assert list(blocks(page)) == [
        Block(3, "bash", "make\n", not_run="slow"),
        Block(7, "python", "x = 1\n"),
        Block(11, "csv", "c\n", file="a/b.csv"),
        Block(15, "bash", "ls\n", not_run=""),
    ]


def options_of_commands() -> dict[str, set[str]]:
    """``probe`` -> its options; ``plugins list`` -> its options."""
    found: dict[str, set[str]] = {}

    def walk(command: Any, path: tuple[str, ...]) -> None:
        found[" ".join(path)] = {"--help", *(o for p in command.params for o in (*p.opts, *p.secondary_opts))}
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, (*path, name))

    walk(typer.main.get_command(app), ())
    return found


def mistakes(words: list[str], options: dict[str, set[str]]) -> list[str]:
    """What is wrong with the words after ``nuclr``."""
    command = ""
    while words and f"{command} {words[0]}".strip() in options:
        command = f"{command} {words.pop(0)}".strip()
    unknown = [] if command or not words or not re.fullmatch("[a-z]+", words[0]) else [words[0]]
    given = [word.partition("=")[0] for word in words if re.match("--?[a-z]", word)]
    return unknown + [word for word in given if word not in options[command]]


def nuclr_lines(block: Block) -> Iterator[list[str]]:
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.startswith("nuclr "):
            yield shlex.split(line.partition(">")[0])[1:]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    options = options_of_commands()
    every = set().union(*options.values())
    wrong = []
    for block in blocks(page):
        if block.language == "bash":
            wrong += [word for words in nuclr_lines(block) for word in mistakes(words, options)]
    for span in re.findall(r"`([^`\n]+)`", prose(page)):
        if span.startswith("nuclr "):
            wrong += mistakes(span.split()[1:], options)
        elif span.startswith("--"):
            wrong += [word for word in re.findall(r"--[a-z][a-z-]*", span) if word not in every]
    assert not wrong


def test_unknown_commands_and_options_are_seen() -> None:
    options = options_of_commands()
    assert mistakes(["probe", "--label", "x", "--jsn"], options) == ["--jsn"]
    assert mistakes(["guess", "--jsn"], options) == ["guess", "--jsn"]
    assert mistakes(["plugins", "list", "--json"], options) == []


def anchors(page: Path) -> set[str]:
    """Names that a Markdown host gives to the headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def test_every_document_is_linked() -> None:
    """Pages from the README; pictures from the README or from a page of results."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    results = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "results").glob("*.md"))
    documents = [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".md", ".svg", ".png")]
    missing = [
        str(path.relative_to(ROOT))
        for path in documents
        if f"({path.relative_to(ROOT)})" not in readme
        and (path.suffix == ".md" or f"{path.name})" not in results)
    ]
    assert not missing


def test_readme_lists_the_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.search(r"^\| extra \|.*\n\|.*\n((?:\|.*\n)+)", readme, flags=re.MULTILINE)
    assert rows is not None
    listed = re.findall(r"^\| `(\w+)`", rows[1], flags=re.MULTILINE)
    assert sorted(listed) == sorted(project["optional-dependencies"])


@pytest.fixture(scope="module")
def settings_table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("settings_table", ROOT / "docs" / "settings_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_settings_page_is_up_to_date(settings_table: ModuleType) -> None:
    page = settings_table.PAGE.read_text(encoding="utf-8")
    assert page == settings_table.with_table(page), "run: python docs/settings_table.py"


def test_settings_page_has_every_key_that_can_be_set(settings_table: ModuleType) -> None:
    table = settings_table.table()
    for key in ("tokens.spikes.bin_s", "model.dim", "loss.tau", "views.min_units", "train.steps"):
        assert f"| `{key}` |" in table
    assert "model.counts_samples" not in table
    assert "| `train.learning_rate` | 0.0005 | 0.000125 | " in table
    assert " | Peak rate of the optimiser. |\n" in table


@pytest.mark.parametrize("name", ["mea", "simulated"])
def test_the_numbers_of_a_result_page_are_those_of_its_record(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    results = importlib.import_module("evaluation_results")
    record = json.loads((results.RECORDS / f"{name}.json").read_text(encoding="utf-8"))
    page = (results.PAGES / f"{name}.md").read_text(encoding="utf-8")
    made = getattr(results, f"{name}_blocks")(record)
    assert page == results.filled(page, made), "run: make results"
    assert [step["typed"] for step in record["steps"].values()] == [
        step.typed() for step in getattr(results, f"{name}_steps")()
    ]


def test_the_table_of_what_fits_where_is_what_the_model_says() -> None:
    """The other tables of the page take minutes to make."""
    spec = importlib.util.spec_from_file_location("scaling_model", ROOT / "benchmarks" / "scaling_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    table = page.partition("<!-- table: one-window -->\n")[2].partition("\n<!-- end: one-window -->")[0]
    assert table == "\n".join(module.one_window())
