"""Where the numbers of a report come from: run, data, commands, versions, hashes."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nuclr_cli.evaluation.probes import DEFAULT_C, VARIANTS
from nuclr_cli.evaluation.splits import DEFAULT_SEED
from nuclr_cli.workflows.embed_select import RULES
from nuclr_cli.workflows.probe_baselines import LEVELS
from nuclr_cli.workflows.report_gather import Found, Gathered
from nuclr_cli.workflows.report_html import Column, Html, details, facts, join, table, tag
from nuclr_cli.workflows.report_results import (
    Classification,
    LabelEfficiency,
    Pairs,
    Regression,
)


def provenance_part(found: Gathered) -> Html:
    """The run, the commands, versions, sessions and settings."""
    run, metadata, environment = found.run, found.table.metadata, found.environment
    record = run.record
    gpus = environment.get("gpus")
    about = facts(
        [
            ("run", run.id),
            ("state", f"{record.state}, step {record.step}"),
            ("data", record.data),
            ("started from", record.init_from),
            ("imported from", record.imported_from),
            ("sha256 of the imported file", record.imported_sha256),
            (
                "checkpoint that embeds",
                metadata.get("checkpoint_step", "") and f"step {metadata['checkpoint_step']}",
            ),
            ("its weights", {"ema": "moving average"}.get(metadata.get("weights", ""), "")),
            ("sha256 of the checkpoint", metadata.get("checkpoint_sha256", "")),
            ("sha256 of embeddings.parquet", found.embeddings_sha256),
            ("embedding", f"{found.table.embedding.shape[1]} numbers a unit"),
            ("only the first", metadata.get("limit_s", "") and f"{metadata['limit_s']} s of each session"),
            ("imported with" if record.imported_from else "trained with", f"nuclr {record.version}"),
            ("embedded with", metadata.get("nuclr_version", "") and f"nuclr {metadata['nuclr_version']}"),
            ("Python", str(environment.get("python", ""))),
            ("platform", str(environment.get("platform", ""))),
            ("processor", str(environment.get("processor", ""))),
            ("GPU", ", ".join(map(str, gpus)) if isinstance(gpus, list) else ""),
        ]
    )
    return join(about, _commands(found), _versions(found), _sessions(found), _settings(found))


def _commands(found: Gathered) -> Html:
    """What was typed to train, as recorded; the rest as the records tell it."""
    parts: list[Html] = []
    typed = found.environment.get("command")
    if isinstance(typed, list) and typed:
        line = shlex.join([Path(str(typed[0])).name, *map(str, typed[1:])])
        done = "Imported" if found.run.record.imported_from else "Trained"
        parts += [tag("p", f"{done} by, as it was typed:"), tag("pre", tag("code", line))]
    lines = [_embed_command(found), *(ask_again(found.run.folder, one) for one in found.results)]
    parts += [
        tag("p", "The rest is made again, from what the records say, by:"),
        tag("pre", tag("code", "\n".join(lines))),
    ]
    return join(tag("h3", "Commands"), *parts)


def _embed_command(found: Gathered) -> str:
    data = [] if found.run.record.data else ["DATA"]  # an imported run has none of its own
    words = ["nuclr", "embed", *data, "--run", str(found.run.folder)]
    chosen = found.selection
    if chosen is not None and chosen.candidates and chosen.rule in RULES:
        words += ["--select", chosen.rule, *(("--select-label", chosen.label) if chosen.label else ())]
    elif step := found.table.metadata.get("checkpoint_step"):
        words += ["--checkpoint", step]
    if found.run.settings.train.ema is not None and "weights" in found.table.metadata:
        words += ["--weights", found.table.metadata["weights"]]
    if limit := found.table.metadata.get("limit_s"):
        words += ["--limit", limit]
    return shlex.join(words)


def ask_again(run: Path, found: Found) -> str:
    """The command of a probe, as far as its record tells."""
    result = found.result
    # The split as it was, whatever options made it; they are told only where the file is gone.
    kept = found.folder / "split.json"
    gone = not kept.is_file()
    split = result.split if gone and result.split != "file" else str(kept)
    words = ["nuclr", "probe"]
    match result:
        case Classification():
            words += ["--label", result.label, "--variant", result.variant, "--balance", result.balance]
            words += ["--C", f"{result.c:g}" if isinstance(result.c, float) else result.c]
            words += ["--classes", ",".join(result.classes)]
            if result.hierarchy is not None:
                words += ["--parent", result.hierarchy.parent]
            if gone and result.split == "subject" and set(result.test_subjects) != set(result.subjects):
                words += ["--test-subjects", ",".join(result.test_subjects)]
            if gone and result.split == "unit":
                words += ["--folds", str(len(result.folds))]
        case Regression():
            words += ["--target", result.target]
            if gone and result.split == "unit":
                words += ["--folds", str(len(result.folds))]
        case Pairs():
            words += ["--pairs", result.pairs]
            if len(result.results) == 1:
                words += ["--pair-features", result.results[0].features]
        case LabelEfficiency():
            fractions = sorted({point.fraction for curve in result.curves for point in curve.points})
            words += ["--label", result.label, "--variant", result.variant]
            words += [*_recipe(result), "--classes", ",".join(result.classes)]
            words += ["--label-fractions", ",".join(f"{one:g}" for one in fractions)]
            words += ["--repeats", str(result.repeats)]
    words += ["--split", split, "--run", str(run), "--bootstrap", str(result.bootstrap)]
    # What --baselines left out is missing for that reason; so is the option that was given.
    chosen = {one.why for one in result.missing_baselines} & {f"--baselines {level}" for level in LEVELS}
    words += [word for option in sorted(chosen) for word in option.split()]
    if result.seed != DEFAULT_SEED:
        words += ["--seed", str(result.seed)]
    return shlex.join(words)


def _recipe(result: LabelEfficiency) -> list[str]:
    """Balance and C, where they are told and not the variant's."""
    words = []
    usual = VARIANTS[result.variant].balance if result.variant in VARIANTS else ""
    if result.balance not in ("", "auto", usual):
        words += ["--balance", result.balance]
    if result.c not in (None, DEFAULT_C):
        words += ["--C", f"{result.c:g}" if isinstance(result.c, float) else str(result.c)]
    return words


