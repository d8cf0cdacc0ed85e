"""How the tests are spread over processes: a file's tests stay together, for they share what it started; and so do all
that need a cluster, for one is started once."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        path = item.path.relative_to(HERE)
        item.add_marker(pytest.mark.xdist_group("kubernetes" if path.parts[0] == "kubernetes" else str(path)))
