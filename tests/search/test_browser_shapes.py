# SPDX-License-Identifier: Apache-2.0
"""Meshes, the large view, filters and queries of several terms on the search page."""

import urllib.parse

import pages
import pytest

from mrd_jax.search import queries

pytest_plugins = ("opened_page",)
pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("fast_compile")]


def query_of(page):
    return urllib.parse.parse_qsl(urllib.parse.urlsplit(page.url).query)


def test_a_hit_with_a_mesh_shows_lit_faces_in_its_colour(opened, shoot):
    page = opened()
    pages.search(page, "red")
    first = page.locator(".card:has(h3:text-is('box/0'))")
    first.locator("canvas").wait_for()
    page.wait_for_timeout(500)
    colours = first.locator("canvas").evaluate(
        """(canvas) => {
            const { width, height } = canvas;
            const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
            const found = [];
            for (let place = 0; place < data.length; place += 4) {
                if (data[place + 3] == 255) found.push(Array.from(data.slice(place, place + 3)));
            }
            return found;
        }"""
    )
    # Faces fill the view, where 128 points would leave gaps; all are red, and lit differently.
    assert len(colours) > 5_000
    assert all(red > 60 and green < 40 and blue < 40 for red, green, blue in colours)
    assert len({red for red, _, _ in colours}) >= 2
    shoot(page, "desktop-meshes")


@pytest.mark.parametrize("size", pages.SIZES)
def test_every_hit_turns(opened, size):
    page = opened(size)
    pages.search(page, "red")
    cards = page.locator(".card")
    assert cards.count() == 12
    for number in range(12):
        cards.nth(number).scroll_into_view_if_needed()
        canvas = cards.nth(number).locator("canvas")
        canvas.press("ArrowRight")
        assert canvas.get_attribute("aria-valuenow") == "330"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", pages.SIZES)
def test_the_large_view_shows_details_neighbours_and_a_download(
    opened, searcher, shoot, size, scheme
):
    page = opened(size, color_scheme=scheme)
    pages.search(page, "red")
    page.get_by_role("button", name="Details of box/0", exact=True).click()
    page.wait_for_selector("#details-view canvas")
    dialog = page.get_by_role("dialog", name="box/0")
    assert "maker 0" in dialog.inner_text() and "CC0" in dialog.inner_text()
    want = pages.names(searcher, searcher.shape_row(0), exclude=0)[:8]
    page.wait_for_selector("#details-neighbours li")
    assert dialog.locator("#details-neighbours li").all_inner_texts() == want
    with page.expect_download() as download:
        dialog.get_by_role("link", name="Download box_0.glb").click()
    assert download.value.path().read_bytes() == searcher.index.mesh(0)
    pages.check_axe(page)
    shoot(page, f"{size}-{scheme}-details")
    assert ("view", searcher.index.items[0].key) in query_of(page)
    dialog.get_by_role("button", name=want[0]).click()
    page.get_by_role("dialog", name=want[0]).wait_for()
    assert ("view", searcher.index.items[0].key) not in query_of(page)
    page.keyboard.press("Escape")
    page.wait_for_function("() => !location.search.includes('view=')")
    assert dialog.count() == 0


def test_terms_are_added_excluded_and_kept_in_the_address(opened, searcher, shoot):
    page = opened()
    pages.search(page, "red")
    page.fill("#words", "green")
    page.get_by_role("button", name="Exclude term").click()
    page.wait_for_selector("#status:has-text('“red” without “green”')")
    red, green = searcher.embed_texts(["red", "green"])
    want = pages.names(searcher, queries.mix([red, green], [1, -0.5]))
    assert pages.titles(page) == want
    page.get_by_role("slider", name="Weight of “green”").press("End")  # at 1
    page.wait_for_selector("#parts output:has-text('1')")
    want = pages.names(searcher, queries.mix([red, green], [1, 1]))
    page.wait_for_function(
        "title => document.querySelector('.card h3').textContent == title", arg=want[0]
    )
    assert pages.titles(page) == want
    assert query_of(page) == [
        *(("text", "red"), ("weight", "1"), ("text", "green"), ("weight", "1"))
    ]
    shoot(page, "desktop-terms")
    again = page.context.new_page()
    again.goto(page.url)
    assert pages.titles(again) == want
    page.go_back()
    page.wait_for_selector("#status:has-text('“red” without “green”')")
    page.go_back()
    page.wait_for_selector("#status:has-text('for “red”,')")
    assert page.input_value("#words") == "red"


def test_filters_and_order_restrict_the_results_and_can_be_cleared(opened, shoot):
    page = opened()
    pages.search(page, "red")
    page.get_by_text("Filters and order").click()
    page.get_by_role("checkbox", name="maker 3 (1)").check()
    page.wait_for_selector("#status:has-text('1 results for “red”, filtered')")
    page.get_by_role("checkbox", name="maker 4 (1)").check()
    page.wait_for_selector("#status:has-text('2 results')")
    assert sorted(pages.titles(page)) == ["box 3", "box 4"]
    pages.check_axe(page)
    shoot(page, "desktop-filters")
    again = page.context.new_page()
    again.goto(page.url)
    again.wait_for_selector("#status:has-text('2 results')")
    assert again.get_by_role("checkbox", name="maker 4 (1)").is_checked()
    page.get_by_role("button", name="Clear filters").click()
    page.wait_for_selector("#status:has-text('12 results')")
    page.get_by_label("Order").select_option("title")
    page.wait_for_selector("#status:has-text('by name')")
    assert pages.titles(page)[:3] == ["box 1", "box 10", "box 11"]


def test_the_list_grows_to_its_end(opened, searcher):
    page = opened()
    # Pages of five results, so that twelve need three of them.
    page.route(
        "**/results.js",
        lambda route: route.fulfill(
            body=route.fetch().text().replace("PAGE = 24", "PAGE = 5"),
            content_type="text/javascript",
        ),
    )
    page.reload()
    pages.search(page, "red")
    for _ in range(5):
        page.mouse.wheel(0, 2_000)
        page.wait_for_timeout(200)
    page.wait_for_function("() => document.querySelectorAll('#results .card').length == 12")
    assert pages.titles(page) == pages.names(searcher, searcher.embed_text("red"))
    assert page.locator("#more").is_hidden()
