"""The package as an installer leaves it: a clean copy to build from, and whether its page answers from there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_OUT = ("tests/", "benchmarks/")
SERVES_S = 120.0


def clean_copy(target: Path) -> Path:
    """What a clone holds, but for what is not installed; returns the folder."""
    files = subprocess.check_output(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, text=True)
    for name in files.split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith(LEFT_OUT):
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    return target


def built_wheel(source: Path, folder: Path) -> Path:
    """Have pip build the wheel of a clone, with the setuptools that is here."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "--no-build-isolation"]
    built = subprocess.run([*command, "--wheel-dir", folder, source], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_page(library: Path, folder: Path) -> None:
    """`gymnast serve` of the copy in library answers with its page, style and script."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "import gymnast_cli.main as m; print(m.__file__, flush=True); raise SystemExit(m.main())"
    command = [sys.executable, "-c", program, "serve", "--folder", str(folder / "trainer"), "--port", "0"]
    log = folder / "serve.log"
    with log.open("wb") as output:
        serving = subprocess.Popen(
            [*command, "--console-port", str(port)], cwd=folder, stdout=output, stderr=output,
            env={**os.environ, "PYTHONPATH": str(library)},
        )  # fmt: skip
    try:
        page = _get(f"http://127.0.0.1:{port}/", serving, log)
        assert "<!doctype html>" in page.lower(), page[:500]
        for name in ("page.css", "page.js", "icon.svg"):
            assert name in page
            assert _get(f"http://127.0.0.1:{port}/static/{name}", serving, log)
        assert log.read_text().startswith(str(library)), log.read_text()
    finally:
        serving.terminate()
        serving.wait(60)


def _get(address: str, serving: subprocess.Popen[bytes], log: Path) -> str:
    """The body, whatever the status; waits until somebody listens."""
    deadline = time.monotonic() + SERVES_S
    while True:
        assert serving.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode()
        except OSError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
