"""The demo's report.html: one self-contained page a stranger can read, written from result.json and recorded frames.

The page loads nothing: charts are inline SVG, films are WebP strips in data URIs, played by a few lines of script.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gymnast_cli import report_charts
from gymnast_cli.plain import plain
from gymnast_cli.report_media import ReportMedia, pair_view, strip_view
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.statistics import Interval, independent_difference, wilson_interval

TEMPLATES = Path(__file__).parent / "templates"
CANARY = {
    "promote": "showed it better", "roll_back": "showed it worse", "futile": "excluded a gain worth having",
    "exhausted": "was undecided",
}  # fmt: skip
"""Decision of a trial -> what its canary did."""


@dataclass(frozen=True)
class Comparison:
    """One row of before against after."""

    name: str
    before: Interval
    before_n: int
    after: Interval
    after_n: int
    difference: Interval

    @property
    def verdict(self) -> str:
        """better, worse or open, by the interval of the difference."""
        if self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "open"


def write_report(result: Mapping[str, object], media: ReportMedia, path: Path) -> Path:
    """Write the page and return its path.

    Args:
        result: result.json of the demo: before, after, difference, ttt, imagined_reward, audit, stages, seed,
            versions; optionally run_id, rounds, and "baselines" {name: {successes, n}}. Counts are {successes, n};
            stages {name, seconds, peak_memory_bytes}; imagined_reward is a list of numbers, or of
            {iteration, reward[, real: {successes, n}]}, or a mapping of curve names to such lists. Optional
            difference["tasks"][name] and ttt[...]["difference"] are {mean, low, high} like difference itself.
        media: frames to show.
        path: of the page; its folder must exist.

    Raises:
        ConfigError: the result lacks before, after or difference.
    """
    missing = [key for key in ("before", "after", "difference") if key not in result]
    if missing:
        raise ConfigError(f"result lacks {', '.join(missing)}; was the demo stopped before its last evaluation?")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, points=points, duration=duration, megabytes=megabytes, width=_width)
    page = environment.get_template("report.html").render(_context(result, media))
    path.write_text(page, encoding="utf-8")
    return path


def comparison(
    name: str, before: Mapping[str, int], after: Mapping[str, int], difference: Mapping[str, float] | None = None
) -> Comparison:
    """Return one row; without a paired difference the two rates are treated as independent."""
    if difference is None:
        between = independent_difference(before["successes"], before["n"], after["successes"], after["n"])
    else:
        between = Interval(difference["mean"], difference["low"], difference["high"])
    return Comparison(
        name,
        wilson_interval(before["successes"], before["n"]),
        before["n"],
        wilson_interval(after["successes"], after["n"]),
        after["n"],
        between,
    )


def headline(overall: Comparison) -> tuple[str, str]:
    """Return the verdict as a headline and the sentence that backs it; plain also when nothing was gained."""
    before, after = percent(overall.before.mean), percent(overall.after.mean)
    evidence = (
        f"On the same {overall.after_n} start states, of seeds never used for training or choosing: "
        f"{points(overall.difference.mean)} points, 95 % interval "
        f"{points(overall.difference.low)} to {points(overall.difference.high)}."
    )
    if overall.verdict == "better":
        return f"By practising in its dream the arm went from {before} to {after}.", evidence
    if overall.verdict == "worse":
        return f"Training in the dream made the arm worse: from {before} to {after}.", evidence
    return (
        f"No improvement shown: {before} before, {after} after.",
        evidence + " The interval includes zero, so this may be chance.",
    )


def percent(value: float) -> str:
    """Return a rate as '62.5 %'."""
    return f"{100 * value:.1f} %"


def _width(value: float) -> str:
    return f"{100 * value:.2f}%"


def points(value: float) -> str:
    """Return a difference of rates in signed percentage points, with a true minus."""
    return f"{100 * value:+.1f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Return '4.2 s' or '3 min 05 s'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def megabytes(count: float) -> str:
    """Return '812 MB' or '2.41 GB'."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _context(result: Mapping[str, Any], media: ReportMedia) -> dict[str, Any]:
    overall = comparison("all tasks", result["before"], result["after"], result["difference"])
    title, evidence = headline(overall)
    tasks = _task_rows(result)
    stages = list(result.get("stages", ()))
    return {
        "title": title,
        "evidence": evidence,
        "unchecked": _unchecked(result),
        "overall": overall,
        "tasks": tasks,
        "reward_svg": report_charts.reward_chart(report_charts.curves_of(result.get("imagined_reward", ()))),
        "baselines": _baseline_rows(result),
        "ttt": _ttt_rows(result.get("ttt") or {}),
        "ttt_note": _ttt_note(result.get("ttt") or {}),
        "audit": flatten(result.get("audit") or {}),
        "stages": stages,
        "stage_total_s": sum(stage["seconds"] for stage in stages),
        "stage_peak_bytes": max((stage.get("peak_memory_bytes", 0) for stage in stages), default=0),
        "strips": [strip_view(strips) for strips in media.strips],
        "pairs": [pair_view(pair) for pair in media.pairs],
        "facts": flatten({key: result[key] for key in ("run_id", "seed", "rounds") if key in result})
        + flatten(result.get("versions") or {}),
    }


