"""The exercises: each blank fails, each solution passes, and typical slips get a hint that fits."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

import memt

from . import grade, solutions

FULL = grade.starter(names=())


def said(name: str, source: str) -> str:
    """What the grader says about an exercise in a file; empty if it is solved."""
    try:
        grade.grade(name, source, "mine.py")
    except grade.Wrong as wrong:
        return str(wrong)
    return ""


@pytest.mark.parametrize("name", grade.EXERCISES)
def test_the_blank_fails_and_the_solution_passes(name):
    blank = said(name, grade.starter())
    assert "not written yet" in blank or "not answered yet" in blank or name == "tied_backward"
    assert blank and not said(name, FULL)
    assert said(name, grade.starter([name]))
    assert sys.modules["memt"] is memt  # put back


# exercise -> right code, wrong code, a word of the hint
SLIPS = [
    ("softmax_backward", "p * (dp - row_sum(dp * p))", "p * dp", "missing sum"),
    ("softmax_backward", "p * (dp - row_sum(dp * p))", "p * (row_sum(dp * p) - dp)", "sign"),
    ("softmax_backward", "p * (dp - row_sum(dp * p))", "2 * p * (dp - row_sum(dp * p))", "factor"),
    ("softmax_backward", "p * (dp - row_sum(dp * p))", "dp - row_sum(dp * p)", "factor"),
    ("softmax_backward", "p * (dp - row_sum(dp * p))", "p * dp - row_sum(dp * p)", "factor"),
    ("softmax_backward", "dp - row_sum(dp * p)", "dp - row_sum(dp)", "factor"),
    ("softmax_backward", "row_sum(dp * p)", "(dp * p).sum(axis=1, keepdims=True)", "axis"),
    ("softmax_backward", "p * (dp - row_sum(dp * p))", "p * (1 - p) * dp", "missing sum"),
    ("layernorm_backward", "(row_sum(dxhat * xhat) / C)", "row_sum(dxhat * xhat)", "factor"),
    ("layernorm_backward", "dx = rstd * (dxhat", "dx = 1 / rstd * (dxhat", "factor"),
    ("layernorm_backward", "row_sum(dxhat * xhat)", "row_sum(dxhat)", "factor"),
    ("layernorm_backward", "column_sum(dy * xhat), column_sum(dy)",
     "column_sum(dy), column_sum(dy * xhat)", "order"),
    ("layernorm_backward", "(dxhat - row_sum(dxhat) / C - ", "(dxhat - ", "missing sum"),
    ("layernorm_backward", " - xhat * (row_sum(dxhat * xhat) / C)", "", "not accumulated"),
    ("layernorm_backward", "column_sum(dy * xhat)", "dy * xhat", "missing sum"),
    ("layernorm_backward", "dxhat = dy.shape[-1], dy * g", "dxhat = dy.shape[-1], dy", "factor"),
    ("layernorm_backward", "dx = rstd * (dxhat", "dx = (dxhat", "factor"),
    ("attention_backward", "dq = ds @ k * D**-0.5", "dq = ds @ k", "factor"),
    ("attention_backward", "(dk, dv), axis=1", "(dv, dk), axis=1", "order"),
    ("attention_backward", "dk = ds.swapaxes(2, 3) @ q", "dk = ds @ q", "transposed"),
    ("attention_backward", "ds.swapaxes(2, 3) @ q", "ds.swapaxes(2, 3) @ q * D**-0.5", "factor"),
    ("tied_backward", "dr * (r > 0)", "dr * (dr > 0)", "gate"),
    ("tied_backward", "dw += ", "dw = ", "not accumulated"),
    ("tied_backward", "dr * (r > 0)", "dr", "gate"),
    ("tied_backward", "dx = dy + du", "dx = du", "not accumulated"),
    ("update_backward", "return dx + dmh, dcontext", "return dx, dcontext", "not accumulated"),
    ("update_backward", "layernorm_backward(da + dff, c_ln1)", "layernorm_backward(da, c_ln1)",
     "not accumulated"),
    ("update_backward", "add_into(dp, w1=dw1", "dp.update(w1=dw1", "not accumulated"),
    ("update_backward", "du = relu_backward(dr, c_relu)", "du = dr", "gate"),
    ("update_backward", ", w2=dw2, b2=db2", ", w2=dw2", "left out"),
    ("softmax_backward", "row_sum(dp * p)", "(dp * p).sum(axis=-1)", "shapes"),
    ("embedding_backward", ".T @ rows_of(dseq)", ".T @ rows_of(dseq) / 2", "factor"),
    ("embedding_backward", "return dembed, dmem.sum(axis=0)", "return dembed, dmem", "missing sum"),
    ("embedding_backward", "dmem.sum(axis=0)", "dmem[0]", "missing sum"),
    ("embedding_backward", "    return dembed, dmem.sum(axis=0)",
     "    dembed[tokens] = dseq\n    return dembed, dmem.sum(axis=0)", "not accumulated"),
    ("embedding_backward", "return dembed, dmem", "return dembed.T, dmem", "transposed"),
    ("membottleneck_backward", "update_backward(dmem + dmem_read,", "update_backward(dmem,",
     "not accumulated"),
    ("membottleneck_backward", "    dcontext[:, rows] += dx_seq\n", "", "not accumulated"),
    ("membottleneck_backward", "dcontext[:, mem_rows] += dx_mem", "dcontext[:, mem_rows] = dx_mem",
     "not accumulated"),
    ("membottleneck_backward", "return dcontext[:, :M], dcontext[:, M:]",
     "return -dcontext[:, :M], dcontext[:, M:]", "sign"),
    ("softmax_backward", "row_sum(dp * p)", "row_sum(p)", "factor"),
    ("softmax_backward", "row_sum(dp * p)", "(dp * p).sum()", "axis"),
    ("layernorm_backward", "(dxhat - row_sum(dxhat) / C - xhat * (row_sum(dxhat * xhat) / C))",
     "dxhat", "not accumulated"),
    ("layernorm_backward", "- row_sum(dxhat) / C - xhat * (", "+ row_sum(dxhat) / C + xhat * (",
     "sign"),
    ("update_backward", "linear_backward(dff, c_w2)", "linear_backward(dh, c_w2)", "past"),
    ("layernorm_backward", "row_sum(dxhat) / C - xhat * (row_sum(dxhat * xhat) / C)",
     "row_sum(dxhat) - xhat * row_sum(dxhat * xhat)", "factor"),
    ("layernorm_backward", "dy.shape[-1], dy * g", "dy.shape[-1], dy / g", "factor"),
    ("layernorm_backward", "column_sum(dy * xhat)", "column_sum(dy * g)", "factor"),
    ("layernorm_backward", "row_sum(dxhat) / C", "row_sum(dy) / C", "factor"),
    ("attention_backward", "softmax_backward(do @ v.swapaxes(2, 3), p)", "do @ v.swapaxes(2, 3)",
     "past"),
    ("attention_backward", "(dk, dv), axis=1", "(dk, dv), axis=3", "order"),
    ("attention_backward", "dcontext, dwq, dwkv, dwo", "dcontext, dwkv, dwq, dwo", "order"),
    ("update_backward", "return dx + dmh, dcontext", "return dx + dh, dcontext", "past"),
    ("update_backward", "return dx + dmh, dcontext", "return dcontext, dx + dmh", "order"),
    ("update_backward", "layernorm_backward(da + dff,", "layernorm_backward(da + dh,", "past"),
    ("update_backward", "ln1_g=dln1_g", "ln1_g=dln2_g", "order"),
    ("embedding_backward", "one_hot(tokens, vocabulary,", "one_hot(tokens, vocabulary - 1,",
     "shape"),
    ("embedding_backward", "dmem.sum(axis=0)", "dmem.sum(axis=1)", "shape"),
    ("embedding_backward", "return dembed, dmem.sum(axis=0)", "return dmem.sum(axis=0), dembed",
     "order"),
    ("membottleneck_backward", "dcontext[:, rows] += dx_seq", "dcontext[:, rows] = dx_seq",
     "not accumulated"),
    ("membottleneck_backward",
     """    dx_seq, dmem_read = update_backward(dseq, c_seq, dp["seq"])
    dx_mem, dcontext = update_backward(dmem + dmem_read, c_mem, dp["mem"])
