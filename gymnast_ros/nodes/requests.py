"""Requests over topics: a node answers them here, a client sends them; gymnast_ros.run.requests has their types.

<node>/request and <node>/answer hold std_msgs/String. A request is one message, so that two callers at once each get
what they asked for; one that is sent again, because nobody answered it, is not done again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger

from gymnast_core.arm.mark import ForeignError, MarkChecker, Marker
from gymnast_core.errors import GymnastError
from gymnast_ros.keyring import VARIABLE, Keyring
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.ears import listen
from gymnast_ros.nodes.marked import FIELD, MarkedJson, MarkReader
from gymnast_ros.run.codec import Answer, Failure, UnmarkedRequestError, answer_from_wire, new_id, to_wire
from gymnast_ros.run.dispatch import Dispatcher, Handler
from gymnast_ros.run.requests import Request

MOST_AGE_S = 30.0
"""A mark that is older is worth nothing."""
SEND_AGAIN_S = 1.0
"""A node that was killed counts as there for a while, and its successor hears nothing of what was sent to it."""


class RequestPort:
    """Answers the requests of one node, and its services of the same names.

    Args:
        node: whose executor delivers.
        name: of the node in the requests.
        handlers: one for each kind of request.
        answered: called after each request or service call.
        keyring: of the graph, whose mark the answers bear.
        open_services: whether anybody may use services of requests that have to be marked: a service call cannot be.
    """

    def __init__(
        self, node: Node, name: str, handlers: Mapping[type[Request], Handler],
        answered: Callable[[], None] = lambda: None, *, keyring: Keyring, open_services: bool = False,
    ) -> None:  # fmt: skip
        self._node, self._answered, self._open = node, answered, open_services
        self._checker = MarkChecker(keyring.key, topics.request_topic(name), max_age_ns=int(1e9 * MOST_AGE_S))
        self._publisher = MarkedJson(node, keyring, topics.answer_topic(name), topics.REQUESTS)
        self._dispatcher = Dispatcher(name, handlers, self._publish)
        listen(node, String, topics.request_topic(name), self._take, topics.REQUESTS)

    def serve(self, service: str, request: Callable[[], Request]) -> None:
        """Offer a std_srvs/Trigger service, whose arguments are the node's parameters.

        Args:
            service: its name below the node's.
            request: makes the request at each call.
        """

        def answer(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            try:
                asked = request()
                if asked.marked and not self._open:
                    raise UnmarkedRequestError(
                        f"anybody on the domain may call {service}, so it does nothing: ask with GraphClient and the "
                        "robot's folder, or start the bridge with the parameter open_services"
                    )
                response.message, response.success = self._dispatcher.handle(asked), True
            except GymnastError as error:
                response.message, response.success = str(error), False
            self._answered()
            return response

        self._node.create_service(Trigger, f"~/{service}", answer)

    def ended(self, run: str, result: Mapping[str, object], failure: Failure | None = None) -> None:
        """Answer the request that began this run; safe from any thread."""
        self._dispatcher.finished(run, result, failure)

    def _take(self, message: String) -> None:
        value = messages.from_json(message)
        mark = str(value.pop(FIELD, ""))
        self._dispatcher.take(value, lambda: self._prove(value, mark))
        self._answered()

    def _prove(self, value: Mapping[str, object], mark: str) -> None:
        try:
            self._checker.check(messages.to_json(value).data.encode(), mark)
        except ForeignError as error:
            raise UnmarkedRequestError(
                f"this needs the key of the robot's graph ({error}): name its folder to GraphClient, or set {VARIABLE}"
            ) from error

    def _publish(self, answer: Answer) -> None:
        self._publisher.publish(answer.model_dump(mode="json"))


def _marked(value: Mapping[str, object], marker: Marker | None) -> String:
    if marker is None:
        return messages.to_json(value)
    return messages.to_json({**value, FIELD: marker.mark(messages.to_json(value).data.encode())})


class Pending:
    """One request that was sent, and what was answered; reading is safe from any thread.

    Attributes:
        id: of the request.
        first: the first answer.
        last: the last one.
        accepted: set by the first answer.
        lost: the node that began it has been started anew.
    """

    def __init__(self) -> None:
        self.id = new_id()
        self.first: Answer | None = None
        self.last: Answer | None = None
        self.accepted = threading.Event()
        self._begun = self.lost = False

    def note_run(self, run: str) -> None:
        """Take note of the run that the node's status names: one that was started anew names none."""
        mine = self.first is not None and run == self.first.message
        self.lost = self._begun and not run
        self._begun = self._begun or mine

    def hear(self, answer: Answer) -> None:
        """Take note of an answer."""
        self.first = self.first or answer
        if answer.done:
            self.last = self.last or answer
        self.accepted.set()


class Requester:
    """Sends requests to one node through somebody's node.

    Args:
        node: whose executor delivers the answers.
        name: of the node that is asked.
        keyring: reads the graph's key; None where this process has none: its requests bear no mark then, and any answer
            is believed.
    """

    def __init__(self, node: Node, name: str, keyring: Callable[[], Keyring | None]) -> None:
        self._topic, self._keyring = topics.request_topic(name), keyring
        self._publisher = node.create_publisher(String, topics.request_topic(name), topics.REQUESTS)
        self._pending: dict[str, Pending] = {}
        self._answers, self._marks = topics.answer_topic(name), MarkReader(keyring)
        listen(node, String, self._answers, self._hear, topics.REQUESTS)

    def ready(self) -> bool:
        """Whether the node listens, or still counts as there."""
        return bool(self._publisher.get_subscription_count() > 0)

    def ask(self, request: Request, wait: Callable[[Pending, float], bool], timeout_s: float) -> Pending | None:
        """Send a request until it is answered.

        Args:
            request: to send.
            wait: waits until this one is answered, so many seconds; returns whether it is.
            timeout_s: longest wait in all.

        Returns:
            The request with its first answer; forget() it when its last one was read. None where nobody answered.
        """
        pending = Pending()
        self._pending[pending.id] = pending
        deadline = time.monotonic() + timeout_s
        value, keyring = to_wire(pending.id, request), self._keyring() if request.marked else None
        marker = None if keyring is None else Marker(keyring.key, self._topic)
        while (left_s := deadline - time.monotonic()) > 0:
            if self.ready():
                self._publisher.publish(_marked(value, marker))  # each time anew: an overtaken mark is worth nothing
            if wait(pending, min(left_s, SEND_AGAIN_S if self.ready() else 0.1)):
                return pending
        self.forget(pending)
        return None

    def forget(self, pending: Pending) -> None:
        """Take no more answers to it."""
        self._pending.pop(pending.id, None)

    def _hear(self, message: String) -> None:
        answer = answer_from_wire(self._marks.read(self._answers, message))
        if (pending := self._pending.get(answer.id)) is not None:
            pending.hear(answer)
