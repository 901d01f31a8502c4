"""Names in a split file that fit nothing, and what they were probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

KEY_COLUMNS = ("subject", "session", "population", "unit_id")
_VALUES = ("fold", "role")
_SHOWN = 5
_DIGITS = str.maketrans("oil", "011")


def close_name(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most like one, whatever the case; None where none is.

    A number that lost its leading zeros, as in a spreadsheet, is the same number; a letter that looks like a
    digit is likely that digit.
    """
    plain: dict[str, str] = {}
    looks: dict[str, str] = {}
    for one in known:
        plain.setdefault(_plain(one), one)
        looks.setdefault(_look(one), _plain(one))
    found = [_plain(name)] if _plain(name) in plain else [looks[_look(name)]] if _look(name) in looks else []
    found = found or difflib.get_close_matches(_plain(name), plain, n=1, cutoff=cutoff)
    return plain[found[0]] if found else None


def describe_columns(found: Sequence[str]) -> str:
    """Columns of a split file that are probably meant as one that it has not; empty where there are none."""
    absent = [name for name in (*KEY_COLUMNS, *_VALUES) if name not in found]
    if any(name in found for name in _VALUES):
        absent = [name for name in absent if name not in _VALUES]
    said = []
    for name in found:
        close = None if name in (*KEY_COLUMNS, *_VALUES) else close_name(name, absent, 0.7)
        if close is not None:
            said.append(f"{name!r} (did you mean {close!r}?)")
    return f"{', '.join(said)}." if said else ""


def describe_strangers(
    columns: Sequence[str], lines: Mapping[tuple[str, ...], str], known: Sequence[tuple[str, ...]]
) -> str:
    """The rows of a split file that fit no unit, by the first value of each that is not known there.

    Args:
        columns: Of the keys.
        lines: Key of each row -> where it stands, for people.
        known: Keys of the embedded units, in these columns.

    Returns:
        A sentence for people; empty where every row fits a unit.
    """
    there = set(known)
    strange = [key for key in lines if key not in there]
    if not strange:
        return ""
    values: dict[tuple[str, ...], dict[str, None]] = {}
    for key in there:
        for place in range(len(columns)):
            values.setdefault(key[:place], {})[key[place]] = None
    rows_of: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for key in strange:
        place = next(i for i in range(len(columns)) if key[i] not in values[key[:i]])
        rows_of.setdefault(key[: place + 1], []).append(key)
    said = []
    for stem, rows in list(rows_of.items())[:_SHOWN]:
        place = len(stem) - 1
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        # A name that would make this row a second one of another line was hardly meant.
        free = [
            value
            for value in sorted(values[stem[:-1]])
            if (*stem[:-1], value, *rows[0][place + 1 :]) not in lines
        ]
        named = {key[place] for key in lines if key[:place] == stem[:-1]}
        close = close_name(stem[-1], [value for value in free if value not in named])
        close = close or close_name(stem[-1], free)
        above = f" of {'/'.join(stem[:-1])}" if place else ""
        meant = "" if close is None else f" (did you mean {close!r}?)"
        said.append(f"{lines[rows[0]]}{more}: no {columns[place]} {stem[-1]!r}{above}{meant}")
    if len(rows_of) > _SHOWN:
        said.append(f"and {len(rows_of) - _SHOWN} more names")
    return f"{'; '.join(said)}."


def _plain(name: str) -> str:
    return name.casefold().lstrip("0") or name


def _look(name: str) -> str:
    """`name` with digits for the letters that look like them."""
    return _plain(name.casefold().translate(_DIGITS))
