"""How numbers are written: one rounding for the page and for its CSV."""

from typing import Final

NOT_COMPUTABLE: Final = "not computable: "
MINUS: Final = "\N{MINUS SIGN}"
SMALLEST_P: Final = 0.0001


def decimal(value: float, digits: int = 3) -> str:
    """Write a number with a fixed count of decimals and a real minus sign."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def span(value: float, low: float, high: float, digits: int = 3) -> str:
    """Write an estimate with its interval: 0.812 (0.731 to 0.874)."""
    inner = f"{decimal(low, digits)} to {decimal(high, digits)}"
    return f"{decimal(value, digits)} ({inner})"


def percent(k: int, n: int) -> str:
    """Write a share with its counts: 76.4% (107/140)."""
    return f"{k / n:.1%} ({k}/{n})" if n else f"{NOT_COMPUTABLE}0 of 0"


def share(k: int, n: int) -> str:
    """Write a count with its share, as a table of characteristics does: 107 (76.4)."""
    return f"{k} ({100 * k / n:.1f})" if n else str(k)


def p_value(p: float) -> str:
    """Write a P value to two significant digits, or as smaller than 0.0001."""
    if p < SMALLEST_P:
        return "<0.0001"
    return f"{p:.4f}" if p < 0.01 else f"{p:.2f}"  # noqa: PLR2004 - two digits


def not_computable(reason: str) -> str:
    """Say in a cell why there is no number."""
    return NOT_COMPUTABLE + reason.rstrip(".")
