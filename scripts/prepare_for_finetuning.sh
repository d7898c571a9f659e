#!/bin/sh
# A run's dataset as chat messages, with the seed tasks, 5 in 100 instructions held out. From any directory:
#
#     scripts/prepare_for_finetuning.sh                                       a second
#     scripts/prepare_for_finetuning.sh my_run/step4_final.jsonl --format alpaca
#
# Behind generate_instructions.sh, the other three stages are done first where they cost nothing; else
# their command is said. A file and flags of prepare_for_finetuning.py may follow, and win.
set -eu
root=$(CDPATH="" cd -- "$(dirname -- "$0")/.." && pwd)
for python in "$root/.venv/bin/python" "$root/.venv/Scripts/python.exe" python3 python; do
    "$python" -c "" 2>/dev/null && break  # one that runs: on Windows, python3 may only open a shop
    python=""
done
[ -n "$python" ] || { echo "error: no Python was found: install Python 3.11 or newer" >&2; exit 1; }
exec "$python" "$root/scripts/prepare_for_finetuning.py" --format messages --include-seed-tasks --split 0.05 --finish "$@"
