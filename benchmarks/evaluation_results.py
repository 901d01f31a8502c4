"""Regenerate what docs/results says: run every command of the pages, then write their numbers into them.

    python benchmarks/evaluation_results.py --data FOLDER [--work build/results] [--only mea,simulated]

FOLDER holds the recordings of cultured neurons and their `sessions.csv` (docs/results/mea.md says where they
come from). Nothing is chosen on the way: the commands below are all that runs, on one thread of the CPU (a
sweep on one for each point). A command that has ended is not run again by a second call, so a killed one goes
on; delete the working folder to start anew.
Every page keeps its prose; what stands between `<!-- made: NAME -->` and `<!-- end -->` is replaced.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from evaluation_tables import (
    class_table,
    demo_tables,
    efficiency_table,
    probe_table,
    scale_table,
    seed_table,
    time_table,
)
from measuring import commit, machine

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "results"
PICTURES = ROOT / "docs" / "pictures"
RECORDS = ROOT / "benchmarks" / "results"
HELD_OUT = "2006-10-02,2007-04-23,2009-01-12,2009-07-20"
SEEDS = (42, 1, 2)
DEMO_SEEDS = (1000, 1001, 1002)
SIMULATED_HELD_OUT = "sim01,sim05,sim09"


@dataclass(frozen=True)
class Step:
    """One command of a page.

    Attributes:
        name: Its record, and what tables ask for.
        words: After `nuclr`, as a reader types them in the page's folder.
        makes: What an attempt that was killed leaves behind and would refuse the next.
        group: Heading under which the page lists it.
    """

    name: str
    words: str
    group: str
    makes: str = ""

    def typed(self) -> str:
        return f"nuclr {self.words}"


def chain(run: str, seed: int, group: str, data: str, label: str, held_out: str = "") -> list[Step]:
    """Pretrain, embed, probe."""
    options = f" --hold-out-subjects {held_out}" if held_out else ""
    options += "" if seed == SEEDS[0] else f" --seed {seed}"
    return [
        Step(
            f"pretrain-{run}",
            f"pretrain {data} --preset tiny --name {run}{options}",
            group,
            makes=f"nuclr-runs/{run}",
        ),
        Step(f"embed-{run}", f"embed {data} --run {run}", group),
        Step(f"probe-{run}", f"probe --label {label} --run {run} --split subject", group),
    ]


def mea_steps() -> list[Step]:
    """Cultures of two regions, the label constant within a subject."""
    steps = [Step("preprocess", "preprocess --manifest sessions.csv --broadcast brain_region -o mea", "data")]
    for seed in SEEDS:
        suffix = "" if seed == SEEDS[0] else f"-{seed}"
        group = "seeds" if suffix else "transductive"
        steps += chain(f"mea{suffix}", seed, group, "mea", "brain_region")
    for seed in SEEDS:
        suffix = "" if seed == SEEDS[0] else f"-{seed}"
        group = "seeds" if suffix else "inductive"
        steps += chain(f"mea-zero-shot{suffix}", seed, group, "mea", "brain_region", HELD_OUT)
    steps += [
        Step(
            "labels",
            "probe --label brain_region --run mea-zero-shot --split subject"
            " --label-fractions 0.01,0.03,0.1,0.3,1 --repeats 10",
            "labels",
        ),
        Step(
            "scale",
            "scale mea --label brain_region --axis subjects --values 1,2,3,4 --seeds 3 --steps 500"
            f" --preset tiny --test-subjects {HELD_OUT}",
            "scale",
        ),
        Step(
            "report",
            "report mea-zero-shot --scale nuclr-scale/brain_region-subjects --no-umap -o mea.html",
            "report",
        ),
    ]
    return steps


def simulated_steps() -> list[Step]:
    """Three demos of ten animals that no setting was chosen on; the first set also with animals held out."""
    steps = [
        Step(f"demo-{seed}", f"demo --seed {seed} -o demo-{seed}", "demo", makes=f"demo-{seed}")
        for seed in DEMO_SEEDS
    ]
    data, run = f"demo-{DEMO_SEEDS[0]}/nuclr-data", "sim-zero-shot"
    steps += chain(run, SEEDS[0], "inductive", data, "cell_type", SIMULATED_HELD_OUT)
    steps += [
        Step(
            "labels",
            f"probe --label cell_type --run {run} --split subject"
            " --label-fractions 0.01,0.03,0.1,0.3,1 --repeats 10",
            "labels",
        ),
        Step(
            "scale",
            f"scale {data} --label cell_type --axis subjects --values 1,2,3,4,5,7 --seeds 3 --steps 500"
            f" --preset tiny --test-subjects {SIMULATED_HELD_OUT}",
            "scale",
        ),
    ]
    return steps


def run_steps(steps: list[Step], place: Path, manifest: Path | None) -> dict[str, dict[str, Any]]:
    """Run what has not ended yet; give each command's JSON document, with `wall_s`."""
    place.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    # One thread: the last digits of a sum depend on how many there are.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    for step in steps:
        kept = place / "steps" / f"{step.name}.json"
        if kept.exists():
            record = json.loads(kept.read_text(encoding="utf-8"))
            if record["typed"] == step.typed():
                found[step.name] = record
                continue
        if step.makes and (place / step.makes).exists():
            shutil.rmtree(place / step.makes)
        words = [str(manifest) if word == "sessions.csv" else word for word in step.words.split()]
        print(f"{time.strftime('%H:%M:%S')} {step.typed()}", flush=True)
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "nuclr_cli", *words, "--json"],
            cwd=place,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"exit {done.returncode} in {place}: {step.typed()}")
        record = {
            "typed": step.typed(),
            "wall_s": round(time.monotonic() - began, 1),
            "document": json.loads(done.stdout),
        }
        kept.parent.mkdir(exist_ok=True)
        unfinished = kept.with_suffix(".part")
        unfinished.write_text(json.dumps(record) + "\n", encoding="utf-8")
        unfinished.replace(kept)
        found[step.name] = record
    return found


