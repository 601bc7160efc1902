"""The documents: their code runs and prints what they show; what they name and link to exists.

`python` blocks of the documents in RUN are run in their order, in a fresh process per document. A
`text` block right after one is its output; after `text-varies`, the output may be anything.
"""

import importlib.util
import json
import os
import pkgutil
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from exercises.checks import EXERCISES
from exercises.notebook import notebook

ROOT = Path(__file__).parent.parent
FOLDERS = ("", "experiments/", "exercises/", "tests/")
DOCUMENTS = [folder + path.name for folder in FOLDERS for path in ROOT.glob(f"{folder}*.md")]
RUN = [name for name in ("README.md", "lesson.md", "experiments/bridge.md") if name in DOCUMENTS]
NAME = r"\b(?:memt|train_toy|autograd|experiments|exercises)(?:\.[A-Za-z]\w*)+"
FILE = r"\.(?:py|md|npz|csv|png|html)$"
NEXT = "\n---- next block\n"
MARKDOWN = MarkdownIt().enable("table")


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def tokens(name):
    return MARKDOWN.parse(read(name))


def code(name):
    """All code, of blocks and inside paragraphs, headings and cells."""
    every = [part for token in tokens(name) for part in (token, *(token.children or ()))]
    return "\n".join(part.content for part in every if part.type in ("fence", "code_inline"))


def examples(name):
    """Pairs: a python block, and the output shown for it, None where it may be anything."""
    every = tokens(name)
    for block, after in zip(every, [*every[1:], every[0]], strict=True):
        if block.type == "fence" and block.info == "python":
            yield block.content, {"text": after.content, "text-varies": None}.get(after.info, "")


@pytest.mark.parametrize("name", RUN)
def test_blocks_print_what_is_shown(name, tmp_path):
    blocks, script = list(examples(name)), tmp_path / "blocks.py"
    script.write_text(f"\nprint(end={NEXT!r})\n".join(block for block, _ in blocks), "utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    options = {"cwd": tmp_path, "env": environment, "encoding": "utf-8", "timeout": 50}
    done = subprocess.run([sys.executable, script], capture_output=True, **options)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.split(NEXT)
    shown = [p if s is None else s for p, (_, s) in zip(printed, blocks, strict=True)]
    assert printed == shown


@pytest.mark.parametrize("name", DOCUMENTS)
def test_names_in_code_exist(name):
    for found in set(re.findall(NAME, code(name))):
        if not re.search(FILE, found):
            pkgutil.resolve_name(found)  # or ImportError, AttributeError


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_exist(name):
    modules = set(re.findall(r"\bpy(?:thon3?)? -m ([\w.]+)", code(name)))
    files = set(re.findall(r"\bpy(?:thon3?)? ([\w/]+\.py)", code(name)))
    assert not {module for module in modules if importlib.util.find_spec(module) is None}
    assert not {file for file in files if not (ROOT / file).exists()}


def test_tests_that_are_named_exist():
    every = "\n".join(code(name) for name in DOCUMENTS)
    named = re.findall(r'pytest "?(tests/\w+\.py::[^"\n]+)', every)
    options = {"cwd": ROOT, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-m", "pytest", "--co", "-q", *named], **options)
    assert named and done.returncode == 0, done.stdout


def anchors(path):
    """The anchors that GitHub gives the headings of a document; other files have none."""
    if path.suffix != ".md":
        return set()
    pairs = pairwise(tokens(path))
    titles = [token.content.lower() for above, token in pairs if above.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    html = MARKDOWN.render(read(name))
    for link in re.findall(r'(?:href|src|srcset)="([^"]+)"', html):
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        if not link.startswith("https:"):
            assert target.exists() and (not anchor or anchor in anchors(target)), link
    assert 'alt=""' not in html, "an image has no text for those who cannot see it"


def test_the_lesson_is_a_notebook():
    cells = json.loads(notebook([*EXERCISES]))["cells"]
    code = [c["source"] for c in cells if c["cell_type"] == "code" and "main([" not in c["source"]]
    assert code == [block.rstrip("\n") for block, _ in examples("lesson.md")]
    checks = [pair for pair in pairwise(cells) if "main([" in pair[1]["source"]]
    for above, check in checks:
        box = above["source"].rpartition("> **Exercise ")[2]
        name = re.match(r"\d+: `(\w+)`", box)[1]
        assert "\n\n" not in box and f'["check", "mine.py", "{name}"]' in check["source"]
    assert len(checks) == len(EXERCISES) and notebook(["REACH"]).count("main([") == 1
    texts = "".join(cell["source"] for cell in cells if "main([" not in cell["source"])
    alike, lesson = (re.sub(r"\s|```(python)?", "", text) for text in (texts, read("lesson.md")))
    assert alike == lesson


def test_the_lesson_numbers_its_exercises_as_the_grader_does():
    found = re.findall(r"\*\*Exercise (\d+): `(\w+)`", read("lesson.md"))
    assert sorted((int(n), name) for n, name in found) == [*enumerate(EXERCISES, 1)]
