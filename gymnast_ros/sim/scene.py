"""What stands on the table and how it is seen: one MJCF of primitive shapes, generated from a SceneConfig.

The arm is gymnast_ros.sim.arm_body's. Metres, radians, kilograms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gymnast_core.errors import ConfigError
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_ros.sim.arm_body import actuators, arm_body

Colour = tuple[float, float, float]
Vector = tuple[float, float, float]

CAMERA = "over_shoulder"
CUBE_HALF_M = 0.0215
BLOCK_HALF_LENGTH_M = 0.029
PLATE_RADIUS_M = 0.05
PLATE_HALF_HEIGHT_M = 0.003
DRAWER_TRAVEL_M = 0.07
DRAWER_FRONT_HALF_M = 0.019
CABINET_HALF_DEPTH_M = 0.045
DISTRACTORS = ("distractor_0", "distractor_1")


@dataclass(frozen=True)
class SceneConfig:
    """How a scene looks and what else stands in it. The dynamics of arm and task objects never change.

    Attributes:
        name: rides in episode metadata.
        cube_colour: RGB 0..1 of the cube to lift; likewise for the others.
        block_colour: of the block to push.
        plate_colour: of the plate.
        drawer_colour: of the drawer's front.
        table_colour: of the table.
        light: brightness, 1 is normal.
        light_position_m: where the lamp hangs.
        camera_shift_m: added to the camera's place.
        camera_widening_deg: added to its field of view; positive sees more.
        distractors: 0..2 objects that are part of no task.
    """

    name: str = "standard"
    cube_colour: Colour = (0.85, 0.08, 0.08)
    block_colour: Colour = (0.10, 0.25, 0.90)
    plate_colour: Colour = (0.95, 0.95, 0.92)
    drawer_colour: Colour = (0.95, 0.65, 0.10)
    table_colour: Colour = (0.62, 0.57, 0.50)
    light: float = 1.0
    light_position_m: Vector = (0.1, 0.3, 1.2)
    camera_shift_m: Vector = (0.0, 0.0, 0.0)
    camera_widening_deg: float = 0.0
    distractors: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if not 0 <= self.distractors <= len(DISTRACTORS):
            raise ConfigError(f"distractors must be 0..{len(DISTRACTORS)}, got {self.distractors}")
        if not 0.0 < self.light <= 2.0:
            raise ConfigError(f"light must be above 0 and at most 2, got {self.light}")


STANDARD = SceneConfig()

NOVEL_SCENES: Mapping[str, SceneConfig] = MappingProxyType(
    {
        scene.name: scene
        for scene in (
            SceneConfig(name="pink_cube", cube_colour=(0.95, 0.35, 0.60), drawer_colour=(0.55, 0.30, 0.75)),
            SceneConfig(name="dark_table", table_colour=(0.16, 0.20, 0.18), plate_colour=(0.75, 0.85, 0.95)),
            SceneConfig(name="evening", light=0.55, light_position_m=(0.7, -0.6, 0.8)),
            SceneConfig(name="moved_camera", camera_shift_m=(-0.02, 0.035, 0.03)),
            SceneConfig(name="clutter", distractors=2),
            SceneConfig(
                name="all_new",
                cube_colour=(0.90, 0.30, 0.10),
                table_colour=(0.58, 0.50, 0.34),
                light=0.8,
                light_position_m=(0.6, -0.3, 1.0),
                camera_shift_m=(0.015, -0.02, 0.02),
                distractors=1,
            ),
        )
    }
)
"""Scenes for test-time training and generalisation; nothing is trained on them beforehand."""


def scene_named(name: str) -> SceneConfig:
    """Return a scene by name.

    Raises:
        ConfigError: there is no such scene; the message lists them.
    """
    scenes = {STANDARD.name: STANDARD, **NOVEL_SCENES}
    if name not in scenes:
        raise ConfigError(f"no scene named {name!r}; there are {', '.join(scenes)}")
    return scenes[name]


def mjcf(scene: SceneConfig, image_size: int, robot: RobotSpec = WIDOWX_250S) -> str:
    """Return the MJCF of an arm in a scene, ready for mujoco.MjModel.from_xml_string."""
    return f"""
