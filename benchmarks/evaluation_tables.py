"""Markdown of what `nuclr --json` printed, for benchmarks/evaluation_results.py."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]


def interval(score: Document, digits: int = 3) -> str:
    return f"{score['value']:.{digits}f} [{score['low']:.{digits}f}, {score['high']:.{digits}f}]"


def signed(score: Document) -> str:
    return f"{score['value']:+.3f} [{score['low']:+.3f}, {score['high']:+.3f}]"


def rows(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|--" * len(header) + "|",
        *("| " + " | ".join(cells) + " |" for cells in body),
    ]


def probe_table(document: Document) -> str:
    """All methods with intervals, other readouts, what is missing, the permutation test, the verdict."""
    body = [
        [
            method["title"],
            interval(method["macro_f1"]),
            f"{method['balanced_accuracy']['value']:.3f}",
            signed(method["nuclr_minus"]) if method["nuclr_minus"] else "",
        ]
        for method in [*document["methods"], *document["readouts"]]
    ]
    split_how = document["split_how"]
    lines = [
        f"*{document['knowledge'].capitalize()}.* {split_how[0].upper()}{split_how[1:]}. "
        f"{document['n_tested']} tested units; intervals resample {document['resampled']} "
        f"(n = {document['n_resampled']}).",
        "",
        *rows(("method", "macro F1 [95 %]", "balanced accuracy", "NuCLR minus it [95 %]"), body),
        "",
    ]
    if document["missing_baselines"]:
        missing = "; ".join(f"{one['title']} ({one['why']})" for one in document["missing_baselines"])
        lines += [f"Missing: {missing}.", ""]
    permutation = document["permutation"]
    if permutation:
        how = (
            f"all {permutation['n'] + 1} labellings"
            if permutation["exact"]
            else f"{permutation['n']} permutations"
        )
        lines += [
            f"Permutation of the {permutation['permuted']}' labels, {how}: p = {permutation['p_value']:.4f}, "
            f"the smallest possible being {permutation['smallest_p']:.4f}.",
            "",
        ]
    return "\n".join([*lines, document["verdict"]])


def class_table(document: Document) -> str:
    """Class by class."""
    return "\n".join(
        rows(
            ("class", "precision", "recall", "F1", "units"),
            [
                [
                    one["name"],
                    *(f"{one[key]:.3f}" for key in ("precision", "recall", "f1")),
                    str(one["support"]),
                ]
                for one in document["per_class"]
            ],
        )
    )


def score_of(document: Document, name: str) -> str:
    found = [m["macro_f1"]["value"] for m in document["methods"] if m["name"] == name]
    return f"{found[0]:.3f}" if found else "missing"


def seed_table(probes: Mapping[int, tuple[Document, Document]]) -> str:
    """Macro F1 of what depends on the initialisation, for both splits."""
    body = [
        [str(seed), *(score_of(one, name) for one in both for name in ("nuclr", "untrained"))]
        for seed, both in probes.items()
    ]
    header = (
        "seed",
        "NuCLR, transductive",
        "untrained, same split",
        "NuCLR, inductive",
        "untrained, same split",
    )
    first = next(iter(probes.values()))
    titles = {m["name"]: m["title"] for m in first[0]["methods"]}
    fixed = [
        f"{title} {score_of(first[0], name)} and {score_of(first[1], name)}"
        for name, title in titles.items()
        if name not in ("nuclr", "untrained", "majority", "chance")
    ]
    return "\n".join(
        [
            *rows(header, body),
            "",
            f"What does not depend on the seed, transductive and inductive split: {'; '.join(fixed)}.",
        ]
    )


def efficiency_table(document: Document) -> str:
    """A row a fraction, a column a method; then what 90 % of the score needs."""
    curves = document["curves"]
    body = []
    for place, point in enumerate(curves[0]["points"]):
        cells = [f"{point['fraction']:g}", f"{point['n_labelled']:.0f}"]
        cells += [interval(curve["points"][place]["macro_f1"], 2) for curve in curves]
        body.append(cells)
    lines = [
        f"*{document['knowledge'].capitalize()}.* {document['n_tested']} tested units; means over "
        f"{document['repeats']} draws, intervals over draws and resampled {document['resampled']}.",
        "",
        *rows(["labels", "units", *(curve["title"] for curve in curves)], body),
        "",
    ]
    needed = []
    for curve in curves:
        if curve["needed"] is None or curve["name"] in ("chance", "majority"):
            continue
        need = curve["needed"]
        most = "at most " if need["at_most"] else ""
        needed.append(
            f"{curve['title']} {most}{need['fraction']:.2g} [{need['low']:.2g}, {need['high']:.2g}]"
        )
    share = f"{document['full_share']:.0%}".replace("%", " %")
    return "\n".join(
        [*lines, f"Fraction of the labels for {share} of a method's own full score: {'; '.join(needed)}."]
    )


def scale_table(document: Document) -> str:
    """A row a training; then what the fits say."""
    of_point = {one["point"]: one for one in document["results"]}
    body = []
    for point in document["sweep"]["points"]:
        result = of_point[point["name"]]
        body.append(
            [
                f"{point['size']:g}",
                str(point["seed"]),
                ", ".join(point["subjects"]),
                str(point["n_units"]),
                f"{result['held_out_loss']:.4f}",
                f"{result['macro_f1']:.3f} [{result['macro_f1_low']:.3f}, {result['macro_f1_high']:.3f}]",
            ]
        )
    sweep = document["sweep"]
    baselines = "; ".join(f"{one['title']} {one['macro_f1']:.3f}" for one in document["baselines"])
    lines = [
        f"*{document['knowledge'].capitalize()}*, tested on {', '.join(sweep['probe_test_subjects'])}; "
        f"{sweep['steps'] or 'as many'} steps at every point.",
        "",
        *rows(
            (document["size_name"], "seed", "pretraining saw", "units", "held-out loss", "macro F1 [95 %]"),
            body,
        ),
        "",
        f"Baselines of the same probe, macro F1: {baselines}.",
        "",
    ]
    for fit in document["fits"]:
        lines += [f"- {' '.join(fit['says'])}"]
    return "\n".join(lines)


def demo_tables(documents: Mapping[int, Document], label: str) -> str:
    """A row a seed, and the median; then in how many seeds NuCLR is above each."""
    probes = {
        seed: next(one for one in document["probes"] if one["label"] == label)
        for seed, document in documents.items()
    }
    found = {
        seed: {m["name"]: m["macro_f1"]["value"] for m in probe["methods"]} for seed, probe in probes.items()
    }
    titles = {m["name"]: m["title"] for m in next(iter(probes.values()))["methods"]}
    names = list(titles)
    body = [[str(seed), *(f"{row[name]:.3f}" for name in names)] for seed, row in found.items()]
    body.append(
        ["median", *(f"{statistics.median(row[name] for row in found.values()):.3f}" for name in names)]
    )
    beside = [name for name in names if name not in ("nuclr", "majority", "chance")]
    gains = []
    for name in beside:
        differences = [row["nuclr"] - row[name] for row in found.values()]
        wins = sum(difference > 0 for difference in differences)
        gains.append(
            f"{titles[name]} in {wins} of {len(found)} "
            f"(median difference {statistics.median(differences):+.3f})"
        )
    return "\n".join([*rows(["seed", *titles.values()], body), "", f"NuCLR is above: {'; '.join(gains)}."])


def time_table(seconds: Mapping[str, float]) -> str:
    return "\n".join(
        rows(("command", "seconds"), [[f"`{typed}`", f"{s:.0f}"] for typed, s in seconds.items()])
    )
