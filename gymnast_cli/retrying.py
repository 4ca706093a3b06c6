"""`--retry` of collect and evaluate: what is asked of the robot, and what came of it, apart from every other figure."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gymnast_core.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from gymnast_core.evaluation.attempts import CountedShare, Retry, RetryFigures


def add_retry_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --retry and --retry-judge."""
    parser.add_argument(
        "--retry", type=int, default=None, metavar="N",
        help="after a failure by the trainer's judge go home and try again, at most N attempts from one start",
    )  # fmt: skip
    parser.add_argument(
        "--retry-judge", default="", metavar="ID", help="only on this judge's word (default: whichever is served)"
    )


def retry_of(args: argparse.Namespace) -> Retry | None:
    """Return what was asked for; None tries every start once.

    Raises:
        ConfigError: a judge without a number of attempts, or a number or id that makes no sense.
    """
    from pydantic import ValidationError

    from gymnast_core.evaluation.attempts import MOST_ATTEMPTS, Retry

    if args.retry is None:
        if args.retry_judge:
            raise ConfigError(f"--retry-judge {args.retry_judge} needs --retry N: how many attempts?")
        return None
    try:
        return Retry(judge=args.retry_judge, max=args.retry)
    except ValidationError as error:
        given = f"--retry {args.retry}" if error.errors()[0]["loc"] == ("max",) else f"--retry-judge {args.retry_judge}"
        raise ConfigError(
            f"{given}: a number of attempts is 2 to {MOST_ATTEMPTS}, a judge a checkpoint's id"
        ) from error


def retried(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a result has of retries, for the summary: figures by policy, and the ids of the later attempts."""
    if "retried" not in result:
        return {}
    rows = [row for group in result["groups"] for row in group["retries"]]
    return {"retried": result["retried"], "retry_ids": [row["episode_id"] for row in rows if row["episode_id"]]}


def retry_table(figures: Iterable[tuple[str, RetryFigures]]) -> Table:
    """The figures for people, by checkpoint."""
    from rich.table import Table

    table = Table(title="Tried again after a judged failure: counted apart from everything else")
    columns = ("checkpoint", "starts", "N", "pass@1", "pass@N", "gain", "attempts", "false positives", "ended")
    for column in columns:
        table.add_column(column)
    for version, row in figures:
        gain, attempts = row["gain"], row["attempts"]
        table.add_row(
            version, str(row["groups"]), str(row["of"]), _share(row["pass_1"]), _share(row["pass_n"]),
            f"{gain['mean']:+.0%} [{gain['low']:+.0%}, {gain['high']:+.0%}]" if gain else "",
            f"{attempts['mean']:.2f} [{attempts['low']:.2f}, {attempts['high']:.2f}]" if attempts else "",
            _share(row["false_positives"]), ", ".join(f"{name} {n}" for name, n in row["ended"].items()),
        )  # fmt: skip
    return table


def _share(share: CountedShare) -> str:
    interval = share["interval"]
    if interval is None:
        return "0/0"
    return f"{share['k']}/{share['n']} = {interval['mean']:.0%} [{interval['low']:.0%}, {interval['high']:.0%}]"
