"""The API's three addresses; the event loop never computes, and whoever hangs up is dreamt for no longer."""

from __future__ import annotations

import asyncio
import logging
import threading

from fastapi import Depends, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from cloud_trainer.progress import CancelledError
from cloud_trainer.world_model.serving.messages import (
    API_VERSION,
    ApiError,
    PredictAnswer,
    Prediction,
    PredictRequest,
    invalid,
)
from cloud_trainer.world_model.serving.predictor import Predictor
from cloud_trainer.world_model.serving.seen import SeenRequests
from cloud_trainer.world_model.starts import StartState
from gymnast_core.json_values import JsonValue
from gymnast_core.wire.token import BEARER, proven

LOG = logging.getLogger(__name__)
LOOK_S = 0.2
"""Between two looks whether the caller is still there."""


class PredictService:
    """What is kept between requests: how many are computed, and which ids stood for what.

    Args:
        predictor: dreams.
        token: that callers show; empty asks for none.
    """

    def __init__(self, predictor: Predictor, token: str) -> None:
        self.predictor = predictor
        self._token, self._running = token, 0
        self._seen = SeenRequests()

    def admit(self, request: Request) -> None:
        """Let nobody in without the token.

        Raises:
            ApiError: it is missing or wrong.
        """
        if self._token and not proven(request.headers.get("Authorization", ""), self._token, BEARER):
            raise ApiError("UNAUTHENTICATED", "send the token as header Authorization: Bearer TOKEN")

    async def body(self, request: Request) -> bytes:
        """Return the whole request, which is cut off where it is larger than said."""
        most, parts, size = self.predictor.limits.request_bytes, [], 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise ApiError("PAYLOAD_TOO_LARGE", f"a request has at most {most} bytes")
            parts.append(part)
        return b"".join(parts)

    async def predict(self, request: Request, asked: PredictRequest) -> PredictAnswer:
        """Dream every sample, while the caller waits and time is left.

        Raises:
            ApiError: others are dreamt for, or the time is over.
        """
        if self._running >= self.predictor.limits.concurrency:
            raise ApiError("OVERLOADED", f"{self._running} requests are computed; ask again")
        self._running += 1
        gone = threading.Event()
        watch = asyncio.ensure_future(_set_when_gone(request, gone))
        work = asyncio.ensure_future(run_in_threadpool(self._answer, asked, gone))
        work.add_done_callback(lambda _: self._leave())
        try:
            return await asyncio.wait_for(asyncio.shield(work), self.predictor.limits.timeout_s)
        except asyncio.TimeoutError as error:
            raise ApiError("DEADLINE_EXCEEDED", f"not done within {self.predictor.limits.timeout_s:g} s") from error
        finally:
            gone.set()
            watch.cancel()

    def _leave(self) -> None:
        self._running -= 1

    def _answer(self, asked: PredictRequest, gone: threading.Event) -> PredictAnswer:
        starts: list[StartState] = self.predictor.check(asked)
        self._seen.remember(asked)
        predictions = [
            Prediction(sample_id=sample.sample_id, frames=self.predictor.dream(sample, start, gone.is_set))
            for sample, start in zip(asked.samples, starts, strict=True)
        ]
        return PredictAnswer(
            api_version=API_VERSION, request_id=asked.request_id, model_version=asked.model_version,
            predictions=predictions,
        )  # fmt: skip


async def _set_when_gone(request: Request, gone: threading.Event) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(LOOK_S)
    gone.set()


def create_app(predictor: Predictor, token: str) -> FastAPI:
    """Return the application.

    Args:
        predictor: dreams.
        token: that callers of all but /v1/health show as a bearer token; empty asks for none.
    """
    app, service = FastAPI(docs_url=None, redoc_url=None, openapi_url=None), PredictService(predictor, token)
    app.state.stopping = threading.Event()
    admitted = [Depends(service.admit)]

    @app.get("/v1/health")
    def health() -> dict[str, str]:
        return {"status": "ready", "api_version": API_VERSION, "model_version": predictor.version}

    @app.get("/v1/capabilities", dependencies=admitted)
    def capabilities() -> dict[str, JsonValue]:
        return predictor.capabilities()

    @app.post("/v1/predict", dependencies=admitted)
    async def predict(request: Request) -> JSONResponse:
        asked = _read(await service.body(request))
        request.state.request_id = str(asked.request_id)
        answer = await service.predict(request, asked)
        return JSONResponse(answer.model_dump(mode="json"))

    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(404, _no_such_place)
    app.add_exception_handler(405, _no_such_place)
    app.add_exception_handler(Exception, _failed)
    return app


def _read(body: bytes) -> PredictRequest:
    try:
        return PredictRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error) from error


def _told(request: Request, error: ApiError) -> JSONResponse:
    name = getattr(request.state, "request_id", None)
    content = {"code": error.code, "message": str(error), "request_id": name, "retryable": error.retryable}
    headers = {"Retry-After": "1"} if error.code == "OVERLOADED" else None
    return JSONResponse({"error": content}, error.status, headers)


def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    LOG.info("refused code=%s path=%s", error.code, request.url.path)
    return _told(request, error)


def _no_such_place(request: Request, error: Exception) -> JSONResponse:
    return _told(request, ApiError("NOT_FOUND", "there are GET /v1/health, GET /v1/capabilities, POST /v1/predict"))


def _failed(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, CancelledError):
        return _told(request, ApiError("DEADLINE_EXCEEDED", "nobody waited any more"))
    LOG.exception("prediction_failed", exc_info=error)
    return _told(
        request, ApiError("INTERNAL", "the prediction failed for a reason of the service's own; its log has it")
    )
