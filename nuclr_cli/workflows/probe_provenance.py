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
SessionName = tuple[str, str, str]
"""Subject, session, population."""


def refuse_mixture(path: Path, metadata: Mapping[str, str], keys: UnitKeys) -> None:
    """Refuse a table that was joined from several: joining keeps the first one's metadata for all rows.

    `nuclr embed` writes down which sessions it embedded. Rows may be dropped from such a table, not added:
    embeddings of different runs live in different spaces, and the sessions that pretraining saw differ.

    Raises:
        InputError: There are rows of other sessions, or the metadata are damaged.
    """
    if "sessions" not in metadata:
        return
    try:
        embedded = {(str(a), str(b), str(c)) for a, b, c in json.loads(metadata["sessions"])}
        embedded_digests(metadata)
        embedded_digests(metadata, "recordings")
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
    metadata: Mapping[str, str], run: Run | None, tested: Sequence[str], sessions: Sequence[SessionName]
) -> tuple[Knowledge, str]:
    """Whether pretraining saw the test subjects, and the reason in one sentence.

    Two witnesses: the run's record (which counts the runs that its weights come from) and what `nuclr embed`
    wrote into the file: the subjects trained on, and which recordings it embedded. ``inductive`` needs a
    record that is known to be that of the file, and recordings that can be compared with those trained on.
    Of weights that were trained elsewhere there is no record: they need the user's word on all subjects.

    Args:
        metadata: Of the file of embeddings.
        run: The run that the file names or that the user named; None when it was not found.
        tested: The test subjects.
        sessions: Theirs, of which the file has units.
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
    how = run.record.inherited_how
    if how not in ("recorded", "told"):
        elsewhere = run.record.imported_from or f"imported weights, by way of {run.record.init_from}"
        return (
            "unknown",
            f"The weights of {run.record.name} were trained elsewhere (they come from {elsewhere}), and "
            "which subjects they have seen is unknown.",
        )
    if run.record.init_from and not run.record.inherited_subjects and how == "recorded":
        return (
            "unknown",
            f"The run started from {run.record.init_from}, and which subjects those weights had seen was not "
            "written down.",
        )
    copies = _copies(metadata, run, tested)
    if copies:
        return "transductive", f"Pretraining saw recordings of test subjects under other names: {copies}."
    untraced = _untraced(metadata, run, sessions)
    if untraced:
        return "unknown", untraced
    near = sorted({name for name in tested if spelling(name) in {spelling(other) for other in seen}})
    if near:
        return (
            "unknown",
            f"Pretraining saw subjects whose names differ from the test subjects' in spelling only "
            f"({', '.join(near)}); they may be the same animals.",
        )
    word = (
        "Of the imported weights that is the word of whoever imported them (--trained-subjects)."
        if how == "told"
        else ""
    )
    return "inductive", f"Neither pretraining nor the probe saw the test subjects. {word}".rstrip()


def embedded_digests(
    metadata: Mapping[str, str], kind: Literal["activity", "recordings"] = "activity"
) -> dict[SessionName, str] | None:
    """Digest ('' = it has none) of each session that was embedded; None in files of older versions.

    Raises:
        ValueError, TypeError: The metadata are damaged.
    """
    if kind not in metadata:
        return None
    return {
        (str(subject), str(session), str(population)): str(digest)
        for subject, session, population, digest in json.loads(metadata[kind])
    }


def _copies(metadata: Mapping[str, str], run: Run, tested: Sequence[str]) -> str:
    """Test subjects whose spikes or traces are, byte for byte, those trained on; '' when there is none."""
    trained = {s.activity_digest: s.subject for s in run.record.sessions if s.role == "train"}
    trained |= {s.recording_digest: s.subject for s in run.record.sessions if s.role == "train"}
    trained |= {digest: subject for subject, digest in run.record.inherited_digests or ()}
    trained.pop("", None)
    own = {
        (s.subject, digest) for s in run.record.sessions for digest in (s.activity_digest, s.recording_digest)
    }
    kinds: tuple[Literal["activity", "recordings"], ...] = ("activity", "recordings")
    for kind in kinds:
        own |= {(key[0], digest) for key, digest in (embedded_digests(metadata, kind) or {}).items()}
    pairs = {
        f"{subject} is {trained[digest]}"
        for subject, digest in own
        if subject in tested and digest in trained
    }
    return ", ".join(sorted(pairs))


def _untraced(metadata: Mapping[str, str], run: Run, sessions: Sequence[SessionName]) -> str:
    """Why a tested recording cannot be compared with those trained on, in one sentence; '' when all can.

    Sessions of the folder that pretraining read stood beside those trained on, under names of their own, and
    what the run's record says of them is enough. A recording from elsewhere needs a digest, and so does
    every recording that was trained on.
    """
    if run.record.inherited_how == "told" and not run.record.seen_digests:
        return ""  # the user's word is all there is: nothing that was trained on here could be compared
    embedded = embedded_digests(metadata)
    recorded = {(s.subject, s.session, s.population): s.activity_digest for s in run.record.sessions}
    seen = run.record.seen_digests
    for key in sessions:
        digest = None if embedded is None else embedded.get(key, "")
        if key in recorded and (digest is None or recorded[key] in ("", digest)):
            continue
        if digest is None:
            why = "an older version made the file of embeddings, without digests: run nuclr embed again"
        elif not digest:
            why = "nuclr did not write its file, so it has no digest"
        elif seen is None:
            why = f"digests of what {run.record.init_from} was trained on were not written down"
        elif any(not trained for _, trained in seen):
            why = "recordings that were trained on have no digest"
        else:
            continue
        return f"Whether pretraining saw {'/'.join(key)} under another name cannot be told: {why}."
    return ""


def spelling(name: str) -> str:
    """A subject's name without what people write now one way, now another: case, blanks, ``-`` and ``.``."""
    text = unicodedata.normalize("NFKC", name).casefold().strip()
    return "".join("_" if letter in " -." else letter for letter in text)
