"""One picture per session, by which a person can judge it: spikes or traces, their mean, and the gaps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.data.atomic import replacing
from nuclr_cli.data.store import Session
from nuclr_cli.wording import counted
from nuclr_cli.workflows.info import SessionSummary, unit_rates
from nuclr_cli.workflows.plot_parts import BINS, COLORS, INK
from nuclr_cli.workflows.session_raster import draw_spikes
from nuclr_cli.workflows.session_traces import draw_traces

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GROUPED_BY = ("brain_region", "brain_area", "cell_type", "quality")


def plot_session(session: Session, summary: SessionSummary, path: Path) -> None:
    """Draw one session as PNG.

    Spikes: all units over the whole session, sorted by label and rate, their mean rate, the rate of each
    unit, and the busiest ten seconds spike by spike. Calcium: all traces, some of them large, and their mean.
    Gaps are shaded.

    Raises:
        InputError: `path` cannot be written, or the session cannot be read.
    """
    figure = _figure(12.0, 8.5)
    order, groups, name = _sorted_units(session)
    if session.modality == "spikes":
        draw_spikes(figure, session, order, groups)
    else:
        draw_traces(figure, session, order, groups)
    figure.suptitle(_title(session, summary, name), fontsize=11, color=INK, x=0.01, ha="left")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _sorted_units(session: Session) -> tuple[NDArray[np.intp], list[str], str]:
    """Rows in drawing order, the label of each row of the table, and the column of these labels ('' = none).

    By label first (the one with two to ten values, regions before types), then by activity.
    """
    activity = unit_rates(session) if session.modality == "spikes" else _activity(session)
    for name in _GROUPED_BY:
        labels = session.label(name).tolist() if _is_label(session, name) else []
        if 2 <= len(set(labels)) <= len(COLORS):
            sizes = Counter(labels)
            ranks = {text: i for i, text in enumerate(sorted(sizes, key=lambda t: (t == "", -sizes[t], t)))}
            order = np.lexsort((-activity, np.array([ranks[text] for text in labels])))
            return order, labels, name
    return np.argsort(-activity, kind="stable"), [""] * session.n_units, ""


def _is_label(session: Session, name: str) -> bool:
    return name in session.columns and session.columns[name].ndim == 1


def _activity(session: Session) -> NDArray[np.float64]:
    """(N,) size of the fast changes of each trace relative to its noise: skewed traces come first."""
    values = _thinned(session.calcium.values, 4 * BINS)
    centred = values - np.median(values, axis=0)
    noise = np.median(np.abs(centred), axis=0)
    peak = np.percentile(centred, 99, axis=0)
    return np.asarray(peak / np.where(noise > 0, noise, 1.0), dtype=np.float64)


def _thinned(values: NDArray[Any], n_rows: int) -> NDArray[np.float64]:
    step = max(len(values) // n_rows, 1)
    return np.nan_to_num(values[::step].astype(np.float64))


def _title(session: Session, summary: SessionSummary, grouped_by: str) -> str:
    who = f"{summary.subject} / {summary.session}" + (
        f" / {summary.population}" if summary.population != "0" else ""
    )
    facts = [counted(summary.n_units, "unit"), f"{summary.minutes:.1f} min"]
    if summary.median_rate_hz is not None:
        facts.append(f"median {summary.median_rate_hz:.3g} Hz")
    if summary.frame_rate_hz is not None:
        facts.append(f"{summary.frame_rate_hz:.3g} frames/s")
    if summary.n_silent:
        facts.append(f"{summary.n_silent} silent")
    facts.append(
        f"{counted(summary.n_gaps, 'gap')}, {summary.gap_s:.4g} s (shaded)" if summary.n_gaps else "no gaps"
    )
    order = "activity" if session.modality == "calcium" else "rate"
    facts.append(f"sorted by {grouped_by}, then {order}" if grouped_by else f"sorted by {order}")
    lines = [_plain(who), ", ".join(facts)]
    shown = [_plain(text[:150] + ("..." if len(text) > 150 else "")) for text in summary.warnings[:3]]
    return "\n".join(lines + [f"warning: {text}" for text in shown])


def _plain(text: str) -> str:
    """Dollar signs would be read as formulas."""
    return text.replace("$", r"\$")


def _figure(width: float, height: float) -> Figure:
    # Without pyplot: no global state, no window system, and figures are freed with their last reference.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
