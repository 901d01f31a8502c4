"""Rewrite the table in docs/settings.md from the settings' dataclasses: python docs/settings_table.py"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from nuclr_cli.errors import InputError
from nuclr_cli.workflows.config import flatten, known_keys
from nuclr_cli.workflows.presets import PRESETS, PretrainSettings, preset_settings, with_changes

PAGE = Path(__file__).with_name("settings.md")
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def meanings(kind: type) -> dict[str, str]:
    """What the `Attributes:` part of a dataclass' docstring says of each field."""
    part = (kind.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    for names, text in re.findall(r"^ {8}(\w[\w, ]*): (.*(?:\n {12}.*)*)", part, flags=re.MULTILINE):
        for name in names.split(","):
            found[name.strip()] = " ".join(text.split()).replace("``", "`")
    return found


def derived(key: str, value: Any) -> bool:
    """Whether the key follows from others and cannot be set."""
    try:
        with_changes(PretrainSettings(), {key: value})
    except InputError:
        return True
    return False


def meaning(key: str) -> str:
    """Docstring of the field that a dotted key names."""
    config: Any = PretrainSettings()
    *path, last = key.split(".")
    for name in path:
        config = getattr(config, name)
    return meanings(type(config))[last]


def table() -> str:
    """Markdown: every key that ``--set`` takes, its value in each preset, its meaning."""
    values = {name: flatten(dataclasses.asdict(preset_settings(name))) for name in PRESETS}
    lines = [f"| key | {' | '.join(PRESETS)} | meaning |", "|--|" + "--|" * len(PRESETS) + "--|"]
    for key in known_keys(PretrainSettings):
        if key in ("preset", "seed") or derived(key, values["ephys"][key]):
            continue
        cells = (_cell(values[name][key]) for name in PRESETS)
        lines.append(f"| `{key}` | {' | '.join(cells)} | {meaning(key)} |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def with_table(page: str) -> str:
    """The page with the current table between its two marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
