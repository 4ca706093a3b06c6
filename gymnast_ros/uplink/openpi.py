"""A policy that a server of openpi's protocol runs; when it does not answer in time the arm holds.

Nothing the other side sends is believed: sizes are bounded, shapes and numbers checked, and what it has to say for
itself is quoted where it is one line. A connection on which anything went wrong is never used again, so that an answer
that came too late answers nothing; a thread of its own then dials until somebody is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import socket
import struct
import threading
import time
from collections.abc import Sequence

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from gymnast_core.errors import ContractError, GymnastError, PolicyFailedError
from gymnast_core.types import PROPRIO_DIM, ActionChunk, FloatArray, Observation
from gymnast_core.wire.errors import InvalidMessageError, LinkLostError, NotAuthenticatedError, TooLargeError
from gymnast_core.wire.openpi.codec import MAX_BYTES, Message, pack, unpack
from gymnast_core.wire.openpi.exchange import actions_from, request
from gymnast_core.wire.openpi.link import OpenpiPlace
from gymnast_core.wire.token import header

LOG = logging.getLogger(__name__)
MAX_REPLY_BYTES = 1 << 20
"""A thousand actions of 64 numbers, twice."""
DIAL_S = 15.0
"""How long a connection may take to be set up."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 5.0
"""Between two attempts to connect: doubled from the first to the longest."""
_BLACK = 224
_QUIET = logging.getLogger(f"{__name__}.frames")
_QUIET.setLevel(logging.CRITICAL)  # what matters is raised here


class OpenpiPolicy:
    """A Policy (gymnast_core.policy) behind openpi's websocket.

    act() either returns in time or raises; it never returns an old answer. The server draws its actions by itself:
    a generator has no influence on them.

    Args:
        place: the server, and what its keys are.
        deadline_s: longest wait for an answer, from when the question is packed.

    Raises:
        LinkLostError: nobody answers there.
        NotAuthenticatedError: its certificate or our token is not the right one.
        PolicyFailedError: what answers there does not speak openpi's protocol, or is no policy for these keys.
    """

    def __init__(self, place: OpenpiPlace, *, deadline_s: float = 0.5) -> None:
        self._place, self._deadline_s = place, deadline_s
        self._lock = threading.Lock()
        self._line = _Line(place, send_s=deadline_s)
        try:
            self._chunk_length = place.settings.horizon or len(self._ask(pack(self._black()), place.settings.greet_s))
        except BaseException:
            self._line.close()
            raise

    @property
    def version(self) -> str:
        """Of the server that answered last: where it is, and a digest of what it says of itself."""
        return self._line.version

    @property
    def chunk_length(self) -> int:
        """K."""
        return self._chunk_length

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """See Policy; the rows are asked one after the other, within one deadline.

        Raises:
            ContractError: the number of instructions differs from B.
            ConfigError: the arm has no camera of a name that a key asks for.
            LinkLostError: no answer within the deadline.
            PolicyFailedError: the server refused, or its answer is no chunk of actions.
        """
        rows = observation.batch_size
        if len(instruction) != rows:
            raise ContractError(f"{len(instruction)} instructions for a batch of {rows}")
        asked = [pack(self._row(observation, row, text)) for row, text in enumerate(instruction)]
        until = time.monotonic() + self._deadline_s
        chunks = []
        for data in asked:
            actions_KA = self._ask(data, until - time.monotonic())
            if len(actions_KA) < self._chunk_length:
                raise PolicyFailedError(
                    f"{self._place} answered with {len(actions_KA)} actions; {self._chunk_length} are executed: set a "
                    "shorter horizon in the file of the argument openpi"
                )
            chunks.append(actions_KA[: self._chunk_length])
        return ActionChunk(np.stack(chunks), self.version)

    def close(self) -> None:
        """Hang up; safe to call twice."""
        self._line.close()

    def _row(self, observation: Observation, row: int, instruction: str) -> Message:
        frames = {name: np.asarray(images[row]) for name, images in observation.images.items()}
        return request(self._place.settings, frames, observation.proprio_BP[row], instruction)

    def _ask(self, data: bytes, within_s: float) -> FloatArray:
        """Send one request and read its answer; where anything is wrong, the connection is given up."""
        with self._lock:
            return actions_from(self._place.settings, self._line.ask(data, within_s))

    def _black(self) -> Message:
        """What a policy is asked before it acts: nobody moves by its answer, only its length counts."""
        settings = self._place.settings
        black = np.zeros((settings.size or _BLACK,) * 2 + (3,), np.uint8)
        cameras = {camera: black for camera in settings.images.values()}
        return request(settings, cameras, np.zeros(PROPRIO_DIM, np.float32), "")


