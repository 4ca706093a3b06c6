"""The launch files describe the graph that the ROS-less starter runs, and refuse what it refuses."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from gymnast_core.errors import ConfigError
from gymnast_ros.arguments import ARGUMENTS, IDENTITY_FILES, check_files, check_known, config_from, evaluation_command
from gymnast_ros.graph import GraphConfig, graph
from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import evaluate_once
from gymnast_ros.processes import ENVIRONMENT, REFUSED
from gymnast_ros.sockets import examine_sockets
from gymnast_ros.vendors import devices, external
from tests.ros.fake_launch import install

ROOT = Path(__file__).parents[2]
REAL = importlib.util.find_spec("launch_ros") is not None
"""Not "launch": our own folder of that name would answer."""


@pytest.fixture
def launch_modules(monkeypatch) -> None:
    if REAL:
        pytest.skip("the real launch executes these files; see test_launch_files_execute")
    for name, module in install().items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def bridge(launch_modules, tmp_path, monkeypatch) -> Iterator[ModuleType]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROS_DOMAIN_ID", "230")  # nobody else's: a started graph is claimed on this machine
    module = load("bridge.launch.py")
    yield module
    let_go(module)


def let_go(module: ModuleType) -> None:
    while module.CLAIMS:
        module.CLAIMS.pop().release()


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name.replace(".", "_"), ROOT / "launch" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def texts(**changes: str) -> dict[str, str]:
    return {argument.name: argument.default for argument in ARGUMENTS} | changes


def nodes(actions: list[Any]) -> dict[str, dict[str, Any]]:
    """Arguments of every node, by its executable."""
    return {action.named["executable"]: action.named for action in actions if type(action).__name__ == "Node"}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"trainer": "cloud:50051", "identity": "id", "namespace": "left"},
        {"robot": "widowx", "camera": "realsense", "teleop": "true", "instruction": "close the drawer"},
        {"page": "8081"},
    ],
)
def test_launch_file_starts_the_graph_of_the_starter(bridge, arguments, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "id").mkdir()
    for name in IDENTITY_FILES:
        (tmp_path / "id" / name).touch()
    context = texts(**arguments)
    started = nodes(bridge.start(context))
    wanted = (*devices(config_from(context)), *graph(config_from(context)))
    assert list(started) == [spec.executable for spec in wanted]
    for spec in wanted:
        node = started[spec.executable]
        assert "name" not in node  # it would rename every node of the process
        assert node["package"] == spec.package
        assert node["executable"] == spec.executable
        assert node["namespace"] == spec.namespace
        assert node["parameters"] == [dict(spec.parameters)]
        assert node["respawn"] == spec.respawn


def test_a_real_arm_takes_no_release_without_a_gate_record_unless_somebody_says_so() -> None:
    def mode(robot: str, **given: Any) -> object:
        made = graph(GraphConfig(folder=Path("x"), robot=robot, trainer="t:1", insecure=True, **given))
        return next(spec for spec in made if spec.name == "bridge").parameters["gate"]

    assert (mode("widowx"), mode("sim")) == ("required", "off")
    assert (mode("widowx", gate="warn"), mode("sim", gate="required")) == ("warn", "required")


def test_every_executable_is_a_console_script_and_a_module() -> None:
    scripts = (ROOT / "setup.py").read_text()
    for robot in ("sim", "widowx"):
        for spec in graph(
            GraphConfig(folder=Path("x"), robot=robot, trainer="t:1", insecure=True, teleop=True, page=1)
        ):
            assert f'"{spec.executable}"' in scripts
            assert importlib.util.find_spec(f"gymnast_ros.nodes.{spec.executable}") is not None


def on_exit(actions: list[Any]) -> dict[str, Any]:
    """What happens when a node's process ends, by its executable."""
    handlers = (action for action in actions if type(action).__name__ == "RegisterEventHandler")
    watched = (handler.positional[0].named for handler in handlers)
    return {watch["target_action"].named["executable"]: watch["on_exit"] for watch in watched}


