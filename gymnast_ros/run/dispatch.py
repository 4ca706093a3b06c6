"""Does each request once and answers it, whatever comes meanwhile; services and requests reach the same handlers."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gymnast_core.errors import GymnastError
from gymnast_ros.run.codec import Answer, Failure, RequestEnvelope, from_wire, opened
from gymnast_ros.run.requests import Request

LOG = logging.getLogger(__name__)
REMEMBERED = 1000
"""Answers that are kept, for a request that is sent again because its answer was lost."""


@dataclass(frozen=True)
class Began:
    """What a handler returns that began something which lasts.

    Attributes:
        run: its name; finished() is called with it.
    """

    run: str


Ended = Callable[[str, Mapping[str, object], "Failure | None"], None]
"""Called with run, result and failure when a run is over."""
Handler = Callable[[Any], "str | Began"]
"""Gets a request of its kind; returns words, or what it began. Raises GymnastError to refuse."""


class Dispatcher:
    """The requests of one node; safe from any thread.

    Args:
        node: name of the node in the requests.
        handlers: one for each kind of request that the node knows.
        publish: sends an answer.
    """

    def __init__(self, node: str, handlers: Mapping[type[Request], Handler], publish: Callable[[Answer], None]) -> None:
        self._node, self._handlers, self._publish = node, dict(handlers), publish
        self._lock = threading.RLock()
        self._answers: OrderedDict[str, Answer] = OrderedDict()
        self._running: dict[str, str] = {}
        """Run -> id of the request that began it."""

    def take(self, value: Mapping[str, Any], prove: Callable[[], None]) -> None:
        """Do what a message asks, and answer; one that came before gets its answer again.

        Args:
            value: the message.
            prove: raises GymnastError unless whoever sent it holds the graph's key; asked where the request needs that.

        Raises:
            BadRequestError: it has no id that could be answered.
        """
        asked = from_wire(value)
        with self._lock:
            known = self._answers.get(asked.id)
            self._answer(self._begin(asked, prove) if known is None else known)

    def handle(self, request: Request) -> str:
        """Do a request that came another way, e.g. through a service; returns words, or the name of its run.

        Raises:
            GymnastError: it is refused; the message has the reason.
        """
        outcome = self._handlers[type(request)](request)
        return outcome.run if isinstance(outcome, Began) else outcome

    def finished(self, run: str, result: Mapping[str, Any], failure: Failure | None = None) -> None:
        """Answer the request that began this run, if one did."""
        with self._lock:
            request_id = self._running.pop(run, None)
            if request_id is not None:
                self._answer(Answer(id=request_id, done=True, message=run, result=dict(result), failure=failure))

    def _begin(self, asked: RequestEnvelope, prove: Callable[[], None]) -> Answer:
        try:
            request = opened(asked, self._node)
            if request.marked:
                prove()
            outcome = self._handlers[type(request)](request)
        except GymnastError as error:
            return Answer(id=asked.id, done=True, failure=Failure.of(error))
        except Exception as error:
            LOG.exception("request_failed operation=%s", asked.operation)
            return Answer(id=asked.id, done=True, failure=Failure.of(error))
        if not isinstance(outcome, Began):
            return Answer(id=asked.id, done=True, message=outcome)
        self._running[outcome.run] = asked.id
        return Answer(id=asked.id, done=False, message=outcome.run)

    def _answer(self, answer: Answer) -> None:
        self._answers[answer.id] = answer
        self._answers.move_to_end(answer.id)
        while len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)
        self._publish(answer)
