"""The looks of the real arm: meshes of MuJoCo Menagerie's Trossen WidowX 250s in place of our boxes and capsules.

The user's own copy of the Menagerie is read; nothing of it is part of this package. What moves, weighs and touches
stays as it is: the primitives that touch things become invisible, and the meshes touch nothing.

Source:
    google-deepmind/mujoco_menagerie, trossen_wx250s/wx250s.xml: names of bodies, and the frames that its meshes are in.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree  # of a file that the user installed, and of our own
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

from gymnast_core.errors import ConfigError

MODEL = Path("trossen_wx250s") / "wx250s.xml"
_GRIPPER_POINT_M = 0.093575
_FINGERS_M = 0.066
_BODIES = MappingProxyType(
    {
        "base_link": ("", (0.0, 0.0, 0.0)),
        "shoulder_link": ("waist", (0.0, 0.0, 0.072)),
        "upper_arm_link": ("upper_arm", (0.0, 0.0, 0.0)),
        "upper_forearm_link": ("upper_forearm", (0.0, 0.0, 0.0)),
        "lower_forearm_link": ("lower_forearm", (0.0, 0.0, 0.0)),
        "wrist_link": ("wrist", (0.0, 0.0, 0.0)),
        "gripper_link": ("gripper", (0.0, 0.0, 0.0)),
        "left_finger_link": ("left_finger", (_FINGERS_M - _GRIPPER_POINT_M, 0.0, 0.0)),
        "right_finger_link": ("right_finger", (_FINGERS_M - _GRIPPER_POINT_M, 0.0, 0.0)),
    }
)
"""Their body -> ours ("" is the world), and where their frame is in ours [m]; the axes are the same."""
_INVISIBLE = "0 0 0 0"


def model_of(folder: Path) -> Path:
    """Return the arm's file in a copy of the Menagerie.

    Raises:
        ConfigError: it is not there.
    """
    path = folder / MODEL
    if not path.is_file():
        raise ConfigError(
            f"{folder} has no {MODEL}; name a copy of MuJoCo Menagerie: git clone --depth 1 "
            "https://github.com/google-deepmind/mujoco_menagerie"
        )
    return path


def dressed(mjcf: str, folder: Path | None) -> str:
    """Return the MJCF of one of our scenes with the arm drawn as its maker built it.

    Args:
        mjcf: of gymnast_ros.sim.scene.mjcf.
        folder: a copy of the Menagerie; None leaves the arm as it is.

    Raises:
        ConfigError: the arm or one of its meshes is not there, or it is not built as expected.
    """
    if folder is None:
        return mjcf
    path = model_of(folder)
    try:
        theirs = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ConfigError(f"{path} cannot be read: {error}; clone the Menagerie again") from error
    ours = ElementTree.fromstring(mjcf)
    world = ours.find("worldbody")
    assert world is not None
    for parent in ours.iter():
        for geom in [geom for geom in parent.findall("geom") if geom.get("class") == "arm"]:
            parent.remove(geom)
    for name in ("palm", "pad"):
        for geom in ours.findall(f".//default[@class='{name}']/geom"):
            geom.set("rgba", _INVISIBLE)
    bodies = {body.get("name", ""): body for body in ours.iter("body")} | {"": world}
    used = set()
    for body, geom in _visuals(theirs, path):
        name, place_m = _BODIES[body]
        bodies[name].append(_drawn(geom, place_m))
        used.add(geom.get("mesh", ""))
    assets = ElementTree.SubElement(ours, "asset")
    for mesh in sorted(used):
        ElementTree.SubElement(assets, "mesh", name=mesh, file=_mesh_file(path, mesh), scale="0.001 0.001 0.001")
    return ElementTree.tostring(ours, encoding="unicode")


def _visuals(theirs: ElementTree.Element, path: Path) -> Iterator[tuple[str, ElementTree.Element]]:
    """(body, geometry) of everything that is drawn of their arm."""
    missing = set(_BODIES)
    for body in theirs.iter("body"):
        name = body.get("name", "").rpartition("/")[2]
        if name in _BODIES:
            missing.discard(name)
            yield from ((name, geom) for geom in body.findall("geom") if geom.get("class") == "visual")
    if missing:
        raise ConfigError(f"{path} has no {', '.join(sorted(missing))}; it is another version of the Menagerie's arm")


def _drawn(geom: ElementTree.Element, place_m: tuple[float, float, float]) -> ElementTree.Element:
    own, turned = _numbers(geom, "pos", "0 0 0"), _numbers(geom, "quat", "1 0 0 0")
    place = " ".join(f"{a + b:.6f}" for a, b in zip(own, place_m, strict=True))
    return ElementTree.Element(
        "geom", type="mesh", mesh=geom.get("mesh", ""), pos=place, quat=" ".join(map(str, turned)), contype="0",
        conaffinity="0", mass="0", rgba="0.12 0.12 0.13 1",
    )  # fmt: skip


def _numbers(geom: ElementTree.Element, name: str, usual: str) -> list[float]:
    """As many finite numbers as there usually are; a NaN would reach the renderer."""
    said = geom.get(name, usual)
    try:
        found = [float(value) for value in said.split()]
    except ValueError:
        found = []
    if len(found) != len(usual.split()) or not all(map(math.isfinite, found)):
        raise ConfigError(f"{name} {said[:80]!r} of mesh {geom.get('mesh')!r}: fetch the Menagerie again")
    return found


def _mesh_file(path: Path, mesh: str) -> str:
    file = path.parent / "assets" / f"{mesh}.stl"
    if not mesh or Path(mesh).name != mesh:
        raise ConfigError(f"{path} names the mesh {mesh[:80]!r}, which is no file of its assets; fetch it again")
    if not file.is_file():
        raise ConfigError(f"{file} is missing; fetch the Menagerie again, with its assets")
    return str(file.absolute())