<mujoco model="bridge_{scene.name}">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="0.005" integrator="implicitfast" iterations="12" ls_iterations="8" impratio="4"/>
  <visual>
    <global offwidth="{image_size}" offheight="{image_size}"/>
    <quality shadowsize="0" offsamples="0" numslices="20" numstacks="6" numquads="1"/>
    <headlight ambient="{_rgb(0.38, scene.light)}" diffuse="{_rgb(0.32, scene.light)}" specular="0 0 0"/>
    <map znear="0.02" zfar="8"/>
  </visual>
  <default>
    <geom condim="3" friction="1.0 0.01 0.001" solref="0.008 1"/>
    <default class="arm"><geom contype="0" conaffinity="0" mass="0" rgba="0.13 0.13 0.15 1"/></default>
    <default class="palm"><geom contype="2" conaffinity="1" mass="0.05" rgba="0.22 0.22 0.25 1"/></default>
    <default class="pad">
      <geom contype="2" conaffinity="1" condim="4" friction="1.6 0.02 0.001" mass="0.02" rgba="0.3 0.9 0.85 1"/>
    </default>
  </default>
  <worldbody>
    <light pos="{_triple(scene.light_position_m)}" dir="{_triple(_towards_table(scene.light_position_m))}"
      diffuse="{_rgb(0.5, scene.light)}" specular="0 0 0" castshadow="false"/>
    <camera name="{CAMERA}" {_camera(scene)}/>
    <geom name="table" type="box" pos="0.25 0 -0.02" size="0.7 0.7 0.02" rgba="{_rgba(scene.table_colour)}"/>
    {arm_body(robot)}
    {_box("red_cube", CUBE_HALF_M, scene.cube_colour)}
    {_box("blue_block", BLOCK_HALF_LENGTH_M, scene.block_colour)}
    {_plate(scene)}
    {_cabinet(scene)}
    {_distractors(scene)}
  </worldbody>
  <actuator>
    {actuators()}
  </actuator>
</mujoco>"""


def _triple(values: Vector) -> str:
    return " ".join(f"{value:.5f}" for value in values)


def _rgb(level: float, light: float) -> str:
    return _triple((level * light, level * light, level * light))


def _rgba(colour: Colour) -> str:
    return f"{_triple(colour)} 1"


def _towards_table(light: Vector) -> Vector:
    return (0.28 - light[0], -light[1], -light[2])


def _camera(scene: SceneConfig) -> str:
    """Place and axes of a camera behind the arm's left shoulder that looks at the middle of the table."""
    place = [a + b for a, b in zip((0.03, 0.29, 0.40), scene.camera_shift_m, strict=True)]
    back = [a - b for a, b in zip(place, (0.304, 0.026, 0.03), strict=True)]
    right = (-back[1], back[0], 0.0)
    up = (-back[2] * right[1], back[2] * right[0], back[0] * right[1] - back[1] * right[0])
    axes = " ".join(f"{value:.6f}" for value in (*right, *up))
    fovy = f"{38.0 + scene.camera_widening_deg:.3f}"
    return f'pos="{_triple((place[0], place[1], place[2]))}" xyaxes="{axes}" fovy="{fovy}"'


def _box(name: str, half_length_m: float, colour: Colour) -> str:
    half = CUBE_HALF_M
    return f"""<body name="{name}" pos="0 0 {half}"><freejoint name="{name}"/>
      <geom name="{name}" type="box" size="{half_length_m} {half} {half}" mass="0.05" rgba="{_rgba(colour)}"/></body>"""


def _plate(scene: SceneConfig) -> str:
    size = f"{PLATE_RADIUS_M} {PLATE_HALF_HEIGHT_M}"
    return f"""<body name="plate" mocap="true"><geom name="plate" type="cylinder" size="{size}"
      rgba="{_rgba(scene.plate_colour)}"/></body>"""


def _cabinet(scene: SceneConfig) -> str:
    """A box whose drawer slides along +y when it opens; the body's origin is on the table under the face."""
    depth, front = CABINET_HALF_DEPTH_M, DRAWER_FRONT_HALF_M
    wood = 'rgba="0.42 0.27 0.15 1"'
    return f"""<body name="cabinet" mocap="true">
      <geom name="cabinet_top" type="box" pos="0 {-depth} 0.052" size="0.034 {depth} 0.003" {wood}/>
      <geom name="cabinet_left" type="box" pos="-0.031 {-depth} 0.0265" size="0.003 {depth} 0.0265" {wood}/>
      <geom name="cabinet_right" type="box" pos="0.031 {-depth} 0.0265" size="0.003 {depth} 0.0265" {wood}/>
      <body name="drawer">
      <joint name="drawer" type="slide" axis="0 1 0" range="0 {DRAWER_TRAVEL_M}" damping="2" frictionloss="0.6"/>
      <geom name="drawer_front" type="box" pos="0 0.005 0.025" size="{front} 0.005 0.0215" mass="0.1"
        rgba="{_rgba(scene.drawer_colour)}"/>
      <geom name="drawer_tray" type="box" pos="0 -0.035 0.012" size="0.017 0.035 0.006" mass="0.05"
        contype="0" conaffinity="0" rgba="0.75 0.55 0.25 1"/>
    </body></body>"""


def _distractors(scene: SceneConfig) -> str:
    shapes = ('type="cylinder" size="0.02 0.02" rgba="0.1 0.6 0.2 1"', 'type="sphere" size="0.02" rgba="0.6 0.2 0.7 1"')
    return "\n".join(
        f'<body name="{name}" pos="0 0 0.02"><freejoint name="{name}"/>'
        f'<geom name="{name}" mass="0.04" condim="6" friction="1 0.02 0.01" {shape}/></body>'
        for name, shape in list(zip(DISTRACTORS, shapes, strict=True))[: scene.distractors]
    )
