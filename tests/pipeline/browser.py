"""Pages in a headless Chromium at given widths: how wide they come out and what they say on the console."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr "
    "--virtual-time-budget=5000 --dump-dom"
)
PROBE = """
<pre id="widths"></pre>
<script>
addEventListener("load", () => {
  const widths = [...document.querySelectorAll("iframe")].map((frame) => {
    const page = frame.contentDocument.documentElement;
    return [page.clientWidth, page.scrollWidth];
  });
  document.getElementById("widths").textContent = JSON.stringify(widths);
});
</script>
"""


def find() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


def look(browser: str, pages: list[tuple[str, int]], folder: Path) -> tuple[list[tuple[int, int]], list[str]]:
    """Open pages side by side, each in a frame of its own.

    Args:
        browser: the program.
        pages: HTML and width in pixels of each.
        folder: for the browser's profile and the page around the frames.

    Returns:
        Width of the frame and of the document in it, for each page; lines of the console.
    """
    frames = (
        f'<iframe width="{width}" height="900" style="border: 0" srcdoc="{html.escape(page)}"></iframe>'
        for page, width in pages
    )
    around = folder / "frames.html"
    around.write_text(f"<!doctype html>\n{''.join(frames)}{PROBE}", encoding="utf-8")
    run = subprocess.run(
        [browser, *OPTIONS.split(), f"--user-data-dir={folder / 'profile'}", around.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = re.search(r'<pre id="widths">(.*?)</pre>', run.stdout)
    assert found, f"the page did not load: {run.stdout[-500:]} {run.stderr[-500:]}"
    console = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    return [(inner, outer) for inner, outer in json.loads(found[1])], console
