"""`gymnast serve`: the trainer."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gymnast_cli import robot_line
from gymnast_cli.robot_line import engine_for
from gymnast_core.errors import ConfigError
from gymnast_core.job import REACHES
from gymnast_core.shipped import KINDS, shipped_checkpoints
from gymnast_core.wire.address import is_loopback, plain_host

if TYPE_CHECKING:
    from cloud_trainer.jobs.runner import Recorded
    from cloud_trainer.jobs.shelf import Shelves
    from cloud_trainer.service import JobContext, Service
    from cloud_trainer.service.policy import PolicyServicer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from gymnast_cli import service_flags

    service_flags.add_arguments(parser)
    parser.add_argument("--checkpoints", type=Path, default=shipped_checkpoints(), metavar="FOLDER",
                        help="with policy/, world_model/ and judge/ to know from the start (default: the shipped ones)"
                        )  # fmt: skip
    parser.add_argument("--import", dest="imports", type=Path, action="append", default=[], metavar="CHECKPOINT",
                        help="checkpoint folder to know beside them; may be repeated")  # fmt: skip
    parser.add_argument("--policy", type=Path, metavar="CHECKPOINT",
                        help="run it for robots without a GPU: gymnast up --policy remote:HOST:PORT")  # fmt: skip
    parser.add_argument("--policy-device", default="auto", help="auto takes a GPU if there is one; cpu, cuda, cuda:N")
    parser.add_argument("--console-host", default="127.0.0.1", help="address of the operator's page (default: this "
                        "machine only, over HTTP; any other over HTTPS, where certificates are logins)")  # fmt: skip
    parser.add_argument("--console-port", type=int, default=8600, help="0 takes a free one (default 8600)")
    parser.add_argument("--no-console", action="store_true", help="serve no page")
    parser.add_argument("--loop", type=Path, action="append", default=[], metavar="FOLDER",
                        help="folder of a `gymnast loop` whose history the page shows; may be repeated")  # fmt: skip
    parser.add_argument("--jobs-may", action="append", default=[], choices=REACHES,
                        help="let jobs name judges (addresses, folders and key variables), plug-ins (Python code) or a "
                        "ray cluster in their configuration; whoever may submit a job, robots too, then reads and runs "
                        "what this process can. May be repeated (default: none)")  # fmt: skip
    robot_line.add_arguments(parser)
    parser.add_argument("--threads", type=int, default=1, help="torch threads of a training job (default 1)")


def run(args: argparse.Namespace, console: Console) -> int:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        ConfigError: another trainer runs on the folder, or a setting makes no sense.
        GymnastError: the page's port is taken.
    """
    from cloud_trainer.jobs.shelf import Shelves
    from cloud_trainer.service import serve
    from gymnast_cli.service_flags import config_from

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = config_from(args)
    shelves = Shelves(args.folder, (*_at_hand(args.checkpoints), *args.imports))
    console.print(f"trainer in {args.folder}; Ctrl-C stops it")
    return serve(
        config, functools.partial(_run_job, args, shelves), _policy(args, console),
        beside=lambda service: _beside(service, args, shelves, console),
    )  # fmt: skip


def _run_job(args: argparse.Namespace, shelves: Shelves, context: JobContext) -> Mapping[str, Any]:
    """Do one job in a process of its own, and keep what it made."""
    from cloud_trainer.flows.replay_watch import record_rows
    from cloud_trainer.jobs.runner import JobInputs, run_in_process
    from cloud_trainer.store.tenants import LEDGER, tenant_folder

    tenant = context.job.tenant
    shelf = shelves.of(tenant)
    context.episodes.settle(60)
    recorded = tuple(_recorded(context))
    inputs = JobInputs(context.job.job_id, context.job.kind, context.job.spec, recorded, shelf.path, shelf.newest)

    def emit(kind: str, data: Mapping[str, Any]) -> None:
        context.emit(kind, data)

    jobs = args.folder / "jobs"
    result = run_in_process(inputs, jobs, emit=emit, cancelled=context.cancelled, threads=args.threads)
    for folder in result["register"]:
        shelf.add(Path(folder))
    robots = [str(name) for name in context.job.spec.get("offer_to", ())]
    for candidate in result["candidates"]:
        shelf.add(Path(candidate["folder"]))
        if robots:  # whoever submitted the job named them; else somebody offers a candidate on its page
            context.publish(Path(candidate["folder"]), robots=robots)
    record_rows(tenant_folder(args.folder, tenant) / LEDGER, result)
    return result


