"""scripts/README.md, "Names that you know": what the tables name is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from helpers.runs import ROOT

import self_instruct
from scripts.asking.parser import OFFICIAL
from self_instruct_workshop import STEP_FILES, Config, run

TEXT = (ROOT / "scripts" / "README.md").read_text(encoding="utf-8")
SECTION = TEXT.partition("\n## Names that you know\n")[2]
# What a user of the official code, or of its copies for chat models, calls or opens.
WANTED = """
    encode_prompt sample_machine_instructions post_process_gpt3_response find_word_in_string
    post_process_llama3_response make_requests make_gpt3_requests make_llama3_requests
    encode_instance parse_input_output filter_duplicate_instances filter_invalid_instances
    parse_instances_for_generation_task parse_instances_for_classification_task template_1
    input_first_template_for_gen output_first_template_for_clf generate_instructions
    classify_instructions generate_instances prepare_finetuning_data extract_json chat_llama
    machine_generated_instructions.jsonl machine_generated_instances.jsonl
    all_generated_instances.jsonl is_clf_or_not_davinci_template_1.jsonl
"""


def rows(columns: int) -> list[list[str]]:
    """The rows of the tables that have so many columns, without their heads."""
    lines = re.findall(r"(?m)^\| (.*) \|$", SECTION)
    cells = [re.split(r" (?<!\\)\| ", line) for line in lines]
    return [row for row in cells if len(row) == columns and " there" not in row[0][-6:]]


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_name_of_the_official_code_and_its_copies_is_in_a_table() -> None:
    told = {name for row in (*rows(2), *rows(3), *rows(4)) for name in names_in(row[0])}
    assert sorted({*WANTED.split(), *OFFICIAL} - told) == []


def test_every_function_and_file_that_a_table_names_is_there() -> None:
    found = rows(4)
    assert len(found) > 20
    for there, file, function, difference in found:
        [path], [name] = names_in(file), names_in(function)
        known = functions(ROOT / path)
        assert name in known, (there, name)
        # The recipe `paper` has its own; a format or a field is no function.
        others = [one for one in names_in(difference) if re.match(r"(paper|instruction)_\w+$", one)]
        assert {*others} <= known, (there, others)
        files = [one for one in names_in(difference) if one.startswith("data/")]
        assert all((ROOT / one).is_file() for one in files), files


def test_the_flags_that_are_told_are_flags_and_what_is_answered_is_told() -> None:
    known = set()
    for program in ("self_instruct.py", "scripts/prepare_for_finetuning.py"):
        known |= set(re.findall(r"--[a-z][a-z-]+", (ROOT / program).read_text(encoding="utf-8")))
    known |= {
        flag for action in self_instruct.command_line()._actions for flag in action.option_strings
    }
    told = {}
    for there, here in rows(2):
        named = [name.split()[0] for name in names_in(here) if name.startswith("--")]
        assert set(named) <= known, there
        told |= dict.fromkeys(names_in(there), here)
    for flag, answer in OFFICIAL.items():
        if answer.startswith("--"):
            assert answer.split()[0] in told[flag], flag


def test_the_files_that_are_told_are_what_programs_write_with_the_fields_that_are_told(
    tmp_path: Path,
) -> None:
    from scripts import prepare_for_finetuning as prepare

    run(Config(provider="practice", num_instructions=12, work_dir=str(tmp_path)), say=len)
    written = {*STEP_FILES, "rejected.jsonl", *prepare.OURS}
    for _, here, difference in rows(3):
        [name] = names_in(here)
        assert name in written
        fields = [one for one in names_in(difference) if re.fullmatch(r"[a-z_]+", one)]
        if name in STEP_FILES:
            line = (tmp_path / name).read_text(encoding="utf-8").split("\n")[0]
            values = ("true", "false", "null")
            assert [one for one in fields if one not in values and f'"{one}"' not in line] == []


@pytest.mark.parametrize("flag", OFFICIAL)
def test_each_flag_is_answered_in_one_line_with_ours(
    flag: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended:
        self_instruct.main([flag, "value"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and flag in said
    assert OFFICIAL[flag] in said
