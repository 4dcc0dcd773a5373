"""Kubernetes quantities and durations: text that users write, checked and converted.

Quantities keep the user's spelling (the API server makes them canonical); durations become whole
seconds. Errors are ValueErrors whose text is fit for a user.
"""

from __future__ import annotations

import re
from decimal import Decimal

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_FACTORS = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    "k": Decimal(1000),
    **{prefix: Decimal(1000) ** power for power, prefix in enumerate("MGTPE", start=2)},
    **{prefix + "i": Decimal(1024) ** power for power, prefix in enumerate("KMGTPE", start=1)},
}
_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(m|k|[KMGTPE]i|[MGTPE]|[eE][+-]?\d{1,2})?", re.ASCII)
_LOOSE_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgtpe])i?(?:b|bytes?)?\s*", re.IGNORECASE)
_SMALLEST_MEMORY_BYTES = 2**20
_LARGEST = 2**63 - 1
"""In magnitude, of every quantity; the same page."""
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)


def quantity_value(text: str) -> Decimal:
    """The number a Kubernetes quantity stands for: bytes, cores or pieces.

    Raises ValueError for text that is no quantity.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no Kubernetes quantity")
    number, suffix = Decimal(match[1]), match[2] or ""
    factor = _FACTORS.get(suffix)
    return number * (Decimal(10) ** int(suffix[1:]) if factor is None else factor)


def quantity_left(hard: str, used: str) -> str:
    """What is left of a quantity, never less than 0, in the unit of one of the two if it can be.

    Raises ValueError for text that is no quantity.
    """
    left = max(quantity_value(hard) - quantity_value(used), Decimal(0))
    given = (match[2] or "" for match in map(_QUANTITY.fullmatch, (hard, used)) if match)
    for suffix in (*(one for one in given if one in _FACTORS), "", "m"):
        count = left / _FACTORS[suffix]
        if count == int(count):
            return f"{int(count)}{suffix if count else ''}"
    return f"{left.normalize():f}"


def check_memory(value: object) -> str:
    """A byte quantity such as 16Gi, as text. Raises ValueError with the likely intention."""
    text = str(value)
    try:
        size = quantity_value(text)
    except ValueError:
        loose = _LOOSE_QUANTITY.fullmatch(text)
        if loose is None:
            raise ValueError("is no Kubernetes quantity. Write it like 16Gi or 512Mi") from None
        decimal_unit = loose[2].lower() if loose[2] in "kK" else loose[2].upper()
        raise ValueError(
            "is no Kubernetes quantity. Did you mean "
            f"{loose[1]}{loose[2].upper()}i (binary) or {loose[1]}{decimal_unit} (decimal)?"
        ) from None
    if size == 0:
        raise ValueError("must be more than zero")
    if size > _LARGEST:
        raise ValueError("is more than Kubernetes counts: less than 8Ei")
    if text.endswith("m"):
        raise ValueError(f"is in thousandths of a byte. Did you mean {text[:-1]}Mi?")
    if size < _SMALLEST_MEMORY_BYTES:
        raise ValueError(f"is only {size:f} bytes. Did you mean {text.rstrip('kKi')}Gi?")
    return text


def check_cpu(value: object) -> str:
    """A number of cores such as 8, 0.5 or 500m, as text. Raises ValueError."""
    text = str(value)
    try:
        cores = quantity_value(text)
    except ValueError:
        raise ValueError("is no number of cores. Write it like 8, 0.5 or 500m") from None
    if cores == 0:
        raise ValueError("must be more than zero")
    if cores > _LARGEST // 1000:
        raise ValueError("is more than Kubernetes counts")
    if cores < Decimal("0.001"):
        raise ValueError("is less than Kubernetes counts. The smallest is 1m")
    return text


def parse_duration(value: object) -> int:
    """Whole seconds from "90s", "1h30m", "2d" or a number of seconds. Raises ValueError."""
    text = str(value).strip()
    if any(len(number) > 10 for number in re.findall(r"[1-9]\d*", text, re.ASCII)):
        raise ValueError("is longer than Kubernetes can count (68 years)")
    if text.isascii() and text.isdigit():
        seconds = int(text)
    else:
        match = _DURATION.fullmatch(text)
        if match is None or not any(match.groups()):
            raise ValueError("is no duration. Write it like 90s, 30m, 1h30m or 2d")
        amounts = zip(match.groups(), "wdhms", strict=True)
        seconds = sum(int(amount) * _SECONDS[unit] for amount, unit in amounts if amount)
    if seconds <= 0:
        raise ValueError("must be more than zero")
    if seconds >= 2**31:
        raise ValueError("is longer than Kubernetes can count (68 years)")
    return seconds


def format_bytes(size: int) -> str:
    """1536 → "1.5 KiB"."""
    number = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if number >= 10 or unit == "B" else f"{number:.1f} {unit}"


def format_seconds(seconds: float) -> str:
    """4.2 → "4.2 s", 75 → "1m15s", 4000 → "1h06m"."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"
