"""The database of video jobs and their files, which outlive the head. Its methods block: call them in threads."""

import dataclasses
import fcntl
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from omni_worker.api.videos.records import COMPLETED, FAILED, QUEUED, RUNNING, Video, VideoFile, files, metadata, videos
from omni_worker.errors import UsageError

FIELDS = [field.name for field in dataclasses.fields(Video)]
DATABASE_FILES = ("videos.db", "videos.db-wal", "videos.db-shm")
COLUMNS = [videos.c[name] for name in FIELDS]


class VideoStore:
    """All jobs of a pipeline. Only one head may open the store, because it runs all jobs in it."""

    def __init__(self, url: str, lock: TextIO | None = None) -> None:
        """Open the database at an SQLAlchemy URL; `lock` is held until `close`. Raises UsageError if that fails."""
        self._lock = lock
        try:
            self._engine = sql.create_engine(url)
            if self._engine.dialect.name == "sqlite":
                sql.event.listen(self._engine, "connect", _prepare_sqlite)
            metadata.create_all(self._engine)
            self._add_missing_columns()
        except (sql.exc.SQLAlchemyError, ImportError) as error:
            raise UsageError(f"--database-url: the database cannot be used: {_without_password(url, error)}") from None

    def _add_missing_columns(self) -> None:
        """Add the columns that an older version did not have."""
        present = {column["name"] for column in sql.inspect(self._engine).get_columns(videos.name)}
        if "owner" not in present:
            with self._engine.begin() as connection:
                connection.execute(sql.text(f"ALTER TABLE {videos.name} ADD COLUMN owner VARCHAR(512)"))

    @classmethod
    def in_folder(cls, folder: Path) -> "VideoStore":
        """Open an SQLite file in `folder`. Raises UsageError if that fails or another head has opened it."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = open_private(folder / "lock")
            for name in DATABASE_FILES:  # of an older version; SQLite gives new ones the mode of the first
                if name == DATABASE_FILES[0] or (folder / name).exists():
                    open_private(folder / name).close()
        except OSError as error:
            raise UsageError(f"--data-dir {folder}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise UsageError(f"--data-dir {folder}: another head uses it; give each a folder of its own") from error
        return cls(f"sqlite:///{folder.absolute() / DATABASE_FILES[0]}", lock)

    def close(self) -> None:
        """Close the database and release the lock."""
        self._engine.dispose()
        if self._lock is not None:
            self._lock.close()

    def add(self, video: Video) -> None:
        """Store a new job."""
        with self._engine.begin() as connection:
            connection.execute(videos.insert().values({name: getattr(video, name) for name in FIELDS}))

    def get(self, id: str, owner: str | None = None) -> Video | None:
        """A job of an owner; None if there is none with this id, or it has expired. No owner: of any."""
        with self._engine.begin() as connection:
            query = sql.select(*COLUMNS).where(videos.c.id == id, _has_not_expired(), _is_owned_by(owner))
            row = connection.execute(query).mappings().first()
        return Video(**row) if row else None

    def page(self, limit: int, after: str | None, newest_first: bool, owner: str | None = None) -> list[Video] | None:
        """Up to `limit` jobs of an owner, ordered by creation, that follow the job `after`; None if it does not exist.

        No owner: of any.
        """
        query = sql.select(*COLUMNS).where(_has_not_expired(), _is_owned_by(owner))
        with self._engine.begin() as connection:
            if after is not None:
                of_after = sql.select(videos.c.number).where(videos.c.id == after, _is_owned_by(owner))
                number = connection.scalar(of_after)
                if number is None:
                    return None
                query = query.where(videos.c.number < number if newest_first else videos.c.number > number)
            query = query.order_by(videos.c.number.desc() if newest_first else videos.c.number).limit(limit)
            return [Video(**row) for row in connection.execute(query).mappings()]

    def count_queued(self, owner: str | None = None) -> int:
        """The number of queued jobs of an owner. No owner: of all."""
        with self._engine.begin() as connection:
            query = sql.select(sql.func.count()).select_from(videos)
            return connection.scalar(query.where(videos.c.status == QUEUED, _is_owned_by(owner))) or 0

    def start_next(self) -> Video | None:
        """Mark a queued job as running and return it; None if no job is queued.

        It is the oldest of the owner who has the fewest running jobs, so that no owner waits for all jobs of another.
        """
        others = videos.alias()
        of_owner = sql.select(sql.func.count()).where(others.c.status == RUNNING, others.c.owner == videos.c.owner)
        with self._engine.begin() as connection:
            query = sql.select(*COLUMNS).where(videos.c.status == QUEUED)
            query = query.order_by(of_owner.correlate(videos).scalar_subquery(), videos.c.number).limit(1)
            row = connection.execute(query).mappings().first()
            if row is not None:
                _update(connection, row["id"], status=RUNNING)
        return Video(**row) if row else None

    def requeue_interrupted(self) -> int:
        """Queue the jobs again that ran when the head ended. Returns their number."""
        with self._engine.begin() as connection:
            changed = connection.execute(videos.update().where(videos.c.status == RUNNING).values(status=QUEUED))
            return changed.rowcount

    def complete(
        self, id: str, size: str, seconds: str, variants: Mapping[str, VideoFile], keep_seconds: float
    ) -> None:
        """Mark a job as completed and store its files, by variant. Does nothing if it has been deleted."""
        now = time.time()
        total = sum(len(file.data) for file in variants.values())
        with self._engine.begin() as connection:
            changed = _update(
                connection, id, status=COMPLETED, size=size, seconds=seconds, completed_at=now,
                expires_at=now + keep_seconds, bytes=total, reference=None,
            )  # fmt: skip
            if changed:
                rows = [
                    {"video": id, "variant": variant, "media_type": file.media_type, "data": file.data}
                    for variant, file in variants.items()
                ]
                connection.execute(files.insert(), rows)

    def fail(self, id: str, error: Mapping[str, Any], keep_seconds: float) -> None:
        """Mark a job as failed."""
        with self._engine.begin() as connection:
            expires_at = time.time() + keep_seconds
            _update(connection, id, status=FAILED, error=dict(error), expires_at=expires_at, reference=None)

    def file(self, id: str, variant: str) -> VideoFile | None:
        """A file of a completed job; None if there is none."""
        query = sql.select(files.c.media_type, files.c.data).where(files.c.video == id, files.c.variant == variant)
        with self._engine.begin() as connection:
            row = connection.execute(query).first()
        return VideoFile(*row) if row else None

    def delete(self, id: str) -> None:
        """Delete a job and its files."""
        with self._engine.begin() as connection:
            _delete(connection, [id])

    def clean_up(self, max_bytes: int) -> None:
        """Delete expired jobs, and then the oldest completed ones until the rest have at most `max_bytes`."""
        with self._engine.begin() as connection:
            _delete(connection, connection.scalars(sql.select(videos.c.id).where(~_has_not_expired())).all())
            completed = sql.select(videos.c.id, videos.c.bytes).where(videos.c.status == COMPLETED)
            total, surplus = 0, []
            for id, size in connection.execute(completed.order_by(videos.c.completed_at.desc())):
                total += size
                if total > max_bytes:
                    surplus.append(id)
            _delete(connection, surplus)


def _without_password(url: str, error: Exception) -> str:
    """The message of an error, without the password in the URL."""
    try:
        password = sql.make_url(url).password
    except (sql.exc.SQLAlchemyError, ValueError):
        return f"{type(error).__name__}: it is no URL of SQLAlchemy: DIALECT+DRIVER://USER:PASSWORD@HOST/NAME"
    return str(error).replace(password, "***") if password else str(error)


def _has_not_expired() -> sql.ColumnElement[bool]:
    return sql.or_(videos.c.expires_at.is_(None), videos.c.expires_at > time.time())


def _is_owned_by(owner: str | None) -> sql.ColumnElement[bool]:
    return sql.true() if owner is None else videos.c.owner == owner


def open_private(file: Path) -> TextIO:
    """Open a file that only this user may read, created if there is none, for appending."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.fchmod(descriptor, 0o600)
    return os.fdopen(descriptor, "a")


def _update(connection: Connection, id: str, **values: Any) -> int:
    return connection.execute(videos.update().where(videos.c.id == id).values(**values)).rowcount


def _delete(connection: Connection, ids: Iterable[str]) -> None:
    for id in ids:
        connection.execute(files.delete().where(files.c.video == id))
        connection.execute(videos.delete().where(videos.c.id == id))


def _prepare_sqlite(connection: Any, record: Any) -> None:
    for setting in ("journal_mode=WAL", "busy_timeout=30000", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {setting}")
