"""Memory as scratch space: tasks with one answer, for which spare rows might be of use.

Ours. At the start, attention is even, so most of it goes to memory rows, which know nothing yet.
Therefore memory is also tried with keys that start biased against attention; see `bias_keys`.
"""

import itertools

import numpy as np

import train_toy
from experiments import common

MEMORY, BIAS, TESTED_ON = 24, 4.0, 2000
MODELS = {"M = 0": (0, 0.0), "M = 24": (MEMORY, 0.0), "M = 24, biased": (MEMORY, BIAS)}
TRIPLES = np.array([*itertools.combinations(range(5), 3)])
GROUP = [*itertools.permutations(range(3))]  # the six permutations of three things
PRODUCT = np.array([[GROUP.index(tuple(a[i] for i in b)) for b in GROUP] for a in GROUP])


def word(x):
    """The product of permutations, left to right: (B, n) -> (B,)."""
    product = x[:, 0]
    for column in x.T[1:]:
        product = PRODUCT[product, column]
    return product


TASKS = {  # symbols, length, answer: (B, n) -> (B,)
    "parity": (2, 5, lambda x: x.sum(axis=1) % 2),
    "match three": (10, 5, lambda x: (x[:, TRIPLES].sum(axis=2) % 10 == 0).any(axis=1).astype(int)),
    "word problem": (6, 3, word),
}
FOUND = ("accuracy", "on_memory")


def jobs(args):
    steps = 30 if args.quick else 6000
    return [
        {"task": task, "model": model, "steps": steps, "lr": 4e-3, "seed": seed}
        for seed in args.seeds
        for task in TASKS
        for model in MODELS
    ]


def bias_keys(params, config, bias):
    """Lower by `bias` the scores of memory's keys in layer 1, relative to those of other keys.

    The last dimension of every sequence row is nearly 1 (the slowest cosine of the positions). In
    memory it is set to -1, and the first query and key dimension of each head read only this one.
    """
    D, C = config.width // config.heads, config.width
    gain = (bias / 2 * D**0.5) ** 0.5
    for columns in (params["layers.0.all.wq"], params["layers.0.all.wkv"][:, :C]):
        columns[:, ::D] = 0
        columns[-1, ::D] = gain
    params["memory"][:, -1] = -1


def run(job):
    """Train and test; `on_memory`: the share of attention to memory in layer 1 at the start."""
    memory, bias = MODELS[job["model"]]
    symbols, n, answer = TASKS[job["task"]]
    own = {name: job[name] for name in ("steps", "lr", "seed")}
    variant = "memtransformer" if memory else "transformer"
    s = train_toy.default_settings(
        variant, symbols=symbols, memory=memory, width=16, hidden=64, **own
    )

    def batches(size, stream, step):
        x = np.random.default_rng([job["seed"], stream, step]).integers(symbols, size=(size, n))
        slot = np.full((size, 1), symbols)
        return train_toy.Batch(np.hstack((x, slot)), answer(x)[:, None], [n])

    state, test = train_toy.start(s), batches(TESTED_ON, train_toy.TEST, 0)
    if bias:
        for vectors in (state.params, state.weights):
            bias_keys(vectors, s.config, bias)
    maps = train_toy.mean_maps(state.params, s.config, test.tokens[:100])
    on_memory = float(maps[0, :, memory:, :memory].sum(axis=2).mean())
    for _ in train_toy.training(s, state, batches):
        pass
    right = train_toy.evaluate(state.params, s.config, test).symbol
    return {"accuracy": right, "on_memory": on_memory}


def accuracies(rows, task, model):
    """In %, one per seed."""
    return 100 * common.by_seed(rows, "accuracy", task=task, model=model)


def finding(rows):
    claims = {
        "Memory helps as scratch space, if its keys start biased against attention": "M = 0",
        "With many memory tokens, it is better to start their keys biased": "M = 24",
    }
    found = []
    for claim, other in claims.items():
        measured, verdict = common.least({
            task: accuracies(rows, task, "M = 24, biased") - accuracies(rows, task, other)
            for task in TASKS
        })  # fmt: skip
        found.append((claim, "ours", f"M = 24, biased, minus {other}: {measured}", verdict))
    return found


def details(rows):
    """A Markdown table for experiments/README.md."""
    table = [(task, *(common.spread(accuracies(rows, task, m)) for m in MODELS)) for task in TASKS]
    return common.markdown(("accuracy (%)", *MODELS), *table)


def draw(rows, out):
    """A panel per task; a bar for the mean, a dot per seed."""
    note = f"one answer slot; width 16, two layers, at most {rows[0]['steps']} steps; biased: "
    note += f"at the start, scores of memory's keys are {BIAS:g} lower in layer 1"
    figure, grid = common.slide(finding(rows), note, rows, columns=len(TASKS), sharey=True)
    for axes, task in zip(grid[0], TASKS, strict=True):
        for x, model in enumerate(MODELS):
            own = accuracies(rows, task, model)
            axes.bar(x, own.mean(), 0.7, color=common.COLORS[min(x, 1)])
            beside = x + np.linspace(-0.15, 0.15, len(own))
            axes.plot(beside, own, "o", color="black", markersize=5, clip_on=False)
        axes.set_xticks(range(len(MODELS)), MODELS, rotation=30, ha="right", fontsize=14)
        axes.set_title(task)
    grid[0, 0].set(ylabel="accuracy (%)", ylim=(0, 103))
    common.save(figure, out / "scratch.png")


if __name__ == "__main__":
    common.main("scratch")
