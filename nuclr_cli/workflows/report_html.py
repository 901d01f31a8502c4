"""Pieces of HTML: text is escaped unless it is `Html` already, so that no file's text becomes markup."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from nuclr_cli.evaluation.records import NUCLR, Score


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, *inside: str, **attributes: str | bool | float | None) -> Html:
    """An element.

    Args:
        name: Of the element.
        inside: Children; text that is not `Html` is escaped.
        attributes: ``class_`` stands for ``class``, other underscores for hyphens. None and False leave an
            attribute out, True writes it without a value.
    """
    return Html(f"<{name}{_attributes(attributes)}>{join(*inside)}</{name}>")


def join(*inside: str) -> Html:
    """Children one after the other, text escaped."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in inside))


def _attributes(attributes: dict[str, str | bool | float | None]) -> str:
    written = []
    for key, value in attributes.items():
        name = key.rstrip("_").replace("_", "-")
        if value is True:
            written.append(f" {name}")
        elif value is not None and value is not False:
            written.append(f' {name}="{html.escape(str(value))}"')
    return "".join(written)


@dataclass(frozen=True)
class Column:
    """A column of a table; numbers stand on the right."""

    title: str
    number: bool = False


def table(caption: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Html:
    """A table that scrolls inside its own frame, also with the keyboard; the first cell names its row."""
    head = tag("tr", *(tag("th", one.title, scope="col", class_=_side(one)) for one in columns))
    body = [
        tag(
            "tr",
            *(
                tag("td" if i else "th", cell, class_=_side(one), scope=None if i else "row")
                for i, (one, cell) in enumerate(zip(columns, row, strict=True))
            ),
        )
        for row in rows
    ]
    whole = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body))
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _side(column: Column) -> str | None:
    return "number" if column.number else None


def details(summary: str, *inside: str) -> Html:
    """Something to unfold."""
    return tag("details", tag("summary", summary), *inside)


def facts(pairs: Sequence[tuple[str, str]]) -> Html:
    """Names and values; empty values are left out."""
    rows = [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs if value]
    return tag("dl", *rows, class_="facts")


def notices(warnings: Sequence[str], notes: Sequence[str] = ()) -> Html:
    """Warnings, then notes; nothing when there are none."""
    parts = [
        tag("ul", *(tag("li", text) for text in texts), class_=name)
        for name, texts in (("warnings", warnings), ("notes", notes))
        if texts
    ]
    return join(*parts)


def badge(knowledge: str) -> Html:
    """``inductive``, ``transductive`` or ``unknown``."""
    known = knowledge if knowledge in ("inductive", "transductive") else "unknown"
    return tag("span", knowledge or "unknown", class_=f"badge {known}")


def chart(name: str, label: str, shape: str = "") -> Html:
    """The place of a plot; the script draws it from the data of that name when it comes into sight.

    Args:
        name: Of the data.
        label: What it shows, for those who do not see it.
        shape: Empty, ``tall`` or ``square``.
    """
    return tag(
        "div",
        data_chart=name,
        class_=f"chart {shape}".strip(),
        role="img",
        aria_label=f"{label} The numbers are in the table below the plot.",
    )


@dataclass(frozen=True)
class ForestRow:
    """A line of a forest plot: one method, its score, and other numbers as text."""

    title: str
    score: Score | None
    others: tuple[str, ...]
    main: bool = False
    note: str = ""


def forest(
    caption: str,
    metric: str,
    others: Sequence[str],
    rows: Sequence[ForestRow],
    bounds: tuple[float, float] = (0.0, 1.0),
    *,
    of: str = "method",
) -> Html:
    """Points with intervals, and the numbers beside them, as one table.

    Args:
        caption: What it shows.
        metric: What is drawn.
        others: Titles of the other columns.
        rows: From above to below.
        bounds: Ends of the axis; what lies outside is drawn at the end.
        of: What a row is.
    """
    axis = tag("span", *(_tick(at, bounds) for at in ticks(bounds)), class_="axis", aria_hidden="true")
    head = tag(
        "tr",
        tag("th", of, scope="col", role="columnheader"),
        tag("th", axis, tag("span", f"{metric}, drawn", class_="unseen"), scope="col", role="columnheader"),
        tag("th", f"{metric} [95%]", scope="col", class_="number", role="columnheader"),
        *(tag("th", name, scope="col", class_="number", role="columnheader") for name in others),
        role="row",
    )
    body = [_forest_row(row, metric, others, bounds) for row in rows]
    remarks = [tag("li", tag("b", row.title), f": {row.note}") for row in rows if row.note]
    whole = tag(
        "table",
        tag("caption", caption),
        tag("thead", head, role="rowgroup"),
        tag("tbody", *body, role="rowgroup"),
        class_="forest",
        role="table",
    )
    return join(whole, tag("ul", *remarks, class_="notes")) if remarks else whole


def _forest_row(row: ForestRow, metric: str, others: Sequence[str], bounds: tuple[float, float]) -> Html:
    cells = [
        tag("td", value, class_="number", data_name=name, role="cell")
        for name, value in zip(others, row.others, strict=True)
    ]
    return tag(
        "tr",
        tag("th", row.title, scope="row", role="rowheader"),
        tag("td", track(row.score, bounds), class_="drawn", role="cell"),
        tag(
            "td",
            "" if row.score is None else with_interval(row.score),
            class_="number",
            data_name=metric,
            role="cell",
        ),
        *cells,
        class_="main" if row.main else None,
        role="row",
    )


def track(score: Score | None, bounds: tuple[float, float]) -> Html:
    """A point with its interval on a line, for the eye; the numbers stand beside it."""
    if score is None:
        return Html("")
    places = [_place(value, bounds) for value in (score.value, score.low, score.high)]
    lines = [tag("i", style=f"--at:{_place(at, bounds):.4f}", class_="grid") for at in ticks(bounds)]
    style = "--value:{:.4f};--low:{:.4f};--high:{:.4f}".format(*places)
    return tag("span", *lines, tag("i", class_="bar"), tag("i", class_="dot"), class_="track", style=style)


def ticks(bounds: tuple[float, float]) -> list[float]:
    """Round values between the ends, five or fewer."""
    low, high = bounds
    for step in (0.25, 0.5, 1.0, 2.0, 5.0, 10.0):
        first = -(-low // step)
        found = [step * (first + i) for i in range(int(high / step - first + 1e-9) + 1)]
        if len(found) <= 5:
            return found
    return [low, high]


def _tick(at: float, bounds: tuple[float, float]) -> Html:
    return tag("b", f"{at:g}", style=f"--at:{_place(at, bounds):.4f}")


def _place(value: float, bounds: tuple[float, float]) -> float:
    return min(max((value - bounds[0]) / (bounds[1] - bounds[0]), 0.0), 1.0)


def with_interval(score: Score, *, sign: bool = False) -> str:
    """``0.812 [0.701, 0.903]``."""
    form = "+.3f" if sign else ".3f"
    return f"{score.value:{form}} [{score.low:{form}}, {score.high:{form}}]"


def difference(score: Score | None) -> str:
    """NuCLR minus a method; empty for NuCLR itself."""
    return "" if score is None else with_interval(score, sign=True)


def is_main(name: str) -> bool:
    """Whether a method is the embedding under test."""
    return name == NUCLR


def number(value: float | None, form: str = ".3f") -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:{form}}"
