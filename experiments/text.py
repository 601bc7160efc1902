"""Does memory help on language? Blanked characters of any text, with and without local attention.

    python -m experiments.text                # the text that every Python carries
    python -m experiments.text --text FILE    # another, UTF-8

[paper] claims it for language models and translation; this small setting is ours. A window of
characters has some positions blanked, the same in the whole batch; the loss is the cross-entropy
there. The first nine tenths of the text train, the last tenth is held out. Each M is trained for
as many steps as the transformer, and again for as many as cost the transformer's compute.
"""

import hashlib
import platform
import pydoc_data.topics
import sys
from functools import cache
from pathlib import Path

import memt
from experiments import common
from experiments.common import np, train_toy

T, R = 64, 16  # characters in a window, blanked ones
MEMORY, RADIUS, STEPS = (0, 2, 8, 16), 4, 1200
OWN = "pydoc_data.topics"


@cache
def read_text(name: str) -> str:
    """The text of a file, or of OWN. Raises OSError, or ValueError if it is no text or too short.

    Too short: its last tenth is shorter than a window.
    """
    if name == OWN:
        return "\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))
    try:
        text = Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(f"--text {name!r} is not text: must be UTF-8 without zero bytes")
    if len(text) < 10 * T:
        raise ValueError(f"--text {name!r} has {len(text)} characters: must have at least {10 * T}")
    return text


def encode(text: str) -> tuple[memt.Array, memt.Array, int]:
    """-> ids to train on, held-out ids, number of different characters."""
    symbols, ids = np.unique(list(text), return_inverse=True)
    cut = len(ids) * 9 // 10
    return ids[:cut], ids[cut:], len(symbols)


def configure(job: common.Job, symbols: int) -> memt.Config:
    """The model of a job."""
    variant = "memtransformer" if job["memory"] else "transformer"
    own = {name: job[name] for name in ("memory", "window", "width", "heads", "hidden", "layers")}
    return memt.Config(symbols=symbols, variant=variant, **own)


def jobs(args) -> list[common.Job]:
    """M × windows × budgets. The transformer's two budgets are one."""
    text = read_text(args.text)
    if args.text != OWN:
        args.out = args.out or Path("runs/text")  # figures/ holds what OWN gave
    about = {"text": args.text, "sha256": hashlib.sha256(text.encode()).hexdigest()[:12]}
    about |= {"python": platform.python_version(), "length": T, "blanked": R, "width": 32}
    about |= {"heads": 4, "hidden": 128, "layers": 2, "batch": 16, "lr": 8e-3}
    steps, symbols, found = 20 if args.quick else STEPS, len(set(text)), []
    for seed in args.seeds:
        for window in (None, RADIUS):
            for M in MEMORY[::3] if args.quick else MEMORY:
                job = about | {"window": window, "memory": M, "seed": seed}
                plain = common.flops(configure(job | {"memory": 0}, symbols), T, R)
                share = plain / common.flops(configure(job, symbols), T, R)
                found.append(job | {"budget": "steps", "steps": steps})
                if M:
                    found.append(job | {"budget": "compute", "steps": round(share * steps)})
    return found


def windows(ids: memt.Array, starts: memt.Array, rng) -> tuple[memt.Array, ...]:
    """-> characters (B, T) from each start, the positions to blank (R,)."""
    return ids[starts[:, None] + np.arange(T)], np.sort(rng.choice(T, R, replace=False))


def blank(x: memt.Array, read: memt.Array, symbols: int) -> tuple[memt.Array, memt.Array]:
    """-> x (B, T) with blanks at `read`, and what stood there (B, R)."""
    tokens = x.copy()
    tokens[:, read] = symbols
    return tokens, x[:, read]


def step_forward(params, x, read, config):
    """-> loss in nats per blanked character, what its backward needs."""
    tokens, targets = blank(x, read, config.symbols)
    logits, c_model = memt.model_forward(params, tokens, config, read)
    loss, c_loss = memt.cross_entropy_forward(logits, targets)
    return loss, (c_model, c_loss)


def train(job: common.Job, ids: memt.Array, config: memt.Config) -> memt.Params:
    """Adam on random windows."""
    params = memt.init_params(config, np.random.default_rng([job["seed"], 0]))
    vector = memt.flat(params)
    m, v = np.zeros_like(vector), np.zeros_like(vector)
    for step in range(1, job["steps"] + 1):
        rng = np.random.default_rng([job["seed"], 1, step])
        x, read = windows(ids, rng.integers(len(ids) - T + 1, size=job["batch"]), rng)
        _, (c_model, c_loss) = step_forward(params, x, read, config)
        grads = memt.model_backward(memt.cross_entropy_backward(1.0, c_loss), c_model)
        lr = train_toy.learning_rate(step, job["steps"], job["lr"])
        train_toy.adam(vector, memt.flat(grads), m, v, step, lr)
    return params


