"""What a request costs the client: CPU time between a prompt and its reply in the journal.

    python tests/bench/client_cost.py                       8, 64 and 256 in flight: 2 minutes
    python tests/bench/client_cost.py --of OTHER            another checkout's program
    python tests/bench/client_cost.py --profile             where it goes, one at a time

The server answers at once, from a process of its own. The prompt is one of stage 3, and the model
is that of the command line, with its limits and its ledger. CPU time is that of this process, user
and system; the start of the program is not in it.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def asked(address: str, folder: str, in_flight: int, work: Callable) -> Any:
    """Call `work` with the model, and with the function that asks it question n."""
    import self_instruct
    import self_instruct_workshop as workshop
    from scripts.asking.limits import LimitedModel

    server = {"provider": "local", "model": "m", "base_url": address}
    config = workshop.Config(**server, work_dir=folder, concurrency=in_flight)
    task = workshop.Task("1", "Name the capital city of a country that begins with the letter.")
    prompt = workshop.instances_prompt(config, task)
    sampling = workshop.parameters(config, "instances")
    options = self_instruct.command_line().parse_args([])
    with LimitedModel(config, options) as model:

        def ask(number: int) -> Any:
            return model.ask("instances", prompt, sampling, {"number": number})

        return work(model, ask)


def measured(in_flight: int, requests: int) -> float:
    """Milliseconds of CPU time for a request."""
    from quick_server import quick_server

    def work(model: Any, ask: Callable) -> float:
        # At first connections are made, and packages loaded.
        warm = [*model.ask_each("warm", ask, range(-4 * in_flight, 0))]
        before = cpu()
        replies = [*model.ask_each("instances", ask, range(requests))]
        assert all(reply for _, reply in warm + replies)
        return 1000 * (cpu() - before) / requests

    with quick_server(plain=True) as address, tempfile.TemporaryDirectory() as folder:
        return asked(address, folder, in_flight, work)


def profile(requests: int) -> None:
    """Print the functions that take longest, of requests that are sent one by one."""
    from quick_server import quick_server

    def work(model: Any, ask: Callable) -> None:
        ask(-1)
        with cProfile.Profile() as profiler:
            for number in range(requests):
                ask(number)
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(40)

    with quick_server(plain=True) as address, tempfile.TemporaryDirectory() as folder:
        asked(address, folder, 1, work)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--of", type=Path, default=ROOT, metavar="FOLDER")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--profile", action="store_true")
    chosen = parser.parse_args()
    sys.path.insert(0, str(chosen.of.resolve()))
    import self_instruct  # now: the server's imports look elsewhere

    assert Path(self_instruct.__file__).parent == chosen.of.resolve()
    sys.path.insert(1, str(Path(__file__).resolve().parent))
    if chosen.profile:
        profile(chosen.requests)
        return 0
    print("| in flight | CPU ms a request |\n|---|---|")
    for in_flight in chosen.in_flight:
        print(f"| {in_flight} | {measured(in_flight, chosen.requests):.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
