"""What an arm is and can do, stated once: geometry, limits, rates, poses. Everything that computes for an arm asks it.

Source of the WidowX 250s: rail-berkeley/bridge_data_robot (action box, workspace, neutral pose, 5 Hz, effort limits in
mA with their tolerance) and Interbotix/interbotix_ros_manipulators (links, joint and velocity limits).
Source of the ViperX 300s: Interbotix/interbotix_ros_manipulators 41746ab, vx300s.urdf.xacro, vx300s.yaml and meshes
(links, joint limits, sleep pose, sizes).
Source of both motors' torque: ROBOTIS e-manual, stall torques at 12 V; Interbotix, specifications of the arms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import radians

import numpy as np
import numpy.typing as npt

from gymnast_core.chain import ArmChain, LinkSizes
from gymnast_core.errors import ConfigError


@dataclass(frozen=True)
class RobotSpec:
    """Geometry, limits and conventions of one arm. SI units, REP 103 frames.

    Attributes:
        name: robot model, as Interbotix spells it.
        chain: where its joints are.
        sizes: how thick it is.
        control_hz: control rate.
        max_translation_m: largest |dx|, |dy|, |dz| in one step.
        max_rotation_rad: largest |droll|, |dpitch|, |dyaw| in one step.
        workspace_low_m: lower corner of the box the end-effector target is clipped to.
        workspace_high_m: upper corner.
        joint_low_rad: lower joint limits, 6.
        joint_high_rad: upper joint limits, 6.
        joint_velocity_rad_s: velocity limit of every joint.
        neutral_joints_rad: pose the arm starts episodes from.
        sleep_joints_rad: pose in which torque may go off.
        finger_closed_m: finger position, closed.
        finger_open_m: finger position, open.
        table_heights_m: lowest and highest table top in base_link that a gate may be set to.
        min_clearance_m: what gripper and links keep from table and arm whatever a gate is set to.
        max_deadman_s: longest silence that a gate may be set to bear.
        max_effort: per joint, in the unit of joint_states.effort; no gate may be set to bear more.
        stall_nm: torque of each joint's motors, for simulators.
    """

    name: str
    chain: ArmChain
    sizes: LinkSizes
    control_hz: float
    max_translation_m: float
    max_rotation_rad: float
    workspace_low_m: tuple[float, float, float]
    workspace_high_m: tuple[float, float, float]
    joint_low_rad: tuple[float, ...]
    joint_high_rad: tuple[float, ...]
    joint_velocity_rad_s: float
    neutral_joints_rad: tuple[float, ...]
    sleep_joints_rad: tuple[float, ...]
    finger_closed_m: float
    finger_open_m: float
    table_heights_m: tuple[float, float]
    min_clearance_m: float
    max_deadman_s: float
    max_effort: tuple[float, ...]
    stall_nm: tuple[float, ...]

    @property
    def step_s(self) -> float:
        """Duration of one control step."""
        return 1.0 / self.control_hz

    @property
    def step_ns(self) -> int:
        """Duration of one control step in nanoseconds."""
        return round(1e9 / self.control_hz)

    @property
    def action_high_A(self) -> npt.NDArray[np.float32]:
        """(7,) the most of each number of an action [m, rad; gripper open]."""
        return np.array([self.max_translation_m] * 3 + [self.max_rotation_rad] * 3 + [1.0], np.float32)

    @property
    def action_low_A(self) -> npt.NDArray[np.float32]:
        """(7,) the least of each [m, rad; gripper closed]."""
        low_A = -self.action_high_A
        low_A[6] = 0.0
        return low_A

    def at(self, control_hz: float) -> RobotSpec:
        """Return the same arm commanded at another rate: shorter steps, the same speeds.

        Raises:
            ConfigError: no rate of RATES_HZ.
        """
        if control_hz not in RATES_HZ:
            raise ConfigError(f"the arm is commanded at one of {list(RATES_HZ)} Hz, got {control_hz:g}")
        share = self.control_hz / control_hz
        return replace(
            self, control_hz=control_hz, max_translation_m=self.max_translation_m * share,
            max_rotation_rad=self.max_rotation_rad * share,
        )  # fmt: skip


RATES_HZ = (5.0, 10.0, 20.0, 25.0, 50.0)
"""Control rates: steps are whole steps of the simulator's physics and whole parts of a 5 Hz step. Slower ones would let
one step lead further than the limits of the data set that they are from."""

BRIDGE_HZ = 5.0
"""Rate of the data sets that policies and world models learn from; whatever arm runs their actions."""

ROBOT_MODEL = "robot_model"
"""Under which word episodes and checkpoints name the model of their arm; what is silent is of a WidowX 250s."""

BASE_FRAME = "base_link"
"""Under the waist joint, x forward, y left, z up (REP 103, REP 105)."""

JOINT_NAMES = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")

_NEARLY_PI = np.pi - 1e-5
"""Limit of a joint that turns all the way, in the vendor's description; its driver refuses more."""

