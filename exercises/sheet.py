"""The solution sheet for teachers, in Markdown: each exercise's last step, and its solution."""

import inspect
from pprint import pformat

from .checks import EXERCISES, solution

LAST_STEPS = {
    "layernorm_backward": r"$dx_j = (d\hat x_j - \frac{1}{C} \sum_i d\hat x_i - \hat x_j "
    r"\frac{1}{C} \sum_i d\hat x_i \hat x_i) / \sigma$ with $d\hat x_i = g_i dy_i$. Summed over "
    r"all rows, $dg_i = \sum dy_i \hat x_i$ and $db_i = \sum dy_i$.",
    "softmax_backward": r"$ds_j = p_j (dp_j - \sum_i dp_i p_i)$",
    "attention_backward": r"$dv = p^T do$, $dp = do v^T$, $dk = ds^T q$, $dq = ds k / \sqrt D$; "
    r"here, $q$ contains the factor $1 / \sqrt D$, and $dq$ is for the $q$ before it.",
    "update_backward": r"$R = X + \mathrm{MH}$ and $S = A + \mathrm{FF}$ give $dA = dS + F(dS)$, "
    "$dX = dR + M(dR)$; $F(d)$ and $M(d)$ are $d$ taken back through FF, and MH's queries.",
    "membottleneck_backward": "$dY^{mem}$ += dcontext of U_seq. Then, for old memory, dx and "
    "dcontext of U_mem add up; for the old sequence, dx of U_seq and dcontext of U_mem.",
    "build_mask": r"Sequence row $i$ attends to sequence row $j$ if $|i - j| \leq r$; $r$ is the "
    "window, and $-1$ in masked.",
    "embedding_backward": r"$dembed_s = \sum_{b,t} [tokens_{bt} = s] dseq_{bt}$ and "
    r"$dmemory_m = \sum_b dmem_{bm}$",
    "tied_backward": r"$dw = dy^T r + x^T du$ with $du = [r > 0] (dy w)$",
    "REACH": "Without memory, $|j - 4|$ is at most the window. Through memory, all positions: "
    "after two layers, or after one in which memory is updated first.",
    "EQUAL_ROWS": "$x_i = x_j$ gives $y_i = y_j$, and then $dy_i = dy_j$ gives $dx_i = dx_j$.",
    "ZERO_GRADIENTS": "Nothing reads $Y^{mem}$ after the last layer. So U_mem of this layer has "
    "no gradient, unless its sequence reads $Y^{mem}$, or its parameters have another use.",
    "READING": r"The last one is the largest of row 0: $0.45 \cdot 0.15 + 0.55 \cdot 0.80 = 0.51$.",
    "sort_task": r"$y_1 \leq y_2 \leq \ldots \leq y_n$, the symbols of $x$.",
    "without": "$M$ becomes the number of rows of memory that stay; nothing else changes.",
}


def sheet(names):
    """The text of the sheet, for these exercises."""
    text = "# Solutions\n\nThe exercise on paper is solved in the folds of lesson.md, part 5.\n"
    for name in names:
        answer, number = solution(name), list(EXERCISES).index(name) + 1
        code = f"{name} = {pformat(answer, sort_dicts=False, width=90)}\n"
        code = inspect.getsource(answer) if callable(answer) else code
        text += f"\n## Exercise {number}: `{name}`\n\n{LAST_STEPS[name]}\n\n```python\n{code}```\n"
    return text
