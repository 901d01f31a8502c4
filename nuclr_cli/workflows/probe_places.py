"""Where fitted probes are, for those who named a folder that holds none."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from nuclr_cli.errors import InputError
from nuclr_cli.wording import counted

CARD_FILE = "card.json"

_CURVE = "-label-efficiency"
_SHOWN = 8


def no_probe(folder: Path) -> InputError:
    """Why a folder without a card is no fitted probe, with the fitted probes that are there."""
    if not folder.is_dir():
        what = f"{folder} is no folder." if folder.exists() else f"{folder} is no folder: it does not exist."
        return InputError(what, _which(_probes(folder.parent, "*")))
    if _is_curve(folder):
        own = folder.with_name(folder.name.partition(_CURVE)[0] or folder.name)
        found = [own] if (own / CARD_FILE).is_file() else _probes(folder.parent, "*")
        label = shlex.quote(folder.resolve().parent.name)
        return InputError(
            f"{folder} has no {CARD_FILE}: it holds a curve of scores by number of labels, for which many "
            "probes were fitted and none was kept.",
            _which(found) if found else f"Fit one with all labels: nuclr probe --label {label}",
        )
    # Of a label, of all labels of a run, of a run.
    found = _probes(folder, "*", "*/*", "probes/*/*")
    if not found:
        return InputError(f"{folder} has no {CARD_FILE}: it is no result of nuclr probe.", _which([]))
    return InputError(
        f"{folder} has no {CARD_FILE}: it is not a fitted probe itself, but there "
        f"{'is' if len(found) == 1 else 'are'} {counted(len(found), 'fitted probe')} in it.",
        _which(found),
    )


def _is_curve(folder: Path) -> bool:
    try:
        document = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("kind") == "label_efficiency"


def _probes(folder: Path, *depths: str) -> list[Path]:
    """Folders with a card below a folder; those that are being written are hidden."""
    found = {
        path.parent
        for depth in depths
        for path in folder.glob(f"{depth}/{CARD_FILE}")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    return sorted(found)


def _which(found: list[Path]) -> str:
    if not found:
        return "Give a folder that nuclr probe made: RUN/probes/LABEL/SPLIT-VARIANT"
    if len(found) == 1:
        return f"Did you mean --probe {shlex.quote(str(found[0]))}?"
    shown = [f"--probe {shlex.quote(str(one))}" for one in found[:_SHOWN]]
    more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"Give one of: {', '.join(shown)}{more}"
