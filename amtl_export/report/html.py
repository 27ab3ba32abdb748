"""Pieces of a page: escaped texts, tables, bars and lines, without scripts and without anything from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

#: Light and dark by the reader's own setting; one column on a narrow screen.
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #ffffff; --line: #d0d7de; --bar: #1f6feb;
  --other: #8c959f; --good: #116329; --bad: #a40e26; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9da7b1; --paper: #0d1117; --line: #30363d;
  --bar: #58a6ff; --other: #6e7681; --good: #56d364; --bad: #ff7b72; } }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p.lead { font-size: 1.1rem; } .soft, figcaption, caption { color: var(--soft); }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
table { border-collapse: collapse; width: 100%; } caption { text-align: left; }
th, td { text-align: left; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 0 1.5rem; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; } td.number { white-space: nowrap; }
td:first-child { overflow-wrap: anywhere; min-width: 8rem; } .scroll { overflow-x: auto; } figure { margin: 1rem 0; }
.bars { display: grid; grid-template-columns: minmax(6rem, 14rem) 1fr auto; gap: .2rem .6rem; align-items: center; }
.bars i { display: block; height: .9rem; background: var(--bar); } .bars i.other { background: var(--other); }
svg { width: 100%; max-width: 40rem; height: auto; } svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .axis { stroke: var(--other); } svg .level { stroke: var(--other); stroke-dasharray: 4 4; }
svg .curve { stroke: var(--bar); fill: none; stroke-width: 2; }
svg .dot { fill: var(--bar); } svg .chosen { fill: none; stroke: var(--bad); stroke-width: 2; }
pre { overflow-x: auto; padding: .6rem; border: 1px solid var(--line); max-height: 24rem; }
summary { cursor: pointer; }
"""


def page(title: str, sections: Iterable[str]) -> str:
    """A whole document.

    Args:
        title: a text.
        sections: HTML.
    """
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style></head>\n<body><main>\n<h1>{escape(title)}</h1>\n" + "\n".join(sections) + "\n"
        "</main></body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading and what stands under it; nothing if nothing does."""
    body = "\n".join(part for part in parts if part)
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>" if body else ""


def paragraph(text: str, kind: str = "") -> str:
    """Of a text."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """Texts in rows; a column of numbers alone stands to the right."""
    rows = list(rows)
    if not rows:
        return ""
    numbers = [all(_is_number(text) for text in own if text) for own in zip(*rows, strict=True)]
    kinds = [' class="number"' if number else "" for number in numbers]
    head = "".join(f'<th scope="col"{kind}>{escape(text)}</th>' for text, kind in zip(heads, kinds, strict=True))
    lines = ["".join(f"<td{kind}>{escape(text)}</td>" for text, kind in zip(row, kinds, strict=True)) for row in rows]
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "".join(f"<tr>{line}</tr>" for line in (head, *lines))
    return f'<div class="scroll"><table>{said}{body}</table></div>'


def _is_number(text: str) -> bool:
    return text.removeprefix("-").removeprefix("+")[:1].isdigit()


def bars(rows: Sequence[tuple[str, float, str]], caption: str, *, first_is_other: bool = False) -> str:
    """Horizontal bars.

    Args:
        rows: name, length, and what stands behind the bar.
        caption: what the lengths are, with their unit.
        first_is_other: whether the first is what the others are held against.
    """
    most = max((length for _, length, _ in rows), default=0.0) or 1.0
    cells = [
        f"<span>{escape(name)}</span><i{' class=other' if first_is_other and not number else ''} "
        f'style="width:{100 * length / most:.2f}%"></i><span>{escape(text)}</span>'
        for number, (name, length, text) in enumerate(rows)
    ]
    return f'<figure><div class="bars">{"".join(cells)}</div><figcaption>{escape(caption)}</figcaption></figure>'


@dataclass(frozen=True)
class Axis:
    """One direction of a plot.

    Attributes:
        name: what goes along it, with its unit.
        ends: its least and its greatest value; None takes those of the points.
        logarithmic: equal factors are equally long; all values are above 0.
    """

    name: str
    ends: tuple[float, float] | None = None
    logarithmic: bool = False

    def span(self, values: Sequence[float]) -> tuple[float, float]:
        """Its ends, which differ."""
        low, high = self.ends or (min(values), max(values))
        if high > low:
            return low, high
        return (low / 2, high * 2) if self.logarithmic else (low - 0.5, high + 0.5)

    def part(self, value: float, ends: tuple[float, float]) -> float:
        """How far a value is along it, from 0 to 1."""
        low, high, value = map(math.log, (*ends, value)) if self.logarithmic else (*ends, value)
        return (value - low) / (high - low)


def curve(
    points: Sequence[tuple[float, float]],
    x: Axis,
    y: Axis,
    caption: str,
    chosen: tuple[float, float] | None = None,
    level: float | None = None,
) -> str:
    """A line through points, with the ends of both axes written on them.

    Args:
        points: at least one.
        x: what goes to the right.
        y: what goes up.
        caption: what is seen.
        chosen: a point with a ring around it.
        level: a value of y that is drawn across, dashed.
    """
    width, height, left, low, top = 480, 256, 64, 40, 32
    xs = x.span([own[0] for own in points])
    ys = y.span([own[1] for own in points] + ([] if level is None else [level]))

    def at(point: tuple[float, float]) -> tuple[float, float]:
        right, up = x.part(point[0], xs), y.part(point[1], ys)
        return left + right * (width - left - 16), (height - low) - up * (height - low - top)

    places = [at(point) for point in sorted(points)]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    drawn = f'<path class="axis" fill="none" d="M{left} {top}V{height - low}H{width - 16}"/>'
    if level is not None:
        drawn += f'<path class="level" fill="none" d="M{left} {at((xs[0], level))[1]:.1f}H{width - 16}"/>'
    drawn += f'<polyline class="curve" points="{line}"/>'
    drawn += "".join(f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in places)
    if chosen is not None:
        a, b = at(chosen)
        drawn += f'<circle class="chosen" cx="{a:.1f}" cy="{b:.1f}" r="7"/>'
    texts: list[tuple[float, float, str, str]] = [
        (left, height - 24, "start", f"{xs[0]:.4g}"),
        (width - 16, height - 24, "end", f"{xs[1]:.4g}"),
        (left - 6, height - low, "end", f"{ys[0]:.4g}"),
        (left - 6, top + 4, "end", f"{ys[1]:.4g}"),
        ((left + width) / 2, height - 6, "middle", x.name),
        (left, 12, "start", y.name),
    ]
    drawn += "".join(
        f'<text x="{a:.0f}" y="{b:.0f}" text-anchor="{anchor}">{escape(text)}</text>' for a, b, anchor, text in texts
    )
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(caption)}">{drawn}</svg>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def plots(figures: Iterable[str]) -> str:
    """Figures side by side, as many as there is room for."""
    body = "".join(figures)
    return f'<div class="plots">{body}</div>' if body else ""


def code(text: str, title: str) -> str:
    """A text to copy, folded away."""
    return folded(title, f"<pre>{escape(text)}</pre>")


def folded(title: str, body: str) -> str:
    """HTML that a reader unfolds."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"
