"""A parser that holds an HTML page to what reports promise: well-formed, and all in one file."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

from PIL import Image

VOID = {"meta", "img", "br", "col", "use", "path"}  # without an end tag, or closed in place


class Page(HTMLParser):
    """Checks that every element is closed in order, that nothing is referred to elsewhere, and that
    pictures and tables can be read aloud."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str]] = []
        self.drawings: list[str] = []
        """What <svg> elements are described as."""
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.tables: list[list[list[str]]] = []
        """The text of each cell of each row of each <tbody> and <thead>."""
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []
        missing = [link for link in self.links if link.removeprefix("#") not in self.ids]
        assert missing == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        for name in ("src", "href", "xlink:href"):
            assert values.get(name, "#").startswith(("#", "data:")), "not self-contained"
        assert tag not in ("script", "link", "iframe", "object"), tag
        assert "url(" not in values.get("style", "").replace("url(#", ""), "not self-contained"
        self.ids |= {values["id"]} if "id" in values else set()
        if tag == "a":
            self.links.append(values["href"])
        elif tag == "img":
            assert values["alt"], "a picture without words"
            self.images.append(values)
        elif tag == "svg":
            self.drawings.append(values["aria-label"])
        elif tag == "th":
            assert values["scope"] in ("row", "col", "rowgroup", "colgroup")
        if tag in ("tbody", "thead"):
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids |= {value or "" for name, value in attrs if name == "id"}

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open[-1:] == ["style"]:
            assert "url(" not in data and "@import" not in data, "not self-contained"
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    def pictures(self) -> list[Image.Image]:
        """The images, decoded."""
        data = [image["src"].partition(",")[2] for image in self.images]
        return [Image.open(io.BytesIO(base64.b64decode(each))) for each in data]
