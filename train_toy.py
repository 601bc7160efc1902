"""Train a small model to copy or to reverse a sequence, then look into its memory.

    python train_toy.py                                  # membottleneck learns to reverse
    python train_toy.py --task copy --variant memctrl    # --help shows every option

Input: n symbols, then n blank slots. At slot j the model must give the j-th symbol of the task's
answer; loss and accuracy count the slots only. The setting is ours (nothing of it is the paper's).
"""

import os

for _library in ("OPENBLAS", "MKL", "OMP", "VECLIB_MAXIMUM"):  # at these sizes one thread is best
    os.environ.setdefault(f"{_library.removesuffix('_MAXIMUM')}_NUM_THREADS", "1")

import argparse
import csv
import ctypes
import io
import json
import math
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

import memt
from memt import Array, Config, Params

# A task maps symbols (B, n) to what the slots must answer, (B, n). Add yours here, one line.
TASKS = {
    "copy": lambda x: x,
    "reverse": lambda x: x[:, ::-1],
}

TRAINING, VALIDATION, TEST, START = range(4)  # independent random streams of one seed
VALIDATE_EVERY, VALIDATE_ON, TEST_ON = 25, 256, 1000  # steps, sequences, sequences
SOLVED = 1.0  # exact match of each of the last two validations: 0.995 let 0.982 on the test through
FILES = ("checkpoint.npz", "model.npz", "log.csv", "result.json", "curve.png", "attention.png")


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on. Raises ValueError or TypeError for what cannot work."""

    task: str = "reverse"
    variant: str = "membottleneck"
    length: int = 10
    symbols: int = 10
    memory: int = 10
    width: int = 32
    heads: int = 4
    hidden: int = 128
    layers: int = 2
    share_controller: bool = False
    window: int | None = None
    steps: int = 3000
    batch: int = 32
    lr: float = 4e-3
    seed: int = 0

    def __post_init__(self):
        """Refuse what cannot work."""
        if self.task not in TASKS:
            raise ValueError(f"task is {self.task!r}: must be one of {', '.join(TASKS)}")
        for name in ("length", "steps", "batch"):
            memt.check_size(name, getattr(self, name), 1)
        memt.check_size("seed", self.seed, 0)
        if not isinstance(self.lr, (int, float)) or not 0 < self.lr < math.inf:
            raise ValueError(f"lr is {self.lr}: must be a positive number")
        self.config()

    def config(self) -> Config:
        """The model's part of the settings."""
        return Config(**{f.name: getattr(self, f.name) for f in fields(Config)})


# What differs from Settings, by variant: found over several seeds.
DEFAULTS = {
    "transformer": {"memory": 0},
    "memtransformer": {},
    "masked": {"layers": 3, "memory": 16},
    "memctrl": {},
    "membottleneck": {},
}


def default_settings(variant: str = "membottleneck", **given) -> Settings:
    """The variant's defaults, with what is given in their place."""
    return Settings(**{"variant": variant, **DEFAULTS.get(variant, {}), **given})


# ---------------------------------------------------------------- data, loss, one step


def make_batch(s: Settings, size: int, stream: int, step: int = 0) -> tuple[Array, Array]:
    """Tokens (size, 2n) and targets (size, n), int64; the same for the same arguments."""
    rng = np.random.default_rng([s.seed, stream, step])
    x = rng.integers(s.symbols, size=(size, s.length))
    return np.hstack((x, np.full_like(x, s.symbols))), np.ascontiguousarray(TASKS[s.task](x))


def slots(s: Settings) -> slice:
    """The positions whose logits are read."""
    return slice(s.length, 2 * s.length)


def evaluate(params: Params, s: Settings, tokens: Array, targets: Array):
    """-> loss (nats), symbol accuracy, exact-match accuracy (every slot right), outputs (B, n)."""
    logits, _ = memt.model_forward(params, tokens, s.config(), slots(s))
    loss, _ = memt.cross_entropy_forward(logits, targets)
    outputs = logits.argmax(axis=-1)
    right = outputs == targets
    return float(loss), float(right.mean()), float(right.all(axis=1).mean()), outputs


