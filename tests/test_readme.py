"""What the documentation tells people to type must exist."""

import ast
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from worldlab.cli import parse

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = r"^(?:[A-Z_]+=\S+ )*worldlab "


def blocks(page: Path, *languages: str) -> list[str]:
    """What stands between the fences of these languages, each block from its own opening to its own end."""
    found, language, lines = [], None, []
    for line in page.read_text().splitlines():
        fence = re.fullmatch(r"\s*```(\w*)\s*", line)
        if fence is None:
            lines.append(line)
        elif language is None:
            language, lines = fence[1], []
        else:
            assert not fence[1], f"{page.name} opens a block within a block"
            if language in languages:
                found.append("\n".join(lines) + "\n")
            language = None
    assert language is None, f"{page.name} leaves a block open"
    return found


def test_blocks_are_told_apart_line_by_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\na\n```\nnone\n```sh\nb\nc\n```\n```\nd\n```\n")
    assert blocks(page, "sh", "") == ["b\nc\n", "d\n"]
    assert blocks(page, "python") == ["a\n"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_parses(page):
    """All that begin a line, wherever that line stands: none may hide from this test outside a block of commands."""
    text = "".join(blocks(page, "sh", "")).replace("\\\n", " ")
    commands = re.findall(rf"{COMMAND}(.*)$", text, re.MULTILINE)
    assert len(commands) == len(re.findall(COMMAND, page.read_text(), re.MULTILINE))
    for command in commands:
        parse(shlex.split(command, comments=True))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_import_resolves_and_has_what_is_used_of_it(page):
    for block in blocks(page, "python"):
        scope, tree = {}, ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(compile(ast.Module([node], []), str(page), "exec"), scope)
        for node in ast.walk(tree):
            chain = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if re.fullmatch(r"[\w.]+", chain) and chain.partition(".")[0] in scope:
                eval(chain, scope)


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"setup", "demo", "test", "check", "bench", "build"} <= targets
    for page in PAGES:
        for target in re.findall(r"^make ([a-z]+)", page.read_text(), re.MULTILINE):
            assert target in targets


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_demo_goes_where_make_is_told():
    bare = {"PATH": os.environ["PATH"]}  # an OUT of the environment would be heeded too
    for options, out in (((), "runs/demo"), (("OUT=elsewhere",), "elsewhere")):
        command = ["make", "--dry-run", "demo", *options]
        said = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, check=True).stdout
        assert f"worldlab demo --minutes 1 --out {out}\n" in said
