"""Figures as people read them: three digits and a unit."""

from __future__ import annotations

MIB = 1 << 20
NO_BREAK = "\u00a0"  # between a number and its unit, where lines are broken


def amount(value: float) -> str:
    """Bytes, in the decimal units of links and disks."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:,.3g} {unit}" if abs(value) < 1000 * factor else f"{value / factor:,.0f} {unit}"
    return f"{value:,.0f} B"


def seconds(value: float) -> str:
    """A time."""
    if value and value < 1e-3:
        return f"{value * 1e6:,.3g} µs"
    if value < 1:
        return f"{value * 1000:,.3g} ms"
    return f"{value:,.3g} s" if value < 1000 else f"{value:,.0f} s"


def less(share: float) -> str:
    """By which share something is less than something else; where it is more, how many times as much it is."""
    if share < 0:
        return f"{1 - share:,.3g} x"
    return f"{share:.1%} less".replace(".0%", "%").replace("%", f"{NO_BREAK}%")
