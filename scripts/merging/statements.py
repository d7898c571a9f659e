"""The joins in SQL, as DuckDB and Spark both understand them.

Tables with the columns of marks.keys_of: old_long and old_short have the keys of what was kept,
new_long and new_short those of the block. The table `chosen` names a part of the block.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit(
        "statements.py is a part of scripts/merge_runs.py: run  python scripts/merge_runs.py --help"
    )

from scripts.merging.marks import ROUNDING

BLOCK = ("new_long", "new_short")
KEPT = ("old_long", "old_short")
PART = tuple(f"(SELECT * FROM {name} SEMI JOIN chosen USING (id))" for name in BLOCK)
REST = tuple(f"(SELECT * FROM {name} ANTI JOIN chosen USING (id))" for name in BLOCK)
AMONG = {  # the longer ones and the shorter ones that are joined
    "old": [(BLOCK[0], KEPT[1]), (KEPT[0], BLOCK[1])],
    "new": [(PART[0], PART[1])],
    "late": [(REST[0], PART[1]), (PART[0], REST[1])],
}

# How many marks must be shared? At most so many can be: those from this one on; and those of a text
# but for the bits that it has alone, which are its bits without the ones of both.
JOIN = """
    SELECT least(l.id, s.id) AS older, greatest(l.id, s.id) AS newer
    FROM {long} l JOIN {short} s ON l.key = s.key
    WHERE l.id <> s.id AND least(l.size - l.place, s.size - s.place) >= {share} * (l.size + s.size)
    AND least(l.size - bit_count(l.bits), s.size - bit_count(s.bits)) + bit_count(l.bits & s.bits)
        >= {share} * (l.size + s.size)
"""
COST = """
    SELECT coalesce(sum(CAST(l.n AS DOUBLE) * s.n), 0)
    FROM (SELECT key, count(*) AS n FROM {long} GROUP BY key) l
    JOIN (SELECT key, count(*) AS n FROM {short} GROUP BY key) s ON l.key = s.key
"""


def pairs_among(among: str, limit: float) -> str:
    """The statement that finds pairs (older, newer) which may be above the limit, each once."""
    share = f"CAST({max(limit, 1e-9) / 2 - ROUNDING:.12f} AS DOUBLE)"
    joins = [JOIN.format(long=long, short=short, share=share) for long, short in AMONG[among]]
    return f"SELECT DISTINCT older, newer FROM ({' UNION ALL '.join(joins)}) found"


def costs(among: str) -> list[str]:
    """The statements that count how many pairs these joins look at."""
    return [COST.format(long=long, short=short) for long, short in AMONG[among]]
