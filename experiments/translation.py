"""Does memory help a toy translation? Numbers in words, letter by letter, to digits.

    six hundred two thousand forty nine -> 602049

The paper's main result is translation; this task is ours. The model reads all letters at once, and
answers at the first six. All numbers of a batch have equally many letters, so that there are
neither blank slots nor padding, which could serve as memory. No tested number is trained on. The
learning rate is the best of 2, 4 and 8e-3 for each model after 250 steps, on seeds 100 and 101.
"""

import numpy as np

import train_toy
from experiments import common

ONES = " one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
ONES = (ONES + "sixteen seventeen eighteen nineteen").split(" ")
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
NUMBERS, TESTED_ON, LENGTHS = 12_000, 1000, range(40, 60)
MODELS = {  # wider: as much compute as M = 8
    "M = 0": {"memory": 0, "hidden": 128},
    "M = 1": {"memory": 1, "hidden": 128},
    "M = 8": {"memory": 8, "hidden": 128},
    "M = 0, wider": {"memory": 0, "hidden": 176},
}
STEPS = (250, 750)
FOUND = ("exact",)


def jobs(args):
    return [
        {"model": name, **model, "layers": 2, "width": 32, "lr": 4e-3, "steps": steps, "seed": seed}
        for seed in args.seeds
        for steps in ((30,) if args.quick else STEPS)
        for name, model in MODELS.items()
    ]


def words(n):
    """A number below a million in words; 0 is empty."""
    for size, name in (1000, "thousand"), (100, "hundred"):
        if n >= size:
            return f"{words(n // size)} {name} {words(n % size)}".strip()
    return f"{TENS[n // 10]} {ONES[n % 10]}".strip() if n >= 20 else ONES[n]


def by_length(numbers):
    """Numbers of six digits -> {number of letters: Batch}; a space is 0, a letter 1 to 26."""
    groups = {length: ([], []) for length in LENGTHS}
    for n in map(int, numbers):
        if len(text := words(n)) in groups:
            tokens, targets = groups[len(text)]
            tokens.append([ord(letter) % 32 for letter in text])
            targets.append([int(digit) for digit in str(n)])
    return {n: train_toy.Batch(*map(np.array, group), slice(6)) for n, group in groups.items()}


def data():
    """-> what to train on, what to test on: other numbers, the same for all models."""
    numbers = np.random.default_rng(0).permutation(np.arange(100_000, 1_000_000))[:NUMBERS]
    return by_length(numbers[TESTED_ON:]), by_length(numbers[:TESTED_ON])


def run(job):
    variant = "memtransformer" if job["memory"] else "transformer"
    own = {name: value for name, value in job.items() if name != "model"}
    s = train_toy.default_settings(variant, symbols=27, outputs=10, **own)
    train, test = data()
    lengths, sizes = list(train), np.array([len(batch.tokens) for batch in train.values()])

    def batches(size, stream, step):
        rng = np.random.default_rng([s.seed, stream, step])
        tokens, targets, at, _ = train[rng.choice(lengths, p=sizes / sizes.sum())]
        chosen = rng.integers(len(tokens), size=size)
        return tokens[chosen], targets[chosen], at

    state = common.trained(s, batches)
    right = [train_toy.evaluate(state.params, s.config, batch).exact for batch in test.values()]
    return {"exact": float(np.average(right, weights=[len(b.tokens) for b in test.values()]))}


def exact(rows, model, steps):
    """Exact match for each seed (%)."""
    return 100 * common.by_seed(rows, "exact", model=model, steps=steps)


def finding(rows):
    budgets = dict.fromkeys(row["steps"] for row in rows)
    gains = {f"{n} steps": exact(rows, "M = 8", n) - exact(rows, "M = 0", n) for n in budgets}
    measured, verdict = common.least(gains)
    measured = f"Exact match, M = 8 minus M = 0: {measured}"
    claim = "Memory helps a toy translation, numbers in words to digits"
    return [(claim, "paper, for translation; task: ours", measured, verdict)]


def draw(rows, out):
    """A panel per budget: the mean gain over M = 0, its 95% confidence interval, a dot per seed."""
    note = "the digits are read from the outputs at the first six letters; numbers not trained on; "
    note += "width 32, 2 layers; wider: hidden 176 instead of 128, as much compute as M = 8"
    budgets, others = dict.fromkeys(row["steps"] for row in rows), list(MODELS)[1:]
    figure, grid = common.slide(finding(rows), note, rows, columns=len(budgets), sharey=True)
    for axes, steps in zip(grid[0], budgets, strict=True):
        plain = exact(rows, "M = 0", steps)
        common.gains(axes, {name: exact(rows, name, steps) - plain for name in others})
        axes.set_title(f"{steps} steps; M = 0 has {plain.mean():.1f}%")
    grid[0, 0].set_ylabel("gain over M = 0 (points of exact match)")
    common.save(figure, out / "translation.png")


if __name__ == "__main__":
    common.main("translation")
