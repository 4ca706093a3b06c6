"""Arguments of the launch files and of `gymnast up`: checked, described, turned into a GraphConfig; no ROS in here."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import yaml

from gymnast_core.errors import ConfigError
from gymnast_core.extensions import ARMS as ARMS_ADDED
from gymnast_core.extensions import installed
from gymnast_core.records.gate_rule import GATE_MODES, GateMode
from gymnast_core.robots import ROBOTS as MODELS
from gymnast_core.shipped import shipped_checkpoints
from gymnast_core.spec import RATES_HZ, WIDOWX_250S
from gymnast_core.wire.address import Address
from gymnast_core.wire.openpi.keys import STYLES
from gymnast_core.wire.openpi.link import PLAIN, SECURED
from gymnast_ros.enclaves import check_keystore
from gymnast_ros.graph import (
    CAMERAS,
    CHUNKING,
    REMOTE,
    ROBOTS,
    SIMULATED,
    CameraDriver,
    Chunking,
    GraphConfig,
    graph,
)
from gymnast_ros.processes import ParameterValue
from gymnast_ros.sim.menagerie import model_of
from gymnast_ros.vendors import devices

IDENTITY_FILES = ("cert.pem", "key.pem", "ca.pem")
NODES = ("arm", "command_gate", "rollout", "bridge", "teleop", "page", "usb_cam", "joy")
"""Names a parameter file may use."""


@dataclass(frozen=True)
class Argument:
    """One argument of bridge.launch.py.

    Attributes:
        name: as in robot:=sim.
        default: as text.
        description: shown by `ros2 launch --show-args`.
        choices: allowed texts; empty allows any.
    """

    name: str
    default: str
    description: str
    choices: tuple[str, ...] = ()


FLAG = ("true", "false")
ARMS = ("primitive", "menagerie")
MENAGERIE_VARIABLE = "GYMNAST_MENAGERIE"
RATES = tuple(f"{rate_hz:g}" for rate_hz in RATES_HZ)
ARGUMENTS = (
    Argument("robot", SIMULATED, "the simulated arm (sim), or a real one: widowx, vx300s or an installed arm's name"),
    Argument("robot_model", "", "model of the simulated arm: wx250s (empty), vx300s or an installed arm's name"),
    Argument("folder", "robot", "spool, checkpoints, results and flight records"),
    Argument("name", "sim-0", "robot name, as in its certificate"),
    Argument("namespace", "", "of every node, for several arms on one network"),
    Argument("domain", "", "ROS_DOMAIN_ID; empty keeps the environment's"),
    Argument("trainer", "", "host:port; empty runs without a bridge"),
    Argument("identity", "", "folder with cert.pem, key.pem and ca.pem from `gymnast enroll`"),
    Argument("insecure", "false", "no TLS to the trainer; on one machine only", FLAG),
    Argument(
        "policy",
        "",
        "checkpoint folder, or remote:HOST:PORT, until one is in force; empty is the shipped one on the simulated arm; "
        "openpi://HOST:PORT or openpis://HOST:PORT is a server of openpi's protocol",
    ),
    Argument("openpi", "", "keys of that server: libero, droid, aloha, or a YAML file; empty is libero"),
    Argument(
        "judge",
        "",
        "auto: the trainer's judge labels episodes that nobody else labels, where it is proven, and "
        "ends those early in which it saw success twice; empty: people alone label",
        ("", "auto"),
    ),
    Argument("instruction", "", "task the rollout node starts with"),
    Argument("camera", "", "camera driver to start with a real arm", CAMERAS),
    Argument("vendor", "true", "start Interbotix's xsarm_control with a real arm", FLAG),
    Argument("dry_run", "false", "with Interbotix's simulation of the driver instead of a real arm's motors", FLAG),
    Argument("paced", "false", "simulated arm by wall-clock time; late commands are holds", FLAG),
    Argument("arm", "primitive", "how the simulated arm is drawn; menagerie takes the real one's meshes", ARMS),
    Argument("menagerie", "", "copy of MuJoCo Menagerie for that; empty is $GYMNAST_MENAGERIE"),
    Argument("rate_hz", "5", "control rate of the simulated arm", RATES),
    Argument("policy_hz", "5", "rate of the policy's actions; 5 for what our trainer taught", RATES),
    Argument("chunking", CHUNKING[0], "real_time computes the next chunk of actions while this one executes", CHUNKING),
    Argument("device", "auto", "where a large policy runs: auto, cpu, cuda, cuda:N"),
    Argument("realtime", "false", "arm and gate with SCHED_FIFO; needs an rtprio limit for this user", FLAG),
    Argument("teleop", "false", "start the joystick node", FLAG),
    Argument(
        "gate",
        "",
        "a release without a passed gate record is refused (required), warned of or taken in; empty is required on a "
        "real arm, off on the simulated one",
        ("", *GATE_MODES),
    ),
    Argument("orders", "false", "the trainer's operators may run episodes on this robot", FLAG),
    Argument("parameters", "", "YAML file of further node parameters, as config/robot_widowx.yaml"),
    Argument("enclaves", "", "SROS2 keystore of `gymnast enclaves`; empty runs without DDS security"),
    Argument("page", "", "port of the robot's own page, on this machine only, e.g. 8081; empty serves none"),
)


def _menagerie(robot: str, arm: str, folder: str) -> Path | None:
    """The copy of the Menagerie that is asked for; None for our own arm.

    Raises:
        ConfigError: it is asked for and named nowhere, or named and not asked for, or the arm is real.
    """
    if arm != ARMS[0] and robot != SIMULATED:
        raise ConfigError(f"arm {arm} is how the simulated arm is drawn; a real one looks as it does")
    if arm != "menagerie":
        if folder:
            raise ConfigError(f"menagerie {folder!r} is for arm menagerie; ask for that, too")
        return None
    found = folder or os.environ.get(MENAGERIE_VARIABLE, "")
    if not found:
        raise ConfigError(
            "arm menagerie needs a copy of MuJoCo Menagerie: name it with --menagerie FOLDER (of a launch file "
            f"menagerie:=FOLDER), or set {MENAGERIE_VARIABLE}"
        )
    return Path(found).absolute()


def config_from(texts: Mapping[str, str]) -> GraphConfig:
    """Turn launch arguments into a GraphConfig.

    Raises:
        ConfigError: an unknown argument, or a value that is not allowed; the message names it.
    """
    values = _checked(texts)
    return GraphConfig(
        folder=Path(values["folder"]).absolute(),
        robot=values["robot"],
        robot_model=values["robot_model"],
        robot_name=values["name"],
        domain_id=int(values["domain"]) if values["domain"] else None,
        namespace=values["namespace"],
        trainer=values["trainer"],
        identity=Path(values["identity"]) if values["identity"] else None,
        insecure=values["insecure"] == "true",
        policy=values["policy"] or _first_policy(values["robot"], values["robot_model"]),
        openpi=_absolute(values["openpi"]),
        paced=values["paced"] == "true",
        rate_hz=float(values["rate_hz"]),
        menagerie=_menagerie(values["robot"], values["arm"], values["menagerie"]),
        policy_hz=float(values["policy_hz"]),
        chunking=cast(Chunking, values["chunking"]),
        device=values["device"],
        realtime=values["realtime"] == "true",
        teleop=values["teleop"] == "true",
        gate=cast(GateMode, values["gate"]) if values["gate"] else None,
        orders=values["orders"] == "true",
        page=int(values["page"] or 0),
        judge=values["judge"] == "auto",
        instruction=values["instruction"],
        camera=cast(CameraDriver, values["camera"]),
        vendor=values["vendor"] == "true",
        dry_run=values["dry_run"] == "true",
        enclaves=Path(values["enclaves"]).absolute() if values["enclaves"] else None,
        parameters=parameters_from(Path(values["parameters"])) if values["parameters"] else {},
    )


def _absolute(keys: str) -> str:
    """A style as it is; a file as every process finds it."""
    return keys if keys in ("", *STYLES) else str(Path(keys).absolute())


def _first_policy(robot: str, model: str) -> str:
    """What a robot runs before a checkpoint came: the shipped policy has learned on the simulated WidowX alone."""
    policy, learned = shipped_checkpoints() / "policy", robot == SIMULATED and model in ("", WIDOWX_250S.name)
    return str(policy) if learned and policy.is_dir() else ""


def _checked(texts: Mapping[str, str]) -> dict[str, str]:
    """Every argument's text, given or default."""
    known = {argument.name: argument for argument in ARGUMENTS}
    unknown = sorted(set(texts) - set(known))
    if unknown:
        raise ConfigError(f"unknown arguments {unknown}; there are {sorted(known)}")
    values = {name: texts.get(name, argument.default) for name, argument in known.items()}
    for name, argument in known.items():
        if argument.choices and values[name] not in argument.choices:
            raise ConfigError(f"{name}:={values[name]!r} is not one of {', '.join(map(repr, argument.choices))}")
    added = installed(ARMS_ADDED)
    for name, words in (("robot", ROBOTS), ("robot_model", ("", *MODELS))):
        if values[name] not in (*words, *added):
            raise ConfigError(f"{name}:={values[name]!r} is not one of {', '.join(map(repr, (*words, *added)))}")
    policy = values["policy"]
    for address in (values["trainer"], policy[len(REMOTE) :] if policy.startswith(REMOTE) else ""):
        if address:
            Address.parse(address)
    for name in ("domain", "page"):
        if values[name] and not values[name].isdigit():
            raise ConfigError(f"{name}:={values[name]!r} is not a number")
    return values