def loss_and_grads(params: Params, s: Settings, tokens: Array, targets: Array):
    """-> loss (nats), gradients as one vector."""
    logits, cache = memt.model_forward(params, tokens, s.config(), slots(s))
    loss, loss_cache = memt.cross_entropy_forward(logits, targets)
    grads = memt.model_backward(memt.cross_entropy_backward(1.0, loss_cache), cache)
    return float(loss), memt.flat(grads)


def clip(grad: Array) -> None:
    """Shorten a gradient that is longer than 1 to that length (arXiv 1211.5063), in place.

    Without it a run now and then falls from nearly solved to chance and may not come back.
    """
    grad *= min(1.0, 1.0 / np.linalg.norm(grad))


def learning_rate(step: int, steps: int, largest: float) -> float:
    """At step 1 … steps: linear warm-up over 100 steps, times half a cosine that falls to 0."""
    return largest * min(1, step / 100) * (1 + math.cos(math.pi * (step - 1) / steps)) / 2


def adam(vector: Array, grad: Array, m: Array, v: Array, step: int, lr: float) -> None:
    """Adam (arXiv 1412.6980, algorithm 1) on all parameters at once; changes vector, m and v."""
    m += 0.1 * (grad - m)
    v += 0.001 * (grad * grad - v)
    m_hat, v_hat = m / (1 - 0.9**step), v / (1 - 0.999**step)
    vector -= lr * m_hat / (np.sqrt(v_hat) + 1e-8)


# ---------------------------------------------------------------- training


@dataclass
class State:
    """All that changes while training; `log` rows are step, loss, symbol, exact of validation."""

    params: Params
    m: Array
    v: Array
    step: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    log: list[tuple] = field(default_factory=list)


def start(s: Settings) -> State:
    """A new model and an empty log."""
    params = memt.init_params(s.config(), np.random.default_rng([s.seed, START]))
    return State(params, np.zeros_like(memt.flat(params)), np.zeros_like(memt.flat(params)))


def finished(s: Settings, state: State) -> bool:
    """All steps done, or solved by the validation stream."""
    solved = len(state.log) > 1 and min(row[3] for row in state.log[-2:]) >= SOLVED
    return state.step >= s.steps or solved


def training(s: Settings, state: State) -> Iterator[State]:
    """Train until finished; yields the state after every step.

    Raises FloatingPointError, naming the step, when the loss is not finite.
    """
    vector = memt.flat(state.params)
    while not finished(s, state):
        began, step = time.perf_counter(), state.step + 1
        with np.errstate(all="ignore"):
            batch = make_batch(s, s.batch, TRAINING, step)
            state.loss, grad = loss_and_grads(state.params, s, *batch)
            clip(grad)
            adam(vector, grad, state.m, state.v, step, learning_rate(step, s.steps, s.lr))
            row = ()
            if step % VALIDATE_EVERY == 0 or step == s.steps:
                batch = make_batch(s, VALIDATE_ON, VALIDATION, step)
                row = (step, *evaluate(state.params, s, *batch)[:3])
        if not math.isfinite(sum(row, state.loss)):
            raise FloatingPointError(f"the loss is not finite at step {step}")
        state.step = step
        state.log += [row] if row else []
        state.seconds += time.perf_counter() - began
        yield state


