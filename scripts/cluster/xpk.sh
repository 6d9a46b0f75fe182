#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The run of jobset.yaml on a cluster that xpk created; docs/clusters.md.
#   CLUSTER=... ZONE=... PROJECT=... IMAGE=... BUCKET=... bash scripts/cluster/xpk.sh [FLAG OF XPK]...
set -euo pipefail
run="python -m mrd_jax.main --multihost --unfinished_status=75 --config=configs/mrd_pointbert.py"
run+=" --workdir=gs://$BUCKET/runs/mrd --config.data.directory=gs://$BUCKET/openshape/1.0.0"
run+=" --config.exit_on_hang=True"
xpk workload create --cluster="$CLUSTER" --zone="$ZONE" --project="$PROJECT" --workload=mrd \
    --tpu-type=v5litepod-64 --num-slices=1 --docker-image="$IMAGE" \
    --max-restarts=100 --restart-on-exit-codes=1,75 --termination-grace-period-seconds=300 \
    --env="JAX_COMPILATION_CACHE_DIR=gs://$BUCKET/runs/compilation_cache" \
    --command="$run" "$@"