def test_node_that_may_not_run_here_ends_the_launch_instead_of_coming_again_and_again(bridge) -> None:
    actions = bridge.start(texts())
    ended = on_exit(actions)
    assert ended.keys() == nodes(actions).keys()
    for executable, react in ended.items():
        assert nodes(actions)[executable]["respawn"]
        react(SimpleNamespace(returncode=-9, process_name=executable), None)  # launch starts it again
        with pytest.raises(RuntimeError, match=f"{executable}-2 may not run here"):
            react(SimpleNamespace(returncode=REFUSED, process_name=f"{executable}-2"), None)


def test_real_arm_gets_time_to_lie_down_and_is_not_respawned(bridge) -> None:
    actions = bridge.start(texts(robot="widowx"))
    node = nodes(actions)["widowx_arm"]
    assert float(node["sigterm_timeout"]) >= 20.0
    assert node["respawn"] is False
    ended = on_exit(actions)["widowx_arm"]
    ended(SimpleNamespace(returncode=0), None)
    with pytest.raises(RuntimeError, match="unsupervised"):  # what makes `ros2 launch` fail
        ended(SimpleNamespace(returncode=1), None)


def test_real_arm_brings_the_vendors_launch_file_and_its_camera(bridge) -> None:
    actions = bridge.start(texts(robot="widowx", camera="realsense", namespace="left"))
    included = {
        action.positional[0].positional[0]: dict(action.named["launch_arguments"])
        for action in actions
        if type(action).__name__ == "IncludeLaunchDescription"
    }
    (keeper,) = (action.named["cmd"] for action in actions if type(action).__name__ == "ExecuteProcess")
    assert keeper[1:3] == ["-m", "gymnast_ros.drivers.keeper"]  # the driver ends after the arm
    ros2 = keeper[keeper.index("--") + 1 :]
    assert ros2[:4] == ["ros2", "launch", "interbotix_xsarm_control", "xsarm_control.launch.py"]
    vendor = dict(word.split(":=") for word in ros2[4:])
    camera = included["/share/realsense2_camera/launch/rs_launch.py"]
    arm = nodes(actions)["widowx_arm"]["parameters"][0]
    assert vendor["robot_name"] == arm["robot_name"] == "left_wx250s"
    assert arm["camera_topics"] == [f"/{camera['camera_namespace']}/{camera['camera_name']}/color/image_raw"]
    assert external(config_from(texts())) == ()


def test_webcam_and_joystick_are_started_where_our_nodes_listen(bridge) -> None:
    started = nodes(bridge.start(texts(robot="widowx", camera="usb_cam", teleop="true", namespace="left")))
    camera, joystick = started["usb_cam_node_exe"], started["joy_node"]
    assert (camera["package"], camera["executable"]) == ("usb_cam", "usb_cam_node_exe")
    assert (joystick["package"], joystick["executable"]) == ("joy", "joy_node")
    assert {node["namespace"] for node in started.values()} == {"left"}
    remapped = dict(camera["remappings"])["image_raw"]
    assert started["widowx_arm"]["parameters"][0]["camera_topics"] == [f"/left/{remapped}"]


def test_two_arms_share_no_name() -> None:
    left, right = (config_from(texts(robot="widowx", namespace=side, camera="usb_cam")) for side in ("left", "right"))
    for ours, theirs in zip(graph(left), graph(right), strict=True):
        assert ours.namespace != theirs.namespace
    assert graph(left)[0].parameters["robot_name"] != graph(right)[0].parameters["robot_name"]
    assert graph(left)[0].parameters["camera_topics"] != graph(right)[0].parameters["camera_topics"]


def test_processes_never_share_memory_that_a_killed_one_keeps(bridge, monkeypatch) -> None:
    """Fast DDS's shared memory may not survive kill -9 of a reader; a user's own choice stands."""
    monkeypatch.delenv("FASTDDS_BUILTIN_TRANSPORTS", raising=False)
    started = environment(bridge.start(texts()))
    assert started.items() >= ENVIRONMENT.items()
    assert started["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    let_go(bridge)
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "DEFAULT")
    assert environment(bridge.start(texts()))["FASTDDS_BUILTIN_TRANSPORTS"] == "DEFAULT"


