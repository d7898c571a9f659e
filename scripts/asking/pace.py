"""When the next request may go: evenly, and after a 429 as fast as the server answers."""

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("pace.py is a part of self_instruct.py: run  python self_instruct.py --help")

import math
import re
import threading
from collections.abc import Callable
from typing import Any

SLOWER, FASTER = 1.25, 1.25 ** (-1 / 5)  # the interval's change by a 429, and by an answer
FIRST, SHORTEST, LONGEST = 0.02, 0.002, 20.0  # seconds, of the interval from the first 429 on


class Pace:
    """All requests share one interval: the given limit's, or 0 where none is given.

    A 429 makes the interval a quarter longer, and five answers undo that.
    So a real limit refuses about one request in six. A server that refuses
    fewer by chance, whatever the rate, slows nobody down.
    A 429 counts only if its request was sent after the 429 that counted last:
    what is in flight together says the same thing once.
    If the first request after a 429 is refused too, the wait was too short.
    Then the interval stays, and the waits grow until there is an answer."""

    def __init__(self, requests: float | None, tokens: float | None, clock: Callable) -> None:
        """The limits are those of a minute; None: no limit is given."""
        self.clock = clock
        self.lock = threading.Lock()
        self.least = 60 / (requests or math.inf)  # seconds from a request to the next
        self.per_token = 60 / (tokens or math.inf)  # seconds
        self.interval = 0.0  # the same, after 429s
        self.share = 1.0  # of the most tokens that a request can use, what requests use
        self.next_at = self.paused_until = self.slowed_at = clock()
        self.refused_since = math.inf  # when the server began to refuse all
        self.turns = 0  # since the last 429 that counted

    def wait(self) -> float:
        """Seconds until the next turn."""
        return max(self.next_at, self.paused_until) - self.clock()

    def take(self, tokens: float) -> None:
        """Take the next turn, for a request that uses so many tokens at most."""
        with self.lock:
            gap = max(self.least, self.interval, tokens * self.share * self.per_token)
            self.next_at = max(self.next_at, self.clock() - 0.1) + gap  # late: 0.1 s is made up for
            self.turns += 1

    def throttled(self, sent_at: float, wait: float) -> bool:
        """A 429 came, which asks for so many seconds; return whether it counts."""
        with self.lock:
            now = self.clock()
            self.refused_since = min(self.refused_since, now)
            self.paused_until = max(self.paused_until, now + wait)
            if sent_at < self.slowed_at:
                return False
            # If others passed before it, they come too fast. If none did, only the wait grows.
            pause = min(5.0, max(0.1, (now - self.refused_since) / 2))
            if self.turns > 1:
                self.interval = min(LONGEST, SLOWER * max(self.least, self.interval or FIRST))
                self.refused_since = now
                pause = 0.6 * self.interval
            self.next_at = now + max(self.least, pause)
            self.slowed_at = now
            self.turns = 0
            return True

    def answered(self, most: float, used: float) -> None:
        """An answer came, and used so many tokens of the most that it could."""
        with self.lock:
            self.refused_since = math.inf
            self.interval = min(self.interval, max(SHORTEST, self.interval * FASTER))
            self.next_at += (used - most * self.share) * self.per_token
            self.share += 0.2 * (min(1.0, used / most) - self.share)

    def refused_for(self) -> float:
        """For how many seconds the server has refused all that was sent."""
        return 0.0 if self.turns > 1 else max(0.0, self.clock() - self.refused_since)

    def hear(self, response: Any) -> None:
        """Rate headers of a 429 say what has run out, and when it is back: until then all wait."""
        known = response.status_code == 429 and "retry-after" not in response.headers
        for kind in ("requests", "tokens"):
            if known and response.headers.get(f"x-ratelimit-remaining-{kind}") == "0":
                reset = seconds(response.headers.get(f"x-ratelimit-reset-{kind}") or "")
                with self.lock:
                    self.paused_until = max(self.paused_until, self.clock() + min(60.0, reset))


def seconds(text: str) -> float:
    """'1s' -> 1, '6m0s' -> 360, '20ms' -> 0.02, '7' -> 7, anything else -> 0."""
    parts = re.findall(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)(ms|h|m|s|$)", text)
    return sum(float(n) * {"h": 3600, "m": 60, "ms": 0.001}.get(unit, 1) for n, unit in parts)
