"""Quantities as numbers, and numbers of bytes as quantities."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_operator.crd.quantities import as_quantity, integer_quantity


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (1, "1"), (1023, "1023"), (1024, "1Ki"), (1536, "1536"), (4 * 2**30, "4Gi"), (3 * 2**29, "1536Mi")],
)
def test_bytes_in_the_largest_unit(size: int, text: str) -> None:
    assert as_quantity(size) == text


@given(st.integers(0, 2**62))
def test_bytes_are_what_they_were(size: int) -> None:
    assert integer_quantity(as_quantity(size)) == size
