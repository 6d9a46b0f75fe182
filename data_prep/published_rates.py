# SPDX-License-Identifier: Apache-2.0
"""Rates that others have published, each with its source, for `data_prep.estimate`.

`published_rates.json` has, for each name, a number, its source, the date of the source, and how the
number follows from the published one ("" if it is the published one).
"""

import json
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_suffix(".json")
# Kind -> name of its number: pictures per second of ViT-bigG-14 on a device, MB/s of a file system,
# bytes of raw data per shape.
NUMBERS = {
    "devices": "pictures_per_second",
    "file_systems": "megabytes_per_second",
    "raw_data": "source_bytes",
}
FIELDS = ("source", "date", "scaling")

# Kind -> name -> fields.
RATES: dict[str, dict[str, dict[str, Any]]] = json.loads(PATH.read_bytes())


def number(kind: str, name: str) -> float:
    """Returns a published number.

    Args:
      kind: key of `NUMBERS`.
      name: key of `RATES[kind]`.
    """
    return float(RATES[kind][name][NUMBERS[kind]])


def describe(kind: str, name: str) -> str:
    """Returns where a number comes from.

    Args:
      kind: key of `NUMBERS`.
      name: key of `RATES[kind]`.
    """
    fields = RATES[kind][name]
    scaling = f"; scaled: {fields['scaling']}" if fields["scaling"] else ""
    return f"{fields['source']} ({fields['date']}){scaling}"
