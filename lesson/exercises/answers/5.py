"""Exercise 5: compare each word with what capitalize() makes of the whole instruction."""


def spoiled_words(instruction: str) -> list[str]:
    """The words, as split() gives them, in which instruction.capitalize() lowers a letter."""
    before = instruction.split()
    after = instruction.capitalize().split()
    spoiled = []
    for word, changed in zip(before, after, strict=True):
        # The first letter of all may have become a capital. Only a capital that is lost counts.
        if any(old.isupper() and old != new for old, new in zip(word, changed, strict=True)):
            spoiled.append(word)
    return spoiled


def count_spoiled(instructions: list[str]) -> int:
    """How many of the instructions lose at least one capital."""
    return sum(bool(spoiled_words(instruction)) for instruction in instructions)
