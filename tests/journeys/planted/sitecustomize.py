"""On the robot's PYTHONPATH, as a lab adds an architecture of its own: every process of the robot then knows it."""

from gymnast_core.policies import ARCHITECTURES

ARCHITECTURES["planted"] = "planted:Planted"
