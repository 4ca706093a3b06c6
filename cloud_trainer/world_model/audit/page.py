"""The audit as one HTML file: verdict, curves and tables, and videos of real, imagined and difference side by side."""

from __future__ import annotations

import base64
import html
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cloud_trainer.world_model.audit.cases import AuditCase
from cloud_trainer.world_model.audit.figures import RateFigures
from cloud_trainer.world_model.audit.report import AuditReport, scalars
from cloud_trainer.world_model.data.video import write_video
from gymnast_core.jobs.audit import AT_LEAST
from gymnast_core.types import ByteArray, Outcome
from gymnast_core.web.chart import Plot, drawing, tag

MEANING: dict[str, str] = {
    "episodes": "held-out episodes whose imagined end was judged",
    "pictures": "held-out episodes dreamt frame by frame",
    "psnr_db": "likeness of imagined and real frames, mean over all steps; higher is closer",
    "fidelity_excess_m": "does the imagined gripper go where it was commanded: error beyond the tracker's own, metres",
    "gripper_response": "do the imagined fingers obey the command: share of the real fingers' answer",
    "lag": "steps between imagined and real path",
    "frame_lag": "steps between imagined and real frames: does a command take effect when it should",
    "gripper_change": "does the dream change when the gripper gets the opposite command: RMS of its pixels",
    "jump": "does anything leap that really did not: change of a block, 1 is black to white",
    "change_recall": "do objects move that really moved: share of their pixels",
    "trusted_steps": "imagined steps after which the error may exceed what is allowed",
    "agreement": "episodes whose imagined outcome is the real one",
    "false_success": "P(judge says success of the dream | it really failed)",
    "missed_success": "P(judge says failure of the dream | it really succeeded)",
    "optimism": "imagined minus real success rate",
    "correlation": "of judge score and real outcome over episodes",
    "cell_correlation": "of imagined and real success over tasks and policies",
    "coverage": "share of errors inside the nominal 90 % trust band; outside 85-95 % it is uncalibrated",
}
"""What a bound asks, for people."""

SIGHT = "Sight by policy: P(success said | it succeeded) - P(success said | it failed)"
"""Title of a table."""
_PANEL = 192
_GAP = 8
_STYLE = """
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}
td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #8884}
td:first-child,th:first-child,td.text,th.text{text-align:left}.bad{color:#c0392b;font-weight:600}.good{color:#1e8449;font-weight:600}
figure{display:inline-block;margin:.5rem 1rem .5rem 0}figcaption{font-size:13px;max-width:37rem}video{max-width:100%}
.panels{display:flex;justify-content:space-around;font-size:13px}
"""