def _at_hand(folder: Path) -> list[Path]:
    """The checkpoints of a folder, by kind.

    Raises:
        ConfigError: it has none.
    """
    found = [folder / kind for kind in KINDS if (folder / kind).is_dir()]
    if not found:
        raise ConfigError(f"--checkpoints {folder} has none of {', '.join(KINDS)}; name the folder that holds them")
    return found


def _policy(args: argparse.Namespace, console: Console) -> PolicyServicer | None:
    """What answers robots that have no GPU; None where no policy is named."""
    if args.policy is None:
        return None
    from cloud_trainer.service.policy import PolicyServicer
    from gymnast_core.policies import serve_policy

    policy = serve_policy(args.policy, device=args.policy_device)
    console.print(f"running {policy.version} for robots: gymnast up --policy remote:HOST:PORT")
    return PolicyServicer(lambda: policy)


def _recorded(context: JobContext) -> Iterator[Recorded]:
    """The episodes of a job: those it names, or everything that may be learned from."""
    from cloud_trainer.jobs.runner import Recorded
    from gymnast_core.evaluation.purpose import is_measurement

    named = context.job.spec.get("episodes") if context.job.kind == "replay" else None
    for row in context.episodes.all():
        if not is_measurement(row.metadata) if named is None else row.episode_id in named:
            yield Recorded(context.episodes.path(row), row.outcome, row.episode_id, row.robot)


def _can_replay(service: Service, shelves: Shelves, tenant: str, policy: str) -> bool:
    """Whether an evaluation of a policy can be dreamt again; one that was only published is taken onto the shelf."""
    shelf = shelves.of(tenant)
    if not shelf.holds(policy, "policy") and (row := service.meta.checkpoint(tenant, policy)) is not None:
        shelf.take(row.manifest, service.blobs.local_path(row.weights_digest))
    return shelf.can_replay(policy)


@contextlib.contextmanager
def _beside(service: Service, args: argparse.Namespace, shelves: Shelves, console: Console) -> Iterator[None]:
    """The operator's page and the watch for evaluations, as long as the service runs."""
    from cloud_trainer.flows.replay_watch import ReplayWatch
    from cloud_trainer.jobs.submission import check_submission
    from cloud_trainer.store.tenants import LEDGER, tenant_folder

    service.check_job = functools.partial(check_submission, shelves, service.episodes_of, allowed=args.jobs_may)
    watch = ReplayWatch(
        service.episodes, service.jobs, lambda tenant: tenant_folder(args.folder, tenant) / LEDGER,
        functools.partial(_can_replay, service, shelves), lambda row: service.blinded(row),
    )  # fmt: skip
    with watch, _page(service, args, shelves, console):
        yield


@contextlib.contextmanager
def _page(service: Service, args: argparse.Namespace, shelves: Shelves, console: Console) -> Iterator[None]:
    """The operator's page, as long as the service runs."""
    from cloud_trainer.console import Console as Page
    from cloud_trainer.store.tenants import PerTenant

    if args.no_console:
        yield
        return
    host, port = plain_host(args.console_host), args.console_port
    engines = PerTenant(lambda tenant: engine_for(service, args, shelves.of(tenant), tenant))
    with Page(service, engine_of=engines.of, host=host, port=port, tls=not is_loopback(host), loops=args.loop) as page:
        console.print(f"operator's page at {page.address}; `gymnast console` gives a token for it")
        yield
