"""How numbers look in tables."""

from __future__ import annotations

from collections.abc import Sequence


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as per cent, or "-"."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def number(value: float | None) -> str:
    """Return a number with three significant digits or so, or "-"."""
    return "-" if value is None else f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def accuracy_change(delta: dict, interval: bool = True, key: str = "accuracy") -> str:
    """Return a change of accuracy in per cent points, with its interval, or "-"."""
    if delta.get(key) is None:
        return "-"
    return points(delta[key], delta.get(f"{key}_ci95") if interval else None)


def points(difference: float, interval: Sequence[float] | None = None) -> str:
    """Return a difference of shares in per cent points, with its interval where there is one."""
    change = f"{100 * difference:+.1f}"
    if interval is None:
        return change
    low, high = interval
    return f"{change} ({100 * low:+.1f} to {100 * high:+.1f})"


def speedup(delta: dict, key: str = "speedup") -> str:
    """Return a speed-up with its interval, or "-"."""
    if delta.get(key) is None:
        return "-"
    low, high = delta[f"{key}_ci95"]
    return f"{delta[key]:.2f}x ({low:.2f}–{high:.2f})"


def ratio(delta: dict, key: str = "gflops_ratio") -> str:
    """Return a ratio, or "-"."""
    return "-" if delta.get(key) is None else f"{delta[key]:.2f}x"


def mean_tokens(tokens: Sequence[float] | None) -> str:
    """Return the mean of tokens per layer, or "-"."""
    return "-" if not tokens else f"{sum(tokens) / len(tokens):.1f}"
