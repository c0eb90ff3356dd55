"""Chromium on the live server's page.

MEDTRAVERSE_BROWSER names its program; without any browser these tests are skipped, unless it says "required".
"""

import json
import os
import shutil
import urllib.request

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")


def program():
    """The browser's path, or None for playwright's own."""
    named = os.environ.get("MEDTRAVERSE_BROWSER", "")
    return named if os.path.isfile(named) else next(filter(None, map(shutil.which, PROGRAMS)), None)


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(
                executable_path=program(), args=["--no-sandbox", "--disable-gpu"]
            )
        except Error as error:
            if os.environ.get("MEDTRAVERSE_BROWSER") == "required":
                raise
            pytest.skip(f"no Chromium: install it, or name one in MEDTRAVERSE_BROWSER ({error})")
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def context(browser, server):
    settings = json.dumps({"Comfy.TutorialCompleted": True, "Comfy.Workflow.Persist": False}).encode()
    urllib.request.urlopen(
        urllib.request.Request(f"{server}/settings", settings, {"Content-Type": "application/json"})
    ).close()
    opened = browser.new_context(viewport={"width": 1700, "height": 950})
    yield opened
    opened.close()


class Page:
    """The frontend in a tab.

    ``errors`` are the console's errors and deprecation warnings and the exceptions since it was opened.
    """

    def __init__(self, page, url):
        self.page, self.url, self.errors = page, url, []
        # The frontend asks ComfyUI's registry about every pack of a workflow, and its own policy forbids it.
        page.on("console", self.log)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def log(self, message):
        bad = message.type == "error" or (message.type == "warning" and "deprecat" in message.text.lower())
        if bad and "//api.comfy.org/" not in message.text:
            self.errors.append(f"{message.text} {message.location.get('url', '')}")

    def open(self, query=""):
        self.page.goto(f"{self.url}/{query}")
        self.page.wait_for_function("window.app?.graph !== undefined", timeout=60_000)
        return self

    def template(self, stem):
        """Open a bundled workflow as the Templates browser does."""
        self.open(f"?template={stem}&source=MedTraverse")
        # Every bundled workflow has groups; the frontend's own, which shows for a moment, has none.
        self.page.wait_for_function("window.app.graph._groups.length > 0", timeout=60_000)
        self.page.wait_for_timeout(300)
        return self

    def wait_for_error(self, text, panel):
        """Wait until a refused run's words are seen; newer frontends have their own, behind a button."""
        words = self.page.get_by_text(text).filter(visible=True)
        details = self.page.get_by_role("button", name="View details").filter(visible=True)
        words.or_(details).first.wait_for(timeout=60_000)
        if not words.count():
            details.first.click()
            self.page.get_by_text(panel).filter(visible=True).first.wait_for(timeout=20_000)

    def evaluate(self, script):
        return self.page.evaluate(script)


@pytest.fixture(scope="session")
def bare_errors(context, server):
    """What the frontend logs by itself, without a workflow."""
    tab = Page(context.new_page(), server).open()
    tab.page.wait_for_timeout(2000)
    errors = set(tab.errors)
    tab.page.close()
    return errors


@pytest.fixture(scope="session")
def new_tab(context, server):
    """``new_tab()`` is a tab that stays open for several tests; who asks for it closes its page."""
    return lambda: Page(context.new_page(), server)


@pytest.fixture
def tab(new_tab):
    opened = new_tab()
    yield opened
    opened.page.close()