def commands(steps: list[Step], *groups: str) -> str:
    return "\n".join(["```bash", *(step.typed() for step in steps if step.group in groups), "```"])


def mea_blocks(record: Mapping[str, Any]) -> dict[str, str]:
    """Markdown by name of the block."""
    steps = mea_steps()
    documents = {name: step["document"] for name, step in record["steps"].items()}
    names = [f"mea{suffix}" for suffix in ("", "-1", "-2")]
    return {
        "commands-transductive": commands(steps, "data", "transductive"),
        "transductive": probe_table(documents["probe-mea"]),
        "classes-transductive": class_table(documents["probe-mea"]),
        "commands-inductive": commands(steps, "inductive"),
        "inductive": probe_table(documents["probe-mea-zero-shot"]),
        "classes-inductive": class_table(documents["probe-mea-zero-shot"]),
        "seeds": seed_table(
            {
                seed: (documents[f"probe-{name}"], documents[f"probe-{name.replace('mea', 'mea-zero-shot')}"])
                for seed, name in zip(SEEDS, names, strict=True)
            }
        ),
        "commands-labels": commands(steps, "labels"),
        "labels": efficiency_table(documents["labels"]),
        "commands-scale": commands(steps, "scale"),
        "scale": scale_table(documents["scale"]),
        "commands-report": commands(steps, "report"),
        "time": made_with(steps, record),
    }


def simulated_blocks(record: Mapping[str, Any]) -> dict[str, str]:
    """Markdown by name of the block."""
    steps = simulated_steps()
    documents = {name: step["document"] for name, step in record["steps"].items()}
    demos = {seed: documents[f"demo-{seed}"] for seed in DEMO_SEEDS}
    return {
        "commands-demo": commands(steps, "demo"),
        "cell-type": demo_tables(demos, "cell_type"),
        "brain-region": demo_tables(demos, "brain_region"),
        "commands-inductive": commands(steps, "inductive"),
        "inductive": probe_table(documents["probe-sim-zero-shot"]),
        "classes-inductive": class_table(documents["probe-sim-zero-shot"]),
        "commands-labels": commands(steps, "labels"),
        "labels": efficiency_table(documents["labels"]),
        "commands-scale": commands(steps, "scale"),
        "scale": scale_table(documents["scale"]),
        "time": made_with(steps, record),
    }


def made_with(steps: list[Step], record: Mapping[str, Any]) -> str:
    """Hardware, versions and seconds."""
    computer = record["machine"]
    seconds = {step.typed(): record["steps"][step.name]["wall_s"] for step in steps}
    return (
        f"{computer['processor']}, {computer['cores']} cores; {record['versions']}, "
        f"commit {record['commit']}.\n\n" + time_table(seconds)
    )


