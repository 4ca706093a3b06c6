"""`gymnast env`: an environment of Gymnasium's served from its own virtual environment, looked over, and recorded."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from gymnast_cli.connect import emit, temperature
from gymnast_cli.revoked import access_of, add_revoked_arguments
from gymnast_core.errors import ConfigError
from gymnast_core.sampling import set_temperature
from gymnast_core.seeds import block

if TYPE_CHECKING:
    from gymnast_core.foreign.collect import CollectedEpisode
    from gymnast_core.policy import Policy
    from gymnast_core.wire.env_client import RemoteEnv
    from gymnast_core.wire.identity import Identity

WHERE = "unix:PATH, or HOST:PORT with an identity"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    serve = actions.add_parser("serve", help="serve a Gymnasium environment, where that is installed")
    serve.add_argument("--gymnasium", required=True, metavar="ID", help="e.g. Meta-World/MT1, or module:Name-v0")
    serve.add_argument("--mapping", type=Path, required=True, metavar="FILE", help="what its numbers mean")
    serve.add_argument("--rows", type=int, default=1, help="environments side by side (default 1)")
    serve.add_argument("--listen", default="unix:~/.gymnast/env/socket", help=f"{WHERE} (default %(default)s)")
    serve.add_argument("--answer-s", type=float, default=60.0, help="a step that takes longer ends the environment")
    check = actions.add_parser("check", help="whether a served environment keeps the contract, and its units")
    collect = actions.add_parser("collect", help="run a policy in a served environment and record episodes")
    collect.add_argument("--policy", required=True, help="a checkpoint's folder, or random")
    collect.add_argument("--count", type=int, default=25, help="episodes (default 25)")
    collect.add_argument("--seed-start", type=int, default=block("collect").start, help="first start state")
    collect.add_argument("--sample", type=int, default=0, metavar="SEED", help="of its exploration; -1: greedy")
    collect.add_argument("--temperature", type=temperature, help="at which it explores (default: the policy's own)")
    collect.add_argument("--out", type=Path, required=True, help="folder for the episodes (.mcap)")
    add_revoked_arguments(serve)
    for driver in (check, collect):
        driver.add_argument("address", help=f"where it is served: {WHERE}")
    for one in (serve, check, collect):
        made = "a server's: made by `gymnast enroll NAME --role server`" if one is serve else "made by `gymnast enroll`"
        one.add_argument("--identity", type=Path, metavar="FOLDER", help=made)


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it."""
    return {"serve": _serve, "check": _check, "collect": _collect}[args.action](args, console)


def _serve(args: argparse.Namespace, console: Console) -> int:
    from gymnast_core.foreign.mapping import read_mapping
    from gymnast_core.wire.env_codec import UNIX
    from gymnast_core.wire.env_host import EnvHost
    from gymnast_core.wire.env_server import EnvServer
    from gymnast_core.wire.peers import require_server

    if args.rows < 1:
        raise ConfigError(f"--rows must be at least 1, got {args.rows}")
    identity = _identity(args)
    access = None
    if identity is not None and not args.listen.startswith(UNIX):
        require_server(identity)  # before the list of revoked ones is asked for, and the environment made
        access = access_of(args, identity)
    host = EnvHost(args.gymnasium, read_mapping(args.mapping), args.rows, answer_s=args.answer_s)
    try:
        server = EnvServer(host, _home(args.listen), access)
    except ConfigError:
        host.close()
        raise
    emit(args, console, {"address": server.address, "pid": host.pid}, f"{args.gymnasium} is served at {server.address}")
    try:
        server.wait()
    finally:
        server.close()
    return 0


def _check(args: argparse.Namespace, console: Console) -> int:
    from gymnast_core.foreign.check import check_env

    env = _env(args)
    try:
        findings = check_env(env, env.instruction)
    finally:
        env.close()
    table = Table("what", "kept", "found", title=f"{env.instruction} ({env.spec.robot.name})")
    for one in findings:
        table.add_row(one.what, "" if one.kept is None else "yes" if one.kept else "no", one.found)
    emit(args, console, {"findings": [vars(one) for one in findings]}, table)
    return 1 if any(one.kept is False for one in findings) else 0


def _collect(args: argparse.Namespace, console: Console) -> int:
    from gymnast_core.foreign.collect import collect_episodes

    def shown(one: CollectedEpisode) -> None:
        if not args.json:
            how = one.reason or ("success" if one.success else "failure")
            console.print(f"{one.file.name}: {how}")

    env = _env(args)
    try:
        seeds = range(args.seed_start, args.seed_start + args.count)
        policy = _policy(args, env)
        if args.temperature is not None:
            set_temperature(policy, args.temperature)
        found = collect_episodes(env, policy, args.out, seeds, sample=args.sample, progress=shown)
    finally:
        env.close()
    won, lost = sum(one.success is True for one in found), [one.reason for one in found if one.success is None]
    summary = {"episodes": [str(one.file) for one in found], "successes": won, "lost": lost}
    cut = f", {len(lost)} cut short" if lost else ""
    emit(args, console, summary, f"{len(found)} episodes in {args.out}, {won} successful{cut}")
    return 1 if lost else 0


def _policy(args: argparse.Namespace, env: RemoteEnv) -> Policy:
    if args.policy == "random":
        from gymnast_core.foreign.collect import RandomPolicy

        return RandomPolicy(env.spec.robot)
    from gymnast_core.policies import serve_policy

    return serve_policy(Path(args.policy))


def _env(args: argparse.Namespace) -> RemoteEnv:
    from gymnast_core.wire.env_client import RemoteEnv

    return RemoteEnv(_home(args.address), _identity(args))


def _identity(args: argparse.Namespace) -> Identity | None:
    from gymnast_core.wire.identity import Identity

    return None if args.identity is None else Identity.load(args.identity)


def _home(address: str) -> str:
    scheme, colon, path = address.partition(":")
    return f"{scheme}{colon}{os.path.expanduser(path)}" if scheme == "unix" else address  # noqa: PTH111  # keeps the rest
