#!/bin/bash
# Submit a comparison as an array of jobs, and a last job that merges their results. Run it on a login node.
set -euo pipefail
cd "$(dirname "$0")"

export METHODS=${METHODS:-local fedavg fd}
export SEEDS=${SEEDS:-3}
export OPTIONS=${OPTIONS:-data.source=digits server.rounds=10 client.steps=20}
export OUT=${OUT:-$PWD/runs/compare}
TASKS=${TASKS:-3}

array=$(sbatch --parsable --array="1-$TASKS" --export=ALL compare.sbatch)
sbatch --dependency="afterany:$array" --export=ALL --job-name=fd-flower-merge --output=fd-flower-merge-%j.log \
    --wrap "${VENV:+. $VENV/bin/activate && }fd-flower merge $OUT"