def test_a_kernel_that_grants_small_sockets_is_named_when_the_graph_starts(bridge, monkeypatch, tmp_path) -> None:
    for limit, named in ((212_992, 1), (2 * 1024 * 1024, 0)):
        (tmp_path / "rmem_max").write_text(str(limit))
        monkeypatch.setattr(examine_sockets, "__defaults__", (tmp_path / "rmem_max",))
        said = [action.named["msg"] for action in bridge.start(texts()) if type(action).__name__ == "LogInfo"]
        assert len(said) == named
        assert all("sudo sysctl -w net.core.rmem_max=2097152" in line for line in said)
        let_go(bridge)


def test_launch_hands_the_key_down_and_refuses_a_second_graph_by_name(bridge) -> None:
    first = environment(bridge.start(texts(name="lefty")))
    assert Keyring.load(Path(first["GYMNAST_GATE"])).graph
    with pytest.raises(ConfigError, match=r"robot 'lefty'.*is running already"):
        bridge.start(texts(name="righty", folder="elsewhere"))
    assert bridge.start(texts(name="righty", folder="elsewhere", namespace="right"))


def environment(actions: list[Any]) -> dict[str, str]:
    return dict(action.positional for action in actions if type(action).__name__ == "SetEnvironmentVariable")


def test_launch_declares_every_argument_with_its_choices(bridge) -> None:
    declared = bridge.generate_launch_description().positional[0][:-1]
    assert [action.positional[0] for action in declared] == [argument.name for argument in ARGUMENTS]
    assert all(action.named["description"] for action in declared)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"robot": "ur5"}, "robot:='ur5'"),
        ({"trainer": "cloud:1"}, "needs identity"),
        ({"trainer": "nonsense", "insecure": "true"}, "'nonsense' names no port"),
        ({"domain": "x"}, "domain:='x'"),
        ({"domain": "300"}, "at most 232, or none, got 300"),
        ({"page": "http"}, "page:='http'"),
        ({"page": "70000"}, "at most 65,535, got 70000"),
        ({"camera": "usb_cam"}, "simulated arm brings its own camera"),
        ({"robot": "widowx", "paced": "true"}, "paced"),
        ({"chunking": "real_time"}, "waits for nobody"),
        ({"robot": "widowx", "rate_hz": "50"}, "rate_hz 50 is for the simulated arm"),
        ({"rate_hz": "30"}, "rate_hz:='30'"),
        ({"chunking": "maybe"}, "chunking:='maybe'"),
        ({"color": "red"}, "unknown arguments"),
    ],
)
def test_wrong_argument_is_refused_by_name(arguments, message) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from(texts(**arguments))


def test_identity_that_is_not_there_is_refused_before_anything_starts(bridge, tmp_path) -> None:
    given = texts(trainer="cloud:50051", identity=str(tmp_path), folder=str(tmp_path / "robot"))
    with pytest.raises(ConfigError, match=r"has no cert\.pem, key\.pem, ca\.pem"):
        bridge.start(given)
    (tmp_path / "cert.pem").touch()
    with pytest.raises(ConfigError, match=r"has no key\.pem, ca\.pem"):
        check_files(config_from(given))
    assert not (tmp_path / "robot").exists()


def test_evaluate_launch_starts_graph_and_evaluation_and_ends(launch_modules) -> None:
    launch_file = load("evaluate.launch.py")
    context = texts(
        tasks="lift,push", seed_start="5", seed_count="2", checkpoints="", scene="standard", json="/tmp/r.json",
        retry="3", retry_judge="",
    )  # fmt: skip
    robot, evaluation, end = launch_file.start(context)
    assert type(robot).__name__ == "IncludeLaunchDescription"
    command = evaluation.named["cmd"]
    assert command[:3] == ["/install/gymnast_ros/lib/gymnast_ros/evaluate_once", "--tasks", "lift,push"]
    assert command[command.index("--retry") + 1] == "3"
    assert "--retry-judge" not in command
    assert end.positional[0].named["target_action"] is evaluation
    ended = end.positional[0].named["on_exit"]
    assert [type(action).__name__ for action in ended(SimpleNamespace(returncode=0), None)] == ["EmitEvent"]
    with pytest.raises(RuntimeError, match="code 3"):  # what makes `ros2 launch` fail
        ended(SimpleNamespace(returncode=3), None)


