"""The report's curve as inline SVG: imagined reward, with real successes beside it. Colours are CSS variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from gymnast_core.evaluation.statistics import wilson_interval

WIDTH = 960
CURVE_COLOURS = ("var(--after)", "var(--second)", "var(--third)", "var(--before)")


def curves_of(imagined_reward: Any) -> dict[str, list[dict[str, Any]]]:
    """Return named curves of {iteration, reward, real} from any of the accepted forms."""
    if isinstance(imagined_reward, Mapping):
        return {str(name): _points(curve) for name, curve in imagined_reward.items() if curve}
    return {"imagined reward": _points(imagined_reward)} if len(imagined_reward) else {}


def _points(curve: Sequence[Any]) -> list[dict[str, Any]]:
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
    left, right, top, bottom, height = 56, 190, 16, 48, 300
    last: float = max(point["iteration"] for curve in curves.values() for point in curve)
    first: float = min(point["iteration"] for curve in curves.values() for point in curve)

    def x_of(iteration: float) -> float:
        return left + (WIDTH - left - right) * (iteration - first) / max(last - first, 1)

    def y_of(rate: float) -> float:
        return height - bottom - (height - bottom - top) * rate

    parts = [_reward_axes(left, WIDTH - right, y_of, x_of, int(first), int(last), height - bottom)]
    for (name, curve), colour in zip(curves.items(), CURVE_COLOURS * len(curves), strict=False):
        parts.append(_curve(name, curve, colour, x_of, y_of))
    return _svg(height, "".join(parts), "Mean judged reward of imagined rollouts, by training iteration")


def _reward_axes(left: float, right: float, y_of: Any, x_of: Any, first: int, last: int, base: float) -> str:
    parts = []
    for tick in range(0, 101, 25):
        y = y_of(tick / 100)
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--rule)"/>')
        parts.append(f'<text class="tick" x="{left - 10}" y="{y + 4:.1f}" text-anchor="end">{tick} %</text>')
    step = max(1, round((last - first) / 10))
    for iteration in range(first, last + 1, step):
        x = x_of(iteration)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{base + 20}" text-anchor="middle">{iteration}</text>')
    middle = (left + right) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{base + 40}" text-anchor="middle">GRPO iteration</text>')
    return "".join(parts)


def _curve(name: str, curve: Sequence[Mapping[str, Any]], colour: str, x_of: Any, y_of: Any) -> str:
    path = " ".join(f"{x_of(p['iteration']):.1f},{y_of(p['reward']):.1f}" for p in curve)
    end = curve[-1]
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5" stroke-linejoin="round"/>']
    parts += [
        f'<circle cx="{x_of(p["iteration"]):.1f}" cy="{y_of(p["reward"]):.1f}" r="3" fill="{colour}"/>' for p in curve
    ]
    x, y = x_of(end["iteration"]), y_of(end["reward"])
    parts.append(
        f'<text x="{x + 12:.1f}" y="{y + 4:.1f}" style="color: {colour}" font-weight="600">{escape(name)}</text>'
    )
    for point in curve:
        if point["real"]:
            parts.append(_real_dot(x_of(point["iteration"]), point["real"], y_of))
    return "".join(parts)


def _real_dot(x: float, counts: Mapping[str, int], y_of: Any) -> str:
    interval = wilson_interval(counts["successes"], counts["n"])
    low, high, y = y_of(interval.low), y_of(interval.high), y_of(interval.mean)
    return (
        f'<line stroke="var(--ink)" stroke-width="1.5" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9" fill="var(--paper)" stroke="var(--ink)" '
        f'stroke-width="2"/>'
    )


def _svg(height: float, body: str, label: str) -> Markup:
    return Markup(f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">{body}</svg>')
