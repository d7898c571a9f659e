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
for python in "$root/.venv/bin/python" "$root/.venv/Scripts/python.exe" python3 python ""; do
    [ -z "$python" ] || "$python" -c "import dotenv, rapidfuzz" 2>/dev/null && break
done
if [ -z "$python" ]; then
    install="'$root/.venv/bin/python' -m pip install -r '$root/requirements.txt'"
    echo "error: no Python with the packages: run  python3 -m venv '$root/.venv' && $install  first" >&2
    exit 1
fi
exec "$python" "$root/scripts/prepare_for_finetuning.py" --format messages --include-seed-tasks --split 0.05 --finish "$@"
