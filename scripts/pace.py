"""When the next request may go: evenly, below the limits that are given, and as fast as a server lets us otherwise."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from typing import Any

CATCH_UP = 0.1  # seconds; being late by less is made up for


class Pace:
    """When the next request may go. Below the limits that are given, requests are spaced evenly. After a 429 all wait:
    as long as the server says, else for one turn; then one goes, and the others follow at half the rate that was good
    so far, at nearly that rate within a few turns, and at more the longer there is no 429. While one after another is
    refused, the next waits for a fifth of the time that this has lasted, and the rate is that of the whole time."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None, clock: Callable) -> None:
        self.clock, self.lock, now = clock, threading.Lock(), clock()
        self.most = requests_per_minute / 60 if requests_per_minute else math.inf  # requests a second
        self.tokens = tokens_per_minute / 60 if tokens_per_minute else math.inf  # tokens a second
        self.share = 1.0  # of the most that a request can use, what requests use on average
        self.told: dict[str, tuple[float, float]] = {}  # by headers: requests or tokens a second, until when
        self.next_at = self.paused_until = self.slowed_at = -math.inf
        self.refused_since: float | None = None  # the first 429 since the last answer
        self.good = self.ceiling = math.inf  # requests a second: until the last 429; from then on
        self.turns, self.sent, self.passed = 0, 0, 0  # sent since the last 429; between that and the one before it
        self.flow_since = self.probed_at = self.blocked_at = self.took_at = now
        self.trip, self.blocked = 0.0, False  # seconds until a 429 is heard; whether the last turn was refused too

    def rate(self) -> float:
        """Requests a second that may be sent now, half of it in the turn after a 429."""
        return self.full() * (min(1.0, 0.5 + self.turns / 4) if self.slowed_at > -math.inf else 1.0)

    def full(self) -> float:
        return min(self.most, self.ceiling * (1 + (max(0, self.turns - 4) / 60) ** 2))

    def wait(self) -> float:
        """Seconds until the next turn."""
        with self.lock:
            return max(self.next_at, self.paused_until) - self.clock()

    def take(self, tokens: float) -> None:
        """Take the next turn."""
        with self.lock:
            now, size = self.clock(), tokens * self.share
            self.probed_at += max(0.0, now - max(self.next_at, self.took_at) - 1)  # nobody asked: that does not count
            if not self.turns:
                self.probe(now)
            per_second = {kind: rate for kind, (rate, until) in self.told.items() if now < until}
            gap = max(1 / min(self.rate(), per_second.get("requests", math.inf)), 0.0 if self.turns else 2 * self.trip)
            gap = max(gap, size / min(self.tokens, per_second.get("tokens", math.inf)))
            self.next_at = (self.next_at if now < self.next_at + CATCH_UP else now) + gap
            self.turns, self.took_at = self.turns + 1, now

    def probe(self, now: float) -> None:
        """The first turn after a 429; by now it is known how many of those before it were refused too."""
        self.probed_at = now
        if self.slowed_at > -math.inf:
            self.ceiling = self.good * max(1, self.passed) / max(1, self.sent)
            if self.blocked or now - self.slowed_at > self.slowed_at - self.flow_since:  # the server counts by a window
                ended = (self.slowed_at + now) / 2 if self.blocked else now  # between the last refusal and now
                self.ceiling = min(self.ceiling, max(1, self.passed) / max(0.001, ended - self.flow_since))

    def throttled(self, sent_at: float, wait: float) -> bool:
        """A 429 came; return whether it is news, as one is not that was sent before the last."""
        with self.lock:
            now, news = self.clock(), sent_at > self.slowed_at
            self.refused_since = now if self.refused_since is None else self.refused_since
            if news:
                self.slow_down(now, min(1.0, now - sent_at))
            else:
                self.passed -= 1
            self.paused_until = max(self.paused_until, now + wait)
            return news

    def slow_down(self, now: float, trip: float) -> None:
        self.blocked, self.trip = self.turns <= 1, max(trip, 0.05, 0.8 * self.trip)
        if not self.blocked:
            self.sent = self.passed = self.turns - 1
            self.flow_since, self.blocked_at = self.probed_at, now
            spaced = self.full() < math.inf and self.next_at > now - trip - CATCH_UP - 1 / self.rate()
            measured = math.inf if spaced else self.sent / max(0.001, now - self.flow_since)
            self.good = self.ceiling = 0.95 * min(self.full(), measured)
        pause = min(5.0, 0.2 * (now - self.blocked_at)) if self.blocked else min(20.0, 1 / self.ceiling)
        self.next_at, self.slowed_at, self.turns = now + max(pause, 2 * self.trip), now, 0

    def answered(self, most: float, used: float) -> None:
        """An answer came; what it used more or less than expected counts for the next."""
        with self.lock:
            self.refused_since = None
            self.next_at += (used - most * self.share) / self.tokens
            self.share += 0.2 * (min(1.0, used / most) - self.share)

    def refused_for(self) -> float:
        """For how many seconds the server has answered nobody with anything but 429."""
        with self.lock:
            return 0.0 if self.refused_since is None else self.clock() - self.refused_since

    def hear(self, response: Any) -> None:
        """Rate headers, where a server sends them. By a window or by steady refilling, what is left may be used until
        the reset, and so may what that brings back; what was refused in spite of that waits for the reset."""
        for kind in ("requests", "tokens"):
            names = (f"x-ratelimit-{name}-{kind}" for name in ("reset", "remaining", "limit"))
            reset, *counts = (response.headers.get(name) or "" for name in names)
            if (wait := seconds(reset)) and all(re.fullmatch(r"[0-9]{1,15}", number) for number in counts):
                left, limit = map(int, counts)
                with self.lock:
                    now = self.clock()
                    refused = response.status_code == 429 and not left
                    if refused and "retry-after" not in response.headers:  # which knows better when to come back
                        self.paused_until = max(self.paused_until, now + min(60.0, wait))
                    if wait <= 60:  # of a longer period, say a day, a run may use up what is left
                        self.told[kind] = (max(left, limit - left, 1) / wait, now + wait)


def seconds(text: str) -> float:
    """'1s' -> 1, '6m0s' -> 360, '20ms' -> 0.02, '7' -> 7, anything else -> 0."""
    if re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,15})?", text):
        return float(text)
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(float(n) * units[unit] for n, unit in re.findall(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)(ms|h|m|s)", text))
