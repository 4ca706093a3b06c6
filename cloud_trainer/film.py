"""Episodes and dreams as one picture: frames side by side, which pages play."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from gymnast_core.types import ByteArray

MOST_FRAMES = 60
STRIP_LIMIT = 16_000
"""WebP images have at most 16383 pixels a side."""


def film(frames_FHWC: ByteArray) -> bytes:
    """Return at most MOST_FRAMES frames side by side as one WebP, first and last included."""
    picked = np.linspace(0, len(frames_FHWC) - 1, min(MOST_FRAMES, len(frames_FHWC))).round().astype(int)
    frames_FHWC = frames_FHWC[picked]
    step = -(-frames_FHWC.shape[2] * len(frames_FHWC) // STRIP_LIMIT)
    strip = np.concatenate(list(frames_FHWC[:, ::step, ::step]), axis=1)
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, "WEBP", quality=86, method=2)
    return buffer.getvalue()
