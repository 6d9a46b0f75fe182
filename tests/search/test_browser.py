# SPDX-License-Identifier: Apache-2.0
"""The search page in a real browser."""

import argparse
import importlib.resources

import pages
import pytest
import small_shapes
import tiny_index

from benchmarks import demo
from mrd_jax.search import queries

pytest_plugins = ("opened_page",)
pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("fast_compile")]
WITHOUT_WEBGL = """
    const original = HTMLCanvasElement.prototype.getContext;
    HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
        return kind.startsWith("webgl") ? null : original.call(this, kind, ...rest);
    };
"""


@pytest.mark.parametrize("size", pages.SIZES)
def test_typed_words_find_shapes_by_name(opened, searcher, shoot, size):
    page = opened(size)
    shoot(page, f"{size}-start")
    pages.search(page, "green")
    assert pages.titles(page) == pages.names(searcher, searcher.embed_text("green"))
    first = page.locator(".card").first.inner_text()
    assert "similarity" in first and "maker 1, CC0" in first
    shoot(page, f"{size}-words")
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0


def test_a_dropped_picture_finds_shapes(opened, searcher, shoot):
    page = opened()
    pages.drop(page, "blue.png", small_shapes.picture((0, 0, 255)))
    page.wait_for_selector("#status:has-text('blue.png')")
    assert pages.titles(page)[0] == "box 2"
    assert page.get_by_role("img", name="Picture blue.png").is_visible()
    shoot(page, "desktop-picture")


@pytest.mark.parametrize("size", pages.SIZES)
def test_a_dropped_mesh_finds_shapes_and_is_classified(opened, searcher, shoot, size, tmp_path):
    data = small_shapes.box().export(file_type="glb")
    (tmp_path / "box.glb").write_bytes(data)
    cloud = queries.read_cloud(tmp_path / "box.glb", searcher.index)
    row = searcher.embed_cloud(cloud.xyz, cloud.rgb)
    page = opened(size)
    pages.drop(page, "box.glb", data)
    page.wait_for_selector("#upload-view canvas")
    assert pages.titles(page) == pages.names(searcher, row)
    page.fill("#classes", "red, green,blue")
    page.get_by_role("button", name="Classify").click()
    page.wait_for_selector("#class-scores li")
    names = [text.split()[-1] for text in page.locator("#class-scores li").all_inner_texts()]
    assert names == [name for name, _ in searcher.classify(row, tiny_index.WORDS)]
    shoot(page, f"{size}-mesh")
    pages.search(page, "red")
    assert pages.titles(page) == pages.names(
        searcher, queries.mix([row, searcher.embed_text("red")], [1, 1])
    )
    page.get_by_role("slider", name="Weight of box.glb").press("Home")  # at -1
    page.wait_for_selector("#parts output:has-text('-1')")
    want = pages.names(searcher, queries.mix([row, searcher.embed_text("red")], [-1, 1]))
    page.wait_for_selector(f".card:first-child h3:text-is('{want[0]}')")
    assert pages.titles(page) == want
    page.get_by_role("button", name="Remove box.glb").click()
    page.wait_for_selector("#upload", state="hidden")
    assert pages.titles(page) == pages.names(searcher, searcher.embed_text("red"))


def test_more_like_this_finds_the_neighbours_of_a_shape(opened, searcher, shoot):
    page = opened()
    pages.search(page, "green")
    page.get_by_role("button", name="More like this: box 1", exact=True).click()
    page.wait_for_selector("#status:has-text('shapes like box 1')")
    assert pages.titles(page) == pages.names(searcher, searcher.shape_row(1), exclude=1)
    shoot(page, "desktop-alike")


def test_the_page_shows_why_a_file_is_rejected(opened, shoot):
    page = opened()
    pages.drop(page, "bad.glb", b"glTF garbage")
    alert = page.get_by_role("alert")
    page.wait_for_selector("#error:has-text('bad.glb cannot be used: truncated binary glTF file')")
    shoot(page, "desktop-rejected")
    page.evaluate(
        """() => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([new Uint8Array(200 * 2 ** 20)], "huge.glb"));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
        }"""
    )
    page.wait_for_selector("#error:has-text('huge.glb is too large (200 MB). The limit is 1 MB.')")
    pages.search(page, "red")
    assert alert.inner_text() == ""


