"""Video jobs and their files, as records and as the database tables that store them."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import sqlalchemy as sql

from omni_worker.requests import GenerationParams

VIDEO_ID = re.compile(r"video_[0-9a-f]{24}")
"""The ids of all jobs. Others, which clients may send, never reach the database."""
QUEUED, RUNNING, COMPLETED, FAILED = "queued", "in_progress", "completed", "failed"

metadata = sql.MetaData()
videos = sql.Table(
    "videos",
    metadata,
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("id", sql.String(64), unique=True, nullable=False),
    sql.Column("status", sql.String(16), index=True, nullable=False),
    sql.Column("model", sql.Text, nullable=False),
    sql.Column("prompt", sql.Text, nullable=False),
    sql.Column("size", sql.String(32), nullable=False),
    sql.Column("seconds", sql.String(16), nullable=False),
    sql.Column("fps", sql.Float, nullable=False),
    sql.Column("params", sql.LargeBinary, nullable=False),
    sql.Column("reference", sql.LargeBinary),
    sql.Column("created_at", sql.Float, nullable=False),
    sql.Column("completed_at", sql.Float),
    sql.Column("expires_at", sql.Float),
    sql.Column("error", sql.JSON),
    sql.Column("bytes", sql.BigInteger, nullable=False, default=0),
    sql.Column("owner", sql.String(512)),
)
files = sql.Table(
    "video_files",
    metadata,
    sql.Column("video", sql.String(64), primary_key=True),
    sql.Column("variant", sql.String(16), primary_key=True),
    sql.Column("media_type", sql.String(32), nullable=False),
    sql.Column("data", sql.LargeBinary, nullable=False),
)


@dataclass(frozen=True, kw_only=True)
class Video:
    """One job, and the video that it makes. Times are in seconds since 1970.

    params: its GenerationParams as msgpack
    reference: the file of its input image; None if it has none, and once the job has ended
    owner: whose API key created it; None if the server had no keys
    """

    id: str
    model: str
    prompt: str
    size: str
    seconds: str
    fps: float
    params: bytes
    reference: bytes | None = None
    status: str = QUEUED
    created_at: float = field(default_factory=time.time)
    completed_at: float | None = None
    expires_at: float | None = None
    error: Mapping[str, Any] | None = None
    owner: str | None = None

    @property
    def generation_params(self) -> GenerationParams:
        """`params`, decoded."""
        return msgspec.msgpack.decode(self.params, type=GenerationParams)


@dataclass(frozen=True)
class VideoFile:
    """The content of one variant of a video: `video`, `thumbnail` or `spritesheet`."""

    media_type: str
    data: bytes