def _unchecked(result: Mapping[str, Any]) -> bool:
    """Whether practice went on whatever the audit found, as in a smoke run."""
    return (result.get("config") or {}).get("improve", {}).get("check") is False


def _task_rows(result: Mapping[str, Any]) -> list[Comparison]:
    before, after = result["before"].get("tasks", {}), result["after"].get("tasks", {})
    differences = result["difference"].get("tasks", {})
    return [comparison(name, before[name], after[name], differences.get(name)) for name in before if name in after]


def _baseline_rows(result: Mapping[str, Any]) -> list[tuple[str, Interval, int]]:
    return [
        (name, wilson_interval(counts["successes"], counts["n"]), counts["n"])
        for name, counts in (result.get("baselines") or {}).items()
    ]


def _ttt_rows(ttt: Mapping[str, Any]) -> list[Comparison]:
    names = {"scene": "the new scene", "other_tasks": "the other tasks"}
    return [
        comparison(label, ttt[key]["before"], ttt[key]["after"], ttt[key].get("difference"))
        for key, label in names.items()
        if key in ttt
    ]


def _ttt_note(ttt: Mapping[str, object]) -> str:
    """What was decided, and one honest sentence on what test-time training did here and elsewhere."""
    cut = f"Practice was cut off by {ttt['ended_by']}." if ttt.get("ended_by") == "the time budget" else ""
    return " ".join(words for words in (_collected_words(ttt), cut, _canary_words(ttt), _measured_words(ttt)) if words)


def _collected_words(ttt: Mapping[str, Any]) -> str:
    real = (ttt.get("trust") or {}).get("real_episodes_here")
    return f"The trust check looked at {real} real episodes recorded there." if real is not None else ""


def _canary_words(ttt: Mapping[str, Any]) -> str:
    """What the arm decided, or why it was not asked."""
    if not (card := ttt.get("canary") or {}):
        return f"Nothing was tried on the arm: {ttt['reason']}." if ttt.get("reason") else ""
    change, kept = card["difference"], "kept for this scene" if ttt.get("kept") else "not kept"
    return (
        f"The canary on the arm {CANARY[card['decision']]} after {card['n']} pairs "
        f"({points(change['mean'])} points, 95 % interval {points(change['low'])} to {points(change['high'])}): the "
        f"candidate was {kept}.{' ' + ttt['reason'].capitalize() + '.' if card.get('guard') else ''}"
    )


def _measured_words(ttt: Mapping[str, object]) -> str:
    rows = {row.name: row for row in _ttt_rows(ttt)}
    if "the new scene" not in rows:
        return ""
    here = {
        "better": "It helped in the new scene.",
        "worse": "It did harm in the new scene.",
        "open": "In the new scene no difference is shown.",
    }[rows["the new scene"].verdict]
    if "the other tasks" not in rows:
        return here
    there = {
        "better": "The other tasks gained too.",
        "worse": "The other tasks got worse, so the adapter is for this scene only.",
        "open": "On the other tasks no difference is shown.",
    }[rows["the other tasks"].verdict]
    return f"{here} {there}"


def flatten(value: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as (name, text) rows, in their own order."""
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(item, Mapping):
            rows += flatten(item, f"{name} · ")
        else:
            rows.append((name, plain(item)))
    return rows