def held_out(params: memt.Params, ids: memt.Array, config: memt.Config) -> float:
    """Bits per blanked character over all windows side by side; the blanks are the same for all."""
    rng, losses, counts = np.random.default_rng(0), [], []
    for starts in np.split(np.arange(0, len(ids) - T + 1, T), range(64, len(ids) // T, 64)):
        loss, _ = step_forward(params, *windows(ids, starts, rng), config)
        losses.append(loss)
        counts.append(len(starts))
    return float(np.average(losses, weights=counts) / np.log(2))


def run(job: common.Job) -> common.Job:
    """Train, then measure on held-out text; `flops` is the compute of all training, in 10¹²."""
    training, test, symbols = encode(read_text(job["text"]))
    config = configure(job, symbols)
    params = train(job, training, config)
    flops = 3 * common.flops(config, T, R) * job["batch"] * job["steps"] / 1e12
    sizes = {"symbols": symbols, "characters": len(training), "held_out": len(test)}
    return sizes | {"flops": flops, "bits": held_out(params, test, config)}


def by_model(rows: list[common.Row]) -> dict[tuple[str, str, str], np.ndarray]:
    """(window, budget, M) -> bits, one per seed; the transformer stands under both budgets."""
    groups = common.group(rows, "window", "budget", "memory")
    bits = {name: common.numbers(own, "bits") for name, own in groups.items()}
    plain = {(w, "compute", M): x for (w, _, M), x in bits.items() if M == "0"}
    return bits | plain


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Do the 95 % intervals of the two means overlap? One value alone has no end to its own."""
    return not abs(a.mean() - b.mean()) > common.interval(a) + common.interval(b)


def verdict(bits: dict, window: str, budget: str) -> str:
    """How the best M > 0 compares with M = 0; picking the best flatters memory a little."""
    own = {M: x for (w, b, M), x in bits.items() if (w, b) == (window, budget)}
    best = min((M for M in own if M != "0"), key=lambda M: own[M].mean())
    change = 100 * (own[best].mean() / own["0"].mean() - 1)
    return f"bits {change:+.1f} % (M = {best}), intervals " + (
        "overlap" if overlap(own[best], own["0"]) else "apart"
    )


def clear(bits: dict) -> tuple[int, int, int]:
    """How often an M > 0 is better than M = 0, worse, intervals apart; of how many comparisons."""
    pairs = [(x, bits[w, b, "0"]) for (w, b, M), x in bits.items() if M != "0"]
    apart = [x.mean() < plain.mean() for x, plain in pairs if not overlap(x, plain)]
    return sum(apart), len(apart) - sum(apart), len(pairs)


def draw(rows: list[common.Row], out) -> None:
    """Bits against M, a panel per attention, a line per budget."""
    bits, seeds = by_model(rows), len(common.group(rows, "seed"))
    better, worse, total = clear(bits)
    figure, grid = common.slide(
        f"In {total} comparisons on text, memory is clearly better in {better},\n"
        f"clearly worse in {worse}; in the others the intervals overlap",
        f"held-out {rows[0]['text']} ({rows[0]['characters']} characters to train), {R} of {T} "
        f"characters blanked, width 32, 2 layers, {rows[0]['steps']} steps;\n"
        f"mean and 95 % interval of {seeds} seeds; equal compute: fewer steps for larger M",
        columns=2,
    )
    for axes, window in zip(grid[0], ("", str(RADIUS)), strict=True):
        for i, budget in enumerate(("steps", "compute")):
            own = {M: x for (w, b, M), x in bits.items() if (w, b) == (window, budget)}
            own = dict(sorted(own.items(), key=lambda item: int(item[0])))
            x, halves = np.arange(len(own)) + 0.1 * i, [common.interval(v) for v in own.values()]
            label = f"equal {budget}: {verdict(bits, window, budget).replace('intervals ', '')}"
            means, style = [v.mean() for v in own.values()], {"capsize": 6, "ms": 10}
            style |= {"marker": common.MARKERS[i], "color": common.COLORS[i], "label": label}
            axes.errorbar(x, means, halves, **style)
        axes.set(xticks=np.arange(len(own)), xticklabels=own, xlabel="memory tokens M")
        axes.set_title(f"attention within {window} characters" if window else "global attention")
        axes.legend(fontsize=14, loc="lower center", title="best M > 0 against M = 0, intervals")
        axes.margins(x=0.1)
        low, high = axes.get_ylim()
        axes.set_ylim(low - 0.45 * (high - low), high)
    grid[0, 0].set_ylabel("bits per blanked character\n(less is better)")
    common.save(figure, out / "text.png")


if __name__ == "__main__":
    own_parser = common.make_parser(__doc__)
    own_parser.add_argument("--text", default=OWN, help=f"a file, UTF-8 ({OWN})")
    sys.exit(common.main("text", own_parser, jobs, run, draw))
