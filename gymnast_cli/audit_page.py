"""The audit as one self-contained page: the numbers, and recorded episodes above their dreams."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import cv2
import numpy as np

from gymnast_core.types import ByteArray

STYLE = """
:root { color-scheme: light dark; --line: #8885; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .3rem .8rem; border-bottom: 1px solid var(--line);
  text-align: right; } td:first-child, th:first-child { text-align: left; }
figure { margin: 1.5rem 0; } img { width: 100%; image-rendering: pixelated; display: block; }
.bad { color: #c33; } .good { color: #2a7; }
"""


@dataclass(frozen=True)
class Dream:
    """One recorded episode and its dream.

    Attributes:
        entry: of dreams.json: episode_id, instruction, real, imagined, score.
        real_FHWC: (F, H, W, 3) uint8.
        imagined_FHWC: the same steps, imagined.
    """

    entry: Mapping[str, Any]
    real_FHWC: ByteArray
    imagined_FHWC: ByteArray


def audit_page(result: Mapping[str, Any], dreams: Sequence[Dream]) -> str:
    """Return the page as HTML."""
    verdict = (
        f'<p class="bad">Not trusted: {escape(result["refusal"])}</p>'
        if result["refusal"]
        else '<p class="good">Within the bounds: a policy may practise in it.</p>'
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>World-model audit</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>How far to trust this world model</h1>{verdict}"
        f"<p>World model {escape(result['world_model'])}, judge {escape(result['judge'])}; {result['episodes']} "
        f"held-out episodes, their actions replayed from the first frame; the judge left {result['abstained']} more "
        f"open.</p>"
        f"{_table(result)}<h2>Recorded above, imagined below</h2>{''.join(map(_figure, dreams))}</body></html>"
    )


def _table(result: Mapping[str, Any]) -> str:
    rows = {**result["by_task"], "all": result}
    cells = "".join(
        f"<tr><td>{escape(name)}</td><td>{int(row['episodes'])}</td>"
        + "".join(f"<td>{row[key]:.0%}</td>" for key in ("agreement", "imagined_success", "real_success"))
        + "</tr>"
        for name, row in rows.items()
    )
    numbers = " · ".join(
        f"{label} {value:+.2f}"
        for label, value in (
            ("optimism", result["optimism"]),
            ("correlation", result["correlation"]),
            ("P(imagined success | real failure)", result["false_success"]),
        )
        if value is not None
    )
    head = "<tr><th>task</th><th>episodes</th><th>agreement</th><th>imagined success</th><th>real success</th></tr>"
    return f"<table>{head}{cells}</table><p>{numbers}</p>"


def _figure(dream: Dream) -> str:
    entry = dream.entry
    agree = "good" if entry["real"] == entry["imagined"] else "bad"
    strips = np.concatenate([_strip(dream.real_FHWC), _strip(dream.imagined_FHWC)])
    caption = (
        f"{escape(entry['instruction'])} · really {entry['real']}, "
        f"<span class='{agree}'>imagined {entry['imagined']}</span> (score {entry['score']:.2f}) · "
        f"{escape(entry['episode_id'])}"
    )
    alt = f"{escape(entry['instruction'])}: frames of the recording above, of the dream below"
    return f'<figure><img alt="{alt}" src="{_png(strips)}"><figcaption>{caption}</figcaption></figure>'


def _strip(frames_FHWC: ByteArray) -> ByteArray:
    return np.concatenate(list(frames_FHWC), axis=1)


def _png(image_HWC: ByteArray) -> str:
    _, data = cv2.imencode(".png", np.ascontiguousarray(image_HWC[..., ::-1]))
    return f"data:image/png;base64,{base64.b64encode(data.tobytes()).decode()}"
