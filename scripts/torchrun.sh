#!/usr/bin/env bash
# Runs a command of atspeed on several machines, with one process per GPU. docs/cluster.md says what they must share.
# Usage, from the same folder on every machine, with the same values:
#   NODES=2 MASTER=host0 bash scripts/torchrun.sh fit --config draft.yaml --config ddp.yaml [options]
# NODES      machines (1)
# MASTER     one of them, through which they find each other, as host or host:port (127.0.0.1:29500)
# PROCESSES  processes per machine: a number, or gpu for one per GPU (gpu)
# RESTARTS   how often all processes start again after one has failed (0). predict goes on with what is unanswered, so
#            some restarts are sensible there. fit begins again from its first step unless it has --ckpt_path last.
# Machines are numbered by torchrun. Other options of torchrun are set by environment variables, such as PET_LOCAL_ADDR
# for the address of a machine whose host name the others cannot resolve.
set -euo pipefail
: "${NODES:=1}" "${MASTER:=127.0.0.1}" "${PROCESSES:=gpu}" "${RESTARTS:=0}"
[[ $MASTER == *:* ]] || MASTER+=:29500
devices=${PROCESSES/gpu/auto}

# last, because a config that comes later would replace them
exec torchrun --nnodes "$NODES" --nproc-per-node "$PROCESSES" --max-restarts "$RESTARTS" \
  --rdzv-backend c10d --rdzv-endpoint "$MASTER" --rdzv-id atspeed \
  --module atspeed "$@" --trainer.num_nodes "$NODES" --trainer.devices "$devices"
