"""When does memory make a model better?

Ours, in two parts. With local attention (`window`), memory is the only global path: reverse, for
several windows and M, against a transformer. With global attention, a search for a gain: six tasks
in which every output needs the whole sequence, against transformers of the same shape, with as many
parameters, and with as much compute (the narrowest hidden layer that gives at least as much). Rows
of the first part have a `window`; rows of the second do not.
"""

import itertools

import numpy as np

import memt
import train_toy
from experiments import common

S = 10  # symbols, and the length
FOUND = ("parameters", "flops", *common.SCORES)


def occurrences(x):
    """How often each symbol occurs: x (B, n) -> (B, S)."""
    return (x[:, :, None] == np.arange(S)).sum(axis=1)


TASKS = {  # "add …": to the slot's own symbol, modulo S
    "sort": lambda x: np.sort(x, axis=1),
    "rank": lambda x: (x[:, None, :] < x[:, :, None]).sum(axis=2),  # how many are smaller
    "occurs": lambda x: np.take_along_axis(occurrences(x), x, axis=1) - 1,  # how many equal others
    "add mode": lambda x: (x + occurrences(x).argmax(axis=1)[:, None]) % S,  # the most frequent one
    "add kinds": lambda x: (x + (occurrences(x) > 0).sum(axis=1)[:, None]) % S,  # count of distinct
    "add sum": lambda x: (x + x.sum(axis=1)[:, None]) % S,
}
train_toy.TASKS.update(TASKS)

HIDDEN = {"memtransformer": 64, "transformer": 64, "parameters": 67, "compute": 122}  # at width 16
BASELINES = {"transformer": "shape", "parameters": "parameters", "compute": "compute"}
LOCAL = [(w, M, 2) for w in (1, 3, 5) for M in (0, 1, 4, 10)] + [(3, 0, 3), (3, 10, 3)]


def jobs(args):
    """Windows × M × layers on reverse, then tasks × models."""
    steps, found = 30 if args.quick else 1000, []
    for seed in args.seeds:
        for window, M, layers in LOCAL[:2] if args.quick else LOCAL:
            own = {"memory": M, "window": window, "layers": layers, "steps": steps, "seed": seed}
            model = "memtransformer" if M else "transformer"
            found.append({"model": model, **common.toy_job(model, **own)})
        for task, (model, hidden) in itertools.product(TASKS, HIDDEN.items()):
            own = {"task": task, "width": 16, "hidden": hidden, "steps": steps, "seed": seed}
            variant = "memtransformer" if model == "memtransformer" else "transformer"
            found.append({"model": model, **common.toy_job(variant, **own)})
    return found


def run(job):
    """Train and test; count the parameters and the operations of the model."""
    s, state = common.train({name: value for name, value in job.items() if name != "model"})
    counts = {"parameters": memt.param_count(s.config)}
    counts["flops"] = common.flops(s.config, 2 * s.length, s.length)
    return counts | common.scores(s, state)


def level(rows, **what):
    """Symbol accuracy in %, one per seed."""
    return 100 * common.by_seed(rows, "symbol", **what)


def gains(rows):
    """(task, baseline) -> memtransformer minus baseline in percentage points, one per seed."""
    return {
        (task, base): level(rows, task=task, window=None, model="memtransformer")
        - level(rows, task=task, window=None, model=base)
        for task, base in itertools.product(TASKS, BASELINES)
    }


def finding(rows):
    windows = sorted({int(row["window"]) for row in rows if row["window"]})
    most = max(int(row["memory"]) for row in rows if row["window"])
    few, many = ([level(rows, window=w, memory=M, layers=2) for w in windows] for M in (0, most))
    local = [b - a for a, b in zip(few, many, strict=True)]
    found = gains(rows)
    clear = {pair: common.clear(gain) for pair, gain in found.items()}
    better, worse = (list(clear.values()).count(sign) for sign in (1, -1))
    where = [task for task in TASKS if all(clear[task, base] == 1 for base in BASELINES)]
    near = f"Window {windows[0]}: M = {most} adds {common.spread(local[0])} points of accuracy"
    mean = common.spread(np.mean([*found.values()], axis=0))
    far = f"Clear gain in {better} of {len(found)} comparisons, clear loss in {worse}; "
    far += f"mean {mean} points"
    who = "paper, for translation and language models; tasks: ours"
    shown = common.shown(all(common.clear(gain) == 1 for gain in local))
    where = f"shown for {', '.join(where)}" if where else "not shown"
    return [
        ("Memory helps where other attention is local", "ours", near, shown),
        ("Memory also helps with global attention, on six tasks with blank slots", who, far, where),
    ]


def in_reach(window, layers):
    """Symbol accuracy in % of a model that guesses what its windows do not reach.

    Slot j outputs the symbol 2j + 1 positions to its left; a layer carries it `window` positions.
    """
    seen = min((window * layers + 1) // 2, S)
    return 100 * (seen + (S - seen) / S) / S


def draw_local(axes, rows):
    """Accuracy against M, one line per window, 2 layers."""
    memory = sorted({int(row["memory"]) for row in rows if row["window"]})
    windows = sorted({int(row["window"]) for row in rows if row["window"]})
    for i, window in enumerate(windows):
        values = np.array([level(rows, window=window, memory=M, layers=2) for M in memory]).T
        common.line(axes, range(len(memory)), values, i, label=f"window {window}")
    reached = [in_reach(window, 2) for window in windows]
    axes.hlines(reached, -0.3, 0.3, color="black", lw=2, zorder=3, label="in reach")
    axes.set(xticks=range(len(memory)), xticklabels=memory, ylim=(0, 103))
    axes.set(xlabel="memory tokens M", ylabel="symbol accuracy (%)")
    axes.set_title("reverse, local attention, 2 layers")
    axes.legend(loc="lower right", fontsize=14)


def draw_search(axes, rows):
    """Mean gain and its 95% confidence interval over seeds."""
    for (task, base), gain in gains(rows).items():
        i, at = list(BASELINES).index(base), list(TASKS).index(task)
        style = {"fmt": common.MARKERS[i], "ms": 9, "color": common.COLORS[i], "capsize": 5}
        label, half = None if at else BASELINES[base], common.interval(gain)
        axes.errorbar(gain.mean(), at + 0.22 * (i - 1), xerr=half, lw=3, label=label, **style)
    ours = {task: level(rows, task=task, window=None, model="memtransformer") for task in TASKS}
    names = [f"{task}\n({right.mean():.0f}%)" for task, right in ours.items()]
    axes.axvline(0, color="0.4", linestyle=":", lw=2)
    axes.set(yticks=range(len(TASKS)), yticklabels=names, xlabel="gain (percentage points)")
    axes.set_ylim(len(TASKS) + 0.9, -0.5)  # downwards, with room for the legend
    axes.set_title("six global tasks, global attention")
    title = "gain over a transformer with the same …"
    axes.legend(fontsize=14, title=title, title_fontsize=14, ncols=3, loc="lower center")


def draw(rows, out):
    note = f"{rows[0]['steps']} steps; black: accuracy if symbols out of reach are guessed; "
    note += "right panel: M = 10, 95% confidence intervals, symbol accuracy with memory in brackets"
    figure, grid = common.slide(finding(rows), note, rows, columns=2, width_ratios=(5, 6))
    draw_local(grid[0, 0], rows)
    draw_search(grid[0, 1], rows)
    common.save(figure, out / "benefit.png")


if __name__ == "__main__":
    common.main("benefit")
