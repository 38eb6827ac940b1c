"""Numbers in words, as every screen and page writes them."""

from __future__ import annotations

from stability_probe.records import MeanStd


def with_std(value: MeanStd) -> str:
    """Mean and, of several seeds, standard deviation."""
    return f"{value.mean:.3g}" + ("" if value.std is None else f" ± {value.std:.2g}")


def signed(value: MeanStd, digits: int = 1) -> str:
    """A difference: mean with its sign and, of several seeds, standard deviation."""
    std = "" if value.std is None else f" ± {value.std:.{digits}f}"
    return f"{value.mean:+.{digits}f}{std}"


def percent(share: float, digits: int = 0) -> str:
    """A fraction as percent."""
    return f"{100 * share:.{digits}f} %"


def counted(number: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def interval_words(ends: tuple[float, float] | None, digits: int = 0) -> str:
    """Both ends of an interval, with their signs."""
    if ends is None:
        return "no interval"
    return f"{ends[0]:+.{digits}f} to {ends[1]:+.{digits}f}"
