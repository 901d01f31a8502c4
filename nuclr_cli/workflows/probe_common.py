"""What every kind of probe says and does alike, whatever it reads from the embeddings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.split_files import split_title
from nuclr_cli.evaluation.splits import Split
from nuclr_cli.wording import counted
from nuclr_cli.workflows.probe_baselines import DEFAULT_LEVEL, MissingBaseline, missing_warnings
from nuclr_cli.workflows.probe_inputs import ProbeTable, assumed_subjects
from nuclr_cli.workflows.probe_leaks import split_leaks
from nuclr_cli.workflows.probe_report import folder_name


def check_numbers(bootstrap: int, seed: int, permutations: int | None = None) -> None:
    """Refuse what no probe can work with.

    Raises:
        InputError: Too few resamples, a negative number of permutations, or an impossible seed.
    """
    if bootstrap < 1:
        raise InputError(f"{bootstrap} bootstrap resamples are too few.", "The default is 1000")
    if permutations is not None and permutations < 0:
        raise InputError(f"--permutations {permutations} is below 0.", "0 skips the test")
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed {seed} is not between 0 and 2**32 - 1.", "Choose another number")


def place_of(
    source: ProbeTable, what: str, split: Split, option: str, suffix: str, baselines: str, *asked: object
) -> Path:
    """``RUN/probes/WHAT/SPLIT-SUFFIX`` for a run's own embeddings; beside the file for any other.

    Args:
        source: The table of embeddings.
        what: The target, or ``pairs-NAME``.
        split: The split.
        option: What ``--split`` said.
        suffix: Which probe.
        baselines: What ``--baselines`` said; a result with fewer does not take the place of one with all.
        asked: Whatever else makes it another question, which keeps an answer of its own; empty = the default.
    """
    if source.run is not None and source.path.resolve() == source.run.embeddings.resolve():
        root = source.run.folder / "probes"
    else:
        root = source.path.parent / f"{source.path.stem}-probes"
    kind = split.kind if split.kind != "file" else folder_name(f"file-{split_title(option)}")
    name = f"{kind}-{suffix}"
    if baselines != DEFAULT_LEVEL:
        name += f"-baselines-{baselines}"
    if any(asked):
        name += "-" + hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:8]
    return root / folder_name(what) / name


def run_id(source: ProbeTable) -> str:
    """Id of the run that made the embeddings, '' when unknown."""
    return source.run.id if source.run else source.table.metadata.get("run", "")


def common_warnings(
    source: ProbeTable,
    split: Split,
    missing: Sequence[MissingBaseline],
    n_lost: int,
    what: str,
    used: NDArray[np.int64],
) -> tuple[str, ...]:
    """Warnings that do not depend on what is predicted.

    Args:
        source: The table of embeddings.
        split: The split.
        missing: Baselines that could not be computed.
        n_lost: Units that would take part but have no embedding.
        what: What these units have, for the sentence, e.g. ``with a depth``.
        used: Rows that train or are tested, in the order of their keys.
    """
    found = list(missing_warnings(missing))
    assumed = assumed_subjects(source)
    if assumed and split.kind != "unit":
        found.append(
            f"Subject(s) {', '.join(assumed)} are folder names that nobody confirmed: if one animal has two "
            "names, the split is not by animal. Say who is who: nuclr preprocess SOURCE --subject ID"
        )
    if n_lost:
        lost = counted(n_lost, f"unit {what} has", f"units {what} have")
        found.append(f"{lost} no embedding (never active in a window) and no prediction.")
    limit = source.table.metadata.get("limit_s", "")
    if limit:
        found.append(f"The embeddings saw only the first {limit} s of each session, the baselines all of it.")
    return (*found, *split_leaks(source, split, used))


def constant_within(group: NDArray[np.str_], values: NDArray[np.float64]) -> bool:
    """True when there are several groups and every one has a single value."""
    pairs = set(zip(group.tolist(), values.tolist(), strict=True))
    names = {name for name, _ in pairs}
    return len(names) > 1 and len(pairs) == len(names)
