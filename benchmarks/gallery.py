# SPDX-License-Identifier: Apache-2.0
r"""Makes the pictures of docs/gallery.md from a run of the quickstart and an index of its data.

python -m benchmarks.gallery --run runs/quickstart --index runs/index --meshes my_shapes \
    --output docs/images

Runs the commands that the page shows and photographs the report and the search page in Chromium
(extra `browser`). Pictures are reduced to 256 colours, below 300 kB each.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image

from benchmarks import demo
from mrd_jax.cli import command

# Width and height of the browser's window, in pixels.
WINDOW = (1_200, 800)
PHONE = (390, 780)
# Width of the pictures of sheets, in pixels.
WIDTH = 1_000


def run(module: str, *arguments: str | Path) -> None:
    """Runs a command of this project.

    Raises:
      OSError: it failed; its own message is printed above.
    """
    words = [sys.executable, "-m", module, *map(str, arguments)]
    if status := subprocess.run(words).returncode:
        raise OSError(f"python -m {module} ended with exit status {status}; see above")


def reduce(path: Path, output: Path, *, width: int = WIDTH) -> None:
    """Writes a picture with at most `width` pixels per row and 256 colours.

    Args:
      path: picture of any size.
      output: PNG file to write.
      width: largest width.
    """
    with PIL.Image.open(path) as picture:
        picture = picture.convert("RGB")
        picture.thumbnail((width, 10 * width))
        picture.quantize(256, dither=PIL.Image.Dither.NONE).save(output, optimize=True)
    print(f"{output}: {output.stat().st_size / 1000:.0f} kB")


def draw_sheets(index: Path, meshes: Path, folder: Path, output: Path) -> None:
    """Draws contact sheets of a search and of what is read from meshes.

    Args:
      index: index of shapes.
      meshes: folder of mesh files.
      folder: folder for temporary files.
      output: folder of the pictures.
    """
    find = ["find", "--index", index, "--text", "wooden chair", "--format", "sheet"]
    run("mrd_jax.tools.search", *find, "--output", folder / "sheet.png")
    reduce(folder / "sheet.png", output / "search_words.png")
    run("mrd_jax.tools.inspect", meshes, "--sheet", folder / "inspect.png")
    reduce(folder / "inspect.png", output / "inspect.png")


def photograph(browser: Any, address: str, *, size: tuple[int, int], dark: bool = False) -> Any:
    """Opens an address and returns the page of the browser.

    Args:
      browser: Playwright browser.
      address: what to open.
      size: of the window, in pixels.
      dark: use the dark colours of the page.
    """
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light"
    )
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(address)
    return page


def photograph_search(
    browser: Any, checkpoint: Path, index: Path, folder: Path, output: Path
) -> None:
    """Photographs the search page with the results of a query, dark and as narrow as a phone.

    Args:
      browser: Playwright browser.
      checkpoint: encoder of the index.
      index: index that is served.
      folder: folder for temporary files.
      output: folder of the pictures.

    Raises:
      OSError: the page did not start.
    """
    words = [sys.executable, "-m", "mrd_jax.demo", "--port", "0"]
    words += ["--checkpoint", str(checkpoint), "--index", str(index)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = re.search(r"http://\S+", server.stdout.readline())
            if address is None:
                raise OSError("the page did not start; see its output above")
            page = photograph(browser, f"{address.group()}?text=chair", size=PHONE, dark=True)
            page.wait_for_selector(".card canvas")
            page.wait_for_timeout(5_000)  # shapes are drawn one after another
            page.screenshot(path=folder / "page_phone.png")
            reduce(folder / "page_phone.png", output / "page_phone.png")
        finally:
            server.terminate()


def photograph_report(browser: Any, report: Path, folder: Path, output: Path) -> None:
    """Photographs the first screen of a report, and its map of the embeddings.

    Args:
      browser: Playwright browser.
      report: HTML file.
      folder: folder for temporary files.
      output: folder of the pictures.
    """
    page = photograph(browser, report.absolute().as_uri(), size=WINDOW)
    page.wait_for_timeout(2_000)
    page.screenshot(path=folder / "report.png")
    reduce(folder / "report.png", output / "report.png")
    page.get_by_role("link", name="Embedding map").click()
    page.screenshot(path=folder / "map.png")
    reduce(folder / "map.png", output / "report_map.png")


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the pictures and returns the exit status.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m benchmarks.gallery")
    for name, text in (
        ("--run", "workdir of a finished run"),
        ("--index", "index of shapes"),
        ("--meshes", "folder of mesh files"),
        ("--output", "folder of the pictures"),
    ):
        parser.add_argument(name, required=True, type=command.local_path, help=text)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary, demo.launched_browser() as browser:
        if browser is None:
            raise ImportError(
                "Chromium or the extra browser is missing: apt-get install chromium; "
                'pip install "mrd_jax[browser]"'
            )
        folder = Path(temporary)
        options.output.mkdir(parents=True, exist_ok=True)
        draw_sheets(options.index, options.meshes, folder, options.output)
        photograph_report(browser, options.run / "report.html", folder, options.output)
        photograph_search(browser, options.run, options.index, folder, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
