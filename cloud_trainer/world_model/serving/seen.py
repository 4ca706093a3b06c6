"""Which request ids stood for what."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections import OrderedDict

from cloud_trainer.world_model.serving.messages import ApiError, PredictRequest

REMEMBERED = 4096
"""Ids of requests that are kept to notice one that comes back with other content."""


class SeenRequests:
    """The newest REMEMBERED ids with digests of their requests."""

    def __init__(self) -> None:
        self._seen: OrderedDict[uuid.UUID, str] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, asked: PredictRequest) -> None:
        """Note what an id stands for; the same content is dreamt again, to the same pixels.

        Raises:
            ApiError: it stood for something else.
        """
        digest = hashlib.sha256(asked.model_dump_json().encode()).hexdigest()
        with self._lock:
            known = self._seen.setdefault(asked.request_id, digest)
            self._seen.move_to_end(asked.request_id)
            while len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        if known != digest:
            raise ApiError("REQUEST_ID_CONFLICT", "this request_id came with other content before")