""",
     """    dx_mem, dcontext = update_backward(dmem, c_mem, dp["mem"])
    dx_seq, dmem_read = update_backward(dseq, c_seq, dp["seq"])
    dcontext[:, :M] += dmem_read
""", "past"),
]  # fmt: skip


@pytest.mark.parametrize("name, right, wrong, hint", SLIPS, ids=[f"{s[0]}-{s[3]}" for s in SLIPS])
def test_a_slip_gets_a_hint_that_fits(name, right, wrong, hint):
    start = FULL.index(f"def {name}(")
    end = FULL.index("\n\n\n", start)
    assert FULL[start:end].count(right) == 1, "the slip is made in a line that is not there"
    text = said(name, FULL[:start] + FULL[start:end].replace(right, wrong) + FULL[end:])
    assert text.splitlines()[-1].startswith(hint) or f"\n{hint}:" in text, text
    if "matmul" not in text and "broadcast" not in text:
        assert "error  largest at" in text or "must be (" in text


def test_only_the_wrong_shape_is_named():
    wrong = FULL.replace("column_sum(dy * xhat), column_sum(dy)", "dy * xhat, column_sum(dy)")
    assert "(values not compared yet)\n\nwrong: g\n" in said("layernorm_backward", wrong)


def test_the_two_wrong_lines_untouched():
    assert said("tied_backward", grade.starter()) == "the two lines are still as they were given."


def test_a_slip_that_nobody_knows():
    unknown = FULL.replace("p * (dp - row_sum(dp * p))", "np.cos(dp)")
    assert said("softmax_backward", unknown).endswith("\nI do not recognise this slip.")
    unknown = FULL.replace("return dx, column_sum(dy * xhat)", "return dx, column_sum(np.cos(dy))")
    text = said("layernorm_backward", unknown)
    assert text.endswith("this slip. Right: x, b. Look at what the wrong ones share.")


def test_a_long_list_is_counted():
    wrong = FULL.replace("return dx + dmh, dcontext", "return dx + np.cos(dmh), dcontext")
    assert "Right: all the others (12)." in said("update_backward", wrong)


@pytest.mark.parametrize("wrong", ["p * dp", "return p, dp"])
def test_another_number_of_results(wrong):
    source = FULL.replace("return p * (dp - row_sum(dp * p))", wrong)
    assert "Does it return all that its docstring says" in said("softmax_backward", source)


def test_every_gradient_exercise_has_three_slips():
    names = [name for name, *_ in SLIPS]
    assert all(names.count(n) >= 3 for n in grade.EXERCISES if n.endswith("_backward"))


OTHERS = [
    ("EQUAL_ROWS", "memtransformer\": 3", "memtransformer\": 5", "machine says otherwise"),
    ("REACH", "\"masked, 1 layer\": [4]", "\"masked, 1 layer\": []", "machine says otherwise"),
    ("ZERO_GRADIENTS", "\"memctrl\": [\"layers.1.mem\"]", "\"memctrl\": []", "otherwise"),
    ("READING", "WRITE\": 1", "WRITE\": 2", "machine says otherwise"),
    ("REACH", "\"masked, 1 layer\": [4]", "\"masked, 1 layer\": {4}", "give a list"),
    ("READING", "READING = {", "READING = 3\nOTHER = {", "must be a dict"),
    ("build_mask", "mask[M:, M:][", "mask.T[M:, M:].T[", ""),
    ("build_mask", "radius = -1 if", "radius = 0 if", "may that target see that source"),
    ("build_mask", "np.zeros((M + T, M + T), dtype)", "np.zeros((M + T, M + T))",
     "asked for float32"),
    ("build_mask", "-np.inf", "-1e9", "holds -1000000000.0: must be 0 or -inf"),
    ("build_mask", "> radius", ">= radius", "may that target see that source"),
    ("build_mask", "mask[M:, M:][", "mask[:T, :T][", "may that target see that source"),
    ("sort_task", "np.sort(x, axis=1)", "np.sort(x, axis=0)", "right is ["),
    ("sort_task", "np.sort(x, axis=1)", "x.sort(axis=1) or x", "input was changed"),
    ("without", "if m not in gone", "if m in gone", "must be at least 1"),
    ("without", "params[\"memory\"][kept]",
     "functools.reduce(lambda a, m: np.delete(a, m, 0), gone, params[\"memory\"])",
     "without tokens [1, 3] rows [0, 2, 4] must be left"),
    ("without", "memory=len(kept)", "memory=5", "the config must say memory=3"),
    ("without", "{**params, \"memory\": params[\"memory\"][kept]}",
     "params.update(memory=params[\"memory\"][kept]) or params", "must stay as they are"),
]  # fmt: skip


@pytest.mark.parametrize("name, right, wrong, text", OTHERS)
def test_a_wrong_answer_is_refused(name, right, wrong, text):
    assert FULL.count(right) == 1
    answer = said(name, FULL.replace(right, wrong))
    assert text in answer and bool(answer) == bool(text)


# exercise -> right code, other code that is right too
ALSO_RIGHT = [
    ("membottleneck_backward", "dmem + dmem_read, c_mem", "np.add(dmem, dmem_read, dmem), c_mem"),
    ("update_backward", "dr, dw2, db2 = linear_backward(dff, c_w2)",
     "dh *= 0\n    dr, dw2, db2 = linear_backward(dff, c_w2)"),
    ("build_mask", "    if radius is None:\n        return None\n",
     "    radius = T if radius is None else radius\n"),
]  # fmt: skip


@pytest.mark.parametrize("name, right, other", ALSO_RIGHT)
def test_what_is_right_passes(name, right, other):
    assert FULL.count(right) == 1
    assert not said(name, FULL.replace(right, other))


def test_predictions_do_not_wait_for_the_mask():
    for name in ("REACH", "EQUAL_ROWS", "ZERO_GRADIENTS"):
        wrong = FULL.replace("radius = -1 if", "radius = 0 if")
        assert said("build_mask", wrong) and not said(name, wrong)


def test_a_piece_must_not_change_what_it_is_given():
    text = said(
        "softmax_backward", FULL.replace("    p = cache\n", "    p = cache\n    dp *= 1.5\n")
    )
    assert "changes an array" in text


def test_the_starter_numbers_its_exercises_like_the_lesson_and_gives_nothing_away():
    lesson = (grade.ROOT / "lesson.md").read_text(encoding="utf-8")
    names = re.findall(r"\*\*Exercise (\d+): `(\w+)`", lesson)
    assert names == [(str(i + 1), name) for i, name in enumerate(grade.EXERCISES)]
    for i, name in names:
        above = grade.starter().split(f"def {name}(" if name.islower() else f"{name} = {{")[0]
        assert re.findall(r"# Exercise (\d+)", above)[-1] == i
    model = (grade.ROOT / "memt.py").read_text(encoding="utf-8")
    for spoiler in solutions.SPOILERS:
        assert spoiler in model and spoiler not in grade.starter()


def test_a_mistake_in_what_is_called_is_named():
    wrong = FULL.replace("p * (dp - row_sum(dp * p))", "p * dp")
    for name in ("attention_backward", "update_backward", "membottleneck_backward"):
        assert said(name, wrong).startswith("softmax_backward is still wrong")


def test_the_lines_to_mend_are_those_of_the_starter():
    assert set(grade.GIVEN) == set(solutions.PLANTED.values())


def test_what_cannot_run_gets_one_message():
    assert "mine.py, line 2" in said("softmax_backward", "import numpy\nx = (")
    assert "ZeroDivisionError" in said("softmax_backward", "x = 1\n1 / 0\n")
    assert "has no softmax_backward" in said("softmax_backward", "x = 1\n")
    assert said("softmax_backward", "raise SystemExit(0)")


def command(*arguments):
    """The command in a process of its own."""
    run = [sys.executable, "-m", "tests.grade", *map(str, arguments)]
    return subprocess.run(run, cwd=grade.ROOT, capture_output=True, text=True, timeout=60)


def test_the_command(tmp_path):
    mine, report = tmp_path / "mine.py", tmp_path / "report.xml"
    assert command("start", mine).returncode == 0
    assert mine.read_text(encoding="utf-8") == grade.starter()
    checked = command("check", mine, "Softmax_Backward", f"--junitxml={report}")
    assert checked.returncode == 1 and "softmax_backward is not written yet" in checked.stdout
    assert "Traceback" not in checked.stdout + checked.stderr
    assert len(ElementTree.parse(report).findall(".//failure")) == 1


def test_nothing_is_overwritten_unasked(tmp_path, capsys):
    mine = tmp_path / "mine.py"
    mine.write_text("mine")
    assert grade.start(mine, overwrite=False) == 2 and mine.read_text() == "mine"
    assert "--overwrite" in capsys.readouterr().err
    assert grade.start(mine, overwrite=True) == 0 and mine.read_text() != "mine"
    assert grade.start(tmp_path / "no" / "mine.py", overwrite=False) == 2
    assert grade.check(mine, "softmax", []) == 2 == grade.check(tmp_path / "none.py", None, [])


def test_an_endless_loop_is_ended(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("while True: pass\n")
    assert "did not end within 2 seconds" in grade.run_apart("softmax_backward", str(mine), 2)


def test_a_solved_file_passes(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(FULL, encoding="utf-8")
    assert not grade.run_apart("softmax_backward", str(mine), 60)


def test_ending_python_is_not_passing(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("import os\nos._exit(0)\n")
    assert "ended Python" in grade.run_apart("softmax_backward", str(mine), 20)


@pytest.mark.parametrize("package", ["torch"])
def test_grading_needs_no(package, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(f"import sys\nsys.modules[{package!r}] = None\n{FULL}", encoding="utf-8")
    assert not grade.run_apart("membottleneck_backward", str(mine), 60)
