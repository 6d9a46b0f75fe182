# SPDX-License-Identifier: Apache-2.0
"""The pages as templates."""

import pathlib

import jinja2


def load(name: str) -> jinja2.Template:
    """A page of this folder; names of shapes come from strangers, so everything is escaped.

    Args:
      name: of the file.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
