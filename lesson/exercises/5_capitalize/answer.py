"""Exercise 5: what capitalize() does to instructions. Check it with: python lesson/check.py 5"""


def spoiled_words(instruction: str) -> list[str]:
    """The words, as split() gives them, in which instruction.capitalize() lowers a letter.

    spoiled_words("Write SQL for NASA.") is ["SQL", "NASA."]
    """
    raise NotImplementedError("TODO: write the code here, and delete this line")


def count_spoiled(instructions: list[str]) -> int:
    """How many of the instructions lose at least one capital."""
    raise NotImplementedError("TODO: write the code here, and delete this line")
