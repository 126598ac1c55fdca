#!/usr/bin/env bash
# Measures the memory of training with each hardware overlay on one GPU: target cache, alignment from it and with the
# target online, LoRA and complete fine-tuning of a target of LLaMA-7B's shape, five steps each.
#
# Usage, from the root of a clone: bash scripts/gpu/training.sh OUT RUN [step …]
# Steps, in this order if none is named, each less than ten minutes: models cache aligned online lora complete table.
# OUT gets training.{json,md}, RUN the models, 18 to 23 GB. Complete fine-tuning of all 32 layers takes 130 GB or more:
# on a GPU of 80 GB it trains 12 layers, on one of 140 GB 24 layers, and all of them with ddp. On a CPU everything runs
# with tiny shapes, three minutes in all. No GPU has run it yet.
#
# Nothing is downloaded: data and models are generated. A machine without network needs these wheels, if it lacks them:
# deepspeed (2.2 MB; `DS_BUILD_OPS=0 pip wheel --no-deps deepspeed` makes one for any platform. No CUDA compiler is
# needed, here or there, since the overlays use torch's AdamW) and what it imports: hjson, pydantic, pydantic-core,
# annotated-types, typing-inspection (3 MB); jsonargparse, docstring-parser, typeshed-client, omegaconf (1.3 MB); peft,
# rich, msgpack, py-cpuinfo (1.7 MB); pyarrow (55 MB).
set -euo pipefail
out=${1:?folder for the results} run=${2:?folder for the models}
steps=("${@:3}")
[[ ${#steps[@]} -gt 0 ]] || steps=(models cache aligned online lora complete table)

if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  shape=7b part=7b-12-layers tokens=4096 device=() small=() data=()
  export DS_ACCELERATOR=cuda
  if python -c 'import sys, torch; sys.exit(not torch.cuda.get_device_properties(0).total_memory > 130e9)'; then
    part=7b-24-layers
  fi
else
  shape=tiny part=tiny tokens=512 device=(--trainer.accelerator cpu --trainer.devices 1)
  data=(--data.source.num_users 60 --data.source.num_items 140)
  small=(--trainer.max_steps 2 --model.network.config '{hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1,
    num_attention_heads: 2, max_position_embeddings: 256}')
  export DS_ACCELERATOR=cpu
fi

measure() {  # name, job, overlay, run folder of the target, command and options
  local strategy=("${device[@]}")
  if [[ $3 == deepspeed-* && ${#device[@]} -gt 0 ]]; then
    # Lightning refuses its DeepSpeed strategy off CUDA; the same engine, without the check
    strategy+=(--trainer.strategy tests.distributed.strategies.CPUDeepSpeedStrategy)
    [[ $3 == *zero3 ]] && stage=3 || stage=2
    strategy+=(--trainer.strategy.config
      "{zero_allow_untested_optimizer: true, zero_force_ds_cpu_optimizer: false, zero_optimization: {stage: $stage}}")
  fi
  # one that fails, for want of memory say, does not hold up the others: its row says so
  timeout 540 python -m scripts.gpu.training measure "$out/memory-$1-$3-${4##*/}.json" "$2" "$3" "$4/target/model" -- \
    "$5" "${@:6}" --trainer.default_root_dir "$run" "${strategy[@]}" "${data[@]}" || echo "$1 $3: failed"
}
fit() {  # as measure, without the command
  measure "$1" "$2" "$3" "$4" fit "${@:5}" --config "$3.yaml" --config scripts/gpu/training.yaml
}
complete() {  # overlay, run folder of the target; with few tokens, since weights and states take most of the GPU
  fit 5-complete "fine-tuning the target" "$1" "$2" --config target.yaml \
    --model.network "{class_path: Checkpoint, init_args: {path: $2/target/model}}" --data.max_tokens 512
}

for step in "${steps[@]}"; do
  for overlay in ddp deepspeed-zero2 deepspeed-zero3; do
    case $step in
      aligned)
        fit 2-aligned "alignment from a target cache" $overlay "$run" \
          --config strict.yaml --model.target_dtype bfloat16 --model.target_cache cache ;;
      online)
        fit 3-online "alignment, target online" $overlay "$run" --config strict.yaml --model.target_dtype bfloat16 ;;
      lora)
        fit 4-lora "fine-tuning it with LoRA, rank 16" $overlay "$run" --config target.yaml --config lora.yaml \
          --model.network.base.path "$run/target/model" --model.network.base.new_vocabulary false \
          --data.max_tokens $tokens ;;
      complete)
        complete $overlay "$run/part" ;;
    esac
  done
  case $step in
    models)
      for stage in target draft; do
        python -m atspeed fit --config $stage.yaml --trainer.default_root_dir "$run/small" "${device[@]}" "${data[@]}" \
          "${small[@]}"
      done
      python -m scripts.gpu.training grow "$run" "$run/small" $shape
      python -m scripts.gpu.training grow "$run/part" "$run/small" $part ;;
    cache)
      measure 1-cache "target cache" ddp "$run" cache-target --config strict.yaml --config ddp.yaml \
        --model.target_dtype bfloat16 --model.target_cache cache --trainer.logger false ;;
    complete)
      if [[ $part == 7b-24-layers ]]; then complete ddp "$run"; fi ;;
    table) python -m scripts.gpu.training table "$out" ;;
  esac
done
