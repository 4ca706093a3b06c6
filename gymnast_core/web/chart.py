"""Drawings as inline SVG, for pages and reports: elements that escape what they hold, and an area with coordinates.

Colours are left to the page: a mark names a class of its style sheet, or a CSS variable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape


def tag(name: str, *content: str, **attributes: str | float) -> Markup:
    """Return one element.

    Args:
        name: of the element.
        content: what is inside; text that is no Markup is escaped.
        attributes: text or numbers, which are rounded to a tenth; `class_` is class, `text_anchor` is text-anchor.
    """
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"' for key, value in attributes.items()
    )
    inner = "".join(map(escape, content))
    return Markup(f"<{name}{words}>{inner}</{name}>" if content else f"<{name}{words}/>")


def _short(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")


def drawing(width: float, height: float, parts: Iterable[str], /, *, label: str, **attributes: str | float) -> Markup:
    """Return the whole picture; label is what a screen reader reads."""
    box = f"0 0 {width:.0f} {height:.0f}"
    return tag("svg", Markup("").join(parts), viewBox=box, role="img", aria_label=label, **attributes)


@dataclass(frozen=True)
class Plot:
    """An area of a drawing with data coordinates; values outside of its y range are drawn on its edge.

    Attributes:
        left: edge, in the drawing's units.
        right: edge.
        top: edge.
        bottom: edge, below top: SVG counts downwards.
        first: x value at the left edge.
        last: x value at the right edge; of a single value, which is drawn at the left, the same as first.
        low: y value at the bottom.
        high: y value at the top.
    """

    left: float
    right: float
    top: float
    bottom: float
    first: float = 0.0
    last: float = 1.0
    low: float = 0.0
    high: float = 1.0

    def x(self, value: float) -> float:
        """Place of an x value."""
        return self.left + (self.right - self.left) * (value - self.first) / ((self.last - self.first) or 1.0)

    def y(self, value: float) -> float:
        """Place of a y value."""
        share = (value - self.low) / max(self.high - self.low, 1e-6)
        return self.bottom - (self.bottom - self.top) * float(np.clip(share, 0.0, 1.0))

    def line(self, xs: Sequence[float], ys: Sequence[float], *content: str, **style: str | float) -> Markup:
        """A curve through points; content is a title that appears under the pointer."""
        return tag("polyline", *content, points=self._points(xs, ys), **style)

    def band(self, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], **style: str | float) -> Markup:
        """What lies between two curves."""
        there, back = self._points(xs, highs), self._points(xs[::-1], lows[::-1])
        return tag("polygon", points=f"{there} {back}", **style)

    def dot(self, x: float, y: float, **style: str | float) -> Markup:
        """A circle at a point; style holds its radius r."""
        return tag("circle", cx=self.x(x), cy=self.y(y), **style)

    def whisker(self, x: float, low: float, high: float, **style: str | float) -> Markup:
        """An interval as an upright line."""
        return tag("line", x1=self.x(x), x2=self.x(x), y1=self.y(low), y2=self.y(high), **style)

    def rule(self, y: float, text: str, gap: float = 6.0, **style: str | float) -> Markup:
        """A horizontal line over the whole width, with its value to the left of it."""
        across = tag("line", x1=self.left, x2=self.right, y1=self.y(y), y2=self.y(y), **style)
        return across + self.text(self.left - gap, self.y(y) + 4, text, text_anchor="end", class_="tick")

    @staticmethod
    def text(x: float, y: float, words: object, **style: str | float) -> Markup:
        """Words at a place of the drawing, not of the data."""
        return tag("text", str(words), x=x, y=y, **style)

    def _points(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        return " ".join(f"{self.x(float(x)):.1f},{self.y(float(y)):.1f}" for x, y in zip(xs, ys, strict=True))
