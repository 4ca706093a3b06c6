"""What a plan job leaves in its folder, named where neither torch nor a model is needed."""

FILM = "plan.webp"
"""Frames of the plan that is kept."""
