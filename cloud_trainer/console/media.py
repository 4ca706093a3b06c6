"""What pages draw: action plots, curves, lineage. Drawings are inline SVG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from gymnast_core.evaluation.statistics import Interval
from gymnast_core.records.lineage import Lineage
from gymnast_core.types import FloatArray
from gymnast_core.web.chart import Plot, drawing, tag

ACTION_NAMES = ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper")
COLUMNS = {"policy": 0, "audit": 1, "world_model": 1, "judge": 1, "dataset": 2, "label": 3, "episode": 4, "external": 4}
MOST_BOXES = 6
"""Of one kind that a lineage draws one by one."""
TITLES = {"external": "made elsewhere"}


def action_plot(actions_TA: FloatArray) -> Markup:
    """Return translation, rotation and gripper over control steps, as three small plots with a common axis."""
    groups = ((slice(0, 3), -0.05, 0.05), (slice(3, 6), -0.25, 0.25), (slice(6, 7), 0.0, 1.0))
    parts = []
    for row, (columns, low, high) in enumerate(groups):
        top = 12 + row * 96
        plot = _plot(len(actions_TA), top, top + 72, low, high)
        parts += [plot.rule(value, f"{value:g}", class_="grid") for value in (low, (low + high) / 2, high)]
        for index, values_T in enumerate(actions_TA[:, columns].T):
            name = ACTION_NAMES[columns.start + index]
            parts.append(plot.line(range(len(values_T)), values_T, tag("title", name), class_=f"line c{index}"))
            parts.append(plot.text(628, top + 14 + 18 * index, name, class_=f"c{index}"))
    return _scrolled(700, 300, parts, f"actions over {len(actions_TA)} steps")


def curve(values: Sequence[float], *, label: str, total: int = 0) -> Markup:
    """Return one curve of shares 0..1 over iterations; empty without values."""
    if not values:
        return Markup("")
    plot, last = _plot(max(total, len(values)), 10, 160), len(values) - 1
    parts = [*_shares(plot), plot.line(range(len(values)), values, class_="line c0")]
    parts.append(plot.dot(last, values[-1], r=4, class_="dot"))
    place = min(plot.x(last) + 10, 640), plot.y(values[-1]) + 4
    parts.append(plot.text(*place, f"{values[-1]:.0%}", class_="c0"))
    return _scrolled(700, 180, parts, f"{label} over {len(values)} iterations")


def rounds_chart(rates: Sequence[Interval]) -> Markup:
    """Return success over the rounds of a loop, round 0 first, with 95 % whiskers."""
    plot = _plot(len(rates), 10, 200)
    parts = [*_shares(plot), plot.line(range(len(rates)), [rate.mean for rate in rates], class_="line c0")]
    for number, rate in enumerate(rates):
        parts.append(plot.whisker(number, rate.low, rate.high, class_="line c0"))
        parts.append(plot.dot(number, rate.mean, r=4, class_="dot"))
        parts.append(plot.text(plot.x(number), 222, number, class_="tick", text_anchor="middle"))
    return _scrolled(700, 228, parts, f"success over {len(rates) - 1} rounds")


def _plot(values: int, top: float, bottom: float, low: float = 0.0, high: float = 1.0) -> Plot:
    """The area of so many values."""
    return Plot(46, 616, top, bottom, last=max(values - 1, 1), low=low, high=high)


def _shares(plot: Plot) -> list[Markup]:
    return [plot.rule(share, f"{share:.0%}", class_="grid") for share in (0.0, 0.5, 1.0)]


def _scrolled(width: float, height: float, parts: Sequence[str], label: str) -> Markup:
    return tag("div", drawing(width, height, parts, label=label), class_="scroll")


def lineage_graph(lineage: Lineage, links: Mapping[str, str]) -> Markup:
    """Return a drawing of what was made from what; kinds with many members are one box each, with their number.

    Args:
        lineage: of one checkpoint.
        links: id -> address, for boxes that have a page.
    """
    boxes, edges = _condensed(lineage)
    columns: dict[int, list[str]] = {}
    for name, box in boxes.items():
        columns.setdefault(box["column"], []).append(name)
    height = 30 + 62 * max(len(names) for names in columns.values())
    place = {
        name: (10 + column * 186, 20 + (height - 30) * (row + 0.5) / len(names) - 22)
        for column, names in columns.items()
        for row, name in enumerate(names)
    }
    parts = [_edge(*place[child], *place[parent]) for child, parent in edges]
    for name, box in boxes.items():
        drawn = _box(*place[name], box)
        parts.append(tag("a", drawn, href=links[name]) if name in links else drawn)
    return _scrolled(920, height, parts, "lineage")


def _edge(x1: float, y1: float, x2: float, y2: float) -> Markup:
    """A bent line between two boxes, given by their upper left corners."""
    start, end = (x1 + 156, x2) if x2 > x1 else (x1 + 156, x2 + 156)
    bend = max(abs(end - start) / 2, 40)
    to = end + (bend if x2 <= x1 else -bend)
    path = (
        f"M{start:.0f} {y1 + 22:.0f} C{start + bend:.0f} {y1 + 22:.0f} {to:.0f} {y2 + 22:.0f} {end:.0f} {y2 + 22:.0f}"
    )
    return tag("path", d=path, class_="edge")


def _box(x: float, y: float, box: Mapping[str, object]) -> Markup:
    x, y = round(x), round(y)
    return tag(
        "g",
        tag("rect", x=x, y=y, width=156, height=44, rx=5),
        Plot.text(x + 10, y + 18, box["title"]),
        Plot.text(x + 10, y + 35, box["note"], class_="small"),
        class_=f"box {box['kind']}",
    )


def _condensed(lineage: Lineage) -> tuple[dict[str, dict[str, Any]], list[tuple[str, str]]]:
    """Boxes by name and edges between them; more than MOST_BOXES of a kind are folded into one."""
    names: list[str] = []
    boxes: dict[str, dict[str, Any]] = {}
    members = Counter(node.kind for node in lineage.nodes[1:])
    for index, node in enumerate(lineage.nodes):
        many = index > 0 and (node.kind in ("label", "episode") or members[node.kind] > MOST_BOXES)
        name = f"*{node.kind}" if many else node.id
        names.append(name)
        if name not in boxes:
            column = 0 if index == 0 else COLUMNS.get(node.kind, 2) + (index > 0 and node.kind == "policy") * 4
            boxes[name] = {
                "kind": node.kind,
                "column": column,
                "count": 0,
                "title": TITLES.get(node.kind, node.kind.replace("_", " ")),
            }
        boxes[name]["count"] += 1
        boxes[name]["note"] = f"{boxes[name]['count']:,}" if many else node.id.rsplit("-", 1)[-1][:16]
    used = sorted({box["column"] for box in boxes.values()})
    for box in boxes.values():
        box["column"] = used.index(box["column"])
        if box["count"] > 1 and box["kind"] not in TITLES:
            box["title"] += "s"
    edges_E = zip(lineage.child_E.tolist(), lineage.parent_E.tolist(), strict=True)
    pairs = ((names[child], names[parent]) for child, parent in edges_E)
    return boxes, [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1]]