def probe_facts(found: Found) -> Html:
    """What a result rests on."""
    result = found.result
    pairs = [
        ("folder", found.place),
        ("split", result.split_how),
        ("made from", f"run {result.run}" if result.run else "a run that is not known"),
        ("checkpoint", result.checkpoint),
        ("sha256 of its embeddings", result.embeddings_sha256),
        ("seed", str(result.seed)),
        ("took", f"{result.seconds:.0f} s"),
        ("versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())),
    ]
    if isinstance(result, Classification):
        pairs[2:2] = [
            ("probe", f"{result.variant}, balance {result.balance}, C {result.c}"),
            ("subjects", f"{len(result.subjects)}, of which {len(result.test_subjects)} are tested"),
            (
                "units",
                f"{result.n_labelled} labelled, {result.n_tested} predicted, {result.n_without_embedding} "
                f"without an embedding, {result.n_not_in_split} not in the split",
            ),
        ]
    if isinstance(result, Regression):
        pairs[2:2] = [
            (
                "units",
                f"{result.n_with_target} with a value, {result.n_without_target} without, {result.n_tested} "
                f"predicted, {result.n_without_embedding} without an embedding, {result.n_not_in_split} not "
                "in the split",
            )
        ]
    if isinstance(result, Pairs):
        pairs[2:2] = [
            (
                "pairs",
                f"{result.n_pairs}, {result.n_connected} connected; {result.n_without_embedding} with a "
                f"unit without an embedding, {result.n_not_in_split} not in the split",
            ),
            ("sha256 of the table of pairs", result.pairs_sha256),
        ]
    if found.card is not None:
        pairs.append(("sha256 of the fitted probe", found.card.probe_sha256))
    return details("What this rests on", facts(pairs))


def _versions(found: Gathered) -> Html:
    versions = found.environment.get("versions")
    if not isinstance(versions, Mapping) or not versions:
        return Html("")
    rows = [[str(name), str(version)] for name, version in versions.items()]
    done = "imported" if found.run.record.imported_from else "trained"
    return details(
        f"Versions that {done} it", table("Versions", [Column("package"), Column("version")], rows)
    )


def _sessions(found: Gathered) -> Html:
    embedded: dict[tuple[str, str, str], int] = {}
    table_ = found.table
    for key in zip(table_.subject.tolist(), table_.session.tolist(), table_.population.tolist(), strict=True):
        embedded[key] = embedded.get(key, 0) + 1
    trained = {(one.subject, one.session, one.population): one for one in found.run.record.sessions}
    rows = []
    for key in sorted({*embedded, *trained}):
        one = trained.get(key)
        role = (
            "not in the run's data"
            if one is None
            else _ROLES[one.role] + (f": {one.reason}" if one.reason else "")
        )
        rows.append([*key, str(embedded.get(key, 0)), role])
    columns = [Column(name) for name in ("subject", "session", "population")]
    columns += [Column("units embedded", True), Column("in pretraining")]
    title = f"Sessions: {len(rows)}, of {len({row[0] for row in rows})} subject(s)"
    return details(title, table("Sessions", columns, rows))


_ROLES = {
    "train": "trained on, without labels",
    "held-out": "held out",
    "left-out": "left out by a setting",
    "skipped": "skipped",
}


def _settings(found: Gathered) -> Html:
    rows = [[key, text] for key, text in _flat(dataclasses.asdict(found.run.settings))]
    return details("Settings of the run", table("Settings", [Column("setting"), Column("value")], rows))


def _flat(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield (
                f"{path}{key}",
                ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value),
            )
