#!/usr/bin/env bash
# Measures the memory of training with each hardware overlay on one GPU: target cache, alignment from it and with the
# target online, LoRA and complete fine-tuning of a target of LLaMA-7B's shape, five steps each.
#
# Usage, from the root of a clone: bash scripts/gpu/training.sh OUT RUN [step …]
# Steps, in this order if none is named, each a few minutes at most: models cache aligned online lora complete table.
# OUT gets training.{json,md}, RUN the models: 13 GB on the disk, 20 GB where the GPU has less than 130 GB; there half of
# the layers are fine-tuned completely. On a CPU everything runs with tiny shapes.
#
# Nothing is downloaded: data and models are generated. Beside what README.md lists, a machine without network needs the
# wheels of deepspeed (2.2 MB, `DS_BUILD_OPS=0 pip wheel --no-deps deepspeed`: no CUDA compiler is needed, here or there,
# since the overlays use torch's AdamW) and of what it imports: hjson, pydantic, pydantic-core, annotated-types,
# typing-inspection (3 MB); of jsonargparse, docstring-parser, typeshed-client and omegaconf (1.3 MB); and, unless they are
# there, of peft, rich, msgpack, py-cpuinfo (1.7 MB) and pyarrow (55 MB).
set -euo pipefail
out=${1:?folder for the results} run=${2:?folder for the models}
steps=("${@:3}")
[[ ${#steps[@]} -gt 0 ]] || steps=(models cache aligned online lora complete table)

if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  shape=7b tokens=4096 largest=$run device=() small=() data=()
  export DS_ACCELERATOR=cuda
  if ! python -c 'import sys, torch; sys.exit(torch.cuda.get_device_properties(0).total_memory < 130e9)'; then
    largest=$run/half
  fi
else
  shape=tiny tokens=512 largest=$run device=(--trainer.accelerator cpu --trainer.devices 1)
  sizes='{hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 256}'
  small=(--trainer.max_steps 2 --model.network.config "$sizes") data=(--data.source.num_users 60 --data.source.num_items 140)
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
  timeout 540 python -m scripts.gpu.training measure "$out/memory-$1-$3.json" "$2" "$3" "$4/target/model" -- \
    "$5" "${@:6}" --trainer.default_root_dir "$run" "${strategy[@]}" "${data[@]}" || echo "$1 $3: failed"
}
fit() {  # as measure, without the command
  measure "$1" "$2" "$3" "$4" fit "${@:5}" --config "$3.yaml" --config scripts/gpu/training.yaml
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
      complete)  # with few tokens, since weights and states take nearly all of the GPU
        fit 5-complete "fine-tuning the target" $overlay "$largest" --config target.yaml \
          --model.network "{class_path: Checkpoint, init_args: {path: $largest/target/model}}" --data.max_tokens 512 ;;
    esac
  done
  case $step in
    models)
      for stage in target draft; do
        python -m atspeed fit --config $stage.yaml --trainer.default_root_dir "$run/small" "${device[@]}" "${data[@]}" \
          "${small[@]}"
      done
      python -m scripts.gpu.training grow "$run" "$run/small" $shape
      [[ $largest == "$run" ]] || python -m scripts.gpu.training grow "$largest" "$run/small" half-7b ;;
    cache)
      measure 1-cache "target cache" ddp "$run" cache-target --config strict.yaml --config ddp.yaml \
        --model.target_dtype bfloat16 --model.target_cache cache --trainer.logger false ;;
    table) python -m scripts.gpu.training table "$out" ;;
  esac
done
