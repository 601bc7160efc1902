"""lesson.md as a Jupyter notebook: its code, and below each exercise a cell that grades it."""

import json
import re
from pathlib import Path

LESSON = Path(__file__).parent.parent / "lesson.md"
# a block of code, or the box of an exercise and its name
PART = re.compile(r"^```python\n((?s:.*?))\n```$|^> \*\*Exercise \d+: `(\w+)`(?:.*\n>)*.*$", re.M)


def notebook(names):
    """The text of the notebook, in which these exercises can be graded."""
    lesson, cells, start = LESSON.read_text("utf-8"), [], 0
    for part in PART.finditer(lesson):
        code, exercise = part.groups()
        text = lesson[start : part.start() if code else part.end()]
        cells.append({"cell_type": "markdown", "source": text.strip("\n")})
        check = f'from exercises.grade import main\n\nmain(["check", "mine.py", "{exercise}"]);'
        if code or exercise in names:
            cells.append({"cell_type": "code", "source": code or check})
            cells[-1] |= {"execution_count": None, "outputs": []}
        start = part.end()
    cells.append({"cell_type": "markdown", "source": lesson[start:].strip("\n")})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    whole = {"nbformat": 4, "nbformat_minor": 4, "metadata": {"kernelspec": kernel}}
    return json.dumps(whole | {"cells": [cell | {"metadata": {}} for cell in cells]}, indent=1)
