"""Memory as a yardstick: counting, where the length of the input varies.

Ours. At every symbol, the answer is how often it occurs elsewhere (`occurs`), or how often the next
one of the alphabet does (`follows`). Without positions and memory, a Transformer sees proportions
only (tests/test_model.py). A memory row is there once, whatever the length; so is a blank in front
of the input. Every model has the better of two learning rates, chosen on other seeds:

    python -m experiments.counting --seeds 100-101    # both rates: see RATES
    python -m experiments.counting --seeds 0-7        # as committed
"""

import itertools
import math
from dataclasses import replace

import numpy as np

import memt
import train_toy
from experiments import common

SYMBOLS, LENGTHS, TESTED_ON = {"occurs": 4, "follows": 10}, range(2, 21), 64  # of each length
LOOK_AT = (5, 10, 20, 25, 30, 40)  # lengths, the last three beyond the trained ones
BASE = {"memory": 0, "blanks": 0, "width": 16, "hidden": 32, "layers": 1}
MODELS = {f"M = {M}": BASE | {"memory": M} for M in (0, 1, 2, 4, 8, 16)} | {
    "hidden 40": BASE | {"hidden": 40},  # more parameters than M = 16
    "hidden 72": BASE | {"hidden": 72},  # this and the next two: also more operations
    "width 20": BASE | {"width": 20},
    "two layers": BASE | {"layers": 2},
    "1 blank": BASE | {"blanks": 1},
    "4 blanks": BASE | {"blanks": 4},
}
ONE_LAYER = ("M = 0", "hidden 40", "hidden 72", "width 20")
PLAIN = (*ONE_LAYER, "two layers")
CHOSEN_ON, TRIED = (100, 101), (4, 8)  # seeds; learning rates × 1000
RATES = {  # task, positions -> the better rate × 1000 of each model, in the order of MODELS
    ("occurs", False): (4, 8, 8, 8, 8, 8, 4, 8, 4, 4, 4, 8),
    ("occurs", True): (8, 8, 4, 4, 4, 4, 4, 4, 4, 4, 8, 8),
    ("follows", False): (8, 4, 4, 4, 4, 8, 8, 8, 4, 4, 4, 4),
    ("follows", True): (4, 8, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4),
}
# run -> models, steps, lengths; "one length" is only done without positions
RUNS = {"main": (tuple(MODELS), 2000, LENGTHS)}
RUNS |= {
    "longer": (("M = 0",), 6000, LENGTHS),
    "one length": (("M = 0", "M = 1"), 2000, (20,)),
}
FOUND = ("parameters", "flops", "accuracy", "by_length", "removed", "yardstick")


def jobs(args):
    found, choosing = [], {*args.seeds} & {*CHOSEN_ON}
    alone = not choosing or {*args.seeds} <= {*CHOSEN_ON}
    memt.must(alone, f"--seeds: {CHOSEN_ON} choose the rates: must be run alone")
    for seed, (task, positions) in itertools.product(args.seeds, RATES):
        chosen = dict(zip(MODELS, RATES[task, positions], strict=True))
        runs = ("main", "longer") if positions else RUNS
        for run in ("main",) if choosing else runs:
            models, steps, _ = RUNS[run]
            for name in models:
                job = {"run": run, "task": task, "positions": positions, "model": name}
                job |= {**MODELS[name], "steps": 30 if args.quick else steps, "seed": seed}
                rates = TRIED if choosing else (chosen[name],)
                found += [job | {"lr": rate / 1000} for rate in rates]
    return found


# ---------------------------------------------------------------- the tasks
def answers(task, x):
    """Symbols (B, n) -> counts (B, n): of the other equal ones, or of the next one."""
    if task == "occurs":
        return (x[:, :, None] == x[:, None]).sum(axis=2) - 1
    return (x[:, None] == (x[:, :, None] + 1) % SYMBOLS[task]).sum(axis=2)


def batch(job, size, n, rng):
    """One length for all sequences; answers are read at the symbols."""
    symbols, blanks = SYMBOLS[job["task"]], job["blanks"]
    x = rng.integers(symbols, size=(size, n))
    tokens = np.hstack((np.full((size, blanks), symbols), x))
    return train_toy.Batch(tokens, answers(job["task"], x), slice(blanks, None))


