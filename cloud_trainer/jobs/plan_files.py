"""What a plan job leaves in its folder, named where neither torch nor a model is needed."""

FILM = "plan.webp"
"""Frames of the plan that is kept."""
PATH = "path.png"
"""Its path in the camera's picture, where that is known."""
