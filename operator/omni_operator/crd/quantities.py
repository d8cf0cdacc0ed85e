"""Kubernetes quantities as numbers: `1000m` equals `1`, and `1024Mi` equals `1Gi`. Pure."""

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
    """The value of a quantity; None if the text is not a quantity."""
    number = text.rstrip("numkMGTPKi")
    factor = SUFFIXES.get(text[len(number) :])
    if factor is None:
        return None
    try:
        return Decimal(number) * Decimal(factor)
    except InvalidOperation:
        return None


def integer_quantity(text: str) -> int:
    """The value of a valid quantity, rounded up to an integer."""
    value = parse_quantity(text)
    assert value is not None
    return int(value.to_integral_value(rounding="ROUND_CEILING"))


def as_quantity(size: int) -> str:
    """Bytes as the API server writes them: in the largest binary unit of which they are a whole number."""
    power = next((power for power in range(5, 0, -1) if size % 1024**power == 0), 0)
    return f"{size // 1024**power}{' KMGTP'[power]}i" if power and size else str(size)
