from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Camera(_message.Message):
    __slots__ = ("name", "jpeg")
    NAME_FIELD_NUMBER: _ClassVar[int]
    JPEG_FIELD_NUMBER: _ClassVar[int]
    name: str
    jpeg: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, name: _Optional[str] = ..., jpeg: _Optional[_Iterable[bytes]] = ...) -> None: ...

class InferRequest(_message.Message):
    __slots__ = ("request_id", "instructions", "cameras", "proprio", "time_ns", "sample", "seed", "with_log_probs")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    CAMERAS_FIELD_NUMBER: _ClassVar[int]
    PROPRIO_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    WITH_LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    instructions: _containers.RepeatedScalarFieldContainer[str]
    cameras: _containers.RepeatedCompositeFieldContainer[Camera]
    proprio: _containers.RepeatedScalarFieldContainer[float]
    time_ns: _containers.RepeatedScalarFieldContainer[int]
    sample: bool
    seed: int
    with_log_probs: bool
    def __init__(self, request_id: _Optional[int] = ..., instructions: _Optional[_Iterable[str]] = ..., cameras: _Optional[_Iterable[_Union[Camera, _Mapping]]] = ..., proprio: _Optional[_Iterable[float]] = ..., time_ns: _Optional[_Iterable[int]] = ..., sample: _Optional[bool] = ..., seed: _Optional[int] = ..., with_log_probs: _Optional[bool] = ...) -> None: ...

class InferReply(_message.Message):
    __slots__ = ("request_id", "policy_version", "chunk_length", "actions", "tokens", "log_probs", "error", "message")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    CHUNK_LENGTH_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    policy_version: str
    chunk_length: int
    actions: _containers.RepeatedScalarFieldContainer[float]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    log_probs: _containers.RepeatedScalarFieldContainer[float]
    error: str
    message: str
    def __init__(self, request_id: _Optional[int] = ..., policy_version: _Optional[str] = ..., chunk_length: _Optional[int] = ..., actions: _Optional[_Iterable[float]] = ..., tokens: _Optional[_Iterable[int]] = ..., log_probs: _Optional[_Iterable[float]] = ..., error: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
