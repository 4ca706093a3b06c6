"""A client of any OpenAI-compatible endpoint (a vLLM server, a hosted model): retries what may pass, names the rest."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import httpx
import tenacity

from cloud_trainer.judge.proxies import transport_for
from gymnast_core.errors import ConfigError, RejectedBridgeError, TransientBridgeError
from gymnast_core.jobs.judges import Endpoint

_T = TypeVar("_T")
BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Status codes worth retrying."""
TOKEN_LIMITS = ("max_tokens", "max_completion_tokens")
MAX_ANSWER_BYTES = 8 * 1024 * 1024


class _Loop:
    """An event loop on a thread of its own: what runs there can be given up as a whole, whatever it waits for."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge endpoint", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run it there and wait."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        """Stop the loop and its thread; closing again does nothing."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class EndpointClient:
    """Sends chat completions, retrying what may pass.

    Attributes:
        endpoint: where and how patiently.
    """

    def __init__(self, endpoint: Endpoint, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.endpoint = endpoint
        self._loop = _Loop()
        self._http = httpx.AsyncClient(
            base_url=endpoint.base_url, timeout=endpoint.timeout_s, headers=self._headers(),
            transport=transport_for(endpoint.base_url),
        )  # fmt: skip
        self._sleep = sleep
        self._limit_name = TOKEN_LIMITS[0] if endpoint.token_limit == "auto" else endpoint.token_limit

    def _headers(self) -> dict[str, str]:
        variable = self.endpoint.key_variable
        if not variable:
            return {}
        if not os.environ.get(variable):
            raise ConfigError(f"environment variable {variable} holds no API key; set it where the trainer runs")
        return {"Authorization": f"Bearer {os.environ[variable]}"}

    def complete(self, chat: Sequence[dict[str, object]], *, seed: int) -> str:
        """Return the text of one answer.

        Args:
            chat: OpenAI messages.
            seed: asks the server for a reproducible sample.

        Raises:
            TransientBridgeError: still failing after every attempt.
            RejectedBridgeError: refused, or an answer that is no chat completion.
        """
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.endpoint.attempts),
            wait=self._wait,
            retry=tenacity.retry_if_exception_type(TransientBridgeError),
            sleep=self._sleep,
            reraise=True,
        )
        answer: str = retrying(self._once, chat, seed)
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._loop.run(self._http.aclose())
        self._loop.close()

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """Random exponential, or what the server asked for."""
        longest = self.endpoint.longest_wait_s
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _BusyError) and error.retry_after_s is not None:
            return min(error.retry_after_s, longest)
        return float(tenacity.wait_random_exponential(multiplier=self.endpoint.first_wait_s, max=longest)(state))

    def _once(self, chat: Sequence[dict[str, object]], seed: int) -> str:
        body = {
            "model": self.endpoint.model,
            "messages": list(chat),
            "temperature": self.endpoint.temperature,
            self._limit_name: self.endpoint.max_tokens,
            "seed": seed,
        }
        response = self._post(body)
        if self._other_limit_is_wanted(response):
            self._limit_name = TOKEN_LIMITS[1]
            return self._once(chat, seed)
        if response.status_code in BUSY:
            raise _BusyError(self.endpoint.base_url, response)
        if response.status_code != httpx.codes.OK:
            raise RejectedBridgeError(
                f"{self.endpoint.base_url} answered {response.status_code}: "
                f"{response.text[:200]!r}; check model name and key"
            )
        try:
            message = response.json()["choices"][0]["message"]
            return _text_of(message)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise RejectedBridgeError(f"{self.endpoint.base_url} sent no chat completion: {error!r}") from error

    def _post(self, body: dict[str, object]) -> httpx.Response:
        """Send one request; the time and size of the whole answer are bounded, not only of each read."""
        limit_s = self.endpoint.timeout_s
        try:
            return self._loop.run(asyncio.wait_for(self._exchange(body), limit_s))
        except asyncio.TimeoutError as error:
            raise TransientBridgeError(f"{self.endpoint.base_url}: no whole answer within {limit_s:g} s") from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise TransientBridgeError(f"{self.endpoint.base_url}: {type(error).__name__}: {error}") from error

    async def _exchange(self, body: dict[str, object]) -> httpx.Response:
        async with self._http.stream("POST", "chat/completions", json=body) as response:
            read = bytearray()
            async for piece in response.aiter_bytes():
                read += piece
                if len(read) > MAX_ANSWER_BYTES:
                    raise RejectedBridgeError(f"{self.endpoint.base_url}: an answer above {MAX_ANSWER_BYTES} bytes")
            headers = {"retry-after": response.headers.get("retry-after", "")}
            return httpx.Response(response.status_code, headers=headers, content=bytes(read))

    def _other_limit_is_wanted(self, response: httpx.Response) -> bool:
        """Whether the server refused max_tokens and names what it takes instead."""
        return (
            response.status_code == httpx.codes.BAD_REQUEST
            and self.endpoint.token_limit == "auto"
            and self._limit_name == TOKEN_LIMITS[0]
            and TOKEN_LIMITS[1] in response.text
        )


def _text_of(message: Any) -> str:
    """The words of an answer: a string, or the text parts of a list."""
    content = message["content"]
    if content is None:
        raise ValueError("an answer without content, thoughts alone; raise max_tokens")
    if isinstance(content, list):
        texts = [part for part in content if part.get("type", "text") in ("text", "output_text")]
        content = "".join(part.get("text", "") for part in texts)
    return content if isinstance(content, str) else json.dumps(content)


class _BusyError(TransientBridgeError):
    """A status that may pass, with the wait the server asked for."""

    def __init__(self, base_url: str, response: httpx.Response) -> None:
        super().__init__(f"{base_url} answered {response.status_code}: {response.text[:200]!r}")
        wanted = response.headers.get("retry-after", "")
        self.retry_after_s = float(wanted) if wanted.replace(".", "", 1).isdigit() else None
