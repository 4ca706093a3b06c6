"""Episodes as MCAP files of standard ROS 2 messages: writer, recorder, reader, recovery, spool."""

from typing import TYPE_CHECKING

from gymnast_core.lazy import parts

if TYPE_CHECKING:
    from gymnast_core.episodes.messages import EpisodeEnd, EpisodeHeader, new_episode_id
    from gymnast_core.episodes.reader import (
        EpisodeSummary,
        read_episode,
        read_summary,
    )
    from gymnast_core.episodes.recorder import EpisodeRecorder
    from gymnast_core.episodes.recording import (
        Recording,
        labelled_copy,
        read_recording,
        recorded_as,
        write_episode,
        write_recording,
    )
    from gymnast_core.episodes.recovery import recover
    from gymnast_core.episodes.spool import Spool, SpoolEntry, SpoolUsage, file_digest
    from gymnast_core.episodes.writer import EpisodeWriter

__all__ = [
    "EpisodeEnd",
    "EpisodeHeader",
    "EpisodeRecorder",
    "EpisodeSummary",
    "EpisodeWriter",
    "Recording",
    "Spool",
    "SpoolEntry",
    "SpoolUsage",
    "file_digest",
    "labelled_copy",
    "new_episode_id",
    "read_episode",
    "read_recording",
    "read_summary",
    "recorded_as",
    "recover",
    "write_episode",
    "write_recording",
]

__getattr__ = parts(
    __name__,
    {
        "messages": ("EpisodeEnd", "EpisodeHeader", "new_episode_id"),
        "reader": ("EpisodeSummary", "read_episode", "read_summary"),
        "recorder": ("EpisodeRecorder",),
        "recording": (
            "Recording",
            "labelled_copy",
            "read_recording",
            "recorded_as",
            "write_episode",
            "write_recording",
        ),
        "recovery": ("recover",),
        "spool": ("Spool", "SpoolEntry", "SpoolUsage", "file_digest"),
        "writer": ("EpisodeWriter",),
    },
)
