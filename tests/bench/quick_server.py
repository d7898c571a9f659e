"""A scripted model behind OpenAI's wire format, which takes little of the machine.

    python tests/bench/quick_server.py --delay 0.2        prints its address, ends with its stdin

It answers as tests/helpers/server.py does, but in one process of its own, with one loop and no
threads, and it makes no faults. `delay` is a number of seconds, or `about_1s`. GET /stats tells
what it was asked: [seconds since the start, delay, stage] of each request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.server import scripted_model, words

SPREAD = 0.6  # of the logarithm: one reply of 20 takes over 2.2 times as long as the mean
PLAIN = "A short answer. " * 20  # to whatever, with --plain


def about_1s(prompt: str) -> float:
    """Seconds for a reply: lognormal with mean 1, the same for the same prompt."""
    return random.Random(prompt).lognormvariate(-SPREAD * SPREAD / 2, SPREAD)


def stage_of(prompt: str) -> str:
    """Which stage asks: its prompts end in a number, in a question, or in neither."""
    last = prompt.rstrip().rsplit("\n", 1)[-1]
    if last.rstrip(".").isdigit():
        return "generate"
    return "classify" if last.endswith("?") else "instances"


def answer_to_camel(prompt: str) -> str:
    """What CAMEL's prompts ask for: one task, or whether one is classification; "": another's."""
    dice = random.Random(prompt)
    if "produce exactly one new task" in prompt:
        return words(dice, chinese=False, verb=True)
    if "Respond in the following structured format" in prompt:
        return json.dumps({"answer": dice.random() < 0.5})
    return ""


class Scripted:
    """What the server says, and what it was asked."""

    def __init__(self, delay: float | Callable[[str], float], plain: bool) -> None:
        self.answer = scripted_model()
        self.delay = delay
        self.plain = plain  # the same answer to everything
        self.started = time.monotonic()
        self.asked: list[tuple[float, float, str]] = []

    def stats(self) -> bytes:
        return json.dumps(self.asked).encode()

    def reply(self, body: dict[str, Any]) -> tuple[float, bytes]:
        """Seconds to wait, and the answer as it goes over the wire."""
        turns = body.get("messages") or [{"content": body.get("prompt", "")}]
        prompt = "\n\n".join(as_text(turn["content"]) for turn in turns)
        delay = self.delay(prompt) if callable(self.delay) else self.delay
        self.asked.append((time.monotonic() - self.started, delay, stage_of(prompt)))
        text = PLAIN if self.plain else answer_to_camel(prompt) or self.answer(prompt, body)
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None, "message": message}
        tokens = (len(prompt) // 4, len(text) // 4)
        usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
        usage["total_tokens"] = sum(tokens)
        answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": int(time.time())}
        answer |= {"model": body.get("model", "m"), "choices": [choice], "usage": usage}
        return delay, json.dumps(answer).encode()


def as_text(content: Any) -> str:
    """The text of a message, which may be a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


MODELS = (
    b'{"object": "list", "data": [{"id": "m", "object": "model", "created": 0, "owned_by": "t"}]}'
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Connection(asyncio.Protocol):
    """One connection of a client: a request at a time, as HTTP/1.1 clients send them."""

    def __init__(self, scripted: Scripted) -> None:
        self.scripted = scripted
        self.received = bytearray()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer when the body is there as a whole."""
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        fields = [line.split(b":", 1) for line in head.split(b"\r\n")[1:]] if end else []
        length = [int(value) for name, value in fields if name.lower() == b"content-length"]
        if not end or len(body) < sum(length):
            return
        self.received.clear()
        if head.startswith(b"GET /stats"):
            self.send(self.scripted.stats())
        elif head.startswith(b"GET"):
            self.send(MODELS)
        else:
            delay, answer = self.scripted.reply(json.loads(body))
            asyncio.get_running_loop().call_later(delay, self.send, answer)

    def send(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(HEAD % len(answer) + answer)


async def serve(scripted: Scripted) -> None:
    """Print the address, and answer until stdin ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(scripted), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


@contextmanager
def quick_server(delay: str = "0", plain: bool = False) -> Any:
    """The address of such a server in a process of its own."""
    command = [sys.executable, __file__, "--delay", delay, *(["--plain"] if plain else [])]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def asked_of(address: str) -> list[tuple[float, float, str]]:
    """Seconds since the server's start, delay, and stage of each request."""
    with urllib.request.urlopen(f"{address.removesuffix('/v1')}/stats") as answer:
        return json.load(answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--delay", default="0", help="seconds, or about_1s")
    parser.add_argument("--plain", action="store_true", help="the same answer to everything")
    chosen = parser.parse_args()
    delay = about_1s if chosen.delay == "about_1s" else float(chosen.delay)
    asyncio.run(serve(Scripted(delay, chosen.plain)))


if __name__ == "__main__":
    main()
