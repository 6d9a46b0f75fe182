# SPDX-License-Identifier: Apache-2.0
"""HTML pages that need no other files and no network: templates, their style, and pictures."""

import base64

import jinja2


def load(package: str, name: str) -> jinja2.Template:
    """Loads a template, which escapes all values: names of shapes are untrusted input.

    Templates may include "style.css", the style of all pages.

    Args:
      package: package that holds the template, such as "mrd_jax.report".
      name: file name in the folder of the package.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader(each, "") for each in (package, __name__)]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def data_uri(content: bytes, media_type: str) -> str:
    """Returns a file as an address that contains it.

    Args:
      content: bytes of the file.
      media_type: such as "image/jpeg".
    """
    return f"data:{media_type};base64," + base64.b64encode(content).decode("ascii")
