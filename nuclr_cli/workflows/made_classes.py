"""Columns of classes that a label map made, and what becomes of them when the raw names change."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuclr_cli.api import Population
from nuclr_cli.data.store import StoredMeta
from nuclr_cli.errors import InputError
from nuclr_cli.wording import counted
from nuclr_cli.workflows.label_map_text import LabelMap, parse_label_map
from nuclr_cli.workflows.label_maps import MADE_BY, classes_of, noted_maps, shipped_maps, source_column
from nuclr_cli.workflows.labels import texts_of

_SHOWN = 5


@dataclass(frozen=True)
class MadeColumn:
    """One column of classes.

    Attributes:
        name: Of the map.
        sha256: Of its text.
        reads: Column of the raw names, '' = the file does not say.
        target: Column of the classes, '' = the file does not say.
        label_map: The map, None = neither in the file nor brought by nuclr.
    """

    name: str
    sha256: str
    reads: str
    target: str
    label_map: LabelMap | None

    def classes(self, raws: Sequence[str]) -> list[str]:
        """The class of each raw name, '' = none.

        Raises:
            InputError: The map is not clear about a name.
        """
        assert self.label_map is not None  # callers leave unknown maps out
        try:
            return classes_of(self.label_map, raws)
        except InputError as error:
            raise InputError(
                f"{self.target!r} cannot be made again from {self.reads!r}: {error.what}",
                f"Take the old classes away with nuclr label DATA --remove {self.target}, and give a map "
                "that is clear about it with --label-map.",
            ) from None


def made_columns(provenance: Mapping[str, Any]) -> tuple[MadeColumn, ...]:
    """The columns of classes of a population, from its provenance."""
    found = []
    for item in noted_maps(provenance)[0]:
        content = item["text"].encode("utf-8", "surrogatepass")
        label_map = None
        if hashlib.sha256(content).hexdigest() == item["sha256"]:
            with contextlib.suppress(InputError):  # a reader's own text, or a key of a later nuclr
                label_map = parse_label_map(item["name"], content)
        found.append(MadeColumn(item["name"], item["sha256"], item["reads"], item["target"], label_map))
    return tuple(found)


def provenance_with_maps(meta: StoredMeta, columns: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Provenance of a session file, with the maps that an older nuclr noted by name and digest alone.

    Args:
        meta: Of the file.
        columns: Its units table.
    """
    ours, others = noted_maps(meta.provenance)
    entries = {item["target"]: item for item in ours}
    noted = {(item["name"], item["sha256"]) for item in entries.values()}
    fingerprints = () if meta.source is None else meta.source.options.get("label_maps", ())
    older = [(*text.rsplit(" sha256:", 1), "") for text in fingerprints]
    older += [
        (action["file"], action["sha256"], action["columns"][0])
        for entry in meta.label_history
        for action in entry["actions"]
        if action["what"] == "map" and action["columns"][0] in columns
    ]
    if all((name, sha256) in noted for name, sha256, _ in older):
        return dict(meta.provenance)
    shipped = {(item.name, item.sha256): item for item in shipped_maps()}
    for name, sha256, target in older:
        known = shipped.get((name, sha256))
        where = target if known is None else known.target
        reads = None if known is None else source_column(columns, known)
        gone = known is not None and (reads is None or where not in columns)  # one was removed since
        if (name, sha256) not in noted and where not in entries and not gone:
            entries[where or f"{name} {sha256}"] = {
                "name": name,
                "sha256": sha256,
                "reads": reads or "",
                "target": where,
                "text": "" if known is None else known.text,
            }
    return {**meta.provenance, MADE_BY: [*others, *entries.values()]}


def without_column(provenance: Mapping[str, Any], column: str) -> dict[str, Any]:
    """A provenance that no longer says how a column was made, for when it is taken away."""
    ours, others = noted_maps(provenance)
    kept = [item for item in ours if item["target"] != column]
    if len(kept) == len(ours):
        return dict(provenance)
    changed = {**provenance, MADE_BY: [*others, *kept]}
    if not changed[MADE_BY]:
        del changed[MADE_BY]
    return changed


def orphaned(population: Population, removed: Sequence[str], given: Mapping[str, str]) -> list[str]:
    """Warnings about classes whose raw names were taken away: nothing can make them again.

    Args:
        population: The units without these columns.
        removed: The columns.
        given: Target -> digest of maps that are applied afterwards anyway.
    """
    if not removed:
        return []
    return [
        f"{made.reads!r} was removed; the classes {made.target!r}, which the map {made.name} made from it, "
        "stay as they are."
        for made in made_columns(population.provenance)
        if made.reads in removed and made.target in population.units and made.target not in given
    ]


