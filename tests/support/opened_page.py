# SPDX-License-Identifier: Apache-2.0
"""Pytest plugin with fixtures that open the search page in a real browser."""

import contextlib
import os
import pathlib
import shutil
import socket
import threading

import pages
import pytest
import tiny_index
import uvicorn

from mrd_jax.demo import web_app

# Renders WebGL on the CPU.
OPTIONS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.fixture(scope="module")
def searcher(tmp_path_factory, fast_compile):
    return tiny_index.searcher(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def address(searcher):
    """Serves the page as `python -m mrd_jax.demo` does; returns its address."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        web_app.serving(searcher, web_app.Limits(upload_bytes=2**20, read_seconds=60)) as app,
    ):
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def chromium():
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip(f"none of {', '.join(names)} is installed: apt-get install chromium")
    driver = pytest.importorskip("playwright.sync_api", reason='pip install -e ".[browser]"')
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, address, request):
    """Opens the page at a size; an uncaught JavaScript error fails the test."""
    with contextlib.ExitStack() as stack:

        def call(size="desktop", *, script=None, **options):
            width, height = pages.SIZES[size]
            viewport = {"width": width, "height": height}
            context = chromium.new_context(viewport=viewport, **options)
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(20_000)
            page.on("pageerror", lambda error: pytest.fail(f"the page failed: {error}"))
            if script:
                page.add_init_script(script)
            page.goto(address)
            page.wait_for_selector("#about:has-text('shapes by')")
            return page

        yield call


@pytest.fixture(scope="module")
def shoot(tmp_path_factory):
    """Saves screenshots of a page."""
    folder = os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots")
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)

    def call(page, name):
        page.wait_for_timeout(300)  # until the clouds are drawn
        page.screenshot(path=pathlib.Path(folder) / f"{name}.png", full_page=True)

    return call
