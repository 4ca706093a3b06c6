"""What pages draw: action plots, curves, lineage. Drawings are inline SVG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from gymnast_core.evaluation.statistics import Interval
from gymnast_core.records.lineage import Lineage
from gymnast_core.types import FloatArray

ACTION_NAMES = ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper")
COLUMNS = {"policy": 0, "audit": 1, "world_model": 1, "judge": 1, "dataset": 2, "label": 3, "episode": 4, "external": 4}
MOST_BOXES = 6
"""Of one kind that a lineage draws one by one."""
TITLES = {"external": "made elsewhere"}


def action_plot(actions_TA: FloatArray) -> Markup:
    """Return translation, rotation and gripper over control steps, as three small plots with a common axis."""
    groups = ((slice(0, 3), "m", 0.05), (slice(3, 6), "rad", 0.25), (slice(6, 7), "open", 1.0))
    parts = []
    for row, (columns, unit, limit) in enumerate(groups):
        top = 12 + row * 96
        low = 0.0 if unit == "open" else -limit
        parts.append(_frame(top, 72, low, limit, unit))
        for index, values_T in enumerate(actions_TA[:, columns].T):
            points = _points(np.arange(len(values_T)), values_T, top, 72, max(len(values_T) - 1, 1), low, limit)
            name = ACTION_NAMES[columns.start + index]
            parts.append(f'<polyline class="line c{index}" points="{points}"><title>{name}</title></polyline>')
            parts.append(f'<text class="c{index}" x="{628}" y="{top + 14 + 18 * index}">{name}</text>')
    return _svg(300, "".join(parts), f"actions over {len(actions_TA)} steps")


def curve(values: Sequence[float], *, label: str, total: int = 0) -> Markup:
    """Return one curve of shares 0..1 over iterations; empty without values."""
    if not values:
        return Markup("")
    points = _points(np.arange(len(values)), np.asarray(values), 10, 150, max(total - 1, len(values) - 1, 1), 0.0, 1.0)
    last_x, last_y = points.split(" ")[-1].split(",")
    body = _frame(10, 150, 0.0, 1.0, "") + f'<polyline class="line c0" points="{points}"/>'
    body += f'<circle class="dot" cx="{last_x}" cy="{last_y}" r="4"/>'
    body += f'<text class="c0" x="{min(float(last_x) + 10, 640)}" y="{float(last_y) + 4}">{values[-1]:.0%}</text>'
    return _svg(180, body, f"{label} over {len(values)} iterations")


def rounds_chart(rates: Sequence[Interval]) -> Markup:
    """Return success over the rounds of a loop, round 0 first, with 95 % whiskers."""
    values = np.array([rate.mean for rate in rates])
    last = max(len(rates) - 1, 1)
    parts = [_frame(10, 190, 0.0, 1.0, "")]
    parts.append(
        f'<polyline class="line c0" points="{_points(np.arange(len(values)), values, 10, 190, last, 0.0, 1.0)}"/>'
    )
    for number, rate in enumerate(rates):
        x = 46 + 570 * number / last
        low, middle, high = (10 + 190 * (1 - value) for value in (rate.low, rate.mean, rate.high))
        parts.append(f'<line class="line c0" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{middle:.1f}" r="4"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="222" text-anchor="middle">{number}</text>')
    return _svg(228, "".join(parts), f"success over {len(rates) - 1} rounds")


def lineage_graph(lineage: Lineage, links: Mapping[str, str]) -> Markup:
    """Return a drawing of who made whom; kinds with many members are one box each, with their number.

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
    parts = []
    for child, parent in edges:
        (x1, y1), (x2, y2) = place[child], place[parent]
        start, end = (x1 + 156, x2) if x2 > x1 else (x1 + 156, x2 + 156)
        bend = max(abs(end - start) / 2, 40)
        parts.append(
            f'<path class="edge" d="M{start:.0f} {y1 + 22:.0f} C{start + bend:.0f} {y1 + 22:.0f} '
            f'{end + (bend if x2 <= x1 else -bend):.0f} {y2 + 22:.0f} {end:.0f} {y2 + 22:.0f}"/>'
        )
    for name, box in boxes.items():
        x, y = place[name]
        drawn = (
            f'<g class="box {escape(box["kind"])}"><rect x="{x:.0f}" y="{y:.0f}" width="156" height="44" rx="5"/>'
            f'<text x="{x + 10:.0f}" y="{y + 18:.0f}">{escape(box["title"])}</text>'
            f'<text class="small" x="{x + 10:.0f}" y="{y + 35:.0f}">{escape(box["note"])}</text></g>'
        )
        parts.append(f'<a href="{escape(links[name])}">{drawn}</a>' if name in links else drawn)
    return _svg(height, "".join(parts), "lineage", width=920)


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


def _points(x: Any, y: Any, top: float, height: float, last: float, low: float, high: float) -> str:
    share = np.clip((np.asarray(y) - low) / (high - low), 0, 1)
    return " ".join(
        f"{46 + 570 * float(a) / last:.1f},{top + height * (1 - float(b)):.1f}" for a, b in zip(x, share, strict=True)
    )


def _frame(top: float, height: float, low: float, high: float, unit: str) -> str:
    middle = (low + high) / 2
    ticks = []
    for value in (low, middle, high):
        y = top + height * (1 - (value - low) / (high - low))
        text = f"{value:.0%}" if not unit else f"{value:g}"
        ticks.append(f'<line class="grid" x1="46" x2="616" y1="{y:.1f}" y2="{y:.1f}"/>')
        ticks.append(f'<text class="tick" x="40" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    return "".join(ticks)


def _svg(height: float, body: str, label: str, width: int = 700) -> Markup:
    drawing = f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{escape(label)}">{body}</svg>'
    return Markup(f'<div class="scroll">{drawing}</div>')
