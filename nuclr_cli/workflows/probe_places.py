"""Where fitted probes are, for those who named a folder that holds none."""

from __future__ import annotations

import difflib
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
        return InputError(what, _which(*_beside(folder)))
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


def _beside(folder: Path) -> tuple[list[Path], Path | None]:
    """Fitted probes where a folder that is not there was looked for, and the one most like it in name.

    Of the same label; where the label itself is misspelt, of all labels.
    """
    for above, depth in ((folder.parent, "*"), (folder.parent.parent, "*/*")):
        names = {str(one.relative_to(above)): one for one in _probes(above, depth)}
        if names:
            close = difflib.get_close_matches(str(folder.relative_to(above)), names, n=1)
            return list(names.values()), names[close[0]] if close else None
    return [], None


def _which(found: list[Path], meant: Path | None = None) -> str:
    if meant is not None and len(found) > 1:
        others = _which_of([one for one in found if one != meant])
        return f"Did you mean --probe {shlex.quote(str(meant))}? Others: {others}"
    if not found:
        return "Give a folder that nuclr probe made: RUN/probes/LABEL/SPLIT-VARIANT"
    if len(found) == 1:
        return f"Did you mean --probe {shlex.quote(str(found[0]))}?"
    return f"Give one of: {_which_of(found)}"


def _which_of(found: list[Path]) -> str:
    shown = [f"--probe {shlex.quote(str(one))}" for one in found[:_SHOWN]]
    more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{', '.join(shown)}{more}"
