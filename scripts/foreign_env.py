"""Makes a throw-away environment with other people's packages, to test ours against the real ones; prints its Python.

    python3 scripts/foreign_env.py openpi
    python3 scripts/foreign_env.py lerobot --made     # its Python where it was made before; nothing is installed

It is kept in ~/.cache/gymnast (or XDG_CACHE_HOME), under a digest of what is in it, and made anew where that changed.
Ends with 1 and one line where the packages cannot be installed, e.g. without a network.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ENVIRONMENTS = {
    # openpi-client 0.1.2 imports typing_extensions and does not declare it
    "openpi": ("openpi-client==0.1.2", "openpi-server==0.1.0", "typing_extensions==4.16.0"),
    "tfds": ("tensorflow-datasets==4.9.10", "tensorflow-cpu==2.21.0", "importlib_resources==7.1.0"),
    "vla_eval": ("vla-eval==0.8.0",),
    # with our package, without extras, to be served from there; gymnasium imports packaging and does not declare it
    "metaworld": ("metaworld==3.1.1", "packaging==25.0", "--editable", str(Path(__file__).resolve().parents[1])),
    # 5 GB with PyPI's torch; grpcio and protobuf as in lerobot[grpcio-dep], to generate and load our messages with
    "lerobot": (
        "lerobot==0.4.4",
        "torch==2.10.0",
        "grpcio==1.73.1",
        "grpcio-tools==1.73.1",
        "protobuf==6.31.1",
        "websockets==17.4",
        "msgpack==1.2.4",
        "setuptools==80.10.2",
        "wheel",
    ),
}
INSTALL_S = 3600


def main(name: str, make: bool) -> int:
    """Make one environment, or find it made; returns the exit code."""
    packages = ENVIRONMENTS[name]
    digest = hashlib.sha256(repr((packages, sys.version_info[:2])).encode()).hexdigest()[:8]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gymnast"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"{name}-{digest}"
    python, done = folder / "bin" / "python", folder / "complete"
    with (cache / f"{name}-{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test processes want it at once
        if not done.is_file() and not make:
            print(f"{folder} is not there; python3 scripts/foreign_env.py {name} makes it", file=sys.stderr)
            return 1
        if not done.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=True)
            command = [python, "-m", "pip", "install", "--quiet", "--retries", "1", "--timeout", "20", *packages]
            installed = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
            if installed.returncode:
                reason = (installed.stderr.strip().splitlines() or ["pip ended without a word"])[-1]
                print(f"{' '.join(packages)} could not be installed: {reason}", file=sys.stderr)
                return 1
            done.touch()
    print(python)
    return 0


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in ENVIRONMENTS or sys.argv[2:] not in ([], ["--made"]):
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(ENVIRONMENTS)} [--made]")
    sys.exit(main(sys.argv[1], make=not sys.argv[2:]))
