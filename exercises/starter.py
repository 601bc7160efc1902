"""The file that a student fills in: memt.py and solutions.py without the answers."""

import ast
import inspect
import re
from pathlib import Path

import memt

from . import solutions
from .checks import EXERCISES

ABRIDGED = ("init_params", "model_backward")  # their full text answers some exercises


def starter(names=tuple(EXERCISES)):
    """The text of the file in which these exercises are left to solve."""
    model, ours = (Path(module.__file__).read_text("utf-8") for module in (memt, solutions))
    imports = [n for n in ast.parse(ours).body if isinstance(n, ast.Import | ast.ImportFrom)]
    below = "\n".join(ours.splitlines()[imports[-1].end_lineno :])
    return f"{blank(model, names)}\n{blank(below, names)}"


def blank(source, names):
    """Source without the solutions of the named exercises, with their numbers above them."""
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        first = node.lineno - 1
        if isinstance(node, ast.FunctionDef) and (node.name in names or node.name in ABRIDGED):
            name = node.name
            lines[first : node.end_lineno] = emptied(node).splitlines()
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in names:
            name = node.targets[0].id
            values = [f"    {ast.unparse(key)}: None," for key in node.value.keys]
            lines[first : node.end_lineno] = [f"{name} = {{", *values, "}"]
        else:
            continue
        while lines[first - 1].startswith("#"):
            first -= 1
        if name in names:
            lines.insert(first, f"# Exercise {list(EXERCISES).index(name) + 1}")
    return "\n".join(lines) + "\n"


def emptied(node):
    """The source of a function without the part that the exercise asks for."""
    docstring, *body = node.body
    if node.name in ABRIDGED:
        docstring.value.value = docstring.value.value.splitlines()[0]
    else:
        exercise, text = EXERCISES[node.name], docstring.value.value
        if hasattr(memt, node.name):  # what follows the first sentence may give the answer away
            text = re.split(r"[:.]\s", text)[0].rstrip(".") + "."
        docstring.value.value = exercise.docstring or text
        given = exercise.given and inspect.getsource(exercise.given)
        unwritten = f'def f():\n    raise NotImplementedError("{node.name} is not written yet")'
        body = ast.parse(given or unwritten).body[0].body
    node.body = [docstring, *body]
    return ast.unparse(node)
