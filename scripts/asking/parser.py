"""The command line's parser: it guesses what a mistyped flag was meant to be, and speaks Chinese.

    python self_instruct.py --output my.jsonl               did you mean --output-path?
    python self_instruct.py --help --language zh            the same help, in Chinese

It speaks Chinese where the terminal does, or with --language zh, also where the flags cannot be
read. The Chinese of its words and of all help texts stands in data/messages.zh.json.
"""

from __future__ import annotations

if __name__ == "__main__":  # a part, no program: said before an import fails
    raise SystemExit("parser.py is a part of self_instruct.py: run  python self_instruct.py --help")

import argparse
import re
import sys
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

import self_instruct_workshop as workshop
from self_instruct_workshop import in_chinese, is_chinese, prepare_terminal, wrapped

# Flags of the official code, and of programs made after it: what does the same here.
OFFICIAL = {
    "--batch_dir": "--work-dir",
    "--num_instructions_to_generate": "--num-instructions",
    "--seed_tasks_path": "--seed-file",
    "--num_prompt_instructions": "--tasks-shown",
    "--request_batch_size": "--concurrency",
    "--use_clf_seed_tasks_only": "--classification-every 1",
    "--engine": "--model",
    "--template": "--recipe paper",
    "--max_instances_to_generate": "--instances-per-instruction",
    "--use_existing_responses": "",  # that is always so
    "--output_file": "--output-path",
    "--input_file": "",
    "--generation_tasks_only": "",
    "--classification_tasks_only": "",
    "--top_p": "--recipe paper",  # it sends the official values
    "--frequency_penalty": "--recipe paper",
    "--presence_penalty": "--recipe paper",
    "--stop_sequences": "--recipe paper",
    "--logprobs": "",
    "--best_of": "",
    "--instance_files": "FILE",
    "--classification_type_files": "",  # the rows of stage 4 need none
    "--api_key": "OPENAI_API_KEY=... in .env",
    "--organization": "OPENAI_ORG_ID=... in the shell",
}


class Parser(argparse.ArgumentParser):
    """A parser that guesses what a mistyped flag or value was meant to be."""

    chinese = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As before, in the language that is typed or that the terminal speaks."""
        typed = sys.argv[1:] if args is None else list(args)
        if is_chinese(typed_language(typed)) and not self.chinese:
            self.speak_chinese()
        return super().parse_known_args(args, namespace)

    def speak_chinese(self) -> None:
        """Take the Chinese words from here on."""
        prepare_terminal()  # its streams are to be UTF-8
        self.chinese = True
        self.formatter_class = ChineseFormatter
        for name in ("usage", "description", "epilog"):
            setattr(self, name, in_chinese(getattr(self, name) or "") or None)
        for group in self._action_groups:
            group.title = in_chinese(group.title or "")
        for action in self._actions:
            if action.help and action.help != argparse.SUPPRESS:
                action.help = in_chinese(action.help)

    def format_help(self) -> str:
        """As before; Chinese headings end in a Chinese colon."""
        text = super().format_help()
        if self.chinese:
            text = re.sub(r"(?m)^(\S.*):$", r"\1：", text)
        return text

    def error(self, message: str) -> None:
        """End with one line that says what is wrong, and what was probably meant."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        unknown = re.findall(r"--[\w-]+", message.partition("unrecognized arguments:")[2])
        near = [meant_by(flag, flags) for flag in unknown]
        value = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if value:
            near = [find_near(value[1], re.findall(r"[\w-]+", value[2]))]
        hint = " ".join(filter(None, near))
        message = without_keys(message)
        message = f"{message}: did you mean {hint}?" if hint else message
        if not self.chinese:
            super().error(message)
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}：{in_chinese(f'error: {message}')}\n")


class ChineseFormatter(argparse.HelpFormatter):
    """Help in Chinese: lines are broken between characters, by the columns that they take."""

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any = None) -> None:
        super().add_usage(usage, actions, groups, "用法：" if prefix is None else prefix)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(text, width=width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(wrapped(text, len(indent), width))


def typed_language(typed: list[str]) -> str:
    """The language that the flags name, before they are read; "" if none."""
    for flag, value in pairwise([*typed, ""]):
        if flag == "--language":
            return value
        if flag.startswith("--language="):
            return flag.partition("=")[2]
    return ""


def meant_by(typed: str, flags: list[str]) -> str:
    """The flag that does the same as one of the official code, or the nearest; "" if none."""
    # The official code took a flag's beginning for the flag, and its scripts make use of that.
    begins = [known for known in OFFICIAL if known.startswith(typed)]
    if typed not in OFFICIAL and not ("_" in typed and begins):
        return find_near(typed, flags)
    same = OFFICIAL.get(typed, OFFICIAL[begins[0]])
    is_ours = not same.startswith("--") or same.split()[0] in flags
    return same if is_ours else ""


def without_keys(message: str) -> str:
    """A message without the API key that was typed behind a flag such as --api_key."""
    return re.sub(r"(--[\w-]*key[=\s]+)[^\s:]+", r"\1...", message)


def find_near(typed: str, known: list[str]) -> str:
    """The known word that was probably meant, "" if none is near."""
    begins = [word for word in known if typed and word.startswith(typed)]
    return next(iter(begins or get_close_matches(typed, known, 1, 0.6)), "")


def add_setting(parser: Any, setting: Any) -> None:
    """A flag for one setting. Without it the value is None, which Config takes for the default."""
    kind = type(setting.default)
    flag = workshop.flag_of(setting)
    if kind is bool:
        # A switch: off by default, or on, and then the flag turns it off.
        on = setting.default
        text = ("do not: " if on else "") + setting.metadata["help"]
        action = "store_false" if on else "store_true"
        parser.add_argument(flag, dest=setting.name, action=action, default=None, help=text)
        return
    choices = workshop.choices(setting.name) or None
    shown = str(setting.default).replace(str(workshop.DATA.parent), ".")
    text = setting.metadata["help"] + (f" [{shown}]" if shown else "")
    parser.add_argument(
        flag,
        type=kind,
        choices=choices,
        metavar=None if choices else {int: "N", float: "X", str: "TEXT"}[kind],
        help=text.replace("%", "%%"),
    )
