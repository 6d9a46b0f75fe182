# SPDX-License-Identifier: Apache-2.0
"""HTML templates of the report pages."""

import pathlib

import jinja2


def load(name: str) -> jinja2.Template:
    """Loads a template, which escapes all values: names of shapes are untrusted input.

    Args:
      name: file name in the folder of this module.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
