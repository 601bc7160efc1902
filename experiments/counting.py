"""Memory as a yardstick: counting without positions, where the length varies.

Ours. At every symbol, the answer is how often it occurs elsewhere (`occurs`), or how often the next
one of the alphabet does (`follows`). Without positions and memory, a Transformer sees proportions
only (tests/test_model.py). A memory row is there once, whatever the length; so is a blank.
"""

import numpy as np

import memt
import train_toy
from experiments import common

SYMBOLS, LONGEST, TESTED_ON = {"occurs": 4, "follows": 10}, 20, 64  # of each length
BASE = {"memory": 0, "hidden": 32, "layers": 1, "blanks": 0}
MODELS = {  # the baselines have more parameters, and more compute, than one memory row adds
    "M = 0": BASE,
    "M = 1": BASE | {"memory": 1},
    "M = 4": BASE | {"memory": 4},
    "wider": BASE | {"hidden": 72},
    "deeper": BASE | {"layers": 2},
    "blank row": BASE | {"blanks": 1},
}
RATES = (4e-3, 8e-3)
FOUND = ("accuracy", "parameters")


def jobs(args):
    steps = 30 if args.quick else 2000
    return [
        {"task": task, "model": name, **model, "steps": steps, "lr": lr, "seed": seed}
        for seed in args.seeds
        for task in SYMBOLS
        for name, model in MODELS.items()
        for lr in (RATES[:1] if args.quick else RATES)
    ]


def answers(task, x):
    """Symbols (B, n) -> counts (B, n), 0 to 19: of the other equal ones, or of the next one."""
    if task == "occurs":
        return (x[:, :, None] == x[:, None]).sum(axis=2) - 1
    return (x[:, None] == (x[:, :, None] + 1) % SYMBOLS[task]).sum(axis=2)


def batch(job, size, n, rng):
    """One length for all sequences; answers are read at the symbols."""
    symbols, blanks = SYMBOLS[job["task"]], job["blanks"]
    x = rng.integers(symbols, size=(size, n))
    tokens = np.hstack((np.full((size, blanks), symbols), x))
    return train_toy.Batch(tokens, answers(job["task"], x), slice(blanks, None))


def run(job):
    variant = "memtransformer" if job["memory"] else "transformer"
    sizes = {name: job[name] for name in ("memory", "hidden", "layers", "steps", "lr", "seed")}
    sizes |= {"symbols": SYMBOLS[job["task"]], "outputs": LONGEST, "width": 16, "heads": 4}
    s = train_toy.default_settings(variant, **sizes, positions=False)

    def batches(size, stream, step):
        rng = np.random.default_rng([job["seed"], stream, step])
        return batch(job, size, int(rng.integers(2, LONGEST + 1)), rng)

    state = train_toy.start(s)
    for _ in train_toy.training(s, state, batches):
        pass
    rng = np.random.default_rng([job["seed"], train_toy.TEST])
    tests = (batch(job, TESTED_ON, n, rng) for n in range(2, LONGEST + 1))
    right = [train_toy.evaluate(state.params, s.config, test).symbol for test in tests]
    return {"accuracy": float(np.mean(right)), "parameters": memt.param_count(s.config)}


def accuracies(rows, task, model):
    """Accuracy for each seed (%), at the rate that is best for the mean of the other seeds."""
    rates = dict.fromkeys(row["lr"] for row in rows)
    by_rate = [common.by_seed(rows, "accuracy", task=task, model=model, lr=lr) for lr in rates]
    table = 100 * np.array(by_rate)  # rates, seeds
    others = table.sum(axis=1, keepdims=True) - table
    return np.take_along_axis(table, others.argmax(axis=0)[None], axis=0)[0]


def finding(rows):
    gains, gaps = [], []
    for task in SYMBOLS:
        one = accuracies(rows, task, "M = 1")
        plain = (accuracies(rows, task, name) for name in ("M = 0", "wider", "deeper"))
        gains.append(one - max(plain, key=np.mean))
        gaps.append(one - accuracies(rows, task, "blank row"))
    texts = []
    for values in (gains, gaps):
        both = zip(SYMBOLS, map(common.spread, values), strict=True)
        texts.append(", ".join(f"{task} {text}" for task, text in both) + " points")
    shown = [common.shown(min(map(common.clear, values)) > 0) for values in (gains, gaps)]
    return [
        ("Without positions, one memory row counts better than plain models do", "ours",
         f"M = 1 minus the best plain model: {texts[0]}", shown[0]),
        ("A memory row counts better than a blank row in front of the input", "ours",
         f"M = 1 minus the blank row: {texts[1]}", shown[1]),
    ]  # fmt: skip


def draw(rows, out):
    """A panel per task; a bar for the mean, a dot per seed."""
    note = f"no positions, no slots; lengths 2 to {LONGEST}; width 16, 4 heads, {rows[0]['steps']} "
    note += "steps; wider: hidden 72; deeper: two layers; the better of two learning rates"
    figure, grid = common.slide(finding(rows), note, rows, columns=2, sharey=True)
    for axes, task in zip(grid[0], SYMBOLS, strict=True):
        for x, name in enumerate(MODELS):
            values, color = accuracies(rows, task, name), common.COLORS[name[0] == "M" and x > 0]
            axes.bar(x, values.mean(), 0.7, color=color)
            dots = x + np.linspace(-0.15, 0.15, len(values))
            axes.plot(dots, values, "o", color="black", markersize=5, clip_on=False)
        axes.set_xticks(range(len(MODELS)), MODELS, rotation=30, ha="right", fontsize=14)
        axes.set_title(task)
    grid[0, 0].set(ylabel="accuracy (%)", ylim=(0, 103))
    common.save(figure, out / "counting.png")


if __name__ == "__main__":
    common.main("counting")
