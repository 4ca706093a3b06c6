"""Every attack of tests/hostile at a chosen size: `python -m benchmarks.hostile --size 60`.

Prints kind, attempts, accepted and lost: accepted counts what was let in (hostile inputs that passed for good ones;
for races the actions that were acknowledged), lost what others lost by it. Ends with 1 when anything was lost.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.hostile.registry import every_attack


def main() -> int:
    """Run what was asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=20, help="about how many attempts of each kind (default: 20)")
    parser.add_argument("--only", default="", help="only kinds whose name holds this")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    args = parser.parse_args()
    logging.disable(logging.ERROR)  # the service reports each attempt
    table = Table("kind", "attempts", "accepted", "lost", "seconds")
    rows = []
    for kind, attack in every_attack().items():
        if args.only not in kind:
            continue
        with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
            started = time.monotonic()
            tally = attack(Path(folder), args.size)
        rows.append({"kind": kind, **asdict(tally), "seconds": round(time.monotonic() - started, 1)})
        table.add_row(*map(str, rows[-1].values()))
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    return int(any(row["lost"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
