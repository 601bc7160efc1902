"""What does a trained model lose when memory tokens are taken from it?

[paper] for the question. Tokens are removed one by one, in random order and most used first, or
replaced one by one by noise or by the mean of all. At least one token stays when removing, since
membottleneck attends to nothing else.
"""

import sys
from dataclasses import replace

import memt
from experiments import attention, common
from experiments.common import np

VARIANTS = ("memtransformer", "memctrl", "membottleneck")
WAYS = {
    "random": "removed, random order",
    "used": "removed, most used first",
    "noise": "replaced by noise",
    "mean": "replaced by the mean",
}
ORDERS = 3  # random orders, averaged
LESIONED_ON = 500  # test sequences


def jobs(args) -> list[common.Job]:
    """Variants × tasks."""
    return [
        common.toy_job(v, task=task, steps=30 if args.quick else 3000, seed=seed)
        for seed in args.seeds
        for task in (("copy",) if args.quick else ("copy", "reverse"))
        for v in VARIANTS
    ]


def use(params: memt.Params, config: memt.Config, tokens: memt.Array) -> memt.Array:
    """How much each memory token is used, (M,), most possible is 1.

    It is the READ weight that a sequence row gives to the token in a layer, averaged over rows,
    layers, heads and sequences.
    """
    _, cache = memt.model_forward(params, tokens, config)
    M = config.memory
    return memt.attention_maps(cache)[:, :, :, M:, :M].mean(axis=(0, 1, 2, 3))


def keep(params: memt.Params, config: memt.Config, tokens: memt.Array):
    """-> params and configuration with only these memory tokens (k,), in their old order."""
    kept = params | {"memory": params["memory"][np.sort(tokens)]}
    return kept, replace(config, memory=len(tokens))


def exchange(params: memt.Params, tokens: memt.Array, rows: memt.Array) -> memt.Params:
    """-> params in which these memory tokens (k,) have become `rows`, (k, C) or (C,)."""
    memory = params["memory"].copy()
    memory[tokens] = rows
    return params | {"memory": memory}


def symbols_right(params: memt.Params, config: memt.Config, batch) -> float:
    """Symbol accuracy, 0 to 1."""
    tokens, targets = batch
    n = targets.shape[1]
    logits, _ = memt.model_forward(params, tokens, config, slice(n, 2 * n))
    return float((logits.argmax(axis=2) == targets).mean())


def removed(params, config, batch, order) -> list[float]:
    """Accuracy after the first 0, 1, … M-1 tokens of the order are removed."""
    return [symbols_right(*keep(params, config, order[k:]), batch) for k in range(config.memory)]


def replaced(params, config, batch, order, rows) -> list[float]:
    """Accuracy after the first 0, 1, … M tokens of the order have become theirs of `rows`."""
    return [
        symbols_right(exchange(params, order[:k], rows[order[:k]]), config, batch)
        for k in range(config.memory + 1)
    ]


def run(job: common.Job) -> common.Job:
    """Train, then hurt: symbol accuracy by number of tokens lost; and the share of READ.

    Noise is normal, with mean and deviation of the model's memory. `read` is the total use.
    """
    s, state = common.train(job)
    params, config, memory = state.params, s.config(), state.params["memory"]
    batch = common.train_toy.make_batch(s, LESIONED_ON, common.train_toy.TEST)
    used = use(params, config, batch[0])
    rng = np.random.default_rng([s.seed, 4])
    orders = [rng.permutation(s.memory) for _ in range(ORDERS)]
    noise = memory.mean() + memory.std() * rng.standard_normal((ORDERS, *memory.shape))
    mean = np.broadcast_to(memory.mean(axis=0), memory.shape)
    curves = {
        "random": [removed(params, config, batch, order) for order in orders],
        "used": [removed(params, config, batch, np.argsort(-used))],
        "noise": [
            replaced(params, config, batch, o, n) for o, n in zip(orders, noise, strict=True)
        ],
        "mean": [replaced(params, config, batch, order, mean) for order in orders],
    }
    means = {way: np.mean(curve, axis=0).tolist() for way, curve in curves.items()}
    found = {"read": float(used.sum()), "lesioned_on": LESIONED_ON}
    return common.scores(s, state) | found | means


def left_over(rows: list[common.Row], variant: str, way: str) -> float:
    """Mean symbol accuracy in % when as many tokens as possible are lost."""
    own = [row for row in rows if row["variant"] == variant]
    return 100 * common.numbers(own, way)[:, -1].mean()


def draw(rows: list[common.Row], out) -> None:
    """A panel per variant, a line per way, both tasks together."""
    seeds = len(common.group(rows, "seed"))
    left = {v: left_over(rows, v, "random") for v in VARIANTS}
    figure, grid = common.slide(
        f"Nine of ten memory tokens removed: bottleneck {left['membottleneck']:.0f} % of symbols\n"
        f"right, MemTransformer {left['memtransformer']:.0f} %, MemCtrl {left['memctrl']:.0f} %",
        f"copy and reverse, n = 10, M = 10, width 32, 2 layers, trained until solved; mean and "
        f"range of 2 tasks × {seeds} seeds,\nevery point from {rows[0]['lesioned_on']} test "
        f"sequences; READ: share of a sequence row's attention, and if it were spread evenly",
        columns=len(VARIANTS),
        sharey=True,
    )
    for axes, ((variant,), own) in zip(grid[0], common.group(rows, "variant").items(), strict=True):
        for i, (way, label) in enumerate(WAYS.items()):
            values = 100 * common.numbers(own, way)
            common.line(axes, range(values.shape[1]), values, i, label=label)
        read = 100 * common.numbers(own, "read").mean()
        even = attention.shares(attention.uniform(memt.Config(variant=variant), 20), 10)["READ"]
        axes.set_title(f"{variant}\nREAD {read:.0f} %, even {100 * even:.0f} %")
        axes.axhline(10, color="0.4", linestyle=":", lw=2)
        axes.set(xlabel="tokens lost, of 10", ylim=(0, 103), xticks=range(0, 11, 2))
    grid[0, 0].set_ylabel("symbols right (%)")
    grid[0, 2].text(0, 2, "chance", color="0.3")
    grid[0, 0].legend(loc="lower left", fontsize=14, frameon=False)
    common.save(figure, out / "lesions.png")


if __name__ == "__main__":
    sys.exit(common.main("lesions", common.make_parser(__doc__), jobs, run, draw))
