#!/usr/bin/env bash
# Compares the alignment losses on Amazon Beauty: every draft from the same fine-tuned draft, with the same steps; and
# the best settings (losses/best.yaml), which take more of them.
# Usage, from the root of a clone: bash scripts/alignment.sh [run folder] [data folder]
# Get the data with: git clone --depth 1 https://github.com/Linxyhaha/AtSpeed ../AtSpeed-reference
# Writes <run folder>/benchmark/alignment.{json,png}. Rerunning skips finished stages.
set -euo pipefail
run=${1:-runs/beauty}
data=(--data.source AtSpeedLayout --data.source.root "${2:-../AtSpeed-reference/data/beauty}")

fit() {  # stage, options
  [[ -d $run/$1/model ]] && return
  SECONDS=0
  python -m atspeed fit "${@:2}" --trainer.default_root_dir "$run" "${data[@]}"
  echo "$1: $SECONDS s"
}
cache() {  # folder, configs
  SECONDS=0
  python -m atspeed cache-target "${@:2}" --model.target_cache "$1" --trainer.default_root_dir "$run" "${data[@]}"
  echo "$1: $SECONDS s, $(du -sm "$run/$1" | cut -f1) MB"
}
align() {  # stage, options
  # α = 1, so that the losses are compared without the effect of L_rec; one is repeated with α = 0.7
  fit "$1" --config strict.yaml --model.alpha 1.0 "${@:2}" --model.stage "$1" --model.target_cache target-cache
}

fit target --config target.yaml
fit draft --config draft.yaml
cache target-cache --config strict.yaml
align strict
align relaxed --model.loss AtSpeedR
align forward-kl --model.loss ForwardKL
align forward-kl-0.7 --model.loss ForwardKL --model.alpha 0.7
align sequence-kd --model.loss SequenceKD
align coverage --model.loss Coverage
align score-regression --model.loss ScoreRegression
cache target-cache-every --config strict.yaml --config best.yaml
fit best --config strict.yaml --config best.yaml --model.stage best --model.target_cache target-cache-every
python -m atspeed benchmark-alignment --config benchmark-alignment.yaml --out "$run" "${data[@]}" \
  --drafts '{
    "fine-tuned": {"class_path": "Exported", "init_args": {"stage": "draft"}},
    "ForwardKL": {"class_path": "Exported", "init_args": {"stage": "forward-kl"}},
    "ForwardKL, α = 0.7": {"class_path": "Exported", "init_args": {"stage": "forward-kl-0.7"}},
    "SequenceKD": {"class_path": "Exported", "init_args": {"stage": "sequence-kd"}},
    "AtSpeedS": {"class_path": "Exported", "init_args": {"stage": "strict"}},
    "AtSpeedR": {"class_path": "Exported", "init_args": {"stage": "relaxed"}},
    "Coverage": {"class_path": "Exported", "init_args": {"stage": "coverage"}},
    "ScoreRegression": {"class_path": "Exported", "init_args": {"stage": "score-regression"}},
    "best": {"class_path": "Exported", "init_args": {"stage": "best"}}
  }'
