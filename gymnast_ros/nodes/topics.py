"""Names, types and quality of service of everything on the wire, once.

All names are relative, so a namespace (/left_arm) moves a whole arm. Frames are REP 103: base_link is x forward,
z up; stamps are the sensor's clock (simulated time in the simulator); SI units.

| topic | type | what |
|---|---|---|
| <camera>/image_raw | sensor_msgs/Image rgb8 | one per control step |
| joint_states | sensor_msgs/JointState | measured joints [rad], their velocity and effort where measured |
| proprioception | sensor_msgs/JointState | Bridge proprioception, named values |
| /clock | rosgraph_msgs/Clock | simulated time, from a simulated arm |
| arm/target | sensor_msgs/JointState | commanded pose, its joints, episode, session; between episodes, too |
| arm/executed | sensor_msgs/JointState | the action commanded before this stamp, and whether it ended |
| arm/notes | std_msgs/String | JSON, a real arm's: when each camera took its frame of this stamp, and what is wrong |
| arm/truth | std_msgs/String | JSON, a simulated arm's: whether the task is done, and a digest of the physics |
| arm/description | std_msgs/String, latched | JSON: cameras, sizes, steps, rate |
| command/policy, command/teleop | sensor_msgs/JointState | wanted action; stamp = the observation it answers |
| command/take_over | std_msgs/String, latched | JSON: human = whether the human commands |
| command/arm | sensor_msgs/JointState | from the gate only: what the arm shall do, and the stop latch's word |
| command_gate/status | std_msgs/String, latched | JSON: state, reason, arm = session of the arm process it hears |
| command_gate/report | std_msgs/String | JSON: a command that was limited, held or dropped, and why |
| estop | std_msgs/Bool | true stops; anybody may send it |
| rollout/status, rollout/result, rollout/policy_version | std_msgs/String, latched | JSON |
| rollout/episode, bridge/job_events | std_msgs/String, last 1000 latched | JSON: how an episode went; a job's events |
| bridge/status, bridge/result | std_msgs/String, latched | JSON |
| rollout/request, bridge/request | std_msgs/String | JSON: id, operation, arguments; see gymnast_ros.run.requests |
| rollout/answer, bridge/answer | std_msgs/String | JSON: what became of a request, by its id |

arm/target, command/*, command_gate/status and what rollout and bridge publish (but bridge/job_events) bear marks
(gymnast_ros.nodes.marked): what does not is counted and dropped.
"""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

CLOCK = "/clock"
JOINT_STATES = "joint_states"
PROPRIOCEPTION = "proprioception"
TARGET = "arm/target"
EXECUTED = "arm/executed"
DESCRIPTION = "arm/description"
RESET = "arm/reset"
RECOVER = "arm/recover"
ARM_NODE = "arm"
GATE_NODE = "command_gate"
POLICY_COMMAND = "command/policy"
TELEOP_COMMAND = "command/teleop"
TAKE_OVER = "command/take_over"
ARM_COMMAND = "command/arm"
GATE_STATUS = "command_gate/status"
GATE_REPORT = "command_gate/report"
ESTOP = "command_gate/estop"
RE_ARM = "command_gate/re_arm"
ROLLOUT_STATUS = "rollout/status"
ROLLOUT_RESULT = "rollout/result"
POLICY_VERSION = "rollout/policy_version"
EPISODE = "rollout/episode"
CANCEL = "rollout/cancel"
LABEL = "rollout/label"
RUN_EPISODE = "rollout/run_episode"
LABEL_SUCCESS, LABEL_FAILURE, DISCARD = "rollout/label_success", "rollout/label_failure", "rollout/discard"
ANNOTATE = "rollout/annotate"
BRIDGE_STATUS = "bridge/status"
BRIDGE_RESULT = "bridge/result"
JOBS = "bridge/job_events"
JOY = "joy"
ESTOP_TOPIC = "estop"
TRUTH = "arm/truth"
EFFORT, ENVELOPE = "arm/effort", "command_gate/envelope"
"""Of flight records alone."""
NOTES = "arm/notes"
DIAGNOSTICS = "/diagnostics"

ACTION_NAMES = ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper")
PROPRIO_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


def image_topic(camera: str) -> str:
    """Topic of one camera, as usb_cam and realsense2_camera spell it."""
    return f"{camera}/image_raw"


def request_topic(node: str) -> str:
    """Where a node hears requests (gymnast_ros.run.requests)."""
    return f"{node}/request"


def answer_topic(node: str) -> str:
    """Where it answers them."""
    return f"{node}/answer"


def parameters_service(node: str) -> str:
    """The service that sets a node's parameters."""
    return f"{node}/set_parameters"


def _qos(depth: int, durability: DurabilityPolicy) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=ReliabilityPolicy.RELIABLE, durability=durability
    )


STREAM = _qos(10, DurabilityPolicy.VOLATILE)
"""Commands, states and images: nothing may be lost in lockstep."""

LATCHED = _qos(1, DurabilityPolicy.TRANSIENT_LOCAL)
"""Status: a subscriber that comes late still reads the last one."""

JOB_EVENTS = _qos(1000, DurabilityPolicy.TRANSIENT_LOCAL)
"""Events of a job: a subscriber that comes late reads them all."""

REQUESTS = _qos(100, DurabilityPolicy.VOLATILE)
"""Requests and their answers; what is lost all the same is sent again."""
