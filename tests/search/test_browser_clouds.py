# SPDX-License-Identifier: Apache-2.0
"""Rotating and zooming point clouds on the search page by mouse, keyboard and touch."""

import pages
import pytest

pytest_plugins = ("opened_page",)
pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("fast_compile")]
# Whether the value that screen readers announce for the first result ends with some text.
VALUE_ENDS = """(text) =>
    document.querySelector(".card canvas").getAttribute("aria-valuetext").endsWith(text)
"""


def test_mouse_and_keys_rotate_a_cloud(opened):
    page = opened()
    pages.search(page, "red")
    canvas = page.locator(".card canvas").first
    canvas.wait_for()
    page.wait_for_timeout(300)
    before, painted = pages.pixels(page, ".card canvas")
    assert painted > 100
    assert canvas.get_attribute("aria-valuenow") == "315"
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 50, steps=5)
    page.mouse.up()
    page.wait_for_timeout(100)
    dragged, painted = pages.pixels(page, ".card canvas")
    assert dragged != before and painted > 100
    assert canvas.get_attribute("aria-valuenow") == "255"  # 100 pixels of 0.6 degrees
    canvas.press("ArrowRight")
    canvas.press("ArrowUp")
    page.wait_for_timeout(100)
    assert pages.pixels(page, ".card canvas")[0] != dragged
    assert canvas.get_attribute("aria-valuetext") == "270 degrees, seen from 40 degrees above"


def test_wheel_with_ctrl_and_keys_zoom_a_cloud(opened, shoot):
    page = opened()
    pages.search(page, "red")
    canvas = page.locator(".card canvas").first
    canvas.wait_for()
    page.wait_for_timeout(300)
    whole, painted = pages.pixels(page, ".card canvas")
    canvas.press("+")
    canvas.press("=")  # the same key without Shift
    assert canvas.get_attribute("aria-valuetext").endswith("above, enlarged 1.6 times")
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -120)
    page.keyboard.up("Control")
    page.wait_for_function(VALUE_ENDS, arg="enlarged 1.9 times")  # e^0.22 times, at any wheel speed
    page.wait_for_timeout(100)
    assert pages.pixels(page, ".card canvas")[1] > 1.5 * painted
    assert page.evaluate("window.scrollY") == 0
    shoot(page, "desktop-enlarged")
    for _ in range(3):
        canvas.press("-")
    page.wait_for_function(VALUE_ENDS, arg="above")
    page.wait_for_timeout(100)
    assert pages.pixels(page, ".card canvas")[0] == whole
    for _ in range(9):
        canvas.press("+")
    page.wait_for_function(VALUE_ENDS, arg="enlarged 4 times")


def test_the_wheel_without_ctrl_scrolls_the_page_over_a_focused_cloud(opened):
    page = opened("phone")
    pages.search(page, "red")
    canvas = page.locator(".card canvas").first
    canvas.wait_for()
    canvas.click()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    before = page.evaluate("window.scrollY")
    page.mouse.wheel(0, 200)
    page.wait_for_function("before => window.scrollY == before + 200", arg=before)
    assert canvas.get_attribute("aria-valuetext").endswith("above")


def test_two_fingers_zoom_a_cloud_and_one_rotates_it(opened, shoot):
    page = opened("phone", has_touch=True)
    pages.search(page, "red")
    canvas = page.locator(".card canvas").first
    canvas.wait_for()
    box = canvas.bounding_box()
    middle, level = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    device = page.context.new_cdp_session(page)

    def touch(kind, *places):
        points = [{"x": middle + x, "y": level + y, "id": n} for n, (x, y) in enumerate(places)]
        device.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    canvas.press("+")
    canvas.press("+")
    touch("touchStart", (0, -20))
    touch("touchStart", (0, -20), (0, 20))
    for moved in (10, 20, 30, 40):  # both move up, as one finger does to scroll
        touch("touchMove", (0, -20 - 2 * moved), (0, 20 - moved))
    touch("touchEnd")
    page.wait_for_function(
        VALUE_ENDS, arg="315 degrees, seen from 25 degrees above, enlarged 3.1 times"
    )
    assert page.evaluate("[window.visualViewport.scale, window.scrollY]") == [1, 0]
    touch("touchStart", (0, 0))
    for right in (10, 30, 50):
        touch("touchMove", (right, 0))
    touch("touchEnd")
    page.wait_for_function(VALUE_ENDS, arg="enlarged 3.1 times")
    assert canvas.get_attribute("aria-valuenow") != "315"
    shoot(page, "phone-enlarged")
