"""lesson.md and README.md: what they show runs, prints what they say, and points at what exists.

A `python` fence runs, in the order of its document, in one namespace per document. If the next
fence follows at once and is a `text` fence, it holds what the block prints: words must be equal,
numbers within 1 % or one unit of the last digit shown. `text varies` compares the words only. Any
other text fence is a picture. `py` fences quote memt.py; shell commands are `sh .noeval`, which
keeps jupytext from making cells of them.
"""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import autograd
import memt
import train_toy

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("lesson.md", "README.md")
MODULES = {"memt": memt, "autograd": autograd, "train_toy": train_toy}
FENCE = re.compile(r"^```(\w+)?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def prose(text):
    """A document without its fences and code spans."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def examples(text):
    """Triples: a python block; what the document says it prints, or None; "varies" or nothing."""
    fences, found = list(FENCE.finditer(text)), []
    for i, fence in enumerate(fences):
        if fence[1] != "python":
            continue
        after = fences[i + 1] if i + 1 < len(fences) else None
        shown = after and after[1] == "text" and not text[fence.end() : after.start()].strip()
        found.append((fence[3], after[3] if shown else None, after[2].strip() if shown else ""))
    return found


def unit(number):
    """One of the last digit shown: 0.01 for 1.25."""
    digits, _, power = number.lower().partition("e")
    return 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))


def difference(printed, shown, varies=""):
    """What differs between what was printed and what the document shows; empty if nothing does."""
    words = [" ".join(NUMBER.sub("#", text).split()) for text in (printed, shown)]
    if words[0] != words[1]:
        return f"printed:\n{printed}\nshown:\n{shown}"
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True)
    far = [(a, b) for a, b in pairs if not near(a, b)]
    return "" if varies or not far else f"printed, shown: {far}"


def near(a, b):
    """Whole numbers are equal, others close."""
    if a.lstrip("-").isdigit() and b.lstrip("-").isdigit():
        return int(a) == int(b)
    return abs(float(a) - float(b)) <= max(0.01 * abs(float(b)), 1.001 * unit(b))


RUN = """
import contextlib, io, json, sys
blocks, printed, space = json.load(sys.stdin), [], {"__name__": "__main__"}
for block in blocks:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(block, "block", "exec"), space)
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


@pytest.mark.parametrize("name", DOCUMENTS)
def test_blocks_print_what_is_shown(name):
    """In a process of its own, in which BLAS has one thread from the start."""
    blocks = examples(read(name))
    if not blocks:
        return
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=json.dumps([b for b, *_ in blocks]), cwd=ROOT,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}, capture_output=True, text=True,
        encoding="utf-8", timeout=90,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    for printed, (block, shown, varies) in zip(json.loads(done.stdout), blocks, strict=True):
        if shown is not None:
            assert not difference(printed, shown, varies), f"{block}\n{difference(printed, shown)}"
        else:
            assert not printed, f"the document does not show what this prints:\n{block}"


def test_differences_are_seen():
    assert not difference("a 1.23 True", "a 1.24 True")
    assert difference("a 1.23 True", "a 1.26 True") and difference("a 3", "a 4")
    assert difference("a 1.23 True", "a 1.23 False") and difference("a 1 2", "a 1")
    assert not difference("took 7 ms", "took 9 ms", "varies") and difference(
        "7 ms", "7 s", "varies"
    )


def quotes(text):
    """Pairs: the function of memt.py that was named last, lines quoted from it."""
    quoted = [fence for fence in FENCE.finditer(text) if fence[1] == "py"]
    named = [re.findall(r"`memt\.(\w+)`", text[: fence.start()])[-1] for fence in quoted]
    return [(name, fence[3]) for name, fence in zip(named, quoted, strict=True)]


