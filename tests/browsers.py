"""The machine's own Chromium, which WMCORE_CHROMIUM names or which is on the path, and what axe looks for."""

import os
import shutil
from contextlib import contextmanager

from peers import unavailable

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"],
    "resultTypes": ["violations", "passes"],
}
PHONE, DESK = 360, 1280


@contextmanager
def launched():
    """A browser that is closed in the end."""
    try:
        from playwright import sync_api
    except ImportError:
        unavailable("no playwright: make pages installs it")
    named = os.environ.get("WMCORE_CHROMIUM")
    path = named or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        unavailable("no Chromium: install one, or name it in WMCORE_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield browser
        browser.close()


def axe(page):
    """(what is wrong, the rules that passed) by axe."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options=RULES).response
    wrong = [(v["id"], [node["html"][:200] for node in v["nodes"]]) for v in found["violations"]]
    return wrong, {rule["id"] for rule in found["passes"]}
