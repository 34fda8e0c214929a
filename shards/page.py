"""What the reports' HTML pages share: one self-contained file, its style sheet and sections."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

CSS = """
html { color-scheme: light; -webkit-text-size-adjust: 100%; }
:root { --ink: #202a37; --muted: #5d6876; --line: #e3e7ec; --page: #f6f7f9; --card: #fff; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 Inter, system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
main { max-width: 1128px; margin: 0 auto; padding: 44px 24px 72px; }
.kicker { color: var(--muted); font-size: 12.5px; font-weight: 600; letter-spacing: .07em;
  text-transform: uppercase; margin: 0 0 10px; }
h1 { font-size: 30px; line-height: 1.25; letter-spacing: -.018em; font-weight: 680; margin: 0;
  text-wrap: balance; }
h2 { font-size: 19px; letter-spacing: -.01em; font-weight: 650; margin: 46px 0 10px; }
h3 { font-size: 15px; font-weight: 650; margin: 30px 0 10px; }
h3:first-child { margin-top: 2px; }
p { margin: 0 0 14px; max-width: 78em; }
.lede { font-size: 16.5px; color: var(--muted); margin: 14px 0 30px; text-wrap: pretty; }
.note { color: var(--muted); font-size: 13.5px; }
.card + .note { margin-top: 12px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 18px 22px; overflow-x: auto; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 9px; }

table { border-collapse: collapse; width: 100%; font-size: 14.5px;
  font-variant-numeric: tabular-nums; }
th { text-align: right; font-size: 12.5px; font-weight: 600; color: var(--muted);
  padding: 4px 8px; white-space: nowrap; line-height: 1.25; vertical-align: bottom; }
td { text-align: right; padding: 7px 8px; border-top: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr.task td { font-weight: 650; padding-top: 22px; border-top: 0; }
tr.task:first-child td { padding-top: 6px; }
.range { display: inline-block; min-width: 66px; margin-left: 4px; text-align: left;
  color: var(--muted); font-weight: 400; font-size: 12px; }

svg { width: 100%; height: auto; display: block; }
svg text { font-family: inherit !important; }
figure { margin: 0; }
figcaption { font-size: 14px; font-weight: 600; margin-bottom: 6px; }
figcaption span { color: var(--muted); font-weight: 400; }
pre { background: #202a37; color: #eef1f5; border-radius: 10px; padding: 15px 18px;
  font: 13px/1.6 ui-monospace, "SF Mono", Menlo, Consolas, monospace; margin: 12px 0 16px;
  white-space: pre-wrap; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 22px; margin: 0;
  font-size: 13.5px; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
@media (max-width: 640px) {
  main { padding: 28px 12px 48px; }
  h1 { font-size: 24px; }
  .card { padding: 14px 12px; }
  dl { grid-template-columns: minmax(0, 1fr); }
  dd { margin-bottom: 8px; }
}
@media print {
  body { background: #fff; }
  .card { overflow: visible; }
}
"""


def page(kind: str, title: str, lede: str, parts: Iterable[str], css: str = "") -> str:
    """The whole file: what kind of report, its finding as a title, a sentence, its sections."""
    head = [
        f'<p class="kicker">{escape(kind)}</p>', f"<h1>{escape(title)}</h1>",
        f'<p class="lede">{escape(lede)}</p>',
    ]  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}{css}</style>\n</head>\n"
        f"<body>\n<main>\n{chr(10).join([*head, *parts])}\n</main>\n</body>\n</html>\n"
    )


def section(title: str, content: str, note: str = "", anchor: str = "") -> str:
    """A heading, which links may name by its `anchor`, a note (HTML) and the content on a card."""
    shown = f'<p class="note">{note}</p>\n' if note else ""
    mark = f' id="{escape(anchor)}"' if anchor else ""
    return f'<h2{mark}>{escape(title)}</h2>\n{shown}<div class="card">{content}</div>'


def dot(colour: str) -> str:
    """A policy's mark."""
    return f'<span class="dot" style="background:{colour}"></span>'


def facts(entries: dict[str, str]) -> str:
    """A list of terms and what they are; empty entries are left out."""
    rows = [f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in entries.items() if text]
    return f"<dl>{''.join(rows)}</dl>"