def proportions_only(task, symbols):
    """The best accuracy (0 to 1) of someone who sees, at each symbol, only all proportions.

    The counts that are not 0 are g × r, where r has no common factor. For each r, the most probable
    g is guessed. In `follows`, 0 is right for whoever has no next symbol, whatever g is.
    """
    wrong = 0
    for total in range(1, LENGTHS[-1] // 2 + 1):
        for r in partitions(total, total):
            if math.gcd(*r) == 1 and len(r) <= symbols:
                counts = ([g * c for c in r] for g in range(1, LENGTHS[-1] // total + 1))
                chances = [chance(c, symbols) for c in counts if sum(c) in LENGTHS]
                depends = (len(r) - 1) / (symbols - 1) if task == "follows" else 1
                wrong += depends * (sum(chances) - max(chances)) / len(LENGTHS)
    return 1 - wrong


def partitions(total, most):
    """Every way to write total as a sum, largest first, of numbers from 1 to most."""
    if total == 0:
        yield ()
    for first in range(min(total, most), 0, -1):
        yield from ((first, *rest) for rest in partitions(total - first, first))


def chance(counts, symbols):
    """The probability that a sequence of their length has these counts, in any order, and 0."""
    orders = math.factorial(sum(counts)) // math.prod(map(math.factorial, counts))
    alike = math.prod(math.factorial(counts.count(c)) for c in set(counts))
    return orders * math.perm(symbols, len(counts)) // alike / symbols ** sum(counts)


# ---------------------------------------------------------------- one run
def run(job):
    """Train and test. Accuracies are from 0 to 1: over LENGTHS; at each of LOOK_AT; over LENGTHS
    after all memory tokens are removed from the trained model.
    """
    variant = "memtransformer" if job["memory"] else "transformer"
    sizes = {name: job[name] for name in (*BASE, "steps", "lr", "seed") if name != "blanks"}
    sizes |= {"symbols": SYMBOLS[job["task"]], "outputs": LENGTHS[-1], "heads": 4}
    s = train_toy.default_settings(variant, **sizes, positions=job["positions"])
    lengths = RUNS[job["run"]][2]

    def batches(size, stream, step):
        rng = np.random.default_rng([job["seed"], stream, step])
        n = rng.choice(lengths) if stream == train_toy.TRAINING else LENGTHS[-1]
        return batch(job, size, n, rng)  # solved: when right on the longest

    state = common.trained(s, batches)
    rng = np.random.default_rng([job["seed"], train_toy.TEST])
    tests = {n: batch(job, TESTED_ON, n, rng) for n in (*LENGTHS, *LOOK_AT[-3:])}

    def right(params, config, lengths):
        return [accuracy(params, config, tests[n]) for n in lengths]

    counts = memt.param_count(s.config), common.flops(s.config, job["blanks"] + 20, 20)
    plain = state.params | {"memory": state.params["memory"][:0]}
    removed = right(plain, replace(s.config, variant="transformer", memory=0), lengths)
    mean = float(np.mean(right(state.params, s.config, lengths)))
    values = (mean, right(state.params, s.config, LOOK_AT), float(np.mean(removed)))
    fits = yardstick(state.params, s.config, job, [tests[n] for n in LENGTHS])
    return dict(zip(FOUND, (*counts, *values, fits), strict=True))


def accuracy(params, config, test):
    """Of a Batch, 0 to 1; a count that has no output (beyond the trained lengths) is wrong."""
    logits, _ = memt.model_forward(params, test.tokens, config, test.at)
    return float((logits.argmax(axis=2) == test.targets).mean())


def yardstick(params, config, job, tests):
    """R² per head of layer 1: weight on the rows that are always there, as k / (k + count)."""
    always, weights, counts = config.memory + job["blanks"], [], []
    for test in tests:
        _, cache = memt.model_forward(params, test.tokens, config)
        rows = memt.attention_maps(cache)[0, :, :, always:, :always].sum(axis=3)  # B, H, n
        weights.append(rows.swapaxes(0, 1).reshape(config.heads, -1))
        counts.append(test.targets.ravel() + (job["task"] == "occurs"))  # it attends to itself
    weights, counts = np.hstack(weights), np.hstack(counts)
    k = np.geomspace(0.01, 100, 100)[:, None, None]
    with np.errstate(all="ignore"):  # no such rows: all weights are 0
        fits = 1 - ((weights - k / (k + counts)) ** 2).mean(axis=2) / weights.var(axis=1)
    return np.nan_to_num(fits.max(axis=0), nan=0, neginf=0).tolist()


# ---------------------------------------------------------------- what was found
def of(rows, column, task, positions, model, run="main"):
    """A column of the runs of one kind, for each seed."""
    own = {"task": task, "positions": positions, "model": model, "run": run}
    return common.by_seed(rows, column, **own)


def accuracies(rows, *kind):
    """In %, one per seed."""
    return 100 * of(rows, "accuracy", *kind)


def chosen_rates(rows):
    """RATES: the best of TRIED for each model, by its mean accuracy in these rows."""
    found = {}
    for task, positions in RATES:
        own, found[task, positions] = {"task": task, "positions": positions}, []
        for model in MODELS:
            tried = (common.by_seed(rows, "accuracy", **own, model=model, lr=lr / 1000).mean()
                     for lr in TRIED)  # fmt: skip
            found[task, positions].append(TRIED[np.argmax([*tried])])
    return {kind: tuple(rates) for kind, rates in found.items()}


def gains(rows, positions, model, others):
    """Task, and the best of others by its mean -> the model minus that, in percentage points."""
    found = {}
    for task in SYMBOLS:
        own = {name: accuracies(rows, task, positions, name) for name in (model, *others)}
        best = max(others, key=lambda name: own[name].mean())
        found[f"{task} against {best}"] = own[model] - own[best]
    return found


def finding(rows):
    questions = {
        "Without positions, one memory token counts better than plain models":
            (False, "M = 1", PLAIN),
        "Without positions, one memory token counts better than a blank":
            (False, "M = 1", ("1 blank",)),
        "With positions, one memory token counts better than plain models": (True, "M = 1", PLAIN),
        "With positions and equal steps, 16 tokens beat one-layer plain models":
            (True, "M = 16", ONE_LAYER),
    }  # fmt: skip
    found = []
    for claim, (positions, model, others) in questions.items():
        measured, verdict = common.least(gains(rows, positions, model, others))
        found.append((claim, "ours", f"{model} minus the best of these: {measured}", verdict))
    return found


def details(rows):
    """Two Markdown tables for experiments/README.md."""
    kinds = [(task, positions) for task in SYMBOLS for positions in (False, True)]
    names = [(name, "main") for name in MODELS]
    names += [(name, run) for run in ("longer", "one length") for name in RUNS[run][0]]
    table = [("accuracy (%)", "occurs", "occurs, positions", "follows", "follows, positions")]
    for name, run in names:
        cells = [accuracies(rows, *kind, name, run) for kind in kinds]
        label = name if run == "main" else f"{name}, {run}"
        table.append((label, *(common.spread(cell) if len(cell) else "" for cell in cells)))
    return common.markdown(*table) + "\n" + common.markdown(*inside(rows))


def inside(rows):
    """M = 0 and M = 1 without positions: a table of what was measured inside and beyond."""
    models = [(task, False, name) for task in SYMBOLS for name in ("M = 0", "M = 1")]
    at = [100 * of(rows, "by_length", *model).T for model in models]
    removed = [common.spread(100 * of(rows, "removed", *model)) for model in models[1::2]]
    fits = [of(rows, "yardstick", *model) > 0.9 for model in models[1::2]]
    heads = [f"{fit.sum()} of {fit.size}" for fit in fits]
    bounds = [f"{100 * proportions_only(*task):.1f}" for task in SYMBOLS.items()]
    return [
        ("no positions", *(f"{task}, {name}" for task, _, name in models)),
        *((f"length {n}", *(common.spread(x[i]) for x in at)) for i, n in enumerate(LOOK_AT)),
        ("best from proportions alone", bounds[0], "", bounds[1], ""),
        ("all memory removed", "", removed[0], "", removed[1]),
        ("heads: k / (k + count), R² > 0.9", "", heads[0], "", heads[1]),
    ]


def draw(rows, out):
    """A panel per task, without and with positions: accuracy against M, other models as lines."""
    if int(rows[0]["seed"]) in CHOSEN_ON:
        return train_toy.say(f"RATES = {chosen_rates(rows)}\nno picture of these seeds")
    memory = [name for name in MODELS if name.startswith("M")]
    note = "how often a symbol occurs, how often the next one follows; lengths 2 to 20; width 16, "
    note += f"4 heads, one layer, {rows[0]['steps']} steps; mean and 95% confidence interval; "
    note += "plain: same size, hidden 40 or 72, width 20, two layers"
    figure, grid = common.slide(finding(rows), note, rows, 2, 2, sharey="row", sharex=True)
    style = {"color": common.COLORS[0], "marker": "o", "ms": 9, "capsize": 6}
    for (task, positions), axes in zip(RATES, grid.T.ravel(), strict=True):

        def of_model(name, kind=(task, positions)):
            return accuracies(rows, *kind, name)

        means, halves = ([f(of_model(name)) for name in memory] for f in (np.mean, common.interval))
        axes.errorbar(range(len(memory)), means, halves, label="memory", **style)
        plain = [of_model(name).mean() for name in PLAIN]
        axes.axhspan(min(plain), max(plain), color="0.6", alpha=0.5, lw=0, label="plain models")
        for name, line in (("1 blank", "--"), ("4 blanks", ":")):
            look = {"color": common.COLORS[1], "linestyle": line, "label": f"{name} in front"}
            axes.axhline(of_model(name).mean(), **look)
        axes.set_xticks(range(len(memory)), [name[4:] for name in memory])
        axes.set_title(f"{task}, {'with' if positions else 'no'} positions")
    grid[0, 0].set_ylim(0, 104)
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy (%)")
    for axes in grid[1]:
        axes.set_xlabel("memory tokens M")
    grid[0, 0].legend(loc="center right", fontsize=14)
    common.save(figure, out / "counting.png")


if __name__ == "__main__":
    common.main("counting")
