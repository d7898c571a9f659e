"""A server as in server.py that allows only so many requests, and may say so in headers.

with Metered(answer, Bucket(per_second=10, burst=10), retry_after=True) as server: ...;
server.served, server.refused
"""

from __future__ import annotations

import json
import time
from typing import Any

from helpers.server import Answer, Handler, Record, Server


class Bucket:
    """So many requests a second, of which up to `burst` may be saved up."""

    def __init__(self, per_second: float, burst: float) -> None:
        self.per_second, self.burst, self.level, self.at = (
            per_second,
            burst,
            burst,
            time.monotonic(),
        )

    def allows(self) -> bool:
        now = time.monotonic()
        self.level, self.at = min(self.burst, self.level + (now - self.at) * self.per_second), now
        self.level -= (allowed := self.level >= 1)
        return allowed

    def wait(self) -> float:
        return max(0.0, (1 - self.level) / self.per_second)

    def headers(self) -> dict[str, str]:
        """As OpenAI writes them: the time until all of the burst is there again."""
        left, reset = int(self.level), (self.burst - self.level) / self.per_second
        return told(self.burst, left, f"{reset * 1000:.0f}ms")


class Window:
    """So many requests in each period, which begins with the first."""

    def __init__(self, requests: int, seconds: float) -> None:
        self.requests, self.seconds, self.begun, self.left = requests, seconds, 0.0, 0
        self.per_second = requests / seconds

    def allows(self) -> bool:
        if (now := time.monotonic()) >= self.begun + self.seconds:
            periods = (now - self.begun) // self.seconds
            self.begun = self.begun + periods * self.seconds if self.begun else now
            self.left = self.requests
        self.left -= (allowed := self.left > 0)
        return allowed

    def wait(self) -> float:
        return max(0.0, self.begun + self.seconds - time.monotonic())

    def headers(self) -> dict[str, str]:
        return told(self.requests, self.left, f"{self.wait():.3f}s")


def told(limit: float, left: int, reset: str) -> dict[str, str]:
    said = {"limit": f"{limit:.0f}", "remaining": str(left), "reset": reset}
    return {f"x-ratelimit-{name}-requests": value for name, value in said.items()}


class Metered(Server):
    """`usage` is what it reports: "" as it is, "none" nothing, "zero" zeros, "worst" the most that
    it can be; or a function of that most."""

    def __init__(
        self,
        answer: Answer,
        meter: Any = None,
        *,
        retry_after: bool | float = False,
        headers: bool = False,
        usage: Any = "",
        **others: Any,
    ) -> None:
        super().__init__(answer, **others)
        self.RequestHandlerClass = Speaking
        self.meter, self.retry_after, self.headers, self.usage = meter, retry_after, headers, usage

    @property
    def asked(self) -> list[Record]:
        return [record for record in self.requests if record["method"] == "POST"]

    @property
    def served(self) -> list[Record]:
        return [record for record in self.asked if not record["fault"]]

    @property
    def refused(self) -> list[Record]:
        return [record for record in self.asked if record["fault"] == "429"]

    def begin(self, record: Record, connection: Any) -> None:
        super().begin(record, connection)
        record["says"] = {}
        if record["method"] == "POST" and self.meter and not record["fault"]:
            with self.lock:
                record["fault"] = "" if self.meter.allows() else "429"
                wait = self.meter.wait() if self.retry_after is True else float(self.retry_after)
                if record["fault"] and wait:
                    record["says"]["Retry-After"] = f"{wait:.3f}"
                record["says"] |= self.meter.headers() if self.headers else {}

    def reply(self, record: Record) -> tuple[int, bytes, str | None]:
        status, body, text = super().reply(record)
        if (
            not record["fault"]
            and record["wire"] in ("chat", "completion", "dashscope")
            and self.usage
        ):
            document, names = json.loads(body), ("prompt_tokens", "completion_tokens")
            names = ("input_tokens", "output_tokens") if record["wire"] == "dashscope" else names
            cap = (
                record["parameters"].get("max_tokens")
                or record["parameters"]["max_completion_tokens"]
            )
            worst = (len(record["prompt"].encode()) + 16, cap)
            counts = dict(zip(names, worst if self.usage == "worst" else (0, 0), strict=True))
            document["usage"] = None if self.usage == "none" else counts
            if callable(self.usage):
                most = dict(zip(names, (len(record["prompt"].encode()) + 16, cap), strict=True))
                document["usage"] = self.usage(most)
            body = json.dumps(document).encode()
        return status, body, text


class Speaking(Handler):
    server: Metered

    def send(self, record: Record, status: int, body: bytes, text: str | None) -> None:
        if record["fault"] not in ("", "429") or not record["says"]:
            super().send(record, status, body, text)
            return
        said = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **record["says"],
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in said.items())
        record.update(text=text or "", delivered=text is not None)
        self.server.busy.discard(self.connection)
        self.connection.sendall(f"HTTP/1.1 {status} said\r\n{head}\r\n".encode() + body)
