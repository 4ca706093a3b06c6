"""An arm in MJCF: the joints, limits and gripper point of its RobotSpec; boxes and capsules of our own around them.

Thicknesses are those that the WidowX 250s is drawn with, scaled by the length of the forearm.
"""

from __future__ import annotations

from gymnast_core.spec import JOINT_NAMES, RobotSpec

_FOREARM_M = 0.25
"""Of the arm that the thicknesses below are of."""
_PAD_HALF_M = 0.004
"""Half the thickness of a finger's pad."""


class _Drawing:
    """Numbers of one arm, as text."""

    def __init__(self, spec: RobotSpec) -> None:
        self.spec, self._scale = spec, spec.chain.forearm_m / _FOREARM_M

    def thick(self, *lengths_m: float) -> str:
        """Lengths that are given for a forearm of 25 cm."""
        return _m(*(length_m * self._scale for length_m in lengths_m))

    def joint(self, name: str, axis: str) -> str:
        """A joint with its limits."""
        index = JOINT_NAMES.index(name)
        low, high = self.spec.joint_low_rad[index], self.spec.joint_high_rad[index]
        return f'<joint name="{name}" axis="{axis}" range="{low} {high}" damping="3" armature="0.05"/>'

    def finger(self, name: str, side: int) -> str:
        """A finger whose pad's face is where the joint says, less the arm's inset."""
        spec = self.spec
        low, high = spec.finger_closed_m, spec.finger_open_m
        place = f"{self.thick(-0.012)} {_m(side * (_PAD_HALF_M - spec.sizes.finger_inset_m))} 0"
        size = f"{self.thick(0.023)} {_m(_PAD_HALF_M)} {self.thick(0.0045)}"
        return f"""<body name="{name}" gravcomp="1">
      <joint name="{name}" type="slide" axis="0 {side} 0" range="{low} {high}" damping="6" armature="0.05"/>
      <geom class="pad" type="box" pos="{place}" size="{size}"/>
    </body>"""


def _m(*lengths_m: float) -> str:
    return " ".join(f"{length_m:.9g}" for length_m in lengths_m)


def _link(mass: float) -> str:
    return f'<inertial pos="0 0 0" mass="{mass}" diaginertia="0.001 0.001 0.001"/>'


def arm_body(spec: RobotSpec) -> str:
    """Return an arm's base and bodies down to the wrist's, with the hand on it."""
    draw, chain = _Drawing(spec), spec.chain
    elbow, along = _m(chain.elbow_x_m, 0.0, chain.elbow_z_m), chain.forearm_roll_x_m
    front = along - 0.045 * chain.forearm_m / _FOREARM_M
    return f"""
<geom class="arm" type="cylinder" pos="0 0 {draw.thick(0.036)}" size="{draw.thick(0.05, 0.036)}"/>
<body name="waist" gravcomp="1">{draw.joint("waist", "0 0 1")}{_link(0.3)}
  <geom class="arm" type="cylinder" pos="0 0 {draw.thick(0.09)}" size="{draw.thick(0.038, 0.022)}"/>
  <body name="upper_arm" pos="0 0 {_m(chain.shoulder_z_m)}" gravcomp="1">{draw.joint("shoulder", "0 1 0")}{_link(0.3)}
    <geom class="arm" type="capsule" fromto="0 0 0 0 0 {_m(chain.elbow_z_m)}" size="{draw.thick(0.022)}"/>
    <geom class="arm" type="capsule" fromto="0 0 {_m(chain.elbow_z_m)} {elbow}" size="{draw.thick(0.02)}"/>
    <body name="upper_forearm" pos="{elbow}" gravcomp="1">{draw.joint("elbow", "0 1 0")}{_link(0.2)}
      <geom class="arm" type="capsule" fromto="0 0 0 {_m(front)} 0 0" size="{draw.thick(0.02)}"/>
      <body name="lower_forearm" pos="{_m(along)} 0 0" gravcomp="1">{draw.joint("forearm_roll", "1 0 0")}{_link(0.15)}
        <geom class="arm" type="capsule" fromto="{draw.thick(-0.04)} 0 0 {_m(chain.wrist_angle_x_m)} 0 0" size="{
        draw.thick(0.018)
    }"/>
        <body name="wrist" pos="{_m(chain.wrist_angle_x_m)} 0 0" gravcomp="1">{draw.joint("wrist_angle", "0 1 0")}{
        _link(0.1)
    }
          <geom class="arm" type="capsule" fromto="0 0 0 {_m(chain.wrist_rotate_x_m)} 0 0" size="{draw.thick(0.017)}"/>
          {_hand(draw, spec)}
        </body>
      </body>
    </body>
  </body>
</body>"""


def _hand(draw: _Drawing, spec: RobotSpec) -> str:
    """Palm, fingers, and the site of the gripper's point."""
    turns = f"{draw.joint('wrist_rotate', '1 0 0')}{_link(0.15)}"
    palm = f"{draw.thick(0.012)} {_m(spec.finger_open_m + 2 * _PAD_HALF_M - spec.sizes.finger_inset_m)}"
    return f"""<body name="gripper" pos="{_m(spec.chain.wrist_rotate_x_m)} 0 0" gravcomp="1">{turns}
            <geom class="arm" type="cylinder" fromto="0 0 0 {draw.thick(0.03)} 0 0" size="{draw.thick(0.016)}"/>
            <geom class="palm" type="box" pos="{draw.thick(0.046)} 0 0" size="{palm} {draw.thick(0.012)}"/>
            <body name="gripper_point" pos="{_m(spec.chain.gripper_x_m)} 0 0" gravcomp="1">
              <site name="gripper" size="0.002" rgba="0 0 0 0"/>
              {draw.finger("left_finger", 1)}
              {draw.finger("right_finger", -1)}
            </body>
          </body>"""


def actuators() -> str:
    """Return the servos of the joints and the fingers."""
    gains = {"waist": 400, "shoulder": 400, "elbow": 300, "forearm_roll": 200, "wrist_angle": 200, "wrist_rotate": 150}
    arm = [f'<position name="{name}" joint="{name}" kp="{kp}" kv="{kp / 12:.1f}"/>' for name, kp in gains.items()]
    fingers = [
        f'<position name="{name}" joint="{name}" kp="600" kv="20" forcerange="-8 8"/>'
        for name in ("left_finger", "right_finger")
    ]
    return "\n    ".join(arm + fingers)
