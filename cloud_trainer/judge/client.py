"""A client of any OpenAI-compatible endpoint (a vLLM server, a hosted model): retries what may pass, names the rest."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import tenacity

from gymnast_core.errors import ConfigError, RejectedBridgeError, TransientBridgeError

BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Status codes worth retrying."""


@dataclass(frozen=True)
class Endpoint:
    """Where a model is and how patient to be with it.

    Attributes:
        base_url: up to and including /v1.
        model: its name there.
        key_variable: environment variable that holds the API key; empty sends none. The key itself is never stored.
        timeout_s: of one request.
        attempts: tries of one request.
        first_wait_s: upper end of the first random wait between tries; doubles each time.
        longest_wait_s: cap of a wait, also of a server's Retry-After.
        temperature: of the answers.
        max_tokens: of an answer.
    """

    base_url: str
    model: str
    key_variable: str = ""
    timeout_s: float = 60.0
    attempts: int = 5
    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0
    temperature: float = 0.7
    max_tokens: int = 400

    def __post_init__(self) -> None:
        """Refuse what cannot be called."""
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"base_url must begin with http:// or https://, got {self.base_url!r}")
        if self.attempts < 1 or min(self.timeout_s, self.first_wait_s, self.longest_wait_s) <= 0:
            raise ConfigError(f"attempts must be at least 1 and waits positive, got {self}")


class EndpointClient:
    """Sends chat completions, retrying what may pass.

    Attributes:
        endpoint: where and how patiently.
    """

    def __init__(self, endpoint: Endpoint, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.endpoint = endpoint
        self._http = httpx.Client(base_url=endpoint.base_url, timeout=endpoint.timeout_s, headers=self._headers())
        self._sleep = sleep

    def _headers(self) -> dict[str, str]:
        variable = self.endpoint.key_variable
        if not variable:
            return {}
        if not os.environ.get(variable):
            raise ConfigError(f"environment variable {variable} holds no API key; set it where the trainer runs")
        return {"Authorization": f"Bearer {os.environ[variable]}"}

    def complete(self, chat: Sequence[dict[str, Any]], *, seed: int) -> str:
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
        self._http.close()

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """Random exponential, or what the server asked for."""
        longest = self.endpoint.longest_wait_s
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _BusyError) and error.retry_after_s is not None:
            return min(error.retry_after_s, longest)
        return float(tenacity.wait_random_exponential(multiplier=self.endpoint.first_wait_s, max=longest)(state))

    def _once(self, chat: Sequence[dict[str, Any]], seed: int) -> str:
        body = {
            "model": self.endpoint.model,
            "messages": list(chat),
            "temperature": self.endpoint.temperature,
            "max_tokens": self.endpoint.max_tokens,
            "seed": seed,
        }
        try:
            response = self._http.post("chat/completions", json=body)
        except httpx.TransportError as error:
            raise TransientBridgeError(f"{self.endpoint.base_url}: {type(error).__name__}: {error}") from error
        if response.status_code in BUSY:
            raise _BusyError(self.endpoint.base_url, response)
        if response.status_code != httpx.codes.OK:
            raise RejectedBridgeError(
                f"{self.endpoint.base_url} answered {response.status_code}: "
                f"{response.text[:200]!r}; check model name and key"
            )
        try:
            content = response.json()["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise RejectedBridgeError(f"{self.endpoint.base_url} sent no chat completion: {error!r}") from error
        return content if isinstance(content, str) else json.dumps(content)


class _BusyError(TransientBridgeError):
    """A status that may pass, with the wait the server asked for."""

    def __init__(self, base_url: str, response: httpx.Response) -> None:
        super().__init__(f"{base_url} answered {response.status_code}: {response.text[:200]!r}")
        wanted = response.headers.get("retry-after", "")
        self.retry_after_s = float(wanted) if wanted.replace(".", "", 1).isdigit() else None
