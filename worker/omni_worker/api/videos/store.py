"""Video jobs and their files, in a database, so that they outlast the head. Its methods wait: call them in threads."""

import dataclasses
import fcntl
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from omni_worker.api.videos.records import COMPLETED, FAILED, QUEUED, RUNNING, File, Video, files, metadata, videos
from omni_worker.errors import UsageError

FIELDS = [field.name for field in dataclasses.fields(Video)]
COLUMNS = [videos.c[name] for name in FIELDS]


class VideoStore:
    """All jobs. Whoever opens it is the only one that runs them."""

    def __init__(self, url: str, lock: TextIO | None = None) -> None:
        self._lock = lock
        try:
            self._engine = sql.create_engine(url)
            if self._engine.dialect.name == "sqlite":
                sql.event.listen(self._engine, "connect", _prepare_sqlite)
            metadata.create_all(self._engine)
        except (sql.exc.SQLAlchemyError, ImportError) as error:
            raise UsageError(f"--database-url: the database cannot be used: {error}") from error

    @classmethod
    def in_folder(cls, folder: Path) -> "VideoStore":
        """An SQLite file there. Raises UsageError where that cannot be, or another head has it."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / "lock").open("w")
        except OSError as error:
            raise UsageError(f"--data-dir {folder}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise UsageError(f"--data-dir {folder}: another head uses it; give each a folder of its own") from error
        return cls(f"sqlite:///{folder.absolute() / 'videos.db'}", lock)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()
        if self._lock is not None:
            self._lock.close()

    def add(self, video: Video) -> None:
        """Take a job."""
        with self._engine.begin() as connection:
            connection.execute(videos.insert().values({name: getattr(video, name) for name in FIELDS}))

    def get(self, id: str) -> Video | None:
        """One job, unless it is not there or has expired."""
        with self._engine.begin() as connection:
            row = connection.execute(sql.select(*COLUMNS).where(videos.c.id == id, _is_kept())).mappings().first()
        return Video(**row) if row else None

    def page(self, limit: int, after: str | None, newest_first: bool) -> list[Video] | None:
        """Jobs in order of their creation, from that after `after` on; None where that is not there."""
        asked = sql.select(*COLUMNS).where(_is_kept())
        with self._engine.begin() as connection:
            if after is not None:
                at = connection.scalar(sql.select(videos.c.number).where(videos.c.id == after))
                if at is None:
                    return None
                asked = asked.where(videos.c.number < at if newest_first else videos.c.number > at)
            asked = asked.order_by(videos.c.number.desc() if newest_first else videos.c.number).limit(limit)
            return [Video(**row) for row in connection.execute(asked).mappings()]

    def count_waiting(self) -> int:
        """How many wait for their turn."""
        with self._engine.begin() as connection:
            asked = sql.select(sql.func.count()).select_from(videos).where(videos.c.status == QUEUED)
            return connection.scalar(asked) or 0

    def take(self) -> Video | None:
        """The job that waits the longest, which runs from now on."""
        with self._engine.begin() as connection:
            asked = sql.select(*COLUMNS).where(videos.c.status == QUEUED).order_by(videos.c.number).limit(1)
            row = connection.execute(asked).mappings().first()
            if row is not None:
                _update(connection, row["id"], status=RUNNING)
        return Video(**row) if row else None

    def put_back(self) -> int:
        """Have what ran when the head ended wait again; how many that are."""
        with self._engine.begin() as connection:
            changed = connection.execute(videos.update().where(videos.c.status == RUNNING).values(status=QUEUED))
            return changed.rowcount

    def complete(self, id: str, size: str, seconds: str, made: Mapping[str, File], keep_seconds: float) -> None:
        """A job is done; its files by variant. Nothing happens where it was deleted meanwhile."""
        now = time.time()
        total = sum(len(file.data) for file in made.values())
        with self._engine.begin() as connection:
            changed = _update(
                connection, id, status=COMPLETED, size=size, seconds=seconds, completed_at=now,
                expires_at=now + keep_seconds, bytes=total, reference=None,
            )  # fmt: skip
            if changed:
                rows = [
                    {"video": id, "variant": variant, "media_type": file.media_type, "data": file.data}
                    for variant, file in made.items()
                ]
                connection.execute(files.insert(), rows)

    def fail(self, id: str, error: Mapping[str, Any], keep_seconds: float) -> None:
        """A job failed."""
        with self._engine.begin() as connection:
            expires_at = time.time() + keep_seconds
            _update(connection, id, status=FAILED, error=dict(error), expires_at=expires_at, reference=None)

    def file(self, id: str, variant: str) -> File | None:
        """A file of a job that is done."""
        asked = sql.select(files.c.media_type, files.c.data).where(files.c.video == id, files.c.variant == variant)
        with self._engine.begin() as connection:
            row = connection.execute(asked).first()
        return File(*row) if row else None

    def delete(self, id: str) -> None:
        """Forget a job and its files."""
        with self._engine.begin() as connection:
            _delete(connection, [id])

    def sweep(self, most_bytes: int) -> None:
        """Delete what has expired, and the oldest that are done until the rest has no more than so many bytes."""
        with self._engine.begin() as connection:
            _delete(connection, connection.scalars(sql.select(videos.c.id).where(~_is_kept())).all())
            done = sql.select(videos.c.id, videos.c.bytes).where(videos.c.status == COMPLETED)
            total, surplus = 0, []
            for id, size in connection.execute(done.order_by(videos.c.completed_at.desc())):
                total += size
                if total > most_bytes:
                    surplus.append(id)
            _delete(connection, surplus)


def _is_kept() -> sql.ColumnElement[bool]:
    return sql.or_(videos.c.expires_at.is_(None), videos.c.expires_at > time.time())


def _update(connection: Connection, id: str, **values: Any) -> int:
    return connection.execute(videos.update().where(videos.c.id == id).values(**values)).rowcount


def _delete(connection: Connection, ids: Iterable[str]) -> None:
    for id in ids:
        connection.execute(files.delete().where(files.c.video == id))
        connection.execute(videos.delete().where(videos.c.id == id))


def _prepare_sqlite(connection: Any, record: Any) -> None:
    for setting in ("journal_mode=WAL", "busy_timeout=30000", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {setting}")
