"""A page as headless Chromium shows it, without a network."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--allow-file-access-from-files",
    "--enable-logging=stderr", "--v=0", "--virtual-time-budget=2000",
)  # fmt: skip
# the page in a frame as wide as a window would be, and what scripts can tell of it from outside
FRAME = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe src="{url}" style="width:{width}px;height:2000px;border:0"></iframe>
<script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe"), inside = page.contentDocument;
  const measured = {{
    width: page.contentWindow.innerWidth, scrolled: inside.documentElement.scrollWidth,
    broken: [...inside.images].filter(image => !image.complete || !image.naturalWidth).length,
    loaded: page.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name)
      .filter(name => !name.startsWith("data:")),
  }};
  document.body.textContent = "MEASURED" + JSON.stringify(measured) + "MEASURED";
}});
</script>"""


def find() -> str | None:
    """The browser's path, if there is one."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


@dataclass(frozen=True)
class Measured:
    """What a browser found in a page."""

    width: int
    """Of the window, in pixels."""
    scrolled: int
    """Of the content; wider than the window, the page scrolls sideways."""
    broken: int
    """Images that do not show."""
    loaded: list[str]
    """URLs that it asked for."""
    complaints: list[str]
    """Lines on its console."""


def measure(page: Path, width: int, folder: Path) -> Measured:
    """Open a page `width` pixels wide; `folder` takes what a browser keeps."""
    url = page.as_uri()
    frame = folder / f"frame{width}.html"
    frame.write_text(FRAME.format(url=url, width=width))
    done = _run(folder, "--dump-dom", frame.as_uri())
    _, found, _ = done.stdout.split("MEASURED")
    complaints = re.findall(r".*:CONSOLE[:(].*", done.stderr)
    return Measured(**json.loads(found), complaints=complaints)


def screenshot(page: Path, width: int, height: int, folder: Path) -> Image.Image:
    """The first `height` pixels of a page."""
    path = folder / f"page{width}.png"
    _run(folder, f"--screenshot={path}", f"--window-size={width},{height}", page.as_uri())
    return Image.open(path).convert("RGB")


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    browser = find()
    assert browser is not None
    command = [browser, *FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True)