class _Line:
    """The connection to a server, and who dials again when it is lost."""

    def __init__(self, place: OpenpiPlace, *, send_s: float) -> None:
        self._place, self._send_s = place, send_s
        self._change = threading.Condition()
        self._open: contextlib.ExitStack | None = None
        self._client: ClientConnection | None = None
        self._dialling = self._closed = False
        self._why = "it was not reached yet"
        self.version = place.name
        self._dial()

    def ask(self, data: bytes, within_s: float) -> Message:
        """Send a message and return the one that answers it.

        Raises:
            LinkLostError: there is no connection, or no answer in time.
            PolicyFailedError: the answer is a text, or no message.
            TooLargeError: the message is larger than servers need to take.
        """
        if len(data) > MAX_BYTES:
            raise TooLargeError(
                f"an observation of {len(data)} bytes; {MAX_BYTES} are sent at most: set size for openpi"
            )
        until = time.monotonic() + within_s
        client = self._connected(until)
        try:
            with contextlib.suppress(TimeoutError):
                client.recv(timeout=0)
                raise PolicyFailedError(f"{self._place} sent something that nobody asked for")
            client.send(data)
            answer = client.recv(timeout=max(0.0, until - time.monotonic()))
            if isinstance(answer, str):
                raise PolicyFailedError(f"{self._place} refused the observation, or failed{_quoted(answer)}")
            return unpack(answer, limit=MAX_REPLY_BYTES)
        except (InvalidMessageError, TooLargeError) as error:
            self._lost(f"its answer was {error}")
            raise PolicyFailedError(f"the answer of {self._place} is {error}") from error
        except GymnastError as error:
            self._lost(str(error))
            raise
        except TimeoutError:
            self._lost("it did not answer in time")
            raise LinkLostError(f"{self._place} did not answer within {within_s:.2f} s; the arm holds") from None
        except (ConnectionClosed, OSError) as error:
            self._lost(str(error))
            raise LinkLostError(f"the link to {self._place} broke: {error}; the arm holds") from error

    def close(self) -> None:
        """Hang up for good."""
        with self._change:
            self._closed = True
            self._hang_up()
            self._change.notify_all()

    def _connected(self, until: float) -> ClientConnection:
        """The connection; waits for one that is being dialled."""
        with self._change:
            while self._client is None and not self._closed:
                if not self._change.wait(max(0.0, until - time.monotonic())) and self._client is None:
                    raise LinkLostError(f"there is no link to {self._place}: {self._why}; the arm holds")
            if self._client is None:
                raise LinkLostError(f"the link to {self._place} is closed")
            return self._client

    def _lost(self, why: str) -> None:
        """Give the connection up, and have a thread dial until there is another."""
        with self._change:
            self._why = " ".join(why.split())[:300]
            self._hang_up()
            if not self._dialling and not self._closed:
                self._dialling = True
                threading.Thread(target=self._dial_again, name="openpi-dial", daemon=True).start()

    def _hang_up(self) -> None:
        client, opened = self._client, self._open
        self._client = self._open = None
        if client is not None and opened is not None:
            with contextlib.suppress(OSError):
                client.socket.shutdown(socket.SHUT_RDWR)  # who does not answer is not waited for
            opened.close()

    def _dial_again(self) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            try:
                self._dial()
            except (GymnastError, ValueError) as error:
                LOG.warning("openpi_not_connected to=%s error=%s next_s=%.1f", self._place, error, wait_s)
                with self._change:
                    self._why = str(error)
                    self._change.wait_for(lambda: self._closed, wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            with self._change:
                if self._client is not None or self._closed:
                    self._dialling = False
                    return

    def _dial(self) -> None:
        """Connect once, and hear what the server says of itself."""
        with contextlib.ExitStack() as opening:
            client, hello = self._greeted(opening)
            with self._change:
                if self._closed:
                    return
                self.version = f"{self._place.name}-{hashlib.sha256(hello).hexdigest()[:8]}"
                self._client, self._open = client, opening.pop_all()
                self._change.notify_all()
        LOG.info("openpi_connected to=%s version=%s", self._place, self.version)

    def _greeted(self, opening: contextlib.ExitStack) -> tuple[ClientConnection, bytes]:
        place, secret = self._place, self._place.secret()
        headers = {"Authorization": header(secret)} if secret else None
        try:
            plain = socket.create_connection((place.address.host, place.address.port), DIAL_S)
            _bound_sending(plain, self._send_s)
            client = opening.enter_context(
                connect(
                    place.uri, sock=plain, ssl=place.context(), additional_headers=headers, compression=None,
                    max_size=MAX_REPLY_BYTES, max_queue=4, open_timeout=DIAL_S, close_timeout=1.0, proxy=None,
                    ping_interval=None,  # a server that computes in its event loop answers none meanwhile
                    logger=_QUIET,
                )
            )  # fmt: skip
            hello = client.recv(timeout=DIAL_S)
            hello = hello if isinstance(hello, bytes) else b""
            unpack(hello, limit=MAX_REPLY_BYTES)
            return client, hello
        except InvalidStatus as error:
            code = error.response.status_code
            if code in (401, 403):
                raise NotAuthenticatedError(f"{place} answers {code}: name a file with its token, as token") from error
            raise LinkLostError(f"{place} answers {code}; is that a policy server?") from error
        except (InvalidMessageError, TooLargeError) as error:
            raise PolicyFailedError(f"{place} does not greet as openpi's servers do: {error}") from error
        except (WebSocketException, OSError, EOFError, ValueError) as error:  # ValueError: it sends us elsewhere
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise NotAuthenticatedError(f"the certificate of {place}: {error}; name its authority") from error
            raise LinkLostError(
                f"{place} cannot be reached: {str(error) or 'no answer'}; is it running there?"
            ) from error


def _bound_sending(plain: socket.socket, seconds: float) -> None:
    """Let the operating system end a send that nobody reads; the library waits for ever."""
    whole, part = divmod(max(seconds, 0.05), 1.0)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(whole), int(part * 1e6)))


def _quoted(text: str) -> str:
    """What a server said, where that is a line: of a traceback nothing, it is for the server's own log."""
    lines = text.strip().splitlines()
    if len(lines) != 1 or lines[0].startswith("Traceback"):
        return f"; it sent {len(text)} characters that are not shown, look at its log"
    return f": it says {lines[0][:300]!r}"
