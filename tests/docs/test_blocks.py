"""Every code block of README.md, CONTRIBUTING.md and docs/ is run.

Python blocks of one page run in one process, in order, in an empty folder; a block that begins
with `# file: NAME` is written to that file instead. Of shell blocks, `make TARGET` must be a target
of the Makefile, and `downslope …` and `torchrun …` are run: a command that trains, with `--dry-run`.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = ("bash", "sh", "console")
SILENT = ("text", "json", "")  # output, not input
TRAINS = ("compare", "lr")


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_blocks_are_of_a_kind_that_is_run(page: Path) -> None:
    assert {language for language, _ in blocks(page)} <= {"python", *SHELL, *SILENT}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    program = []
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for language, text in blocks(page):
        if language == "python" and (named := re.match(r"# file: (\S+)\n", text)):
            (tmp_path / named[1]).write_text(text)
        elif language == "python":
            program.append(text)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # as activated
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "default"}
    env |= {"OMP_NUM_THREADS": "1"}
    if program:
        script = tmp_path / "page.py"
        script.write_text("\n".join(program))
        check([sys.executable, str(script)], tmp_path, env)
    for language, text in blocks(page):
        for line in text.splitlines() if language in SHELL else []:
            run_line(line.removeprefix("$ ").split(" #")[0].strip(), tmp_path, env)


def run_line(line: str, folder: Path, env: dict[str, str]) -> None:
    words = shlex.split(line)
    if not words or words[0] in ("git", "cd", "pip", "#"):
        return
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets), f"{line}: no such target"
    elif words[0] == "downslope":
        dry = ["--dry-run"] if words[1] in TRAINS else []
        check([sys.executable, "-m", "downslope", *words[1:], *dry], folder, env)
    elif words[0] == "torchrun":
        check([sys.executable, "-m", "torch.distributed.run", *words[1:]], folder, env, tries=3)
    elif words[0] == "python" and words[1].startswith("benchmarks/"):
        assert (ROOT / words[1]).exists(), f"{line}: no such file"
    else:
        pytest.fail(f"a shell line that nothing runs: {line}")


TORCH_ABORTS = "terminate called without an active exception"
"""What torch 2.13 says where gloo's threads end badly at exit: one run in eight, with torch's AdamW too."""


def check(command: list[str], folder: Path, env: dict[str, str], tries: int = 1) -> None:
    """Run a command to its end; again, so many times at most, where torch aborted when all was done."""
    for _ in range(tries):
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
        if TORCH_ABORTS not in done.stderr:
            break
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
