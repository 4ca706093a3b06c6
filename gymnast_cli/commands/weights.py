"""`gymnast weights`: checkpoints at the trainer."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gymnast_cli.connect import add_trainer_arguments, emit, peer
from gymnast_core.errors import ConfigError

if TYPE_CHECKING:
    from gymnast_core.signing import Release, SignedDocument
    from gymnast_ros.uplink import WeightsClient


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare publish, list, fetch and rollback."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    publish = actions.add_parser("publish", help="sign a checkpoint folder and offer it to robots (trainer or admin)")
    publish.add_argument("checkpoint", type=Path, help="folder with weights.safetensors and manifest.json")
    publish.add_argument("--robot", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    listing = actions.add_parser("list", help="releases, oldest first")
    fetch = actions.add_parser("fetch", help="download a checkpoint, verified")
    fetch.add_argument("checkpoint_id")
    fetch.add_argument("into", type=Path, help="folder to write; must not exist")
    rollback = actions.add_parser("rollback", help="order robots back to an earlier checkpoint (admin)")
    rollback.add_argument("checkpoint_id")
    rollback.add_argument("--reason", required=True, help="for whoever reads the log")
    rollback.add_argument("--robot", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    for action in (publish, listing, fetch, rollback):
        add_trainer_arguments(action)


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it."""
    from gymnast_ros.uplink import WeightsClient

    address, identity = peer(args)
    with WeightsClient(address, identity, insecure=args.insecure) as weights:
        actions = {"publish": _publish, "list": _list, "fetch": _fetch, "rollback": _rollback}
        return actions[args.action](weights, args, console)


def _publish(weights: WeightsClient, args: argparse.Namespace, console: Console) -> int:
    release = _verified(weights.publish(args.checkpoint, robots=tuple(args.robot)), args)
    emit(args, console, shown(release), f"{release.checkpoint_id}: release {release.sequence}, offered to robots")
    return 0


def _list(weights: WeightsClient, args: argparse.Namespace, console: Console) -> int:
    from rich.table import Table

    found = _releases(weights, args)
    table = Table(title=f"{len(found)} releases")
    for column in ("release", "what", "checkpoint", "robots", "bytes"):
        table.add_column(column, no_wrap=column == "checkpoint")
    for release in found:
        row = (release.kind, release.checkpoint_id, ", ".join(release.robots), f"{release.weights_size:,}")
        table.add_row(str(release.sequence), *row)
    emit(args, console, {"releases": [shown(release) for release in found]}, table)
    return 0


def _fetch(weights: WeightsClient, args: argparse.Namespace, console: Console) -> int:
    from gymnast_core.manifest import Manifest, canonical_json, write_checkpoint
    from gymnast_ros.uplink.download import BlobDownload
    from gymnast_ros.uplink.link import Link

    if args.into.exists():
        raise ConfigError(f"{args.into} exists; checkpoints are immutable, name a folder that does not")
    found = [release for release in _releases(weights, args) if release.checkpoint_id == args.checkpoint_id]
    if not found:
        raise ConfigError(f"the trainer offers no {args.checkpoint_id!r}; see `gymnast weights list`")
    release = found[-1]
    address, identity = peer(args)
    link = Link(address, identity, insecure=args.insecure)
    weights_file = args.into.with_name(f".{args.into.name}.download")
    try:
        BlobDownload(link, release.weights_digest, release.weights_size, weights_file).run()
    finally:
        link.close()
    manifest = Manifest.from_bytes(canonical_json(release.manifest))
    fields = {name: getattr(manifest, name) for name in ("parents", "action_space", "normalisation", "lineage")}
    write_checkpoint(
        args.into, weights_file.read_bytes(), kind=manifest.kind, architecture=manifest.architecture,
        config=manifest.config, **fields,
    )  # fmt: skip
    weights_file.unlink()
    emit(args, console, {**shown(release), "folder": str(args.into)}, f"{args.into}: {release.checkpoint_id}, verified")
    return 0


def _rollback(weights: WeightsClient, args: argparse.Namespace, console: Console) -> int:
    document = weights.rollback(args.checkpoint_id, robots=tuple(args.robot), reason=args.reason)
    release = _verified(document, args)
    text = f"robots go back to {release.checkpoint_id} (release {release.sequence})"
    emit(args, console, shown(release), text)
    return 0


def _releases(weights: WeightsClient, args: argparse.Namespace) -> list[Release]:
    found: list[Release] = []
    while page := weights.releases(found[-1].sequence if found else 0):
        found += [_verified(document, args) for document in page]
    return found


def _verified(document: SignedDocument, args: argparse.Namespace) -> Release:
    """The release, if a key of our identity signed it; with --insecure nobody vouches for anything."""
    from gymnast_core.signing import Release

    _, identity = peer(args)
    return Release.from_bytes(document.payload if identity is None else identity.trusted_keys().verify(document))


def shown(release: Release) -> dict[str, Any]:
    """A release as JSON values, without the manifest."""
    names = ("sequence", "kind", "checkpoint_id", "weights_size", "published_ns", "expires_ns", "reason")
    return {**{name: getattr(release, name) for name in names}, "robots": list(release.robots)}
