import os

os.environ.setdefault("MUJOCO_GL", "egl")  # before any module here imports mujoco, which picks its renderer then
