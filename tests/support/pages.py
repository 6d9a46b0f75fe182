# SPDX-License-Identifier: Apache-2.0
"""Helpers that use the search page like a user and read what it shows."""

import base64
import importlib.resources

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
DROP = """([encoded, name]) => {
    const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
}"""


def search(page, words):
    page.fill("#words", words)
    page.press("#words", "Enter")
    page.wait_for_selector(f"#status:has-text('“{words}”')")


def drop(page, name, data):
    page.evaluate(DROP, [base64.b64encode(data).decode(), name])


def titles(page):
    page.wait_for_selector("#results[aria-busy=false] .card")
    return page.locator(".card h3").all_inner_texts()


def names(searcher, row, **options):
    found = searcher.find(row, count=12, **options)
    return [searcher.index.items[number].title for number in found.numbers]


def pixels(page, selector):
    """Returns the content of a canvas as a data URL, and the number of its opaque pixels."""
    return page.locator(selector).first.evaluate(
        """(canvas) => {
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            const painted = data.filter((value, place) => place % 4 == 3 && value).length;
            return [canvas.toDataURL(), painted];
        }"""
    )


def check_axe(page):
    """Fails if axe-core reports a violation on what the page shows now."""
    rules = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
    page.evaluate(rules)
    violations = page.evaluate("() => axe.run()")["violations"]
    summary = {(v["id"], v["impact"], v["nodes"][0]["html"]) for v in violations}
    assert not summary
