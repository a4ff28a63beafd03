"""Amounts as people read them: bytes, seconds, counts. Used by progress bars, tables, figures and errors."""

from __future__ import annotations


def amount_text(amount: float, unit: str) -> str:
    """`amount` with its unit: bytes as MB or GB (10^6, 10^9), seconds whole, anything else counted."""
    if unit == "B":
        return f"{amount / 1e9:.2f} GB" if amount >= 1e9 else f"{amount / 1e6:.1f} MB"
    return f"{amount:.0f} {unit}"


GIB = 2**30
