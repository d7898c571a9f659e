"""When the next request may go: evenly, below the limits that are given, and as fast as a server lets us otherwise."""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("pace.py is a part of self_instruct.py: run  python self_instruct.py --help")

import math
import re
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

CATCH_UP = 0.1  # seconds; being late by less is made up for
SLOWEST = 0.05  # requests a second: no provider's limit is lower than three a minute


class Pace:
    """When the next request may go. Below the limits that are given, requests are spaced evenly.

    After a 429 all wait: as long as the server says, else for a moment. Then one goes, the next at half the rate, and
    the others at the rate at which the server has answered since the 429 before: at more, the longer there is no other.
    While one after another is refused, the next waits for a fifth of the time that this has lasted.

    A server that limits the rate answers no fewer requests because they come slower. Where it answers less than four
    fifths of what it did, three times in a row, its 429s have another reason: all go as fast as before the first of
    them, and what is refused goes again in its turn, until more than 14 of the last 20 are refused."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None, clock: Callable) -> None:
        self.clock, self.lock, now = clock, threading.Lock(), clock()
        self.most = requests_per_minute / 60 if requests_per_minute else math.inf  # requests a second
        self.tokens = tokens_per_minute / 60 if tokens_per_minute else math.inf  # tokens a second
        self.share = 1.0  # of the most that a request can use, what requests use on average
        self.told: dict[str, tuple[float, float]] = {}  # by headers: requests or tokens a second, until when
        self.next_at = self.paused_until = self.slowed_at = -math.inf
        self.refused_since: float | None = None  # the first 429 since the last answer
        self.turns, self.trip = 0, 0.0  # since the last 429; seconds from a request to a 429
        self.blocked = False  # the first turn after a 429 was refused too
        self.ceiling = math.inf  # requests a second from the last 429 on; it grows
        self.refused_at = self.before = math.inf  # the rate at the last 429; and what it was before the 429s began
        self.since = self.until = self.blocked_at = self.took_at = now
        self.passed, self.good = 0, math.inf  # sent since `since` and not refused; the same for a second, until `until`
        self.growth = 1  # turns until the rate is twice the ceiling
        self.best: float | None = None  # the most that was good, but for the first time: a burst may have helped it
        self.falls = 0  # how often in a row it was less than four fifths of that
        self.last, self.bearable = deque[bool](maxlen=20), 0  # answered? how many may be refused, and nobody waits

    def rate(self) -> float:
        """Requests a second that may be sent now, half of it in the turn after a 429."""
        return self.full() * (0.5 if not self.turns and self.slowed_at > -math.inf else 1.0)

    def full(self) -> float:
        """Nearly the same for long, then more and more."""
        return min(self.most, max(SLOWEST, self.ceiling) * (1 + (max(0, self.turns - 4) / self.growth) ** 2))

    def wait(self) -> float:
        """Seconds until the next turn."""
        with self.lock:
            return max(self.next_at, self.paused_until) - self.clock()

    def take(self, tokens: float) -> None:
        """Take the next turn."""
        with self.lock:
            now, size = self.clock(), tokens * self.share
            idle = max(0.0, now - max(self.next_at, self.paused_until, self.took_at) - 1)  # nobody asked
            self.since, self.until = self.since + idle, self.until + idle
            if self.slowed_at > -math.inf and self.turns == 0:
                self.measure(now)
            if self.slowed_at > -math.inf and self.turns == 1:
                self.judge()
            per_second = {kind: rate for kind, (rate, until) in self.told.items() if now < until}
            gap = max(1 / min(self.rate(), per_second.get("requests", math.inf)), 0.0 if self.turns else 2 * self.trip)
            gap = max(gap, size / min(self.tokens, per_second.get("tokens", math.inf)))
            self.next_at = (self.next_at if self.turns and now < self.next_at + CATCH_UP else now) + gap
            self.turns, self.passed, self.took_at = self.turns + 1, self.passed + 1, now

    def measure(self, now: float) -> None:
        """The first turn after a 429: by now it is known how many of those before it were refused too. Between two such
        turns a server that counts requests lets through what it allows in that time, whatever was sent."""
        self.until = (self.slowed_at + now) / 2 if self.blocked else now
        self.good = max(1, self.passed) / max(0.001, self.until - self.since)
        self.growth = min(120, 30 + 3 * self.passed)  # what is measured by many is kept for longer
        if self.passed >= 10:  # a long time, with the pause in it: it was less than is allowed
            rate = 1.1 * self.good
        else:  # a short time tells little
            rate = 0.95 * ((self.good + self.best) / 2 if self.best else self.good)
        self.ceiling = min(0.95 * self.refused_at, rate)
        if not self.blocked and self.paused_until <= self.slowed_at:  # the pause was short: it may mean little
            self.ceiling = max(self.ceiling, self.refused_at / 2)

    def judge(self) -> None:
        """The second turn after a 429: the first was not refused. Is the rate the reason?"""
        self.since, self.passed = self.until, 1
        self.falls = self.falls + 1 if self.best and self.good < 0.8 * self.best else 0
        if self.falls >= 3 and self.last.count(False) <= 14:
            self.bearable, self.ceiling, self.turns = 14, self.before, 4
        self.best = 0.0 if self.best is None else max(self.best, self.good)

    def throttled(self, sent_at: float, wait: float) -> bool:
        """A 429 came; return whether all slow down. They did already if it was sent before the last."""
        with self.lock:
            now = self.clock()
            self.refused_since = now if self.refused_since is None else self.refused_since
            self.passed -= sent_at >= self.since
            self.last.append(False)
            news = sent_at > self.slowed_at and self.last.count(False) > self.bearable
            if news:
                self.slow_down(now, min(1.0, now - sent_at))
            self.paused_until = max(self.paused_until, now + wait)
            return news

    def slow_down(self, now: float, trip: float) -> None:
        if self.bearable:  # too many: the rate may be the reason after all
            self.bearable, self.before, self.best, self.falls = 0, 2 * self.good, None, 0
        self.blocked, self.trip = self.turns <= 1, max(trip, 0.05, 0.8 * self.trip)
        if not self.blocked:
            if (rate := self.full()) == math.inf:  # the first; a few requests tell little
                rate = max(self.passed / max(0.001, now - self.since), 200 * (self.passed < 20))
            self.ceiling = self.refused_at = rate
            self.blocked_at = now
        pause = min(5.0, 0.2 * (now - self.blocked_at)) if self.blocked else min(20.0, 0.25 / self.ceiling)
        self.next_at, self.slowed_at, self.turns = now + max(pause, 2 * self.trip), now, 0

    def answered(self, most: float, used: float) -> None:
        """An answer came; what it used more or less than expected counts for the next."""
        with self.lock:
            self.refused_since = None
            self.last.append(True)
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
