"""Parts of a page: escaped text, tables, and how things look."""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from typing import Final

MINUTE_S: Final = 60
HOUR_S: Final = 3600
STYLE: Final = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881;--bad:#b3261e;--good:#1a7f37;
--warn:#9a6700}
@media(prefers-color-scheme:dark){:root{--bad:#ff8a80;--good:#6fdd8b;--warn:#e3b341}}
*{box-sizing:border-box}
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:1200px;padding:1rem}
header{display:flex;flex-wrap:wrap;gap:.3rem 1rem;align-items:baseline}
h1{font-size:1.4rem;margin:0}h2{font-size:1.05rem;margin:1.6rem 0 .5rem}
p{margin:.3rem 0}.use{font-weight:600}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.5rem}
.tile{border:1px solid var(--line);border-radius:.4rem;padding:.5rem .7rem}
.tile b{display:block;font-size:1.4rem;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);
vertical-align:top}
th{font-weight:600;background:var(--soft)}td.n,th.n{text-align:right}
code{font-size:.9em;overflow-wrap:anywhere}
.ok{color:var(--good)}.bad{color:var(--bad);font-weight:600}.warn{color:var(--warn)}
@media(max-width:40rem){th,td{padding:.25rem .35rem}
:is(#stuck,#models,#studies) thead{display:none}
:is(#stuck,#models,#studies) tr{display:block;padding:.3rem 0;
border-bottom:1px solid var(--line)}
:is(#stuck,#models,#studies) td{display:block;border:0;padding:0 .35rem;text-align:left}
:is(#models,#studies) td::before{content:attr(data-head) ": ";opacity:.7}
:is(#models,#studies) td:empty{display:none}}
"""
CLASSES: Final = {
    **dict.fromkeys(("failed",), "bad"),
    **dict.fromkeys(("held",), "warn"),
    **dict.fromkeys(("analyzed", "sent", "committed"), "ok"),
}


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


Cell = str | int | float | Html


def section(
    name: str,
    title: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    empty: str = "",
) -> str:
    """Return a titled table, or a sentence where it would be empty."""
    start = f'<section id="{name}"><h2>{escape(title)}</h2>'
    if not rows:
        return f"{start}<p>{escape(empty)}</p></section>"
    kinds = [_kind(one) for one in rows[0]]
    head = "".join(
        f"<th{kind}>{escape(one)}</th>" for one, kind in zip(heads, kinds, strict=True)
    )
    body = "".join(f"<tr>{''.join(map(_cell, row, heads))}</tr>" for row in rows)
    return (
        f'{start}<div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _cell(value: Cell, head: str) -> str:
    """Return a cell; where rows are stacked, on a telephone, it names its column."""
    inner = value if isinstance(value, Html) else escape(str(value))
    return f'<td{_kind(value)} data-head="{escape(head)}">{inner}</td>'


def _kind(value: Cell) -> str:
    return ' class="n"' if isinstance(value, int | float) else ""


def code(text: str) -> Html:
    """Set a code or a command."""
    return Html(f"<code>{escape(text)}</code>")


def how(text: str) -> Html:
    """Set what stands between backquotes as code."""
    parts = [escape(part) for part in text.split("`")]
    return Html(
        "".join(f"<code>{p}</code>" if n % 2 else p for n, p in enumerate(parts))
    )


def mark(text: str, good: bool) -> Html:  # noqa: FBT001 - two colours
    """Colour a text by whether it is good news."""
    return Html(f'<span class="{"ok" if good else "bad"}">{escape(text)}</span>')


def state_of(state: str) -> Html:
    """Colour a state."""
    return Html(f'<span class="{CLASSES.get(state, "")}">{escape(state)}</span>')


def time_of(at: datetime) -> str:
    """Write a time to the second."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def span(seconds: float) -> str:
    """Write a duration in a unit that suits it."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds else "0 s"
    if seconds < 2 * MINUTE_S:
        return f"{seconds:.1f} s"
    if seconds < 2 * HOUR_S:
        return f"{seconds / MINUTE_S:.0f} min"
    return f"{seconds / HOUR_S:.1f} h"
