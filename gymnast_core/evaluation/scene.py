"""Which scene is this, and is it reset? Answered from camera images alone.

A fingerprint is a coarse grid of colours, of which a share may change (objects and arm move), and a histogram of the
vivid colours wherever they are (a pink cube is not a red one). A reset check compares a finer grid cell by cell and
reports where it differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gymnast_core.errors import ShapeError
from gymnast_core.types import ByteArray

FINGERPRINT_CELLS = 12
HUE_BINS = 10
VIVID = 0.3
"""Saturation from which a pixel's colour counts as vivid."""

MOVED_SHARE = 0.25
"""Share of fingerprint cells that moving objects and the arm may change."""

LAYOUT_SCALE = 0.035
COLOUR_SCALE = 0.35
"""What counts as one unit of distance. In the simulator (7 looks x 4 tasks x 3 starts) two starts of one look are at
most 0.8 apart; another table, light or cube colour at least 1.2; a camera moved by 2 cm is not noticed."""

RESET_CELLS = 16
RESET_TOLERANCE = 0.15
"""Largest colour difference (0..1) of a cell of a reset scene."""


@dataclass(frozen=True)
class Fingerprint:
    """A scene as a camera sees it.

    Attributes:
        layout_RRC: (cells, cells, 3) float32 mean colours in 0..1.
        colours_HH: (bins, bins) float32, root share of the image per vivid chromaticity (red, green).
    """

    layout_RRC: npt.NDArray[np.float32]
    colours_HH: npt.NDArray[np.float32]

    @staticmethod
    def of(frame_HWC: ByteArray) -> Fingerprint:
        """Return the fingerprint of one camera image.

        Args:
            frame_HWC: (H, W, 3) uint8 RGB, at least 12 pixels a side.

        Raises:
            ShapeError: not such an image.
        """
        return Fingerprint(_cell_means(frame_HWC, FINGERPRINT_CELLS).astype(np.float32), _vivid_colours(frame_HWC))

    def distance(self, other: Fingerprint) -> float:
        """Return how far two scenes are apart; up to 1 is the same scene."""
        cells = np.sort(np.abs(self.layout_RRC - other.layout_RRC).mean(axis=-1), axis=None)
        layout = float(cells[: round(cells.size * (1 - MOVED_SHARE))].mean())
        colours = float(np.abs(self.colours_HH - other.colours_HH).sum())
        return max(layout / LAYOUT_SCALE, colours / COLOUR_SCALE)

    def to_json(self) -> dict[str, list[float]]:
        """Return it as rounded numbers."""
        layout, colours = self.layout_RRC.ravel().tolist(), self.colours_HH.ravel().tolist()
        return {"layout": [round(value, 4) for value in layout], "colours": [round(value, 5) for value in colours]}

    @staticmethod
    def from_json(values: Mapping[str, list[float]]) -> Fingerprint:
        """Return what to_json() wrote.

        Raises:
            ShapeError: not as many numbers as a fingerprint has.
        """
        layout, colours = (np.array(values[name], np.float32) for name in ("layout", "colours"))
        if layout.size != FINGERPRINT_CELLS**2 * 3 or colours.size != HUE_BINS**2:
            raise ShapeError(f"{layout.size} and {colours.size} numbers are no fingerprint; capture the scene again")
        return Fingerprint(layout.reshape(FINGERPRINT_CELLS, FINGERPRINT_CELLS, 3), colours.reshape(HUE_BINS, HUE_BINS))


@dataclass(frozen=True)
class ResetCheck:
    """How a frame compares with the start it should show.

    Attributes:
        ok: no cell differs by more than the tolerance.
        worst: largest cell difference, 0..1.
        box: (top, left, bottom, right) of the worst cell, in shares of the image, to show the operator where to look.
        changed_share: share of cells beyond the tolerance.
    """

    ok: bool
    worst: float
    box: tuple[float, float, float, float]
    changed_share: float

    @property
    def message(self) -> str:
        """What the operator should know."""
        if self.ok:
            return "the scene is reset"
        side = ("top", "middle", "bottom")[min(2, int(3 * self.box[0]))]
        where = f"{side} {('left', 'centre', 'right')[min(2, int(3 * self.box[1]))]}"
        return (
            f"the scene differs from its start in {self.changed_share:.0%} of the view, most in the {where}; reset it"
        )


def check_reset(frame_HWC: ByteArray, start_HWC: ByteArray, *, tolerance: float = RESET_TOLERANCE) -> ResetCheck:
    """Compare a frame with the recorded start of the scene.

    Args:
        frame_HWC: (H, W, 3) uint8 RGB, now.
        start_HWC: (H', W', 3) uint8 RGB, as it should be; another resolution is fine.
        tolerance: largest allowed colour difference of a cell, 0..1.

    Raises:
        ShapeError: not such images.
    """
    now, then = (_exposure_free(_cell_means(frame, RESET_CELLS)) for frame in (frame_HWC, start_HWC))
    difference_RR = np.abs(now - then).max(axis=-1)
    row, column = divmod(int(difference_RR.argmax()), RESET_CELLS)
    box = (row / RESET_CELLS, column / RESET_CELLS, (row + 1) / RESET_CELLS, (column + 1) / RESET_CELLS)
    worst = float(difference_RR.max())
    return ResetCheck(worst <= tolerance, worst, box, float((difference_RR > tolerance).mean()))


def _cell_means(frame_HWC: ByteArray, cells: int) -> npt.NDArray[np.float64]:
    shape = frame_HWC.shape
    if len(shape) != 3 or shape[2] != 3 or min(shape[:2]) < cells or frame_HWC.dtype != np.uint8:
        raise ShapeError(f"frame must be (H, W, 3) uint8 with at least {cells} pixels a side, got {shape}")
    rows = np.linspace(0, shape[0], cells + 1).astype(int)[:-1]
    columns = np.linspace(0, shape[1], cells + 1).astype(int)[:-1]
    sums = np.add.reduceat(np.add.reduceat(frame_HWC.astype(np.float64), rows, axis=0), columns, axis=1)
    heights = np.diff([*rows, shape[0]])
    widths = np.diff([*columns, shape[1]])
    return np.asarray(sums / (heights[:, None, None] * widths[None, :, None]) / 255.0)


def _vivid_colours(frame_HWC: ByteArray) -> npt.NDArray[np.float32]:
    colours = frame_HWC.reshape(-1, 3).astype(np.float64)
    brightest, darkest = colours.max(axis=1), colours.min(axis=1)
    vivid = (brightest - darkest > VIVID * brightest) & (brightest > 0.15 * 255)
    share = colours[vivid] / colours[vivid].sum(axis=1, keepdims=True)
    bins, _, _ = np.histogram2d(share[:, 0], share[:, 1], bins=HUE_BINS, range=[[0, 1], [0, 1]])
    return np.asarray(np.sqrt(bins / len(colours)), np.float32)


def _exposure_free(cells_RRC: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Scale to a median brightness of one half: exposure changes by a factor, a scene does not."""
    median = float(np.median(cells_RRC.mean(axis=-1)))
    return (cells_RRC * (0.5 / max(median, 1e-3))).astype(np.float32)
