# SPDX-License-Identifier: Apache-2.0
"""Prints the baselines of a prepared data set.

python -m mrd_jax.evaluation.baselines --data OUTPUT/furniture/1.0.0
"""

import json
import sys
from collections.abc import Sequence

from mrd_jax import evaluation
from mrd_jax.cli import command
from mrd_jax.evaluation import baselines, table


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the baselines of a data set, as a table or as JSON."""
    parser = command.Parser(__doc__, prog="python -m mrd_jax.evaluation.baselines")
    parser.add_argument(
        "--data", required=True, help="folder of a data set, such as OUTPUT/furniture/1.0.0"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    held_out = evaluation.load_held_out(options.data)
    rows = baselines.measure(options.data, held_out=held_out)
    if options.json:
        fields = {
            row.name: row.metrics | {"retrieval": row.retrieval, "summary": row.summary}
            for row in rows
        }
        print(json.dumps(fields))
        return 0
    print(table.format_table(rows))
    for row in rows:
        print(f"{row.name}: {row.summary}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
