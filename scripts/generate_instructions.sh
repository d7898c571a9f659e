#!/usr/bin/env bash
# Stage 1 alone: grow 300 new instructions from the seed tasks, and stop to look at them. From any directory:
#
#     scripts/generate_instructions.sh                                        seconds on the practice model
#     scripts/generate_instructions.sh --provider openai --num-instructions 1000             minutes, and cents
#
# Flags of self_instruct.py may follow, and win. python self_instruct.py --num-instructions 300 then goes on from there.
set -euo pipefail
root=$(cd -- "$(dirname -- "$0")/.." && pwd)
for python in "$root/.venv/bin/python" "$root/.venv/Scripts/python.exe" python3 python; do
    command -v "$python" >/dev/null && break
done
exec "$python" "$root/self_instruct.py" --until generate --num-instructions 300 "$@"
