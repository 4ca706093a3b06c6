"""The trainer as the demo runs it: `gymnast serve` in a process of its own, with its own certificates."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from gymnast_core.errors import TransientBridgeError
from gymnast_core.lifeline import STARTER


@contextlib.contextmanager
def trainer_process(
    folder: Path, imports: Sequence[Path], *, options: Sequence[str] = (), timeout_s: float = 60.0
) -> Iterator[str]:
    """Run a trainer over `folder` and yield its address; it ends with the block.

    Args:
        folder: the trainer's data; its log is folder/serve.log.
        imports: checkpoint folders it should know from the start.
        options: further arguments of `gymnast serve`.
        timeout_s: how long it may take until it listens.

    Raises:
        TransientBridgeError: it did not come up; the message ends with its last log line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port_file = folder / "port"
    port_file.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "gymnast_cli.main",
        "serve",
        "--folder",
        str(folder),
        "--port-file",
        str(port_file),
        *options,
    ]
    for checkpoint in imports:
        command += ["--import", str(checkpoint)]
    with (folder / "serve.log").open("ab") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", STARTER: str(os.getpid())}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            yield _address(process, port_file, folder / "serve.log", timeout_s)
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], port_file: Path, log: Path, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    while not port_file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise TransientBridgeError(f"the trainer did not start: {' '.join(last) or 'no output'}; see {log}")
        time.sleep(0.05)
    return port_file.read_text().strip()
