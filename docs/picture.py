"""Take the picture of the report that the README shows.

    python docs/picture.py RUN docs/report.png           # RUN: a run folder, or its result.json
    python docs/picture.py RUN docs/report-dark.png --dark

The picture runs from the verdict to the end of a section (`--until`, the loss curves unless told
otherwise), at one and a half pixels a CSS pixel. It needs playwright and a Chromium on the path.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from downslope.report import render

MARGIN = 40


def main() -> int:
    """Parse the command line, draw the page, take the picture."""
    parser = argparse.ArgumentParser(description="Take the picture of a report.")
    parser.add_argument("run", type=Path, help="a run folder, or its result.json")
    parser.add_argument("picture", type=Path, help="the PNG file to write")
    parser.add_argument("--dark", action="store_true", help="in dark colours")
    parser.add_argument("--until", default="Loss curves", help="title of the last section in the picture")
    parser.add_argument("--width", type=int, default=1200, help="width of the window in CSS pixels")
    options = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    result = options.run / "result.json" if options.run.is_dir() else options.run
    if chromium is None or not result.is_file():
        missing = "a Chromium on the path" if chromium is None else str(result)
        print(f"no {missing}: the picture is taken of a run's result by a browser", file=sys.stderr)
        return 2
    page = render(json.loads(result.read_text("utf-8")))
    options.picture.write_bytes(taken(page, chromium, options))
    return 0


def taken(html: str, chromium: str, options: argparse.Namespace) -> bytes:
    """Return the picture of a page as PNG."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "report.html"
        file.write_text(html, "utf-8")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(
            viewport={"width": options.width, "height": 900},
            color_scheme="dark" if options.dark else "light",
            device_scale_factor=1.5,
        )
        page.goto(file.as_uri())
        box = page.locator("section", has=page.get_by_role("heading", name=options.until)).bounding_box()
        assert box is not None
        clip = {"x": 0, "y": 0, "width": options.width, "height": box["y"] + box["height"] + MARGIN}
        picture = page.screenshot(full_page=True, clip=clip)
        browser.close()
        return picture


if __name__ == "__main__":
    sys.exit(main())
