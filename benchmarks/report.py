"""The report of 50,000 units: how large, how long to write, how long until Chromium has drawn the map.

    python benchmarks/report.py --repeats 5 --out benchmarks/results
    python benchmarks/report.py --units 2000

Makes a run with 500 sessions of 50 subjects and a probe of its labels in a temporary folder, writes its
report (PCA only, so that the time is not that of UMAP) and opens it from disk in headless Chromium, each time
in a new browser. Time to interactive is the page's own clock when the map is drawn and its controls answer:
it begins with the navigation, so it holds reading the file, both scripts, the data and the drawing. Needs
chromium and chromedriver; without a graphics card Chromium draws WebGL in software, which is slower.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from measuring import Quantiles, commit, machine, quantile_table
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

import nuclr_cli
from nuclr_cli.workflows.probe import probe
from nuclr_cli.workflows.probe_record import ProbeConfig
from nuclr_cli.workflows.report import ReportConfig, report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from report_run import make_run  # the run that the tests report on, with more units

TARGET_S, TARGET_MB = 3.0, 15.0
SUBJECTS, SESSIONS, DIM = 50, 10, 64
_MARKS = """
const marks = performance.getEntriesByType("navigation")[0];
return {drawn: Number(document.documentElement.dataset.ready), read: marks.responseEnd};
"""


def opened(page: Path) -> dict[str, float]:
    """Seconds since the navigation, in a new browser: file read, map drawn."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (
        "--headless=new",
        "--disable-dev-shm-usage",
        "--enable-unsafe-swiftshader",
        "--window-size=1280,900",
    ):
        options.add_argument(flag)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    try:
        driver.get(page.resolve().as_uri())
        end = time.monotonic() + 120
        while not driver.execute_script("return document.documentElement.dataset.ready"):
            if time.monotonic() > end:
                raise SystemExit("the map was not drawn within two minutes")
            time.sleep(0.02)
        marks = driver.execute_script(_MARKS)
        kind = driver.execute_script("return document.getElementById('map')._fullData[0].type")
        if kind != "scattergl":
            raise SystemExit(f"the map was drawn as {kind}: this Chromium has no WebGL")
        return {name: value / 1000 for name, value in marks.items()}
    finally:
        driver.quit()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--units", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        units = max(2, options.units // (SUBJECTS * SESSIONS))
        run = make_run(Path(place) / "nuclr-runs", subjects=SUBJECTS, sessions=SESSIONS, units=units, dim=DIM)
        probe(ProbeConfig("cell_type", run=run.folder, baselines="none", bootstrap=1000, permutations=0))
        config = ReportConfig(run.folder, umap=False)
        written = [report(config) for _ in range(options.repeats)]
        seen = [opened(written[-1].out) for _ in range(options.repeats)]
    rows = {
        "write the file": Quantiles.of([one.seconds for one in written]),
        "open it: file read": Quantiles.of([one["read"] for one in seen]),
        "open it: map drawn, controls answer": Quantiles.of([one["drawn"] for one in seen]),
    }
    record: dict[str, Any] = {
        "units": written[-1].n_units,
        "repeats": options.repeats,
        "megabytes": round(written[-1].n_bytes / 1e6, 2),
        "seconds": {name: vars(value) for name, value in rows.items()},
        "targets": {"seconds": TARGET_S, "megabytes": TARGET_MB},
        "machine": machine(),
        "versions": {
            "nuclr": nuclr_cli.__version__,
            "plotly": metadata.version("plotly"),
            "selenium": metadata.version("selenium"),
            "chromium": os.popen("chromium --version 2>/dev/null").read().strip(),
        },
        "commit": commit(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "report.json").write_text(json.dumps(record, indent=2) + "\n")
    versions = ", ".join(f"{key} {value}" for key, value in record["versions"].items())
    lines = [
        "# The report of a large run",
        "",
        f"{record['units']:,} units of {SUBJECTS} subjects and {SUBJECTS * SESSIONS} sessions, {DIM} numbers "
        "each, one "
        f"probe; seconds over {options.repeats} repeats, each in a new browser; WebGL drawn in software.",
        "",
        f"Size: **{record['megabytes']:.1f} MB** (aim: {TARGET_MB:g} MB at most; 4.8 MB of it are "
        "plotly.js).",
        "",
        *quantile_table(record["seconds"]),
        "",
        f"The aim is {TARGET_S:g} s from opening to a map that answers.",
        "",
        f"Hardware: {', '.join(f'{key} {value}' for key, value in record['machine'].items())}.",
        "",
        f"Versions: {versions}, commit {record['commit']}.",
        "",
        "Made by `python benchmarks/report.py`.",
    ]
    (options.out / "report.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
