"""Exercise 1: ROUGE-L, row by row."""


def rouge_l(a: list[str], b: list[str]) -> float:
    """How alike two lists of tokens are: 2 * LCS / (len(a) + len(b))."""
    # row[j]: the LCS of the tokens of a that were read so far and the first j tokens of b
    row = [0] * (len(b) + 1)
    for token in a:
        above = row
        row = [0]
        for j, other in enumerate(b):
            if token == other:
                row.append(above[j] + 1)
            else:
                row.append(max(above[j + 1], row[j]))
    # Two lists without any token have nothing in common.
    return 2 * row[-1] / (len(a) + len(b)) if row[-1] else 0.0