def test_the_page_shows_that_the_server_does_not_respond(opened):
    page = opened()
    page.route("**/api/find*", lambda route: route.abort())
    page.fill("#words", "red")
    page.press("#words", "Enter")
    page.wait_for_selector("#error:has-text('The server does not respond')")


def test_without_webgl_the_page_shows_pictures_only(opened, shoot):
    page = opened(script=WITHOUT_WEBGL)
    pages.search(page, "red")
    pages.titles(page)
    page.wait_for_timeout(300)
    assert page.locator(".card canvas").count() == 0
    assert page.get_by_role("img", name="Picture of box 1", exact=True).is_visible()
    assert page.locator("#view-help").is_hidden()
    shoot(page, "desktop-without-webgl")


def test_the_page_is_usable_with_the_keyboard(opened):
    page = opened()
    page.locator("#words").focus()
    page.keyboard.type("green")
    page.keyboard.press("Enter")
    page.wait_for_selector(".card:first-child canvas")
    focused = []
    for _ in range(12):
        page.keyboard.press("Tab")
        focused.append(
            page.evaluate(
                """() => {
                    const active = document.activeElement;
                    const outline = getComputedStyle(active).outlineStyle;
                    const label = active.getAttribute("aria-label");
                    return (label || active.textContent || active.id) + " " + outline;
                }"""
            )
        )
    assert all(text.endswith(" solid") for text in focused)
    for control in (
        "Search",
        "file",
        "Remove “green”",
        "Rotate and zoom box 1",
        "More like this: box 1",
    ):
        assert f"{control} solid" in focused


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", pages.SIZES)
def test_axe_reports_no_violation(opened, shoot, size, scheme):
    page = opened(size, color_scheme=scheme)
    rules = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
    page.evaluate(rules)
    violations = page.evaluate("() => axe.run()")["violations"]
    pages.drop(page, "box.glb", small_shapes.box().export(file_type="glb"))
    page.wait_for_selector("#upload-view canvas")
    page.fill("#classes", "red, green")
    page.get_by_role("button", name="Classify").click()
    page.wait_for_selector("#class-scores li")
    pages.search(page, "green")
    page.locator(".card").first.scroll_into_view_if_needed()
    page.locator(".card canvas").first.wait_for()
    violations += page.evaluate("() => axe.run()")["violations"]
    pages.drop(page, "bad.glb", b"garbage")
    page.wait_for_selector("#error:not(:empty)")
    violations += page.evaluate("() => axe.run()")["violations"]
    shoot(page, f"{size}-{scheme}")
    summary = {(v["id"], v["impact"], v["nodes"][0]["html"]) for v in violations}
    assert not summary


def test_the_page_loads_everything_from_its_own_server(chromium, address, searcher):
    page = chromium.new_page()
    urls = []
    page.on("request", lambda request: urls.append(request.url))
    page.goto(address)
    pages.search(page, "red")
    page.locator(".card canvas").first.wait_for()
    page.close()
    assert len(urls) > 10
    assert [url for url in urls if not url.startswith(address)] == []


def test_the_benchmark_measures_the_page(chromium, address, searcher):
    options = argparse.Namespace(index=searcher.index.folder, repeats=2, screenshot=None)
    measured = demo.measure(address, options, chromium)
    assert measured["shapes"] == 12
    assert 100_000 < measured["page_bytes"] < 250_000 < measured["page_bytes_unpacked"]
    # The page, /api/about, the icon, the style sheet, three.js and 15 modules.
    assert measured["page_files"] == 20
    times = {name: value for name, value in measured.items() if name.endswith("_ms")}
    assert sorted(times) == [
        *("browser_answer_ms", "browser_load_ms", "browser_shape_ms"),
        *("classify_ms", "classify_worst_ms"),
        *("fifty_at_once_ms", "image_ms", "load_ms", "mesh_ms", "text_ms"),
    ]
    assert all(0 < value < 60_000 for value in times.values())