def keep_heap() -> None:
    """Ask glibc to keep freed memory instead of returning it after every step: about 1.5x faster.

    Elsewhere (no mallopt) it does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for threshold in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        mallopt(threshold, 1 << 30)


# ---------------------------------------------------------------- files of a run


def write_text(path: Path, text: str) -> None:
    """UTF-8, never seen half written."""
    memt.write_whole(path, lambda file: file.write(text.encode()))


def write_log(out: Path, state: State) -> None:
    """log.csv: a row per validation."""
    text, rows = io.StringIO(), [("step", "loss", "symbol", "exact"), *state.log]
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(out / "log.csv", text.getvalue())


def write_checkpoint(out: Path, s: Settings, state: State) -> None:
    """checkpoint.npz: settings and state, all that --resume needs; then log.csv."""
    numbers = {"step": state.step, "seconds": state.seconds, "log": state.log}
    arrays = {
        "about": np.array(json.dumps({"settings": asdict(s), **numbers})),
        "vector": memt.flat(state.params),
        "m": state.m,
        "v": state.v,
    }
    memt.write_whole(out / "checkpoint.npz", lambda file: np.savez(file, **arrays))
    write_log(out, state)


def read_checkpoint(out: Path) -> tuple[Settings, State]:
    """What write_checkpoint wrote. Raises ValueError if the file is damaged."""
    path = out / "checkpoint.npz"
    arrays = memt.read_npz(path)
    try:
        about = json.loads(str(arrays["about"]))
        s = Settings(**about["settings"])
        if arrays["vector"].size != sum(map(math.prod, memt.param_shapes(s.config()).values())):
            raise ValueError("vector does not fit its settings")
        state = start(s)
        for array, name in ((memt.flat(state.params), "vector"), (state.m, "m"), (state.v, "v")):
            if arrays[name].shape != array.shape or not np.isfinite(arrays[name]).all():
                raise ValueError(f"{name} does not fit its settings")
            array[:] = arrays[name]
        state.step, state.seconds = int(about["step"]), float(about["seconds"])
        state.log = [(int(n), float(x), float(y), float(z)) for n, x, y, z in about["log"]]
        return s, state
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not a checkpoint: {memt.reason(error)}") from None


def write_result(out: Path, s: Settings, state: State, scores) -> dict:
    """model.npz and result.json: scores are those of the test stream."""
    memt.save(out / "model.npz", state.params, s.config())
    loss, symbol, exact = scores
    result = {"task": s.task, "variant": s.variant, "seed": s.seed}
    result |= {"steps": state.step, "seconds": round(state.seconds, 3)}
    result |= {"loss": loss, "symbol": symbol, "exact": exact, "tested_on": TEST_ON}
    settings = {"max_steps" if name == "steps" else name: x for name, x in asdict(s).items()}
    write_text(out / "result.json", json.dumps(result | settings, indent=1) + "\n")
    return result


# ---------------------------------------------------------------- pictures


def draw_curve(path: Path, s: Settings, log: list[tuple]) -> None:
    """Loss and accuracies against steps."""
    import matplotlib.figure

    step, loss, symbol, exact = zip(*log, strict=True)
    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    left = figure.add_subplot(xlabel="step", ylabel="loss (nats per symbol)")
    left.plot(step, loss, color="0.45", linestyle="--", label="loss")
    left.set_ylim(bottom=0)
    right = left.twinx()
    right.set(ylabel="accuracy (%)", ylim=(0, 103))
    right.plot(step, 100 * np.array(symbol), color="#0072b2", label="symbols right")
    right.plot(step, 100 * np.array(exact), color="#d55e00", lw=2.5, label="whole sequences right")
    figure.legend(loc="outside upper right", ncols=3, frameon=False)
    left.set_title(f"{s.variant}, {s.task} of {s.length} symbols", loc="left", fontsize=10)
    memt.write_whole(path, lambda file: figure.savefig(file, format="png", dpi=150))


def draw_map(axes, weights: Array, M: int, n: int) -> None:
    """One head's map (M+2n, M+2n) with its blocks named; rows are targets, columns sources."""
    from matplotlib.colors import PowerNorm

    axes.imshow(weights, cmap="cividis", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    ticks = [(M / 2, "memory"), (M + n / 2, "symbols"), (M + 1.5 * n, "slots")][not M :]
    places, names = [place - 0.5 for place, _ in ticks], [name for _, name in ticks]
    axes.set_xticks(places, names, fontsize=8)
    axes.set_yticks(places, names, fontsize=8, rotation=90, va="center")
    axes.tick_params(length=0)
    for line in (axes.axhline, axes.axvline):
        line(M + n - 0.5, color="white", lw=0.6, linestyle=":")
        if M:
            line(M - 0.5, color="white", lw=1.5)
    blocks = {"PROCESS": (0, 0), "WRITE": (M, 0), "READ": (0, M)} if M else {}
    for name, (x, y) in blocks.items():
        axes.text(x, y, name, color="white", fontsize=8, weight="bold", ha="left", va="top")


def draw_attention(path: Path, s: Settings, maps: Array) -> None:
    """Every layer and head of maps (L, H, M+T, M+T)."""
    import matplotlib.figure

    L, H = maps.shape[:2]
    figure = matplotlib.figure.Figure(figsize=(1 + 2.9 * H, 0.7 + 3 * L), layout="constrained")
    grid = figure.subplots(L, H, squeeze=False)
    for (layer, head), axes in np.ndenumerate(grid):
        draw_map(axes, maps[layer, head], s.memory, s.length)
        axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=9)
    figure.supylabel("target (the row that attends)", fontsize=10)
    figure.supxlabel("source (what it attends to)", fontsize=10)
    title = f"{s.variant}, {s.task}: attention, mean over {TEST_ON} test sequences"
    figure.suptitle(title, fontsize=11)
    figure.colorbar(grid[0, 0].images[0], ax=grid, shrink=0.6, label="weight (root scale)")
    memt.write_whole(path, lambda file: figure.savefig(file, format="png", dpi=110))