def write_page(page: Path, blocks: Mapping[str, str]) -> None:
    page.write_text(filled(page.read_text(encoding="utf-8"), blocks), encoding="utf-8")


def filled(text: str, blocks: Mapping[str, str]) -> str:
    """The page with its blocks in place; one that is named nowhere, or missing, is an error."""
    named = re.findall(r"<!-- made: ([a-z-]+) -->", text)
    if sorted(named) != sorted(blocks):
        raise SystemExit(f"The page names {sorted(named)}, made are {sorted(blocks)}")
    for name, block in blocks.items():
        between = re.compile(rf"(<!-- made: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = between.subn(lambda found, block=block: f"{found[1]}{block}\n{found[2]}", text)
        if count != 1:
            raise SystemExit(f"The block {name} of the page has no end")
    return text


def keep(name: str, steps: Mapping[str, Any]) -> dict[str, Any]:
    """Write the documents behind a page, without listings; the page is made of what this returns."""
    packages = ", ".join(f"{of} {metadata.version(of)}" for of in ("nuclr", "torch", "numpy", "scikit-learn"))
    record = {
        "page": f"docs/results/{name}.md",
        "machine": machine(),
        "versions": f"Python {platform.python_version()}, {packages}",
        "commit": commit(),
        "steps": {step: {**of, "document": slim(of["document"])} for step, of in steps.items()},
    }
    (RECORDS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


DROPPED = {"curve_x", "curve_y", "curve_low", "curve_high", "draws", "sessions", "losses", "populations"}


def slim(document: Any) -> Any:
    """Without drawn curves, listings, and paths of the machine."""
    if isinstance(document, dict):
        kept = {key: slim(value) for key, value in document.items() if key not in DROPPED}
        return {key: value for key, value in kept.items() if value is not None or document[key] is None}
    if isinstance(document, list):
        return [slim(value) for value in document]
    return None if isinstance(document, str) and Path(document).is_absolute() else document


def pictures(name: str, place: Path, label: str, run: str) -> None:
    """Plots of a page, as nuclr drew them."""
    folder = place / "nuclr-runs" / run / "probes" / label / "subject-default-label-efficiency"
    shutil.copyfile(folder / "curve.png", PICTURES / f"{name}-labels.png")
    shutil.copyfile(place / "nuclr-scale" / f"{label}-subjects" / "scale.png", PICTURES / f"{name}-scale.png")


def screenshot(page: Path, picture: Path) -> None:
    """The head of a report, as Chromium draws it."""
    browser = shutil.which("chromium")
    if browser is None:
        print(f"no chromium: {picture.name} stays as it is", file=sys.stderr)
        return
    options = "--headless --no-sandbox --disable-gpu --hide-scrollbars --disable-background-networking"
    subprocess.run(
        [
            browser,
            *options.split(),
            "--virtual-time-budget=10000",
            "--window-size=1200,2200",
            f"--screenshot={picture}",
            page.resolve().as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    from PIL import Image

    with Image.open(picture) as image:
        small = image.convert("RGB").quantize(64)
    small.save(picture, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with sessions.csv and the recordings")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "results")
    parser.add_argument("--only", default="mea,simulated", help="pages")
    arguments = parser.parse_args()
    pages = arguments.only.split(",")
    if "mea" in pages:
        if arguments.data is None or not (arguments.data / "sessions.csv").is_file():
            raise SystemExit(
                "make results DATA=FOLDER with sessions.csv and the recordings; docs/results/mea.md says "
                "where they come from. Without them: make results ONLY=simulated"
            )
        place = arguments.work / "mea"
        record = keep("mea", run_steps(mea_steps(), place, (arguments.data / "sessions.csv").resolve()))
        write_page(PAGES / "mea.md", mea_blocks(record))
        pictures("mea", place, "brain_region", "mea-zero-shot")
        screenshot(place / "mea.html", PICTURES / "mea-report.png")
    if "simulated" in pages:
        place = arguments.work / "simulated"
        record = keep("simulated", run_steps(simulated_steps(), place, None))
        write_page(PAGES / "simulated.md", simulated_blocks(record))
        pictures("simulated", place, "cell_type", "sim-zero-shot")


if __name__ == "__main__":
    main()