def write_audit(folder: Path, report: AuditReport, cases: Sequence[AuditCase], *, videos: int = 6) -> Path:
    """Write audit.json and audit.html (self-contained, videos inside) and return the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "audit.json").write_text(json.dumps(report.to_json(), indent=1, allow_nan=False))
    page = folder / "audit.html"
    page.write_text(audit_page(report, cases, videos=videos), encoding="utf-8")
    return page


def audit_page(report: AuditReport, cases: Sequence[AuditCase], *, videos: int = 6) -> str:
    """Return the page; needs nothing from the network.

    Args:
        report: what is shown.
        cases: some of them are shown as videos, worst PSNR first.
        videos: how many.
    """
    worst = sorted(cases, key=lambda case: report.psnr_by_episode[case.episode.episode_id])
    spread = [worst[int(i)] for i in np.unique(np.linspace(0, len(worst) - 1, min(videos, len(worst))).round())]
    parts = [
        f"<h1>Audit of {html.escape(report.model) or 'a world model'}</h1>",
        _verdict(report),
        _table("Bounds", ("bound", "what it asks", "measured", "demanded", ""), _bound_rows(report)),
        "<h2>Real, imagined, difference</h2><p>The worst first. The model saw the frames up to the start of the "
        "dream and then only the recorded actions; black in the third panel is agreement.</p>"
        + "".join(_figure(case, report) for case in spread),
        _curve(report),
        _table("By horizon", ("step", "episodes", "PSNR dB", "95 %", "SSIM"), _horizon_rows(report)),
        _judge(report),
        _trust(report),
        f"<p>LPIPS: {html.escape(report.lpips)}.</p>",
    ]
    body = "\n".join(parts)
    head = f"<meta charset=utf-8><title>World model audit</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang=en>{head}{body}"


def _verdict(report: AuditReport) -> str:
    cap = report.trusted_steps
    horizon = "" if cap is None else f" Trust ends after {cap} imagined steps."
    episodes = max(report.pictures, 0 if report.outcomes is None else report.outcomes.episodes)
    if report.passed:
        return f"<p class=good>Passed on {episodes} held-out episodes.{horizon}</p>"
    reasons = "".join(f"<li>{html.escape(text)}</li>" for text in report.broken.values())
    return f"<p class=bad>Not trusted ({episodes} held-out episodes).{horizon}</p><ul class=bad>{reasons}</ul>"


def _bound_rows(report: AuditReport) -> list[tuple[object, ...]]:
    rows = [
        (name, MEANING[name], _show(value), _demanded(name, report.bounds.get(name)),
         "broken" if name in report.broken else "")
        for name, value in scalars(report).items()
    ]  # fmt: skip
    share = "–" if report.trust is None else f"{report.trust['coverage']:.0%}"
    demanded = "85-95 %" if report.bounds.get("coverage") else "–"
    broken = "broken" if "coverage" in report.broken else ""
    return [*rows, ("coverage", MEANING["coverage"], share, demanded, broken)]


def _demanded(name: str, bound: object) -> str:
    return _show(bound) if bound is None else f"{'≥' if name in AT_LEAST else '≤'} {_show(bound)}"


def _curve(report: AuditReport) -> str:
    """PSNR over imagined steps as a line with its 95 % band."""
    rows = report.horizon
    if len(rows) < 2:
        return ""
    low, high = min(row["psnr_low"] for row in rows), max(row["psnr_high"] for row in rows)
    plot = Plot(40, 580, 10, 140, last=len(rows) - 1, low=low, high=high)
    of = {name: [row[name] for row in rows] for name in ("psnr_low", "psnr_db", "psnr_high")}
    steps = range(len(rows))
    words = [
        plot.text(0, 16, f"{high:.1f}"), plot.text(0, 144, f"{low:.1f} dB"),
        plot.text(40, 164, f"step {rows[0]['step']}"),
        plot.text(580, 164, f"step {rows[-1]['step']}", text_anchor="end"),
    ]  # fmt: skip
    parts = [
        plot.band(steps, of["psnr_low"], of["psnr_high"], fill="#3498db44"),
        plot.line(steps, of["psnr_db"], fill="none", stroke="#3498db", stroke_width=2),
        tag("g", *words, font_size=12, fill="currentColor"),
    ]
    picture = drawing(600, 170, parts, label="PSNR by imagined step", width=600)
    caption = tag("figcaption", "PSNR by imagined step, mean over episodes with its 95 % interval")
    return tag("figure", picture, caption)


def _horizon_rows(report: AuditReport) -> list[tuple[object, ...]]:
    return [
        (row["step"], row["episodes"], _show(row["psnr_db"]), f"{row['psnr_low']:.1f}-{row['psnr_high']:.1f}",
         _show(row["ssim"]))
        for row in report.horizon
    ]  # fmt: skip


def _judge(report: AuditReport) -> str:
    outcomes = report.outcomes
    if outcomes is None:
        return "<h2>Outcomes</h2><p class=bad>No judge was given: outcomes were not audited.</p>"
    asked = (("imagined ends", outcomes.intervals), ("recorded ends", outcomes.on_real_frames))
    rows = [
        (label, _rate(found["false_success"]), _rate(found["missed_success"]), found["abstained"])
        for label, found in asked
        if found
    ]
    asked_of = ("episodes", "agreement", "imagined_success", "real_success")
    by_task = {**outcomes.by_task, "all": {name: float(getattr(outcomes, name)) for name in asked_of}}
    tasks = [
        (name, int(row["episodes"]), *(f"{row[key]:.0%}" for key in ("agreement", "imagined_success", "real_success")))
        for name, row in by_task.items()
    ]
    cells = [
        (f"{cell['task']} / {cell['policy']}", cell["n"], _rate(cell["real"]), _rate(cell["imagined"]))
        for cell in outcomes.cells["cells"]
    ]
    sights = [
        (policy, _show(row["sight"]), f"{_show(row['low'])} .. {_show(row['high'])}", row["succeeded"], row["failed"])
        for policy, row in outcomes.sight.items()
    ]
    over = outcomes.cells
    found = [
        (name, _show(value["value"]), f"{_show(value['low'])} .. {_show(value['high'])}")
        for name, value in (
            ("pearson_r", over.get("pearson_r")),
            ("rank_r", over.get("rank_r")),
            ("policy_order_kept", over.get("policy_order_kept")),
        )
        if value is not None
    ]
    head = (f"judge {outcomes.judge} on", "P(success | really failed)", "P(failure | really succeeded)", "abstained")
    return (
        _table("Outcomes", head, rows)
        + _table(SIGHT, ("policy", "sight", "95 %", "successes", "failures"), sights)
        + _table("By task", ("task", "episodes", "agreement", "imagined success", "real success"), tasks)
        + _table("Per task and policy", ("task / policy", "n", "real success", "imagined success"), cells)
        + _table("Over tasks and policies", ("", "value", "95 %"), found)
    )


def _trust(report: AuditReport) -> str:
    if report.trust is None:
        return "<h2>Trust</h2><p>No trust score: that takes 8 episodes with 2 dreams each.</p>"
    trust = report.trust
    said = (
        f"<p>Disagreement ranks errors with r = {trust['rank_r']:.2f} (at least {trust['rank_low']:.2f}); taken as it "
        f"is a 90 % band would cover {trust['raw_coverage']:.0%}; recalibrated it covers {trust['coverage']:.0%} of "
        f"held-out steps: <b>{trust['verdict']}</b>.</p>"
    )
    rows = [
        (int(row["step"]), _show(row["error"]), _show(row["disagreement"]), _show(row["upper_band"]))
        for row in trust["by_step"]
    ]
    return said + _table("Trust by step", ("step", "error (RMS)", "disagreement", "90 % band"), rows)


def _figure(case: AuditCase, report: AuditReport) -> str:
    panels = side_by_side(case.real_FHWC, case.imagined_KFHWC[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "v.mp4"
        write_video(path, panels, fps=5)
        data = base64.b64encode(path.read_bytes()).decode()
    episode = case.episode
    outcome = "Outcome not labelled" if episode.outcome is Outcome.UNLABELLED else f"Really {episode.outcome.value}"
    about = (
        f"{html.escape(episode.episode_id)}: {html.escape(episode.instruction)}. {outcome}; "
        f"PSNR {report.psnr_by_episode[episode.episode_id]:.1f} dB; imagined from frame {case.start + 1} on."
    )
    return (
        "<figure><div class=panels><span>real</span><span>imagined</span><span>difference</span></div>"
        f"<video controls loop muted autoplay playsinline src='data:video/mp4;base64,{data}'></video>"
        f"<figcaption>{about}</figcaption></figure>"
    )


def side_by_side(real: ByteArray, imagined: ByteArray) -> ByteArray:
    """Return (F, h, 3 w + gaps, 3): real, imagined, absolute difference, enlarged by whole numbers."""
    scale = max(1, _PANEL // real.shape[1])
    difference = np.abs(real.astype(np.int16) - imagined.astype(np.int16)).astype(np.uint8)
    gap = np.full((len(real), real.shape[1] * scale, _GAP, 3), 255, np.uint8)
    big = [panel.repeat(scale, axis=1).repeat(scale, axis=2) for panel in (real, imagined, difference)]
    return np.concatenate((big[0], gap, big[1], gap, big[2]), axis=2)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = "".join(
        "<tr" + (" class=bad" if row and row[-1] == "broken" else "") + ">"
        + "".join(f"<td{_side(value)}>{html.escape(str(value))}</td>" for value in row) + "</tr>"
        for row in rows
    )  # fmt: skip
    return f"<h2>{html.escape(title)}</h2><table><tr>{cells}</tr>{lines}</table>"


def _side(value: object) -> str:
    """Sentences stand to the left, numbers to the right."""
    return " class=text" if isinstance(value, str) and value.count(" ") > 2 else ""


def _rate(rate: RateFigures | None) -> str:
    return "none" if rate is None else f"{rate['rate']:.2f} ({rate['low']:.2f}-{rate['high']:.2f}, n={rate['n']})"


def _show(value: object) -> str:
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
