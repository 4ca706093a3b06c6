"""Regenerates the protobuf stubs: `python -m gymnast_core.wire.generate`. Stubs are never edited by hand."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGE = "gymnast_core.wire."
_TYPED = ("mypy", "mypy_grpc")
"""Plug-ins of mypy-protobuf: messages, then stubs and servicers."""


def generate(target: Path, proto_folder: Path = _ROOT / "proto") -> list[Path]:
    """Write stubs for every proto file.

    Args:
        target: the folder that gets gymnast/v1/*_pb2.py and *_pb2_grpc.py, each with its types in a .pyi.
        proto_folder: where gymnast/v1/*.proto are.

    Returns:
        The files written.

    Raises:
        RuntimeError: protoc refuses a file; it has printed why.
    """
    from grpc_tools import protoc  # type: ignore[import-untyped]  # a development tool, absent where stubs are only used

    well_known = Path(protoc.__file__).parent / "_proto"
    sources = sorted(str(path) for path in proto_folder.glob("gymnast/v1/*.proto"))
    plugins = [f"--plugin=protoc-gen-{name}={Path(sys.executable).parent / f'protoc-gen-{name}'}" for name in _TYPED]
    flags = [f"--{name}_out={target}" for name in ("python", "grpc_python", *_TYPED)]
    if protoc.main(["protoc", f"-I{proto_folder}", f"-I{well_known}", *plugins, *flags, *sources]):
        raise RuntimeError(f"protoc refused {sources}")
    written = sorted((target / "gymnast" / "v1").glob("*_pb2*"))
    for path in written:
        path.write_text(
            re.sub(r"^(from|import) gymnast\.", rf"\1 {_PACKAGE}gymnast.", path.read_text(), flags=re.MULTILINE)
        )
    return written


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=Path(__file__).parent, help="folder to write into")
    for path in generate(parser.parse_args().target):
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
