"""Debian's chromium, driven by Playwright, and visits that notice what a page must not do."""

import json
import shutil
from contextlib import contextmanager

import pytest
from waiting import PATIENCE

MISSING = "THE CONSOLE IS NOT TESTED IN A BROWSER: no chromium found; install it (Debian: apt-get install chromium)"


@contextmanager
def chromium():
    """Yield a headless browser; without Chromium the tests are skipped and the summary says so."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip(MISSING)
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=1e3 * PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """One visitor with a page of their own."""

    def __init__(self, browser, origin, **words):
        self.origin, self.errors, self.refused, self.strangers = origin, [], [], []
        self.context = browser.new_context(base_url=origin, **words)
        self.context.set_default_timeout(1e3 * PATIENCE)
        self.page = self.context.new_page()
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda one: one.url.startswith(f"{origin}/") or self.strangers.append(one.url))
        self.page.on("response", lambda one: one.status < 400 or self.refused.append(one.status))

    def _said(self, message):
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.errors.append(message.text)

    def open(self, path, key=None):
        """Go to a page, with a key where one is given."""
        if key is not None:
            self.context.add_init_script(f"sessionStorage.setItem('recpolicy-key', {json.dumps(key)})")
        self.page.goto(path)
        return self.page

    def close(self):
        """Leave; fails where a script failed, something was refused unexpectedly or came from elsewhere."""
        self.context.close()
        assert self.errors == []
        assert self.strangers == []
        assert self.refused == []
