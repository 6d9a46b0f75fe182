# SPDX-License-Identifier: Apache-2.0
"""Prints the baselines of a data set.

python -m mrd_jax.evaluation.baselines --data OUTPUT/furniture/1.0.0
"""

import argparse
import json
from collections.abc import Sequence

from mrd_jax import evaluation
from mrd_jax.evaluation import baselines, table


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the baselines of a dataset, as a table or as JSON."""
    parser = argparse.ArgumentParser(description="Baselines of a prepared dataset.")
    parser.add_argument(
        "--data", required=True, help="dataset folder, such as OUTPUT/furniture/1.0.0"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    held_out = evaluation.load_held_out(options.data)
    lines = baselines.measure(options.data, held_out=held_out)
    if options.json:
        print(
            json.dumps(
                {
                    line.name: line.metrics | {"retrieval": line.retrieval, "summary": line.summary}
                    for line in lines
                }
            )
        )
        return
    print(table.format_table(lines))
    for line in lines:
        print(f"{line.name}: {line.summary}")


if __name__ == "__main__":
    main()
