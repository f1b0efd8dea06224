"""Figures as people read them: three digits and a unit."""

from __future__ import annotations

ROUNDED_UP = 0.9995  # from here on three digits are those of the next unit
NO_BREAK = "\u00a0"  # between a number and its unit, where lines are broken


def amount(value: float) -> str:
    """Bytes, in the decimal units of links and disks."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if abs(value) >= ROUNDED_UP * factor:
            return f"{_digits(value / factor)} {unit}"
    return f"{value:,.0f} B"


def seconds(value: float) -> str:
    """A time."""
    if value and value < ROUNDED_UP * 1e-3:
        return f"{_digits(value * 1e6)} µs"
    return f"{_digits(value * 1000)} ms" if value < ROUNDED_UP else f"{_digits(value)} s"


def less(share: float) -> str:
    """By which share something is less than something else; where it is more, how many times as much it is."""
    if share < 0:
        return f"{1 - share:,.3g} x"
    return f"{share:.1%} less".replace(".0%", "%").replace("%", f"{NO_BREAK}%")


def _digits(value: float) -> str:
    return f"{value:,.3g}" if abs(value) < ROUNDED_UP * 1000 else f"{value:,.0f}"
