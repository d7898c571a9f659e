"""--push-to against a server on this machine that speaks the hub's endpoints: what is uploaded, who
may see it, and what is refused.

Needs scripts/requirements-train.txt, and is skipped without it.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from helpers.runs import ROOT

pytest.importorskip("huggingface_hub")
datasets = pytest.importorskip("datasets")

sys.path.insert(0, str(ROOT))
from scripts.training import cards  # noqa: E402

PROGRAM = ROOT / "scripts" / "prepare_for_finetuning.py"
TOKEN = "hf_" + "x" * 20
ROWS = [
    {"instruction": "Name a river.", "input": "", "output": "The Nile"},
    {"instruction": "Which protocol is it?", "input": "https://example.org", "output": "https"},
]


class Hub(ThreadingHTTPServer):
    """A hub with repositories of its own: name -> {"private": bool, "files": {path: bytes}}."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def answer(self, status: int, body: dict, code: str = "") -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", body["error"])
        self.end_headers()
        self.wfile.write(data)

    def refused(self) -> bool:
        """Whether the token is missing or wrong: then the answer is out."""
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return False
        self.answer(401, {"error": "Invalid username or password."})
        return True

    def name(self) -> str:
        """The repository that the path names, "" if none."""
        found = re.match(r"(?:/api/(?:datasets|models))?/([\w.-]+/[\w.-]+)", self.path)
        return found[1] if found else ""

    def repository(self) -> dict | None:
        return self.server.repositories.get(self.name())

    def do_GET(self) -> None:
        self.server.asked.append(f"GET {self.path}")
        found = self.repository()
        if self.refused():
            return
        if found and "/resolve/" in self.path:
            self.send_file(found["files"].get(self.path.partition("/resolve/main/")[2]))
            return
        if found is None:
            self.answer(404, {"error": "Repository not found"}, "RepoNotFound")
            return
        self.answer(200, {"id": "x", "private": found["private"], "sha": "0" * 40, "siblings": []})

    do_HEAD = do_GET

    def send_file(self, content: bytes | None) -> None:
        if content is None:
            self.answer(404, {"error": "Entry not found"}, "EntryNotFound")
            return
        self.send_response(200)
        self.send_header("ETag", f'"{sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def do_POST(self) -> None:
        self.server.asked.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.refused():
            return
        if self.path == "/api/repos/create":
            self.create(json.loads(body))
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            told = [{"path": file["path"], "uploadMode": "regular"} for file in files]
            self.answer(200, {"files": [one | {"shouldIgnore": False} for one in told]})
        elif "/commit/" in self.path:
            self.commit(body)
        else:
            self.answer(200, {"name": "me"})

    def create(self, asked: dict) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        there = name in self.server.repositories
        # Newer clients say "visibility"; where nothing is said, the hub's default is public.
        private = asked.get("private", asked.get("visibility") == "private")
        new = {"private": private, "files": {}, "type": asked.get("type")}
        self.server.repositories.setdefault(name, new)
        self.answer(409 if there else 200, {"url": f"{self.server.url}/datasets/{name}"})

    def commit(self, body: bytes) -> None:
        for line in body.splitlines():
            one = json.loads(line)
            if one["key"] == "file":
                content = base64.b64decode(one["value"]["content"])
                self.repository()["files"][one["value"]["path"]] = content
        name = self.name()
        url = f"{self.server.url}/datasets/{name}/commit/{'0' * 40}"
        self.answer(200, {"commitUrl": url, "commitOid": "0" * 40, "success": True})

    def log_message(self, *_: Any) -> None:
        """Write nothing to stderr."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def prepare(hub: Hub, tmp_path: Path, *flags: str, token: str = TOKEN) -> Any:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment.pop("HF_TOKEN", None)
    environment |= {"HF_TOKEN": token} if token else {}
    command = [sys.executable, str(PROGRAM), str(path), "--output-dir", str(tmp_path / "out")]
    return subprocess.run([*command, *flags], env=environment, capture_output=True, text=True)


def test_a_folder_is_uploaded_with_its_card_privately_and_loads_as_it_is(
    hub: Hub, tmp_path: Path
) -> None:
    done = prepare(hub, tmp_path, "--split", "0.5", "--push-to", "me/rows")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("uploaded to me/rows\n")
    made = hub.repositories["me/rows"]
    assert made["private"] is True and made["type"] == "dataset"
    here = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert made["files"] == here and {*here} >= {"train.json", "validation.json", "README.md"}

    # What the hub has loads by its card, with each row on its side of the split.
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in made["files"].items():
        (copy / name).write_bytes(content)
    loaded = datasets.load_dataset(str(copy), cache_dir=str(tmp_path / "cache"))
    assert {part: rows.num_rows for part, rows in loaded.items()} == {"train": 1, "validation": 1}
    assert str(tmp_path).encode() not in b"".join(made["files"].values())


def test_public_is_asked_for_and_nothing_is_uploaded_where_nobody_asked(
    hub: Hub, tmp_path: Path
) -> None:
    assert prepare(hub, tmp_path).returncode == 0
    assert hub.asked == []
    assert prepare(hub, tmp_path, "--push-to", "me/rows", "--public").returncode == 0
    assert hub.repositories["me/rows"]["private"] is False
    # Again, to the public place: only with --public.
    hub.repositories["me/rows"]["files"].clear()
    done = prepare(hub, tmp_path, "--push-to", "me/rows")
    assert done.returncode == 1 and hub.repositories["me/rows"]["files"] == {}
    assert done.stderr.splitlines()[-1] == (
        "error: me/rows is public, so that all would see the upload: "
        "add --public, or name another place"
    )
    assert prepare(hub, tmp_path, "--push-to", "me/rows", "--public").returncode == 0
    assert "README.md" in hub.repositories["me/rows"]["files"]


@pytest.mark.parametrize("token", ["", "hf_" + "y" * 20], ids=["none", "wrong"])
def test_without_a_token_that_the_hub_knows_the_files_are_there_and_one_line_says_what_to_do(
    token: str, hub: Hub, tmp_path: Path
) -> None:
    done = prepare(hub, tmp_path, "--push-to", "me/rows", token=token)
    assert done.returncode == 1 and hub.repositories == {}
    [said] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said.startswith("error: cannot upload to me/rows (")
    folder = tmp_path / "out"
    assert said.endswith(f"run  hf auth login  and the same command; all is in {folder}")
    assert "Traceback" not in done.stderr and (token or "hf_") not in done.stderr
    assert (folder / "train.json").exists()


# What the steps of backtranslation upload


UPLOAD = """
import sys
from argparse import Namespace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from scripts.training import shared
options = Namespace(push_to="me/final", public=False)
shared.push(options, "model", Path(sys.argv[2]), ["adapter_*", "training.json"], "---\\n---\\n")
print(shared.trained("me/final"))
"""


def test_an_adapter_from_the_hub_is_known_as_ours_and_names_no_folder_of_this_machine(
    hub: Hub, tmp_path: Path
) -> None:
    folder = tmp_path / "final"
    folder.mkdir()
    base = str(tmp_path / "models" / "smol")
    note = {"direction": "forward", "base": base, "loss": [1.0]}
    (folder / "training.json").write_text(json.dumps(note), encoding="utf-8")
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": base}), encoding="utf-8"
    )
    (folder / "training_args.bin").write_bytes(b"private")
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", UPLOAD, str(ROOT), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = hub.repositories["me/final"]
    assert made["private"] is True
    assert {*made["files"]} == {"README.md", "adapter_config.json", "training.json"}
    assert str(tmp_path).encode() not in b"".join(made["files"].values())
    assert done.stdout.splitlines()[-1] == str({**note, "base": "smol"})


def test_what_step_3_uploads_loads_as_the_pairs_that_were_kept(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    rows = [{"id": i, "instruction": f"q{i}", "output": "a", "original": "o", "rating": i % 5 + 1}
            for i in range(20)]  # fmt: skip
    kept = [row for row in rows if row["rating"] >= 4]
    files = {"curated": "curated_dataset.json", "all_evaluated": "curated_dataset_all.json"}
    for (_, name), part in zip(files.items(), (kept, rows), strict=True):
        (folder / name).write_text(json.dumps(part), encoding="utf-8")
    known = {"file": "x.json", "sources": [], "instructions": "model"}
    card = cards.dataset_card(files, known, kept, ["one line"])
    (folder / "README.md").write_text(card, encoding="utf-8")
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {name: part.num_rows for name, part in loaded.items()} == {"train": 8}
    assert loaded["train"]["instruction"][:2] == ["q3", "q4"]
    every = datasets.load_dataset(str(folder), "all_evaluated", cache_dir=str(tmp_path / "cache"))
    assert every["train"].num_rows == 20
