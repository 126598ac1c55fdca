"""Takes the picture of the service's page for the documents, from a service that runs.

python scripts/page_screenshot.py docs/page.png --url http://127.0.0.1:8000

It picks items as a user would, by keyboard. Needs playwright (extra ``test``) and Chromium.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDE, PHONE = (1280, 900), (360, 780)  # CSS pixels


def take(url: str, out: Path, searches: list[str], k: int, phone: bool, dark: bool) -> None:
    """Ask for recommendations, and write the picture of the page.

    Args:
        url: of the service.
        out: the PNG file.
        searches: what to search for; the first item that each finds makes the history.
        k: how many recommendations.
        phone: at the width of a phone.
        dark: in dark colours.
    """
    width, height = PHONE if phone else WIDE
    with sync_playwright() as playwright:
        # docker and root have no sandbox of their own to nest Chromium's in
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": width, "height": height},
            device_scale_factor=2,
            color_scheme="dark" if dark else "light",
        )
        page.goto(url)
        page.locator("#catalog", has_text="version").wait_for()  # until the service is ready
        for number, text in enumerate(searches, 1):
            page.locator("#search").press_sequentially(text)
            page.locator("#found li").first.wait_for()
            page.keyboard.press("ArrowDown")
            page.keyboard.press("Enter")
            page.locator(f"#history li:nth-child({number})").wait_for()
        page.locator("#k").fill(str(k))
        for _ in range(3):  # the first answers are slower than what follows
            page.locator("#recommend").click()
            page.locator("#recommend[aria-disabled=false]").wait_for()
        page.evaluate("document.activeElement.blur()")
        page.screenshot(path=out, full_page=True)
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--search", nargs="*", default=["item-3", "item-14", "item-15"])
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--phone", action="store_true")
    parser.add_argument("--dark", action="store_true")
    given = parser.parse_args()
    take(given.url, given.out, given.search, given.k, given.phone, given.dark)