def made_again(
    before: Population, after: Population, changed: Sequence[str], data: str, given: Mapping[str, str]
) -> tuple[list[tuple[MadeColumn, Population]], list[str]]:
    """Bring the classes up to date where the raw names that they were made from changed.

    Only units whose raw name is another one get another class; one whose class was not the map's is left as
    it is and named.

    Args:
        before: The units before the change.
        after: The units after it.
        changed: Columns that were written.
        data: What to call the DATA folder in messages.
        given: Target -> digest of maps that are applied afterwards anyway. What another map (or one that is
            not known) made there before is left to them.

    Returns:
        Every column that was made again, each with the population so far, a note, and a warning where a class
        was left as it was; warnings about maps that are not known.

    Raises:
        InputError: A map is not clear about a new name.
    """
    steps: list[tuple[MadeColumn, Population]] = []
    warnings: list[str] = []
    waiting = [column for column in changed if _texts(before, column) != _texts(after, column)]
    columns = list(made_columns(after.provenance))
    while waiting:
        raw = waiting.pop(0)
        for made in [column for column in columns if column.reads in (raw, "") and column.target != raw]:
            columns.remove(made)
            if given.get(made.target, made.sha256) != made.sha256:
                continue
            if made.label_map is None and made.target in given:
                continue
            if made.label_map is None:
                warnings.append(_unknown(made, raw, data))
            elif raw in after.units and made.target in after.units:
                after = _again(made, before, after, data)
                steps.append((made, after))
                waiting.append(made.target)
    return steps, warnings


def _again(made: MadeColumn, before: Population, after: Population, data: str) -> Population:
    """The population with new classes for the units whose raw name changed."""
    was, now = _texts(before, made.reads), _texts(after, made.reads)
    classes_were, classes_are = made.classes(was), made.classes(now)
    own = _texts(after, made.target)
    ids = [str(unit) for unit in after.units["id"]]
    left: list[str] = []
    without: list[str] = []
    for row, class_now in enumerate(classes_are):
        if was[row] == now[row] or own[row] == class_now:
            continue
        if own[row] == classes_were[row]:
            own[row] = class_now
        else:
            (left if was[row] else without).append(ids[row])
    note = f"{made.reads!r} changed, so the map {made.name} was applied again to make {made.target!r}."
    warnings = []
    if left:
        warnings.append(
            f"{made.reads!r} changed for {counted(len(left), 'unit')} whose {made.target!r} the "
            f"map {made.name} had not made; it was left as it is ({_listed(left)}). "
            f"nuclr label {data} --label-map {made.name} --overwrite-labels replaces it."
        )
    if without:
        warnings.append(
            f"{counted(len(without), 'unit')} had no {made.reads!r} before, and a {made.target!r} other than "
            f"the map {made.name} makes of the new one; it was left as it is ({_listed(without)}). "
            f"nuclr label {data} --label-map {made.name} --overwrite-labels replaces it."
        )
    units = {**after.units, made.target: np.array(own, dtype=np.str_)}
    return replace(after, units=units, notes=(note,), warnings=tuple(warnings))


def _unknown(made: MadeColumn, raw: str, data: str) -> str:
    command = f"nuclr label {data} --label-map {made.name} --overwrite-labels"
    if made.reads:
        return (
            f"{raw!r} changed, and {made.target!r} was made from it by the map {made.name}, which the file "
            f"does not hold: its classes are those of before. {command} makes them again."
        )
    target = repr(made.target) if made.target else "a column"
    return (
        f"{raw!r} changed. If the map {made.name}, which made {target} and which the file does not hold, "
        f"read it, the classes are those of before. {command} makes them again."
    )


def in_order(columns: Sequence[MadeColumn]) -> list[MadeColumn]:
    """The same columns, each after the one that it was made from."""
    ordered: list[MadeColumn] = []
    waiting = list(columns)
    while waiting:
        targets = {column.target for column in waiting}
        ready = [column for column in waiting if column.reads not in targets] or waiting[:1]  # else a circle
        ordered += ready
        waiting = [column for column in waiting if column not in ready]
    return ordered


def _texts(population: Population, column: str) -> list[str]:
    """(N,) texts of a column, '' where there is none or it has several values per unit."""
    values: NDArray[Any] | None = population.units.get(column)
    if values is None or values.ndim != 1:
        return [""] * population.n_units
    return texts_of(values)


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_SHOWN]) + (", ..." if len(ids) > _SHOWN else "")
