#!/usr/bin/env bash
# Compares the alignment losses on Amazon Beauty: every draft from the same fine-tuned draft, with the same steps.
# Usage, from a clone with ../shared beside it: bash docs/alignment.sh [run folder]
# Writes <run folder>/benchmark/alignment.{json,png}. Stages that are there are passed over, so it may be stopped.
set -euo pipefail
run=${1:-runs/beauty}
data=(--data.source AtSpeedLayout --data.source.root ../shared/data/beauty)

fit() {  # stage, options
  [[ -d $run/$1/model ]] && return
  SECONDS=0
  python -m atspeed fit "${@:2}" --trainer.default_root_dir "$run" "${data[@]}"
  echo "$1: $SECONDS s"
}
align() {  # stage, options
  fit "$1" --config configs/strict.yaml "${@:2}" --model.stage "$1" --model.target_cache target-cache
}

fit target --config configs/target.yaml
fit draft --config configs/draft.yaml
SECONDS=0
python -m atspeed cache-target --config configs/strict.yaml --model.target_cache target-cache \
  --trainer.default_root_dir "$run" "${data[@]}"
echo "cache-target: $SECONDS s, $(du -sm "$run/target-cache" | cut -f1) MB"
align forward-kl --model.loss ForwardKL
align sequence-kd --model.loss SequenceKD
align strict
align relaxed --config configs/relaxed.yaml
align coverage --config configs/coverage.yaml
python -m atspeed benchmark-alignment --config configs/benchmark-alignment.yaml --out "$run" "${data[@]}" \
  --drafts '{
    "fine-tuned": {"class_path": "Exported", "init_args": {"stage": "draft"}},
    "ForwardKL": {"class_path": "Exported", "init_args": {"stage": "forward-kl"}},
    "SequenceKD": {"class_path": "Exported", "init_args": {"stage": "sequence-kd"}},
    "AtSpeedS": {"class_path": "Exported", "init_args": {"stage": "strict"}},
    "AtSpeedR": {"class_path": "Exported", "init_args": {"stage": "relaxed"}},
    "Coverage": {"class_path": "Exported", "init_args": {"stage": "coverage"}}
  }'
