"""What the documentation tells people to type must exist."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from worldlab.cli import parse

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_parses(page):
    text = "".join(blocks(page, "(?:sh)?")).replace("\\\n", " ")
    commands = re.findall(r"^(?:[A-Z_]+=\S+ )*worldlab (.*)$", text, re.MULTILINE)
    assert bool(commands) == ("\nworldlab " in page.read_text())
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