@pytest.mark.parametrize(
    ("word", "meant"),
    [("trainr:=cloud:1", "did you mean trainer:="), ("colour:=red", "there are robot, robot_model, folder")],
)
def test_misspelt_launch_argument_is_refused(word, meant) -> None:
    ours = ["/opt/ros/jazzy/bin/ros2", "launch", "gymnast_ros", "bridge.launch.py", word]
    with pytest.raises(ConfigError, match=meant):
        check_known([word], ours, "bridge.launch.py", ARGUMENTS)
    check_known(["trainer:=cloud:1"], ours, "bridge.launch.py", ARGUMENTS)
    check_known([word], ["ros2", "launch", "my_lab", "everything.launch.py"], "bridge.launch.py", ARGUMENTS)


def test_evaluation_command_is_understood_by_its_program(capsys) -> None:
    command = evaluation_command({"tasks": "lift", "namespace": "left"})
    with pytest.raises(SystemExit):
        evaluate_once.main([*command, "--help"])
    assert "--seed-count" in capsys.readouterr().out


@pytest.mark.skipif(not REAL, reason="ROS's launch is not installed")
def test_launch_files_execute() -> None:
    from launch import LaunchContext, LaunchDescription

    for name in ("bridge.launch.py", "evaluate.launch.py"):
        assert isinstance(load(name).generate_launch_description(), LaunchDescription)
    context = LaunchContext()
    context.launch_configurations.update(texts())
    assert load("bridge.launch.py").start(context)


def test_package_manifest_names_every_ros_package_we_import() -> None:
    manifest = (ROOT / "package.xml").read_text()
    ours = (
        "rclpy",
        "sensor_msgs",
        "std_msgs",
        "std_srvs",
        "diagnostic_msgs",
        "rosgraph_msgs",
        "builtin_interfaces",
        "rcl_interfaces",
    )
    for package in (*ours, "launch", "launch_ros", "ament_index_python"):
        assert f"<exec_depend>{package}</exec_depend>" in manifest
    assert "<build_type>ament_python</build_type>" in manifest
    assert (ROOT / "resource" / "gymnast_ros").exists()
    assert "lib/gymnast_ros" in (ROOT / "setup.cfg").read_text()


def test_parameter_file_reaches_the_nodes(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("command_gate: {ros__parameters: {deadman_s: 0.3}}")
    specs = {spec.name: spec for spec in graph(config_from(texts(robot="widowx", parameters=str(path))))}
    assert specs["command_gate"].parameters["deadman_s"] == 0.3
    assert specs["command_gate"].parameters["max_change_m"] == 0.06  # what the file does not name stays


@pytest.mark.parametrize(
    ("content", "message"),
    [("gripper: {ros__parameters: {}}", "names the node 'gripper'"), ("arm: {speed: 1}", "arm needs a table"),
     ("- arm", "must map nodes"), ("arm: {", "cannot be read")],
)  # fmt: skip
def test_wrong_parameter_file_is_refused_by_its_part(tmp_path, content, message) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        config_from(texts(parameters=str(path)))


@pytest.mark.parametrize("robot", ["sim", "widowx"])
def test_shipped_configuration_says_what_the_graph_does_anyway(robot) -> None:
    """The files document the defaults: with or without one, the same robot starts."""
    path = ROOT / "config" / f"robot_{robot}.yaml"
    plain = {spec.name: spec for spec in graph(config_from(texts(robot=robot)))}
    with_file = {spec.name: spec for spec in graph(config_from(texts(robot=robot, parameters=str(path))))}
    for name, spec in plain.items():
        for parameter, value in spec.parameters.items():
            assert with_file[name].parameters[parameter] == value, (name, parameter)


def test_foxglove_layout_shows_topics_that_exist() -> None:
    from gymnast_core.episodes import messages as episode
    from gymnast_ros.nodes import topics

    shown = (ROOT / "config" / "foxglove_layout.json").read_text()
    assert set(json.loads(shown)) >= {"configById", "layout"}
    live = (
        topics.image_topic("over_shoulder"),
        topics.TARGET,
        topics.EXECUTED,
        topics.JOINT_STATES,
        topics.GATE_STATUS,
    )
    for topic in (*live, topics.ESTOP, topics.DIAGNOSTICS.lstrip("/")):
        assert f'"/{topic}' in shown
    assert f'"{episode.IMAGE_PREFIX}over_shoulder{episode.IMAGE_SUFFIX}"' in shown