@pytest.mark.parametrize("function, quote", quotes(read("lesson.md")))
def test_quoted_lines_are_those_of_memt(function, quote):
    lines = inspect.getsource(getattr(memt, function)).splitlines()
    for line in quote.splitlines():
        assert line in lines, f"{function}: {line}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_references_exist(name):
    for module, attribute in re.findall(r"`(memt|autograd|train_toy)\.(\w+)", read(name)):
        assert attribute == "py" or hasattr(MODULES[module], attribute), f"{module}.{attribute}"
    for module in re.findall(r"python -m ([\w.]+)", read(name)):
        path = ROOT / module.replace(".", "/")
        known = path.with_suffix(".py").exists() or path.is_dir()
        assert known or module in ("venv", "pip", "pytest", "jupytext"), module


def slug(heading):
    """The anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", re.sub(r"[`*$]", "", heading).strip().lower())
    return kept.replace(" ", "-")


def anchors(text):
    plain = FENCE.sub("", text)
    named = re.findall(r'<a (?:id|name)="([^"]+)"', plain)
    return {slug(h) for h in re.findall(r"^#+ (.*)$", plain, re.MULTILINE)} | set(named)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_point_at_something(name):
    links = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", read(name)))
    for link in links:
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = ROOT / (path or name)
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_to_a_line_point_at_a_definition(name):
    """[`name`](file.py#L12): line 12 defines it."""
    for what, path, number in re.findall(r"\[`?([\w.]+)`?\]\((\S+\.py)#L(\d+)", read(name)):
        line = read(path).splitlines()[int(number) - 1]
        last = what.rpartition(".")[2]
        assert re.match(rf'(def|class) {last}\b|{last}\b|\s+"{last}"', line), f"{what}: {line}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_images_exist_and_have_alternative_text(name):
    for alt, path in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", read(name)):
        assert len(alt) > 20 and path.startswith("figures/"), path
        assert (ROOT / path).exists(), path


def wrong_mathematics(text):
    """What GitHub or Jupyter would not show as mathematics."""
    found, plain = [], re.sub(r"`[^`\n]*`", "c", FENCE.sub("", text))
    found += re.findall(r"\\[{},;!]", plain)
    for block in re.findall(r"^.*\$\$.*$", plain, re.MULTILINE):
        if re.match(r"\s*([-*>|]|\d+\.|  )", block):
            found.append(block)
    for details in re.findall(r"<details>.*?</details>", plain, re.DOTALL):
        found += re.findall(r"\$\$", details)
    plain = re.sub(r"\$\$.*?\$\$", "", plain, flags=re.DOTALL)
    found += re.findall(r"\$\$", plain)
    for part in plain.split("\n\n"):
        pieces = re.split(r"\$", part)
        found += [part] if len(pieces) % 2 == 0 else []
        for before, inside, after in zip(pieces[::2], pieces[1::2], pieces[2::2], strict=False):
            good = not before[-1:].strip() and inside == inside.strip() and "\n" not in inside
            found += [] if good and not re.match(r"[\w(]", after) else [f"{before[-9:]}${inside}$"]
    return found


@pytest.mark.parametrize("name", DOCUMENTS)
def test_mathematics(name):
    assert wrong_mathematics(read(name)) == []


@pytest.mark.parametrize(
    "text",
    ["a$x$", "($x$)", "-$x$", r"$\{x$", r"$x\,y$", "- $$x$$", "| $$x$$ |", "$ x$", "$x$y", "$x",
     "<details>\n$$x$$\n</details>"],
)  # fmt: skip
def test_wrong_mathematics_is_seen(text):
    assert wrong_mathematics(text)
    assert not wrong_mathematics("so $x$, and $y$:\n\n$$x = y$$\n")


def test_the_lesson_is_a_notebook_that_runs():
    jupytext, nbclient = pytest.importorskip("jupytext"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = jupytext.read(ROOT / "lesson.md")
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert cells == [block.strip() for block, *_ in examples(read("lesson.md"))]
    run = nbclient.NotebookClient(
        notebook, timeout=90, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    )
    run.execute()
