# SPDX-License-Identifier: Apache-2.0
"""The map of the index on the search page."""

import csv
import io

import pages
import pytest

from mrd_jax.demo import index_map

pytest_plugins = ("opened_page",)
pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("fast_compile")]


@pytest.fixture
def mapped(opened):
    """Opens the page with the map."""

    def call(size="desktop", **options):
        page = opened(size, **options)
        page.get_by_role("button", name="Map of the index").click()
        page.wait_for_selector("#map-about:has-text('12 in sight')")
        page.wait_for_timeout(300)
        return page

    return call


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", pages.SIZES)
def test_the_map_shows_all_shapes_with_pictures(mapped, shoot, size, scheme):
    page = mapped(size, color_scheme=scheme)
    assert pages.pixels(page, "#map-canvas")[1] > 12 * 40 * 40 / 2  # some overlap
    assert "12 shapes by principal components" in page.inner_text("#map-about")
    assert page.url.endswith("?map=1")
    pages.check_axe(page)
    shoot(page, f"{size}-{scheme}-map")
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0


def test_a_lasso_lists_the_shapes_inside_and_saves_them_as_csv(mapped, searcher, shoot):
    page = mapped()
    page.get_by_role("button", name="Lasso").click()
    canvas = page.locator("#map-canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    left, top = box["x"] + 3, box["y"] + 3
    right, bottom = box["x"] + box["width"] / 2, box["y"] + box["height"] - 3
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom)):
        page.mouse.move(x, y, steps=4)
    page.mouse.up()
    page.wait_for_selector("#map-list .card")
    found = index_map.make(searcher.index)
    want = {searcher.index.items[number].title for number in found.numbers[found.xy[:, 0] < 0]}
    assert set(page.locator("#map-list .card h3").all_inner_texts()) == want
    assert f"{len(want)} shapes selected." in page.inner_text("#map-selected")
    shoot(page, "desktop-lasso")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as CSV").click()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text("utf-8"))))
    assert {row["title"] for row in rows} == want
    assert {row["licence"] for row in rows} == {"CC0"}


def test_keys_and_buttons_move_the_map_and_select_what_is_in_sight(mapped):
    page = mapped()
    canvas = page.locator("#map-canvas")
    canvas.focus()
    for _ in range(4):
        canvas.press("+")
    page.wait_for_function(
        "() => !document.querySelector('#map-about').textContent.includes(' 12 in sight')"
    )
    count = int(page.inner_text("#map-about").split(". ")[1].split()[0])
    page.get_by_role("button", name="Select shapes in sight").click()
    page.wait_for_selector(f"#map-selected:has-text('{count} shapes selected')")
    page.get_by_role("button", name="Whole map").click()
    page.wait_for_selector("#map-about:has-text('12 in sight')")
    before = pages.pixels(page, "#map-canvas")[0]
    canvas.press("ArrowLeft")
    page.wait_for_timeout(200)
    assert pages.pixels(page, "#map-canvas")[0] != before


def test_a_click_on_a_shape_opens_it(mapped, searcher):
    page = mapped()
    x, y = index_map.make(searcher.index).xy[7] / 32_767
    canvas = page.locator("#map-canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    unit = min(box["width"], box["height"]) / 2 * 0.94
    page.mouse.click(
        box["x"] + box["width"] / 2 + x * unit, box["y"] + box["height"] / 2 - y * unit
    )
    page.get_by_role("dialog", name="box 7").wait_for()
