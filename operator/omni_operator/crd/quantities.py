"""Kubernetes' quantities: 1000m is 1, 1024Mi is 1Gi. Pure."""

from decimal import Decimal, InvalidOperation

SUFFIXES = {
    "n": "1e-9",
    "u": "1e-6",
    "m": "1e-3",
    "": "1",
    "k": "1e3",
    "M": "1e6",
    "G": "1e9",
    "T": "1e12",
    "P": "1e15",
}
SUFFIXES |= {f"{letter}i": str(1024**power) for power, letter in enumerate("KMGTP", start=1)}


def parse_quantity(text: str) -> Decimal | None:
    """Its value; None where that is none."""
    number = text.rstrip("numkMGTPKi")
    factor = SUFFIXES.get(text[len(number) :])
    if factor is None:
        return None
    try:
        return Decimal(number) * Decimal(factor)
    except InvalidOperation:
        return None


def integer_quantity(text: str) -> int:
    """Its value as a whole number, rounded up, of a text that is known to be a quantity."""
    value = parse_quantity(text)
    assert value is not None
    return int(value.to_integral_value(rounding="ROUND_CEILING"))