def parameters_from(path: Path) -> dict[str, dict[str, ParameterValue]]:
    """Node parameters of a ROS parameter file: {node: {ros__parameters: {name: value}}}.

    Raises:
        ConfigError: no such file, or it is laid out otherwise; the message names the part.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"parameters:={path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"parameters:={path} must map nodes to ros__parameters")
    for node, body in document.items():
        if node not in NODES:
            raise ConfigError(f"parameters:={path} names the node {node!r}; there are {', '.join(NODES)}")
        if not isinstance(body, dict) or not isinstance(body.get("ros__parameters"), dict):
            raise ConfigError(f"parameters:={path}: {node} needs a table ros__parameters")
    return {node: body["ros__parameters"] for node, body in document.items()}


def check_files(config: GraphConfig) -> None:
    """Look for what the settings name before anything starts; a node would find out again and again.

    Raises:
        ConfigError: a folder or file is not there; the message names it.
    """
    if config.policy.startswith((PLAIN, SECURED)):
        absent = [name for name in ("websockets", "msgpack") if find_spec(name) is None]
        if absent:
            raise ConfigError(f"{config.policy} needs {' and '.join(absent)}; pip install 'gymnast_ros[openpi]'")
    if config.trainer and config.identity is not None:
        missing = [name for name in IDENTITY_FILES if not (config.identity / name).is_file()]
        if missing:
            raise ConfigError(f"identity:={config.identity} has no {', '.join(missing)}; `gymnast enroll` makes one")
    if config.enclaves is not None:
        check_keystore(config.enclaves, [spec.enclave for spec in (*graph(config), *devices(config))])
    if config.menagerie is not None:
        model_of(config.menagerie)
    if config.trusted_keys and not Path(config.trusted_keys).is_file():
        raise ConfigError(f"trusted_keys {config.trusted_keys} is no file")


def check_known(given: Sequence[str], command: Sequence[str], launch_file: str, known: Sequence[Argument]) -> None:
    """Refuse what a user gave to `ros2 launch` and nothing declares: launch itself takes any name:=value in silence.

    Args:
        given: the name:=value words.
        command: of the process; a launch file of the user's that includes ours may have words of its own.
        launch_file: name of ours.
        known: what it declares.

    Raises:
        ConfigError: the message names the word, and what it may have been meant for.
    """
    if not any(Path(word).name == launch_file for word in command):
        return
    names = [argument.name for argument in known]
    for word in given:
        name, found, _ = word.partition(":=")
        if found and name not in names:
            like = difflib.get_close_matches(name, names, 1)
            meant = f"; did you mean {like[0]}:=" if like else f"; there are {', '.join(names)}"
            raise ConfigError(f"{launch_file} has no argument {word!r}{meant}")


EVALUATION_ARGUMENTS = (
    Argument("tasks", "lift,push,put,drawer", "task names or instructions, comma-separated"),
    Argument("seed_start", "2000000", "first start state"),
    Argument("seed_count", "25", "start states per task"),
    Argument("checkpoints", "", "ids or folders to compare, comma-separated; empty is the one in force"),
    Argument("scene", "standard", "look of the simulated world"),
    Argument("retry", "", "most attempts from one start, after failures by the trainer's judge; empty: one"),
    Argument("retry_judge", "", "id of that judge; empty: whichever the trainer serves"),
    Argument("json", "", "file for the result"),
)


def evaluation_command(texts: Mapping[str, str]) -> list[str]:
    """Arguments of the program that evaluates a running graph; see gymnast_ros.nodes.evaluate_once."""
    command: list[str] = []
    for argument in EVALUATION_ARGUMENTS:
        value = texts.get(argument.name, argument.default)
        if value:
            command += [f"--{argument.name.replace('_', '-')}", value]
    if texts.get("namespace"):
        command += ["--namespace", texts["namespace"]]
    return command
