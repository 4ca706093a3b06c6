"""Where compiled networks are kept: torch's own place, /tmp/torchinductor_USER, may have been made by another user.

What lies there is code that is loaded and run.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def keep_compiled_private() -> None:
    """Have torch.compile keep its code in a folder of this user's alone; a place that the user named stands."""
    if os.environ.get(VARIABLE):
        return
    folder = Path.home() / ".cache" / "gymnast" / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    except OSError:  # no home of one's own, or another user's: compiled anew each time
        folder = Path(tempfile.mkdtemp(prefix="gymnast-compiled-"))
    os.environ[VARIABLE] = str(folder)
