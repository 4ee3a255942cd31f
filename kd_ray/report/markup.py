"""Text as HTML: everything is escaped here, whatever a run or a class is called."""

from collections.abc import Sequence
from html import escape


def element(tag: str, text: str, **attributes: str) -> str:
    """An element with escaped text.

    >>> element("h2", "a < b", id="figures")
    '<h2 id="figures">a &lt; b</h2>'
    """
    given = "".join(f' {name}="{escape(value)}"' for name, value in attributes.items())
    return f"<{tag}{given}>{escape(text)}</{tag}>"


def paragraph(text: str) -> str:
    """A paragraph.

    >>> paragraph("R&D")
    '<p>R&amp;D</p>'
    """
    return element("p", text)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names its rows.

    >>> print(table(["model", "errors"], [["teacher", "67"]]))
    <table>
    <thead><tr><th scope="col">model</th><th scope="col">errors</th></tr></thead>
    <tbody>
    <tr><th scope="row">teacher</th><td>67</td></tr>
    </tbody>
    </table>
    """
    head = "".join(element("th", heading, scope="col") for heading in headings)
    body = "\n".join(
        f"<tr>{element('th', name, scope='row')}{''.join(element('td', c) for c in cells)}</tr>"
        for name, *cells in rows
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def section(title: str, *parts: str) -> str:
    """A part of a page under its heading; empty parts are left out."""
    return "\n".join(["<section>", element("h2", title), *filter(None, parts), "</section>"])


def document(title: str, css: str, body: str) -> str:
    """A whole page that needs no other file."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"{element('title', title)}\n<style>{css}</style>\n"
        f"</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
