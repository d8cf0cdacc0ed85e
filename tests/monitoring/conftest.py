"""The programs of Prometheus, where they are: `make prometheus` fetches them."""

import shutil

import pytest


@pytest.fixture(scope="session")
def promtool() -> str:
    return program("promtool")


@pytest.fixture(scope="session")
def prometheus_program() -> str:
    return program("prometheus")


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} on the PATH: `make prometheus` fetches it where apt-get can")
    return found
