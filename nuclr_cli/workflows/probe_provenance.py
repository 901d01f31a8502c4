"""Where embeddings come from: one run, which saw certain subjects. What cannot be traced is refused."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from nuclr_cli.errors import InputError
from nuclr_cli.evaluation.splits import UnitKeys
from nuclr_cli.wording import counted
from nuclr_cli.workflows.runs import Run

Knowledge = Literal["inductive", "transductive", "unknown"]


def refuse_mixture(path: Path, metadata: Mapping[str, str], keys: UnitKeys) -> None:
    """Refuse a table that was joined from several: joining keeps the first one's metadata for all rows.

    `nuclr embed` writes down which sessions it embedded. Rows may be dropped from such a table, not added:
    embeddings of different runs live in different spaces, and the sessions that pretraining saw differ.

    Raises:
        InputError: There are rows of other sessions.
    """
    if "sessions" not in metadata:
        return
    try:
        embedded = {(str(a), str(b), str(c)) for a, b, c in json.loads(metadata["sessions"])}
    except (ValueError, TypeError) as error:
        raise InputError(
            f"The metadata of {path} is damaged: {error}.", "Make it anew with nuclr embed"
        ) from None
    here = zip(keys.subject.tolist(), keys.session.tolist(), keys.population.tolist(), strict=True)
    others = sorted(set(here) - embedded)
    if others:
        raise InputError(
            f"{path} holds units of {counted(len(others), 'session')} that were not embedded by the run it "
            f"names, {metadata.get('run', '?')} (first: {'/'.join(others[0])}): tables of different runs, or "
            "of different calls of nuclr embed, were joined.",
            "Embed all sessions in one call: nuclr embed DATA --run RUN -o FILE",
        )


def pretraining_knowledge(
    metadata: Mapping[str, str], run: Run | None, tested: Sequence[str]
) -> tuple[Knowledge, str]:
    """Whether pretraining saw the test subjects, and the reason in one sentence.

    Two witnesses: the run's record (which counts the runs that its weights come from) and the subjects that
    `nuclr embed` wrote into the file. ``inductive`` needs a record that is known to be that of the file.

    Args:
        metadata: Of the file of embeddings.
        run: The run that the file names or that the user named; None when it was not found.
        tested: The test subjects.
    """
    told = set(metadata.get("trained_subjects", "").split("\n")) - {""}
    if run is None:
        if told & set(tested):
            return (
                "transductive",
                "Pretraining saw test subjects (without labels), as the embeddings' file says.",
            )
        return "unknown", "The run behind these embeddings was not found, so what pretraining saw is unknown."
    seen = told | set(run.record.seen_subjects)
    met = sorted(set(tested) & seen)
    if met:
        share = "the test subjects" if len(met) == len(tested) else f"test subject(s) {', '.join(met)}"
        return "transductive", f"Pretraining saw {share} (without labels)."
    if metadata.get("run", "") != run.id:
        return (
            "unknown",
            f"The file of embeddings does not say that {run.record.name} made it, so what pretraining saw is "
            "unknown.",
        )
    if run.record.init_from and not run.record.inherited_subjects:
        return (
            "unknown",
            f"The run started from {run.record.init_from}, and which subjects those weights had seen was not "
            "written down.",
        )
    copies = _copies(run, tested)
    if copies:
        return "transductive", f"Pretraining saw recordings of test subjects under other names: {copies}."
    near = sorted({name for name in tested if spelling(name) in {spelling(other) for other in seen}})
    if near:
        return (
            "unknown",
            f"Pretraining saw subjects whose names differ from the test subjects' in spelling only "
            f"({', '.join(near)}); they may be the same animals.",
        )
    return "inductive", "Neither pretraining nor the probe saw the test subjects."


def _copies(run: Run, tested: Sequence[str]) -> str:
    """Test subjects whose recording is, byte for byte, one that was trained on; '' when there is none."""
    trained = {
        s.activity_digest: s.subject for s in run.record.sessions if s.role == "train" and s.activity_digest
    }
    pairs = {
        f"{s.subject} is {trained[s.activity_digest]}"
        for s in run.record.sessions
        if s.subject in tested and s.activity_digest in trained
    }
    return ", ".join(sorted(pairs))


def spelling(name: str) -> str:
    """A subject's name without what people write now one way, now another: case, blanks, ``-`` and ``.``."""
    text = unicodedata.normalize("NFKC", name).casefold().strip()
    return "".join("_" if letter in " -." else letter for letter in text)
