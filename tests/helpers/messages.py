"""Every error, notice and help text of a source file, as samples whose slots are «0», «1» ...

A message is followed from the call that prints it to the texts it is made of: through the names of
its function, through the functions that return a part of it, and through both sides of an `or` and
of an `if`. What cannot be followed, say an attribute, is a slot.
"""

from __future__ import annotations

import ast
import re
from itertools import product
from pathlib import Path

ERRORS = ("WorkshopError", "UsageError", "RequestFailed", "Transient", "Silent", "Loading")
SINKS = (*ERRORS, "ArgumentTypeError", "tell", "spoken", "notice_once")
PASSING = ("one_line", "clean", "printable", "str", "without_login")  # they return their argument
SLOT = "\0"


class Source:
    """One file, and the texts that its messages can be."""

    def __init__(self, path: Path) -> None:
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        defined = [node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)]
        self.functions = {node.name: node for node in defined}
        self.path = path

    def messages(self) -> set[str]:
        """What its errors, notices and raised faults say."""
        found = set()
        for function in self.functions.values():
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and name_of(call) in SINKS and call.args:
                    texts = self.texts(call.args[0], function, ())
                    if name_of(call) == "notice_once":
                        texts = self.whole_notices(call, function)
                    found |= set(texts)
        return {numbered(text) for text in found if has_words(text)}

    def whole_notices(self, call: ast.Call, function: ast.FunctionDef) -> list[str]:
        """A notice is printed with what to do, where that is given."""
        parts = [self.texts(argument, function, ()) for argument in call.args]
        return ["notice: " + ": ".join(chosen) for chosen in product(*parts)]

    def texts(self, node: ast.AST | None, function: ast.FunctionDef, seen: tuple) -> list[str]:
        """What an expression can be, as texts with slots."""
        match node:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr(values=values):
                return joined([self.texts(value, function, seen) for value in values])
            case ast.FormattedValue(value=value, format_spec=None, conversion=-1):
                return self.texts(value, function, seen)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return joined([self.texts(part, function, seen) for part in (left, right)])
            case ast.BinOp(left=left, op=ast.Mult()):
                return [*self.texts(left, function, seen), ""]
            case ast.IfExp(body=body, orelse=other):
                return [*self.texts(body, function, seen), *self.texts(other, function, seen)]
            case ast.BoolOp(values=values):
                return [text for value in values for text in self.texts(value, function, seen)]
            case ast.Name(id=name) if (function, name) not in seen:
                return self.named(name, function, (*seen, (function, name)))
            case ast.Call():
                return self.called(node, function, seen)
        return [SLOT]

    def named(self, name: str, function: ast.FunctionDef, seen: tuple) -> list[str]:
        """What a name of a function was set to, with what was added to it later."""
        found: list[str] = []
        added: list[str] = []
        for node in [*ast.walk(function), *self.tree.body]:
            match node:
                case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
                    found += self.texts(value, function, seen)
                case ast.AugAssign(target=ast.Name(id=target), value=value) if target == name:
                    added += self.texts(value, function, seen)
        longer = [first + more for first in found for more in added]
        return [*found, *longer] or [SLOT]

    def called(self, call: ast.Call, function: ast.FunctionDef, seen: tuple) -> list[str]:
        """What a function returns, if that is words and not somebody's text."""
        name = name_of(call)
        if name in PASSING and call.args:
            return self.texts(call.args[0], function, seen)
        inner = self.functions.get(name)
        if inner is None or name in seen:
            return [SLOT]
        returned = [node.value for node in ast.walk(inner) if isinstance(node, ast.Return)]
        found = [text for node in returned for text in self.texts(node, inner, (*seen, name))]
        return found if any(map(has_words, found)) else [SLOT]


def name_of(call: ast.Call) -> str:
    """The last name of what is called: tell of workshop.tell(...)."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def joined(parts: list[list[str]]) -> list[str]:
    return ["".join(chosen) for chosen in product(*parts)]


def has_words(text: str) -> bool:
    """Whether a text says something beside its slots."""
    return " " in text.replace(SLOT, "").strip()


def numbered(text: str) -> str:
    """The text with a mark of its own in each slot."""
    text = re.sub(f"(?<=line |.row ){SLOT}", "7", text)  # a number must be one
    first, *others = text.split(SLOT)
    return first + "".join(f"«{n}»{part}" for n, part in enumerate(others))
