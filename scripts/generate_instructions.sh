#!/bin/sh
# Stage 1 alone: grow 300 new instructions from the seed tasks, and stop to look at them. From any directory:
#
#     scripts/generate_instructions.sh                                        seconds on the practice model
#     scripts/generate_instructions.sh --provider openai --num-instructions 1000             minutes, and cents
#
# Flags of self_instruct.py may follow, and win. Then scripts/prepare_for_finetuning.sh goes on from
# there, or python self_instruct.py --num-instructions 300, which stops behind stage 4.
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
exec "$python" "$root/self_instruct.py" --until generate --num-instructions 300 "$@"
