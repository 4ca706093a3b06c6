"""Bullet's side of the second simulator: bodies, motors and contacts of one table. No cameras, no tasks, no policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pybullet

from gymnast_ros.sim.bullet.bodies import ARM_JOINTS, FINGER_JOINTS, GRIPPER_LINK, BulletBodies
from gymnast_ros.sim.bullet.conditions import Conditions
from gymnast_ros.sim.bullet.urdf import FINGER_FORCE_N
from gymnast_ros.sim.scene import DISTRACTORS

Array = npt.NDArray[np.float64]

STEP_S = 0.005
"""Of Bullet's solver. Half of it moves no success rate of the scripted experts and takes twice the time."""
SERVO_S = 0.09
"""Time in which a joint comes 63 % closer to its target: what the other engine's servos take."""
FINGER_SERVO_S = 0.03
PAD, OBJECT, TABLE, ARM = 1.0, 1.0, 0.5, 0.4
"""Friction; Bullet multiplies those of two bodies: rubber on wood 1.0, wood on the table 0.5."""


@dataclass(frozen=True, eq=False)
class WorldState:
    """Where everything is.

    Attributes:
        joints_J: (6,) [rad].
        velocities_J: (6,) [rad/s].
        fingers_F: (2,) [m].
        drawer_m: how far it is out.
        poses: object -> (7,) position and quaternion, x y z then w x y z.
        twists: object -> (6,) linear and angular velocity.
    """

    joints_J: Array
    velocities_J: Array
    fingers_F: Array
    drawer_m: float
    poses: Mapping[str, Array]
    twists: Mapping[str, Array]


@dataclass(frozen=True)
class Strain:
    """What one control step did to arm and surroundings.

    Attributes:
        force_n: that the arm pressed with on table, plate and cabinet; the mean over the step.
    """

    force_n: float = 0.0


class BulletWorld:
    """One table with an arm and its physics.

    Args:
        bodies: in a server of their own.
        stall_nm: torque of each of the arm's joints.
    """

    def __init__(self, bodies: BulletBodies, stall_nm: Sequence[float]) -> None:
        self._bodies, self._client, self._stall_nm = bodies, bodies.client, stall_nm
        self._gain = 1.0

    def reset(
        self, joints_J: Array, fingers_F: Array, drawer_m: float, poses: Mapping[str, Array], conditions: Conditions
    ) -> None:
        """Build everything anew: nothing of the episode before is left, not even in the solver.

        Args:
            joints_J: (6,) [rad].
            fingers_F: (2,) [m].
            drawer_m: how far it is out.
            poses: of plate, cabinet and objects, (7,) position and quaternion w x y z.
            conditions: of this episode.
        """
        client = self._client
        pybullet.resetSimulation(physicsClientId=client)
        pybullet.setGravity(0.0, 0.0, -9.81, physicsClientId=client)
        pybullet.setPhysicsEngineParameter(
            fixedTimeStep=STEP_S, numSubSteps=0, numSolverIterations=50, deterministicOverlappingPairs=1,
            physicsClientId=client,
        )  # fmt: skip
        self._bodies.load(poses)
        self._bodies.set_joints(joints_J, fingers_F, drawer_m)
        self._gain = conditions.gain
        self._set_friction(conditions.friction)
        self._drive_fingers(float(fingers_F[0]))
        if conditions.payload_kg:
            pybullet.changeDynamics(
                self._bodies["arm"], GRIPPER_LINK, mass=conditions.payload_kg, physicsClientId=client
            )
        self._slow_drawer()

    def drive(self, start_J: Array, goal_J: Array, finger_m: float, pieces: int, step_s: float) -> Strain:
        """Move the motors' targets from start to goal in equal pieces, over one control step."""
        arm, client = self._bodies["arm"], self._client
        steps = round(step_s / pieces / STEP_S)
        pressed = []
        self._drive_fingers(finger_m)
        share = 1.0 - np.exp(-STEP_S * self._gain / SERVO_S)
        for piece in range(1, pieces + 1):
            wanted_J = start_J + (goal_J - start_J) * (piece / pieces)
            pybullet.setJointMotorControlArray(
                arm, ARM_JOINTS, pybullet.POSITION_CONTROL, targetPositions=wanted_J.tolist(), forces=self._stall_nm,
                positionGains=[share] * 6, velocityGains=[1.0] * 6, physicsClientId=client,
            )  # fmt: skip
            for _ in range(steps):
                pybullet.stepSimulation(physicsClientId=client)
            pressed.append(sum(self._pressed_on(name) for name in ("table", "cabinet", "plate")))
        return Strain(float(np.mean(pressed)))

    def state(self) -> WorldState:
        """Return where everything is."""
        states = self._joint_states("arm", (*ARM_JOINTS, *FINGER_JOINTS))
        positions = np.array([each[0] for each in states])
        velocities_J = np.array([each[1] for each in states[:6]])
        poses, twists = {}, {}
        for name in self._bodies.moving:
            place, (x, y, z, w) = pybullet.getBasePositionAndOrientation(self._bodies[name], self._client)
            poses[name] = np.array([*place, w, x, y, z])
            twists[name] = np.concatenate(pybullet.getBaseVelocity(self._bodies[name], self._client))
        (drawer,) = self._joint_states("cabinet", (0,))
        return WorldState(positions[:6], velocities_J, positions[6:], float(drawer[0]), poses, twists)

    def _joint_states(self, body: str, joints: Sequence[int]) -> Any:
        return pybullet.getJointStates(self._bodies[body], joints, physicsClientId=self._client)

    def _pressed_on(self, name: str) -> float:
        contacts = pybullet.getContactPoints(self._bodies["arm"], self._bodies[name], physicsClientId=self._client)
        return float(sum(contact[9] for contact in contacts or () if contact[3] >= 0))

    def _set_friction(self, factor: float) -> None:
        root = float(np.sqrt(factor))  # both bodies of a contact have it
        client = self._client
        for name, body in self._bodies.items():
            nominal = {"arm": ARM, "table": TABLE, "plate": TABLE, "cabinet": TABLE}.get(name, OBJECT)
            for link in range(-1, pybullet.getNumJoints(body, client)):
                pad = name == "arm" and link in FINGER_JOINTS
                pybullet.changeDynamics(
                    body, link, lateralFriction=root * (PAD if pad else nominal), linearDamping=0.0, angularDamping=0.0,
                    spinningFriction=0.005 if pad else 0.0, rollingFriction=0.0005 if name in DISTRACTORS else 0.0,
                    jointDamping=0.0, physicsClientId=client,
                )  # fmt: skip

    def _drive_fingers(self, finger_m: float) -> None:
        share = 1.0 - float(np.exp(-STEP_S / FINGER_SERVO_S))
        pybullet.setJointMotorControlArray(
            self._bodies["arm"], FINGER_JOINTS, pybullet.POSITION_CONTROL, targetPositions=[finger_m] * 2,
            forces=[FINGER_FORCE_N] * 2, positionGains=[share] * 2, velocityGains=[1.0] * 2,
            physicsClientId=self._client,
        )  # fmt: skip

    def _slow_drawer(self) -> None:
        """A motor of no speed is Coulomb friction."""
        cabinet, client = self._bodies["cabinet"], self._client
        pybullet.changeDynamics(cabinet, 0, jointDamping=2.0, physicsClientId=client)
        pybullet.setJointMotorControl2(
            cabinet, 0, pybullet.VELOCITY_CONTROL, targetVelocity=0.0, force=0.6, physicsClientId=client
        )
