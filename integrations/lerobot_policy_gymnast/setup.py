"""Generates the message classes of proto/gymnast/v1/policy.proto for the protobuf that LeRobot runs with."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parents[2]


class BuildWithMessages(build_py):
    """Writes policy_pb2.py beside the package's own modules."""

    def run(self) -> None:
        """Generate, then build as always."""
        from grpc_tools import protoc

        proto, into = ROOT / "proto", Path(__file__).resolve().parent / "lerobot_policy_gymnast"
        with tempfile.TemporaryDirectory() as folder:
            done = protoc.main(["protoc", f"-I{proto}", f"--python_out={folder}", "gymnast/v1/policy.proto"])
            if done:
                raise SystemExit(f"protoc ended with {done}; install this from a checkout, which has {proto}")
            shutil.copy(Path(folder) / "gymnast" / "v1" / "policy_pb2.py", into / "policy_pb2.py")
        super().run()


setup(cmdclass={"build_py": BuildWithMessages})
