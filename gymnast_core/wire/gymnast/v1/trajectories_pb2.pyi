from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UploadRequest(_message.Message):
    __slots__ = ("open", "chunk", "commit")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    open: EpisodeOpen
    chunk: EpisodeChunk
    commit: EpisodeCommit
    def __init__(self, open: _Optional[_Union[EpisodeOpen, _Mapping]] = ..., chunk: _Optional[_Union[EpisodeChunk, _Mapping]] = ..., commit: _Optional[_Union[EpisodeCommit, _Mapping]] = ...) -> None: ...

class EpisodeOpen(_message.Message):
    __slots__ = ("channel", "episode_id", "size", "digest", "schema", "enqueued_ns")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    ENQUEUED_NS_FIELD_NUMBER: _ClassVar[int]
    channel: int
    episode_id: str
    size: int
    digest: str
    schema: str
    enqueued_ns: int
    def __init__(self, channel: _Optional[int] = ..., episode_id: _Optional[str] = ..., size: _Optional[int] = ..., digest: _Optional[str] = ..., schema: _Optional[str] = ..., enqueued_ns: _Optional[int] = ...) -> None: ...

class EpisodeChunk(_message.Message):
    __slots__ = ("channel", "offset", "crc32c", "data")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    channel: int
    offset: int
    crc32c: int
    data: bytes
    def __init__(self, channel: _Optional[int] = ..., offset: _Optional[int] = ..., crc32c: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class EpisodeCommit(_message.Message):
    __slots__ = ("channel",)
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    channel: int
    def __init__(self, channel: _Optional[int] = ...) -> None: ...

class UploadReply(_message.Message):
    __slots__ = ("opened", "committed", "refused", "credit")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    opened: EpisodeOpened
    committed: EpisodeCommitted
    refused: EpisodeRefused
    credit: Credit
    def __init__(self, opened: _Optional[_Union[EpisodeOpened, _Mapping]] = ..., committed: _Optional[_Union[EpisodeCommitted, _Mapping]] = ..., refused: _Optional[_Union[EpisodeRefused, _Mapping]] = ..., credit: _Optional[_Union[Credit, _Mapping]] = ...) -> None: ...

class EpisodeOpened(_message.Message):
    __slots__ = ("channel", "offset")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    channel: int
    offset: int
    def __init__(self, channel: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class EpisodeCommitted(_message.Message):
    __slots__ = ("channel", "episode_id", "duplicate")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    channel: int
    episode_id: str
    duplicate: bool
    def __init__(self, channel: _Optional[int] = ..., episode_id: _Optional[str] = ..., duplicate: _Optional[bool] = ...) -> None: ...

class EpisodeRefused(_message.Message):
    __slots__ = ("channel", "episode_id", "code", "message", "retry")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    channel: int
    episode_id: str
    code: str
    message: str
    retry: bool
    def __init__(self, channel: _Optional[int] = ..., episode_id: _Optional[str] = ..., code: _Optional[str] = ..., message: _Optional[str] = ..., retry: _Optional[bool] = ...) -> None: ...

class Credit(_message.Message):
    __slots__ = ("bytes",)
    BYTES_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    def __init__(self, bytes: _Optional[int] = ...) -> None: ...

class Episode(_message.Message):
    __slots__ = ("sequence", "episode_id", "robot", "digest", "size", "state", "reason", "instruction", "outcome", "labelled_by", "steps", "policy_version", "metadata_json", "received_ns")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    ROBOT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    LABELLED_BY_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    METADATA_JSON_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_NS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    episode_id: str
    robot: str
    digest: str
    size: int
    state: str
    reason: str
    instruction: str
    outcome: str
    labelled_by: str
    steps: int
    policy_version: str
    metadata_json: str
    received_ns: int
    def __init__(self, sequence: _Optional[int] = ..., episode_id: _Optional[str] = ..., robot: _Optional[str] = ..., digest: _Optional[str] = ..., size: _Optional[int] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., instruction: _Optional[str] = ..., outcome: _Optional[str] = ..., labelled_by: _Optional[str] = ..., steps: _Optional[int] = ..., policy_version: _Optional[str] = ..., metadata_json: _Optional[str] = ..., received_ns: _Optional[int] = ...) -> None: ...

class ListEpisodesRequest(_message.Message):
    __slots__ = ("after_sequence", "limit", "state", "robot")
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ROBOT_FIELD_NUMBER: _ClassVar[int]
    after_sequence: int
    limit: int
    state: str
    robot: str
    def __init__(self, after_sequence: _Optional[int] = ..., limit: _Optional[int] = ..., state: _Optional[str] = ..., robot: _Optional[str] = ...) -> None: ...

class ListEpisodesReply(_message.Message):
    __slots__ = ("episodes",)
    EPISODES_FIELD_NUMBER: _ClassVar[int]
    episodes: _containers.RepeatedCompositeFieldContainer[Episode]
    def __init__(self, episodes: _Optional[_Iterable[_Union[Episode, _Mapping]]] = ...) -> None: ...

class LabelEpisodeRequest(_message.Message):
    __slots__ = ("episode_id", "outcome")
    EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    episode_id: str
    outcome: str
    def __init__(self, episode_id: _Optional[str] = ..., outcome: _Optional[str] = ...) -> None: ...
