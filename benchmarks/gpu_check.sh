#!/usr/bin/env bash
# What a machine with one CUDA GPU shows without a network, in at most eleven minutes: make gpu-check
#
# The environment, the GPU tests, the times of steps, and one training to convergence. Needs
# Python 3.12 and torch with CUDA; the rest is taken from WHEELS, which make gpu-wheels fills.
# Everything is written to OUT. CPU=1 shows that the script works where there is no GPU.
set -u
cd "$(dirname "$0")/.."
OUT=${OUT:-runs/gpu_check} WHEELS=${WHEELS:-.wheels} PYTHON=${PYTHON:-python3}
STAGES=${STAGES:-environment tests steps training}
mkdir -p "$OUT"
export PYTHON PYTHONUNBUFFERED=1 PYTHONPATH=$PWD OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
device=cuda trainer=gpu step=graph timed=300 replicas=1000
if [ "${CPU:-}" = 1 ]; then device=cpu trainer=cpu step=eager timed=2 replicas=1; fi
if compgen -G "$WHEELS/*.whl" >/dev/null; then
  "$PYTHON" -m pip install -q --no-index --no-deps --find-links "$WHEELS" "$WHEELS"/*.whl
fi

# stage NAME SECONDS COMMAND...: runs it for so long at most, with a log of its own.
failed=0
stage() {
  local name=$1 limit=$2
  shift 2
  case " $STAGES " in *" $name "*) ;; *) return ;; esac
  echo "== $name"
  timeout "$limit" "$@" 2>&1 | tee "$OUT/$name.log" | tail -n 60
  if [ "${PIPESTATUS[0]}" != 0 ]; then echo "$name failed or took over $limit s"; failed=1; fi
}

environment() {
  set -e
  [ "${CPU:-}" = 1 ] || nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
  "$PYTHON" -c "import lightning, platform, torch
print('Python', platform.python_version(), 'torch', torch.__version__, 'CUDA', torch.version.cuda,
      'Lightning', lightning.__version__)"
}

# Steps of the training that fit into its time, from those timed before.
steps_that_fit() {
  "$PYTHON" - "$OUT/steps.json" "$1" <<'PYTHON'
import json, sys
from pathlib import Path
path = Path(sys.argv[1])
rows = json.loads(path.read_text()) if path.exists() else []
ours = [r for r in rows if (r["model"], r["replicas"]) == ("transformer", 4)]
found = [r["graph"] for r in ours if "graph" in r]
print(min(200_000, int(float(sys.argv[2]) * 0.5 / (found[0] / 1e3))) if found else 20)
PYTHON
}

export -f environment
stage environment 60 bash -c environment
stage tests "${TESTS_S:-150}" "$PYTHON" -m pytest -m gpu -q -rA -p no:cacheprovider tests/test_gpu.py
stage steps "${STEPS_S:-260}" "$PYTHON" -m benchmarks.gpu_steps --device $device --steps $timed \
  --most-replicas $replicas --out "$OUT"
seconds=${TRAINING_S:-200}
case " $STAGES " in *" training "*) rm -rf "$OUT/transformer" ;; esac  # another number of steps
stage training "$seconds" "$PYTHON" train.py recipe=transformer data=linear_scalar data.d_x=5 \
  data.num_context=20 model.d_model=64 model.num_layers=4 'optim.lr=[0.0003,0.001,0.003,0.01]' \
  optim.decay_fraction=0.2 optim.warmup_steps=1000 max_steps="${TRAINING_STEPS:-$(steps_that_fit "$seconds")}" \
  val_every="${VAL_EVERY:-2000}" trainer=$trainer trainer.step=$step hydra.run.dir="$OUT/transformer"
exit $failed
