"""Exercise 1: write ROUGE-L. Check it with: python lesson/check.py 1"""


def rouge_l(a: list[str], b: list[str]) -> float:
    """How alike two lists of tokens are, from 0 to 1.

    It is 2 * LCS / (len(a) + len(b)), where LCS is the length of the longest common subsequence.
    """
    raise NotImplementedError("TODO: write the code here, and delete this line")
