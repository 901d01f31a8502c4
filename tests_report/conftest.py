"""A report in a real browser: Chromium through chromedriver, both as the system installed them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from nuclr_cli.workflows.report import ReportConfig, report

ROOT = Path(__file__).parents[1]
NEEDED = ("chromium", "chromedriver")


def pytest_sessionstart(session: pytest.Session) -> None:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if not missing:
        return
    said = f"{' and '.join(missing)} not found: install the packages chromium and chromium-driver"
    if os.environ.get("CI") == "true":
        pytest.exit(said, returncode=1)
    pytest.exit(f"{said}; the report was not tried in a browser", returncode=0)


@pytest.fixture(scope="session")
def report_run() -> ModuleType:
    """The module that makes runs, which the other tests use, too."""
    spec = importlib.util.spec_from_file_location("report_run", ROOT / "tests" / "report_run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["report_run"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def page(report_run: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with a result of each kind, and hostile names."""
    root = tmp_path_factory.mktemp("report") / "nuclr-runs"
    run = report_run.make_run(root)
    report_run.ask_everything(run)
    return report(ReportConfig(run.folder, umap=False)).out


@dataclass(frozen=True)
class Browser:
    """A browser, and what tests ask of it."""

    driver: webdriver.Chrome

    def open(self, path: Path, *, width: int = 1200, dark: bool = False) -> None:
        """Open a file and wait until its map is drawn."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        media = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"},  # a click must not wait for scrolling
        ]
        self.driver.get("about:blank")
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)  # what was said before is no concern of this page
        self.driver.get(path.resolve().as_uri())
        self.until(lambda: self.js("return document.documentElement.dataset.ready"))

    def js(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, holds: Callable[[], Any], seconds: float = 60) -> Any:
        """Wait for something to hold; fails when it does not in time."""
        end = time.monotonic() + seconds
        while not (found := holds()):
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.05)
        return found

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def said(self) -> list[str]:
        """Errors on the console since the page was opened."""
        return [one["message"] for one in self.driver.get_log("browser") if one["level"] == "SEVERE"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    # A machine without a graphics card draws WebGL in software, which must be asked for.
    flags = ["--headless=new", "--disable-dev-shm-usage", "--enable-unsafe-swiftshader", "--hide-scrollbars"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    driver.set_script_timeout(60)
    yield Browser(driver)
    driver.quit()
