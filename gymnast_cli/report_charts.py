"""The report's curve as inline SVG: imagined reward, with real successes beside it. Colours are CSS variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from gymnast_core.evaluation.statistics import wilson_interval
from gymnast_core.web.chart import Plot, drawing, tag

WIDTH, HEIGHT = 960, 300
CURVE_COLOURS = ("var(--after)", "var(--second)", "var(--third)", "var(--before)")


def curves_of(imagined_reward: Any) -> dict[str, list[dict[str, Any]]]:
    """Return named curves of {iteration, reward, real} from any of the accepted forms."""
    if isinstance(imagined_reward, Mapping):
        return {str(name): _points(curve) for name, curve in imagined_reward.items() if curve}
    return {"imagined reward": _points(imagined_reward)} if len(imagined_reward) else {}


def _points(curve: Sequence[Any]) -> list[dict[str, object]]:
    points = []
    for index, entry in enumerate(curve):
        if isinstance(entry, Mapping):
            reward = entry.get("reward", entry.get("mean"))
            points.append({"iteration": entry.get("iteration", index + 1), "reward": reward, "real": entry.get("real")})
        else:
            points.append({"iteration": index + 1, "reward": float(entry), "real": None})
    return points


def reward_chart(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Markup:
    """Return the curves over iterations, with real successes as dots with 95 % whiskers; empty without points."""
    if not curves:
        return Markup("")
    iterations = [point["iteration"] for curve in curves.values() for point in curve]
    plot = Plot(56, WIDTH - 190, 16, HEIGHT - 48, first=min(iterations), last=max(iterations))
    parts = _reward_axes(plot)
    for (name, curve), colour in zip(curves.items(), CURVE_COLOURS * len(curves), strict=False):
        parts += _curve(plot, name, curve, colour)
    return drawing(WIDTH, HEIGHT, parts, label="Mean judged reward of imagined rollouts, by training iteration")


def _reward_axes(plot: Plot) -> list[Markup]:
    parts = [plot.rule(tick / 100, f"{tick} %", 10, stroke="var(--rule)") for tick in range(0, 101, 25)]
    below, first, last = {"class_": "tick", "text_anchor": "middle"}, int(plot.first), int(plot.last)
    for iteration in range(first, last + 1, max(1, round((last - first) / 10))):
        parts.append(plot.text(plot.x(iteration), plot.bottom + 20, iteration, **below))
    return [*parts, plot.text((plot.left + plot.right) / 2, plot.bottom + 40, "GRPO iteration", **below)]


def _curve(plot: Plot, name: str, curve: Sequence[Mapping[str, Any]], colour: str) -> list[Markup]:
    xs, ys = [point["iteration"] for point in curve], [point["reward"] for point in curve]
    parts = [plot.line(xs, ys, fill="none", stroke=colour, stroke_width=2.5, stroke_linejoin="round")]
    parts += [plot.dot(x, y, r=3, fill=colour) for x, y in zip(xs, ys, strict=True)]
    parts.append(plot.text(plot.x(xs[-1]) + 12, plot.y(ys[-1]) + 4, name, style=f"color: {colour}", font_weight="600"))
    return parts + [_real_dot(plot, point["iteration"], point["real"]) for point in curve if point["real"]]


def _real_dot(plot: Plot, iteration: float, counts: Mapping[str, int]) -> Markup:
    rate = wilson_interval(counts["successes"], counts["n"])
    x, y = plot.x(iteration) - 4.5, plot.y(rate.mean) - 4.5
    box = tag("rect", x=x, y=y, width=9, height=9, fill="var(--paper)", stroke="var(--ink)", stroke_width=2)
    return plot.whisker(iteration, rate.low, rate.high, stroke="var(--ink)", stroke_width=1.5) + box
