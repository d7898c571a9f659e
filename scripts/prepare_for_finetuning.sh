#!/usr/bin/env bash
# A run's dataset as chat messages, with the seed tasks, 5 in 100 instructions held out. From any directory:
#
#     scripts/prepare_for_finetuning.sh                                       a second
#     scripts/prepare_for_finetuning.sh my_run/step4_final.jsonl --format alpaca
#
# A file and flags of prepare_for_finetuning.py may follow, and win.
set -euo pipefail
root=$(cd -- "$(dirname -- "$0")/.." && pwd)
for python in "$root/.venv/bin/python" "$root/.venv/Scripts/python.exe" python3 python; do
    command -v "$python" >/dev/null && break
done
exec "$python" "$root/scripts/prepare_for_finetuning.py" --format messages --include-seed-tasks --split 0.05 "$@"