WIDOWX_250S = RobotSpec(
    name="wx250s",
    chain=ArmChain(
        shoulder_z_m=0.11065, elbow_x_m=0.04975, elbow_z_m=0.25, forearm_roll_x_m=0.175, wrist_angle_x_m=0.075,
        wrist_rotate_x_m=0.065, gripper_x_m=0.093575,
    ),
    sizes=LinkSizes(
        palm_to_gripper_m=0.066, palm_half_width_m=0.05, elbow_radius_m=0.04, wrist_radius_m=0.035, palm_radius_m=0.02,
        base_radius_m=0.07, arm_radius_m=0.03,
    ),
    control_hz=BRIDGE_HZ,
    max_translation_m=0.05,
    max_rotation_rad=0.25,
    workspace_low_m=(0.10, -0.20, -0.01),
    workspace_high_m=(0.45, 0.25, 0.30),
    joint_low_rad=(-np.pi, -1.885, -2.147, -np.pi, -1.745, -np.pi),
    joint_high_rad=(np.pi, 1.990, 1.606, np.pi, 2.147, np.pi),
    joint_velocity_rad_s=np.pi,
    neutral_joints_rad=(-0.1319, -0.7624, 0.4449, -0.0199, 1.7564, -0.1595),
    sleep_joints_rad=(0.0, -1.80, 1.55, 0.0, 0.8, 0.0),
    finger_closed_m=0.015,
    finger_open_m=0.037,
    table_heights_m=(-0.5, 0.3),
    min_clearance_m=0.0,
    max_deadman_s=5.0,
    max_effort=tuple(1.7 * value for value in (800.0, 1000.0, 600.0, 600.0, 600.0, 700.0)),
    stall_nm=(4.1, 8.2, 8.2, 4.1, 4.1, 1.5),
)  # fmt: skip
"""One XM430-W350 a joint, two at shoulder and elbow, an XL430-W250 at the wrist."""

VIPERX_300S = RobotSpec(
    name="vx300s",
    chain=ArmChain(
        shoulder_z_m=0.12705, elbow_x_m=0.05955, elbow_z_m=0.3, forearm_roll_x_m=0.2, wrist_angle_x_m=0.1,
        wrist_rotate_x_m=0.069744, gripper_x_m=0.1072,
    ),
    sizes=LinkSizes(
        palm_to_gripper_m=0.064, palm_half_width_m=0.075, elbow_radius_m=0.045, wrist_radius_m=0.045,
        palm_radius_m=0.035, base_radius_m=0.1, arm_radius_m=0.04, finger_inset_m=0.0135,
    ),
    control_hz=BRIDGE_HZ,
    max_translation_m=0.05,
    max_rotation_rad=0.25,
    workspace_low_m=(0.12, -0.24, 0.0),
    workspace_high_m=(0.54, 0.30, 0.36),
    joint_low_rad=(-_NEARLY_PI, radians(-106), radians(-101), -_NEARLY_PI, radians(-107), -_NEARLY_PI),
    joint_high_rad=(_NEARLY_PI, radians(72), radians(92), _NEARLY_PI, radians(128), _NEARLY_PI),
    joint_velocity_rad_s=np.pi,
    neutral_joints_rad=(0.0, -0.6859, 0.4845, 0.0, 1.7722, 0.0),
    sleep_joints_rad=(0.0, -1.85, 1.55, 0.0, 0.8, 0.0),
    finger_closed_m=0.021,
    finger_open_m=0.057,
    table_heights_m=(-0.5, 0.3),
    min_clearance_m=0.0,
    max_deadman_s=5.0,
    max_effort=(2600.0, 3250.0, 1950.0, 1950.0, 1950.0, 1190.0),
    stall_nm=(10.6, 21.2, 21.2, 10.6, 10.6, 4.1),
)  # fmt: skip
"""One XM540-W270 a joint, two at shoulder and elbow (their second follows as its shadow), an XM430-W350 at the wrist.

Nobody has measured two of its limits on an arm. The workspace is the WidowX's, longer by the ratio of the links (1.2),
and not below the table, as its fingers reach 29 mm beyond the gripper's frame (the WidowX's 16 mm). The effort limits
are the WidowX's shares of the motors' stall current, of an XM540's 4.4 A. Action box and rate are Bridge's.
"""


@dataclass(frozen=True)
class EnvSpec:
    """What an environment promises about its arrays.

    Attributes:
        batch_size: B, rows stepped together.
        cameras: camera names, in order; the first is the one policies use by default.
        image_height: H in pixels.
        image_width: W in pixels.
        max_steps: T, after which every row is truncated.
        robot: the arm behind it.
    """

    batch_size: int
    cameras: tuple[str, ...]
    image_height: int
    image_width: int
    max_steps: int
    robot: RobotSpec = WIDOWX_250S

    def __post_init__(self) -> None:
        """Refuse empty or negative sizes."""
        for name in ("batch_size", "image_height", "image_width", "max_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.cameras:
            raise ConfigError("cameras must name at least one camera")
