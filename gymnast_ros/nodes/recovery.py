"""Lets an arm recover from a motor fault at its operator's word alone: recovering stands it up, and anybody may call.

The word lies beside the one that re-arms, readable by the robot's user alone. It is good for one recovery, within a
minute: the caller writes it into the arm's parameter recover_word, then calls ~/recover.
"""

from __future__ import annotations

import math
import time

from gymnast_core.errors import SafetyError
from gymnast_ros.keyring import RECOVER_FILE, Keyring
from gymnast_ros.nodes.settings import NodeSettings

PARAMETER = "recover_word"
GIVEN_S = 60.0
"""How long a word may wait for its recovery."""


class RecoveryGuard:
    """The arm's side: declares the parameter and keeps the word. Not thread safe.

    Args:
        settings: parameters of the arm.
        keyring: of the graph.
        node: fully qualified name of the arm.
    """

    def __init__(self, settings: NodeSettings, keyring: Keyring, node: str) -> None:
        self._keyring, self._node = keyring, node
        self._word = keyring.new_word(RECOVER_FILE)
        self._given_s = -math.inf
        settings.declare(PARAMETER, "", "write the word of the gate's file recover here, for one recovery",
                         check=self._take)  # fmt: skip

    @property
    def remedy(self) -> str:
        """How to recover, as typed at the robot."""
        path = self._keyring.folder / RECOVER_FILE
        return (
            f"gymnast recover --folder {path.parent.parent}, or "
            f'ros2 param set {self._node} {PARAMETER} "$(cat {path})" and, within a minute, '
            f"ros2 service call {self._node}/recover std_srvs/srv/Trigger"
        )

    def spend(self) -> None:
        """Use up the word that was given.

        Raises:
            SafetyError: none was, or too long ago.
        """
        if time.monotonic() - self._given_s > GIVEN_S:
            raise SafetyError(f"recovering needs the operator's word: {self.remedy}")
        self._given_s = -math.inf
        self._word = self._keyring.new_word(RECOVER_FILE)

    def _take(self, word: str) -> str:
        """Return why a word is none."""
        if word == "":
            return ""
        if word != self._word:
            return f"not this arm's word, or one that was used; {self.remedy}"
        self._given_s = time.monotonic()
        return ""
