"""The trainer as `gymnast serve` runs it: every part wired once, for the command, the demo and tests."""

from typing import TYPE_CHECKING

from gymnast_core.lazy import parts

if TYPE_CHECKING:
    from cloud_trainer.app.settings import AppConfig, Arms, at_hand
    from cloud_trainer.app.trainer import App, stop_signals
    from cloud_trainer.service.openpi import OpenpiConfig

__all__ = ["App", "AppConfig", "Arms", "OpenpiConfig", "at_hand", "stop_signals"]

__getattr__ = parts(
    __name__,
    {
        "settings": ("AppConfig", "Arms", "OpenpiConfig", "at_hand"),
        "trainer": ("App", "stop_signals"),
    },
)
