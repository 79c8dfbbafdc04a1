#!/usr/bin/env bash
# One run over the processes of one or several nodes, by torchrun. On each node:
#
#   FULGURITE_NODES=2 FULGURITE_DEVICES=4 NODE_RANK=0 MASTER_ADDR=node-a \
#     scripts/cluster/torchrun.sh compress --config configs/recipes/books6m.yaml --output_dir runs/books6m
#
# The folder of --output_dir must be one that all nodes see. FULGURITE_DRY_RUN=1 prints the launch.
# Exit status: torchrun's; 0 is done. The same command goes on with a run that was cut off.
set -euo pipefail

if [[ $# -lt 1 ]]; then
  echo "usage: scripts/cluster/torchrun.sh VERB [options of fulgurite VERB]" >&2
  exit 2
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=configs/cluster/default.env
source "${FULGURITE_CLUSTER:-$root/configs/cluster/default.env}"
export OMP_NUM_THREADS HF_HUB_OFFLINE NCCL_DEBUG

launch=(
  torchrun
  --nnodes "$FULGURITE_NODES" --nproc-per-node "$FULGURITE_DEVICES"
  --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT"
  -m fulgurite.cli.main "$@"
  --trainer.num_nodes "$FULGURITE_NODES" --trainer.devices "$FULGURITE_DEVICES"
  --trainer.strategy "$FULGURITE_STRATEGY"
)
if [[ $FULGURITE_DRY_RUN == 1 ]]; then
  printf '%q ' "${launch[@]}"
  echo
  exit 0
fi
exec "${launch[@]}"