def draw(out: Path, s: Settings, state: State) -> str:
    """Both pictures -> a line that says what was drawn, or left out where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return "matplotlib is not installed: curve.png and attention.png are left out"
    tokens, _ = make_batch(s, TEST_ON, TEST)
    _, cache = memt.model_forward(state.params, tokens, s.config())
    draw_curve(out / "curve.png", s, state.log)
    draw_attention(out / "attention.png", s, memt.attention_maps(cache).mean(axis=1))
    return f"pictures: {out / 'curve.png'}, {out / 'attention.png'}"


# ---------------------------------------------------------------- command line


def say(text: str, end: str = "\n") -> None:
    """Print; where nobody can read it (a closed pipe, a full disk), go on without."""
    try:
        print(text, end=end, flush=True)
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


class Progress:
    """A line about the run: in place on a terminal, a plain one every few seconds elsewhere."""

    def __init__(self, s: Settings, first_step: int):
        self.s, self.first, self.began, self.last = s, first_step, time.perf_counter(), 0.0
        self.terminal = sys.stdout is not None and sys.stdout.isatty()

    def show(self, state: State, final: bool = False) -> None:
        """Print if it is time to."""
        now = time.perf_counter()
        if not final and now - self.last < (0.1 if self.terminal else 2):
            return
        self.last = now
        rate = (state.step - self.first) / max(now - self.began, 1e-9)
        left = (self.s.steps - state.step) / max(rate, 1e-9)
        text = f"step {state.step}/{self.s.steps}  loss {state.loss:.3f}"
        if state.log:
            text += f"  symbol {state.log[-1][2]:6.1%}  exact {state.log[-1][3]:6.1%}"
        text += f"  {rate:.0f} steps/s"
        text += "" if final else f"  {left // 60:.0f}:{left % 60:02.0f} left"
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            return say(f"\r{text[:width]:<{width}}", end="\n" if final else "")
        say(text)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str):
        """Exit with status 2."""
        self.exit(2, f"{self.prog}: {message}\n")


NUMBERS = {
    "memory": "memory tokens, M",
    "length": "symbols in a sequence, n",
    "symbols": "size of the alphabet",
    "width": "numbers per row, C",
    "heads": "attention heads, H",
    "hidden": "width inside the feed-forward net, F",
    "layers": "layers, L",
    "window": "radius within which sequence rows see each other; not for masked, membottleneck",
    "steps": "most training steps; a run stops when it is solved",
    "batch": "sequences per step",
    "seed": "of data and initial parameters",
}


def make_parser() -> argparse.ArgumentParser:
    """Options without defaults: those may depend on the variant."""
    defaults = [(v, default_settings(v)) for v in memt.VARIANTS]
    own = (f"  {v:<15} --memory {s.memory} --layers {s.layers}" for v, s in defaults)
    parser = Parser(
        description="Train a Memory Transformer on a toy task and draw what its memory does.",
        epilog="defaults by variant:\n" + "\n".join(own),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    known = parser.add_argument
    known("--task", choices=TASKS, help="what to learn (reverse)")
    known("--variant", help=f"{', '.join(memt.VARIANTS)} (membottleneck)")
    varied = {"memory": "see below", "layers": "see below", "window": "no limit"}
    for name, text in NUMBERS.items():
        known(f"--{name}", type=int, help=f"{text} ({varied.get(name, getattr(Settings, name))})")
    known("--lr", type=float, help=f"largest learning rate of Adam ({Settings.lr})")
    shared = "one memory update for all layers; memctrl and membottleneck"
    known("--share-controller", action="store_true", help=shared)
    known("--out", type=Path, help="directory to write (runs/TASK-VARIANT-SEED)")
    known("--resume", action="store_true", help="go on from the checkpoint in the directory")
    known("--overwrite", action="store_true", help="replace the run in the directory")
    return parser


def prepare(given: dict) -> tuple[Path, Settings, State]:
    """Options -> directory, settings and state to train. Raises ValueError or OSError."""
    resume, overwrite = given.pop("resume", False), given.pop("overwrite", False)
    out = given.pop("out", None)
    s = default_settings(**given)
    out = out or Path("runs", f"{s.task}-{s.variant}-{s.seed}")
    held = [name for name in FILES if (out / name).exists()]
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other: give one")
    if held and not resume and not overwrite:
        raise ValueError(f"{str(out)!r} holds a run: give --resume, --overwrite or another --out")
    if resume and "checkpoint.npz" in held:
        s, state = read_checkpoint(out)
        for name, value in given.items():
            if getattr(s, name) != value:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} is {value}, the run has {getattr(s, name)}: omit it")
        return out, s, state
    state = start(s)  # first: where it can't be had, nothing is lost
    out.mkdir(parents=True, exist_ok=True)
    for name in held:
        (out / name).unlink()
    return out, s, state


def run(out: Path, s: Settings, state: State) -> int:
    """Train to the end or to an interruption -> exit status."""
    stopped = []

    def stop(number, _frame):
        stopped.append(number)
        signal.signal(number, signal.SIG_DFL)  # a second one is obeyed at once

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    write_checkpoint(out, s, state)
    progress, saved = Progress(s, state.step), time.perf_counter()
    for _ in training(s, state):
        progress.show(state, final=finished(s, state))
        if stopped:
            write_checkpoint(out, s, state)
            say(f"\nstopped at step {state.step}; --resume --out {out} goes on from here")
            return 128 + stopped[0]
        if time.perf_counter() - saved > 5:
            write_checkpoint(out, s, state)
            saved = time.perf_counter()
    write_checkpoint(out, s, state)
    report(out, s, state)
    return 0


def report(out: Path, s: Settings, state: State) -> None:
    """Test, show examples, write the results and draw."""
    tokens, targets = make_batch(s, TEST_ON, TEST)
    *scores, outputs = evaluate(state.params, s, tokens, targets)
    result = write_result(out, s, state, scores)
    say("")
    for x, y, z in zip(tokens[:3, : s.length], targets, outputs, strict=False):
        for name, row in (("input", x), ("target", y), ("output", z)):
            say(f"{name:>7}  {' '.join(map(str, row))}")
        say("")
    cells = [(n, f"{x:.4g}" if isinstance(x, float) else str(x)) for n, x in result.items()]
    for row in zip(*cells, strict=True):
        padded = (x.ljust(max(map(len, cell))) for x, cell in zip(row, cells, strict=True))
        say("  ".join(padded).rstrip())
    say(f"\n{draw(out, s, state)}\nfiles in {out}")


def main() -> int:
    """The command: 0 done, 1 the run failed, 2 bad arguments, 130 or 143 interrupted."""
    parser = make_parser()
    given = vars(parser.parse_args())
    keep_heap()
    if hasattr(sys.stdout, "reconfigure"):  # not in a notebook
        sys.stdout.reconfigure(errors="replace")  # a directory's name that it can't show
    try:
        out, s, state = prepare(given)
    except (ValueError, TypeError, OSError, MemoryError) as error:
        parser.error(str(error))
    try:
        return run(out, s, state)
    except (FloatingPointError, OSError, MemoryError, ValueError) as error:
        say("")
        checkpoint = out / "checkpoint.npz"
        kept = f"; {checkpoint} is kept" if checkpoint.exists() else ""
        print(f"train_toy.py: stopped: {error}{kept}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
