"""Train a small model to copy or to reverse a sequence, then look into its memory.

    python train_toy.py                                  # membottleneck learns to reverse
    python train_toy.py --task copy --variant memctrl    # --help shows every option

Input: n symbols, then n blank slots. At slot j, the model must output the j-th symbol of the task's
answer; loss and accuracy count the slots only. The setting is ours (nothing of it is the paper's).
"""

import signal

if __name__ == "__main__":  # Ctrl-C while importing ends the command without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import contextlib
import ctypes
import json
import math
import os
import shlex
import shutil
import sys
import time
from collections import namedtuple
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import numpy as np

import memt
from memt import Config, must

# A task maps symbols (B, n) to what the slots must output, (B, n). Add yours here, one line.
TASKS = {
    "copy": lambda x: x,
    "reverse": lambda x: x[:, ::-1],
}
OPTIMIZERS = ("muon", "adam")

TRAINING, VALIDATION, TEST, START = range(4)  # independent random streams of one seed
VALIDATE_EVERY, VALIDATE_ON, TEST_ON, CHUNK = 25, 512, 1000, 64  # in steps; in sequences
LESIONED_ON = 500  # the first of the test sequences
SOLVED = 1.0  # exact match of the last two validations
PICTURES = ("curve.png", "attention.png", "lesions.png")
FILES = ("checkpoint.npz", "model.npz", "log.csv", "result.json", *PICTURES)

# tokens (B, T), targets (B, R), and as in memt.model_forward: at, mask
Batch = namedtuple("Batch", "tokens targets at mask", defaults=(None, None))
VECTORS = ("params", "weights", "m", "v")
Scores = namedtuple("Scores", "loss symbol exact outputs")  # nats, two accuracies (0 to 1), (B, R)


def one_thread():
    """Ask OpenBLAS, NumPy's matrix library, for one thread, the fastest here; called on import.

    Works even if NumPy was imported before. With another library, set OMP_NUM_THREADS=1 instead.
    """
    files = [np._core._multiarray_umath.__file__]  # on Windows, the library's own file:
    files += map(str, Path(np.__file__).parents[1].glob("numpy.libs/*openblas*"))
    for file in files:
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(file).scipy_openblas_set_num_threads64_(1)


one_thread()


def keep_heap():
    """Ask glibc, if in use, to keep freed memory after each step: up to 1.5 times as fast."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD


# ---------------------------------------------------------------- settings and data
@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on. Raises ValueError or TypeError for what cannot work."""

    task: str = "reverse"
    length: int = 10
    steps: int = 3000
    batch: int = 32
    lr: float = 4e-3
    seed: int = 0
    config: Config = Config()  # noqa: RUF009 (it is frozen)
    optimizer: str = "muon"

    def __post_init__(self):
        for name, known in (("task", TASKS), ("optimizer", OPTIMIZERS)):
            value = getattr(self, name)
            must(value in [*known], f"{name} is {value!r}: must be one of {', '.join(known)}")
        for name in ("length", "steps", "batch"):
            memt.check_size(name, getattr(self, name), 1)
        memt.check_size("seed", self.seed, 0)
        positive = isinstance(self.lr, (int, float)) and 0 < self.lr < math.inf
        must(positive, f"lr is {self.lr!r}: must be a positive float")
        must(isinstance(self.config, Config), f"config is {self.config!r}: must be a memt.Config")


# Defaults that differ from those of Settings and Config, by variant; chosen over several seeds.
DEFAULTS = {"transformer": {"memory": 0}, "masked": {"layers": 3, "memory": 16, "lr": 3e-3}}


def default_settings(variant=Config.variant, **given):
    """The variant's defaults, overridden by the given fields of Settings or Config."""
    own = {"variant": variant, **DEFAULTS.get(str(variant), {}), **given}
    of_model = {f.name: own.pop(f.name) for f in fields(Config) if f.name in own}
    return Settings(config=Config(**of_model), **own)


def step_memory(s):
    """About how much memory a training step or a validation takes, in GiB."""
    c, rows = s.config, s.config.memory + 2 * s.length
    columns = 2 * c.memory if c.variant == "membottleneck" else rows
    per_row = c.layers * (c.heads * columns + 12 * c.width + 2 * c.hidden) + c.symbols
    per_row += 4 * (c.outputs or c.symbols)
    return (max(s.batch, CHUNK) * rows * per_row + 6 * memt.param_count(c)) / 2**28


def check_memory(s):
    """Raises ValueError for settings that need more memory than this machine has."""
    have, need = 64, step_memory(s)
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not on Windows
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    right = f"must be less than {have:,.0f}; reduce length, memory, batch or layers"
    must(need < have, f"training needs about {need:,.0f} GiB: {right}")


def as_dict(s):
    """Name -> value of Settings and its Config, as `default_settings` takes them."""
    own = {f.name: getattr(s, f.name) for f in fields(s) if f.name != "config"}
    return own | asdict(s.config)


def make_batch(s, size, stream, step=0):
    """A Batch: tokens (size, 2n), targets (size, n), int64; the same for the same arguments."""
    rng = np.random.default_rng([s.seed, stream, step])
    x = rng.integers(s.config.symbols, size=(size, s.length))
    tokens = np.hstack((x, np.full_like(x, s.config.symbols)))
    slots = slice(s.length, 2 * s.length)
    return Batch(tokens, TASKS[s.task](x).copy(), slots)


def evaluate(params, config, batch):
    """Scores of a Batch, CHUNK sequences at a time; exact match: a whole sequence right."""
    tokens, targets, at, mask = batch
    tokens, targets = np.asarray(tokens), np.asarray(targets)
    each = np.ndim(mask) == 3 and len(mask) > 1  # a mask for each sequence
    fits = len(tokens) == len(targets) > 0 and (not each or len(mask) == len(tokens))
    must(fits, "tokens, targets and mask must hold equally many sequences, not 0")
    loss, outputs = 0.0, []
    for i in range(0, len(tokens), CHUNK):
        part = slice(i, i + CHUNK)
        own = mask[part] if each else mask
        logits, _ = memt.model_forward(params, tokens[part], config, at, own)
        loss += float(memt.cross_entropy_forward(logits, targets[part])[0]) * len(logits)
        outputs.append(logits.argmax(axis=-1))
    outputs = np.concatenate(outputs)
    right = outputs == targets
    return Scores(loss / len(tokens), float(right.mean()), float(right.all(1).mean()), outputs)


# ---------------------------------------------------------------- one step
def clip(grad):
    """Clip the gradient's norm at 1 (arXiv 1211.5063), in place.

    Without it, a run now and then falls from nearly solved to chance and may not come back.
    """
    grad /= max(1.0, np.linalg.norm(grad.astype(np.float64)))  # squares overflow in float32


def learning_rate(s, step):
    """At step 1, 2, …; muon: linear warm-up to step 20, constant, decay as 1/√step from step 200.

    This does not depend on `steps`, so a longer run begins like a shorter one. adam: linear warm-up
    to step 100, times a cosine decay to 0 at `steps`.
    """
    if s.optimizer == "muon":
        return s.lr * min(step / 20, 1, math.sqrt(200 / step))
    return s.lr * min(1, step / 100) * (1 + math.cos(math.pi * (step - 1) / s.steps)) / 2


def adam(grad, m, v, step, beta1=0.9, beta2=0.999):
    """Adam (arXiv 1412.6980, algorithm 1): gradients -> directions; changes m and v."""
    m += (1 - beta1) * (grad - m)
    v += (1 - beta2) * (grad * grad - v)
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    return m_hat / (np.sqrt(v_hat) + 1e-8)


def muon(grad, m, v, step, config):
    """Muon (Jordan et al., 2024) for the matrices inside the layers, Adam for everything else.

    Adam scales each entry separately. Muon turns a whole matrix of momentum (Nesterov's) into one
    with the same singular vectors, all of whose singular values are near 1. Arguments as in `adam`,
    whose m is the momentum. The factor 10 and the decay rates 0.7 and 0.99 are ours.
    """
    direction = adam(grad, m, v, step, 0.7, 0.99)
    out, momentum = memt.views(config, direction), memt.views(config, grad + 0.7 * (m - grad))
    stacks = {}
    for name, matrix in momentum.items():
        if name.endswith((".wq", ".wkv", ".wo", ".w1", ".w2")):
            matrix = short_side_first(matrix)
            stacks.setdefault(matrix.shape, {})[name] = matrix
    for stack in stacks.values():  # matrices of one shape at once
        for name, matrix in zip(stack, orthogonal(np.stack([*stack.values()])), strict=True):
            short_side_first(out[name])[...] = 10 * matrix
    return direction


def short_side_first(x):
    """A matrix (I, O) or its transpose, a view: the cheaper one for `orthogonal`."""
    return x if len(x) <= x.shape[1] else x.T


def orthogonal(x):
    """Matrices (..., I, O), I <= O -> the same singular vectors, all singular values near 1.

    Five Newton-Schulz steps: an odd polynomial of a matrix changes only its singular values.
    """
    x = x / np.maximum(np.linalg.norm(x, axis=(-2, -1), keepdims=True), 1e-7)
    for _ in range(5):
        a = x @ x.swapaxes(-2, -1)
        x = 3.4445 * x + (2.0315 * a @ a - 4.775 * a) @ x
    return x


# ---------------------------------------------------------------- training
@dataclass
class State:
    """All that changes while training; `log` rows are step, loss, symbol, exact of validation.

    `vectors`: weights (moved by the optimizer), its m and v, and params (the model: a running mean
    of weights with muon, equal to weights with adam).
    """

    config: Config
    vectors: dict
    step: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    log: list = field(default_factory=list)

    @property
    def params(self):
        """The model, by name: views, to be changed in place."""
        return memt.views(self.config, self.vectors["params"])

    @property
    def weights(self):
        """What the optimizer moves, by name: views, to be changed in place."""
        return memt.views(self.config, self.vectors["weights"])


def start(s):
    """A new model and an empty log. With muon, `embed` starts small, and attention adds nothing."""
    params = memt.init_params(s.config, np.random.default_rng([s.seed, START]))
    if s.optimizer == "muon":
        params["embed"] *= 0.3
        for name, array in params.items():
            if name.endswith(".wo"):
                array[:] = 0
    vector = memt.flat(params)
    four = vector, vector.copy(), np.zeros_like(vector), np.zeros_like(vector)
    return State(s.config, dict(zip(VECTORS, four, strict=True)))


def solved(state):
    """Whether the last two validations both had an exact match of 100%."""
    return len(state.log) > 1 and min(row[3] for row in state.log[-2:]) >= SOLVED


def finished(s, state):
    """All steps done, or solved."""
    return state.step >= s.steps or solved(state)


def optimizer_step(s, state, grads):
    """One optimizer step. With muon, the model is a running mean of about ten steps' weights."""
    params, weights, m, v = (state.vectors[name] for name in VECTORS)
    grad, step = memt.flat(grads), state.step + 1
    clip(grad)
    if s.optimizer == "muon":
        weights -= learning_rate(s, step) * muon(grad, m, v, step, s.config)
        params += 0.1 * (weights - params)
    else:
        weights -= learning_rate(s, step) * adam(grad, m, v, step)
        params[:] = weights
    state.step = step


def training(s, state, batches=None):
    """Train until finished; yields the state after every step.

    `batches(size, stream, step)` -> tokens, targets[, at[, mask]], as in a Batch: any source of
    data; by default, the task's. Streams are TRAINING and VALIDATION.
    Raises FloatingPointError, naming the step, when the loss is not finite.
    """
    must(state.config == s.config, "the state is one of another configuration than the settings'")
    batches = partial(make_batch, s) if batches is None else batches
    while not finished(s, state):
        began, step = time.perf_counter(), state.step + 1
        with np.errstate(all="ignore"):
            tokens, targets, at, mask = Batch(*batches(s.batch, TRAINING, step))
            loss, grads = memt.loss_and_grads(state.weights, tokens, targets, s.config, at, mask)
            state.loss = float(loss)
            optimizer_step(s, state, grads)
            row = ()
            if step % VALIDATE_EVERY == 0:
                batch = Batch(*batches(VALIDATE_ON, VALIDATION, step))
                row = (step, *evaluate(state.params, s.config, batch)[:3])
        if not np.isfinite((state.loss, *row)).all():
            raise FloatingPointError(f"the loss is not finite at step {step}")
        if row:
            state.log.append(row)
        state.seconds += time.perf_counter() - began
        yield state


# ---------------------------------------------------------------- files of a run
def write_text(path, text):
    """UTF-8, written atomically."""
    memt.atomic_write(path, lambda file: file.write(text.encode()))


def write_checkpoint(out, s, state):
    """checkpoint.npz: settings and state, all that --resume needs; then log.csv.

    Raises FloatingPointError, and keeps the last checkpoint, where a number is not finite.
    """
    if not all(np.isfinite(vector).all() for vector in state.vectors.values()):
        raise FloatingPointError(f"the parameters are not finite at step {state.step}")
    numbers = {"step": state.step, "seconds": state.seconds, "log": state.log}
    arrays = {"about": json.dumps({"settings": as_dict(s), **numbers}), **state.vectors}
    memt.atomic_write(out / "checkpoint.npz", lambda file: np.savez(file, **arrays))
    rows = [("step", "loss", "symbol", "exact"), *state.log]
    write_text(out / "log.csv", "".join(",".join(map(str, row)) + "\n" for row in rows))


def read_checkpoint(out):
    """What write_checkpoint wrote -> settings, state. Raises as memt.open_npz does."""
    with memt.open_npz(out / "checkpoint.npz", "checkpoint") as arrays:
        about = json.loads(str(arrays["about"]))
        must({*VECTORS} <= {*arrays}, "another version of memt may have written it")
        s = default_settings(**about["settings"])
        state = State(s.config, {name: arrays[name] for name in VECTORS})
        for name, vector in state.vectors.items():
            good = vector.shape == (memt.param_count(s.config),) and vector.dtype in ("f4", "f8")
            must(good and np.isfinite(vector).all(), f"{name} does not fit its settings")
        state.step, state.seconds = int(about["step"]), float(about["seconds"])
        state.log = [(int(n), float(x), float(y), float(z)) for n, x, y, z in about["log"]]
        good = max([0, *(row[0] for row in state.log)]) <= state.step <= s.steps
        must(good, f"step {state.step} does not fit its settings or its log")
        must(math.isfinite(state.seconds), f"seconds is {state.seconds}")
        return s, state


def save_model(path, s, params):
    """A model file that also holds its task and length; memt.load reads it too."""
    memt.save(path, params, s.config, task=s.task, length=s.length)


def read_model(path):
    """What save_model wrote -> settings, params. Raises as memt.open_npz does."""
    params, config = memt.load(path)
    with memt.open_npz(path, "model of train_toy") as arrays:
        about = json.loads(str(arrays.get("about", "{}")))
        must({*about} >= {"task", "length"}, "it does not say its task and length")
        return Settings(task=about["task"], length=about["length"], config=config), params


def write_result(out, s, state, scores):
    """result.json: how the run went, its scores on the test stream, its settings."""
    result = as_dict(s) | {"max_steps": s.steps, "steps": state.step, "tested_on": TEST_ON}
    result |= {"seconds": round(state.seconds, 3), "loss": scores.loss}
    result |= {"symbol": scores.symbol, "exact": scores.exact}
    write_text(out / "result.json", json.dumps(result, indent=1))


# ---------------------------------------------------------------- pictures
def mean_maps(params, config, tokens):
    """Attention averaged over sequences: (L, H, M+T, M+T), as in memt.attention_maps."""
    total, size = 0, map_chunk(config, tokens.shape[1])
    for i in range(0, len(tokens), size):
        _, cache = memt.model_forward(params, tokens[i : i + size], config)
        total = total + memt.attention_maps(cache).sum(axis=1)
    return total / len(tokens)


def map_chunk(config, T):
    """How many sequences' maps to hold at once: CHUNK, fewer if they take more than 256 MB."""
    cells = config.layers * config.heads * (config.memory + T) ** 2
    return max(1, min(CHUNK, 2**26 // cells))


def without(params, config, gone):
    """-> params, config of the model without these memory tokens; at least one must stay."""
    kept = np.delete(np.arange(config.memory), gone)
    return params | {"memory": params["memory"][kept]}, replace(config, memory=len(kept))


def lesion_matrix(params, config, batch):
    """Share of wrong outputs (0 to 1) at each slot when one memory token is removed: (M, R)."""
    must(config.memory > 1, f"memory is {config.memory}: must be at least 2, since one must stay")
    wrong = []
    for token in range(config.memory):
        mask = batch.mask
        if mask is not None:  # its row and its column go too
            size = config.memory + np.shape(batch.tokens)[1]
            mask = np.broadcast_to(mask, (len(batch.tokens), size, size))
            mask = np.delete(np.delete(mask, token, axis=1), token, axis=2)
        own = batch._replace(mask=mask)
        outputs = evaluate(*without(params, config, [token]), own).outputs
        wrong.append((outputs != batch.targets).mean(axis=0))
    return np.array(wrong)


def draw_curve(path, s, log):
    """Loss and accuracies against steps."""
    import matplotlib.figure

    step, loss, symbol, exact = np.reshape(log, (-1, 4)).T  # none before the first validation
    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    left = figure.add_subplot(xlabel="step", ylabel="loss (nats per symbol)")
    left.plot(step, loss, color="0.45", linestyle="--", label="loss")
    left.set_ylim(bottom=0)
    right = left.twinx()
    right.set(ylabel="accuracy (%)", ylim=(0, 103))
    right.plot(step, 100 * symbol, color="#0072b2", label="symbol accuracy")
    right.plot(step, 100 * exact, color="#d55e00", lw=2.5, label="exact match")
    figure.legend(loc="outside upper right", ncols=3, frameon=False)
    left.set_title(f"{s.config.variant}, {s.task} of {s.length} symbols", loc="left", fontsize=10)
    memt.atomic_write(path, lambda file: figure.savefig(file, format="png", dpi=150))


def draw_map(axes, weights, M, n):
    """A map (M+2n, M+2n), its blocks named; rows are targets, columns sources; grey: weight 0."""
    from matplotlib.colors import PowerNorm

    axes.set_facecolor("0.8")
    axes.imshow(np.ma.masked_equal(weights, 0), cmap="cividis", norm=PowerNorm(0.5, 0, 1))
    ticks = [(M / 2, "memory"), (M + n / 2, "symbols"), (M + 1.5 * n, "slots")][not M :]
    places, names = [place - 0.5 for place, _ in ticks], [name for _, name in ticks]
    axes.set_xticks(places, names, fontsize=9)
    axes.set_yticks(places, names, fontsize=9, rotation=90, va="center")
    axes.tick_params(length=0)
    for line in (axes.axhline, axes.axvline):
        line(M + n - 0.5, color="white", lw=1)
        if M:
            line(M - 0.5, color="white", lw=2)
    blocks = {"PROCESS": (0, 0), "WRITE": (M, 0), "READ": (0, M)} if n < 2 * M else {}
    for name, (x, y) in blocks.items():  # if there is room
        dark = {"color": "#0008", "pad": 1}
        axes.text(x, y, name, color="white", fontsize=8, va="top", bbox=dark)


def few_maps(maps):
    """Maps (L, H, N, N), but means over heads, (L, 1, N, N), if there are more than 16."""
    return maps if len(maps) * maps.shape[1] <= 16 else maps.mean(axis=1, keepdims=True)


def draw_attention(path, s, maps):
    """Every layer and head of maps (L, H, M+T, M+T), or the mean over heads."""
    import matplotlib.figure

    maps = few_maps(maps)
    L, H = maps.shape[:2]
    size = max(6.5, 1 + 2.9 * H), 0.7 + 3 * L
    figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
    grid = figure.subplots(L, H, squeeze=False)
    for (layer, head), axes in np.ndenumerate(grid):
        draw_map(axes, maps[layer, head], s.config.memory, s.length)
        name = f"head {head + 1}" if s.config.heads == H else "mean of heads"
        axes.set_title(f"layer {layer + 1}, {name}", fontsize=10)
    figure.supylabel("target (the row that attends)", fontsize=10)
    figure.supxlabel("source (what it attends to)", fontsize=10)
    figure.suptitle(f"{s.config.variant}, {s.task}: mean over {TEST_ON} sequences", fontsize=12)
    label = "attention weight (square-root scale; grey: none)"
    figure.colorbar(grid[0, 0].images[0], ax=grid, shrink=0.9, label=label)
    memt.atomic_write(path, lambda file: figure.savefig(file, format="png", dpi=110))


def draw_matrix(axes, matrix):
    """A lesion matrix (M, R), tokens sorted by the slot that each one hurts most -> its image."""
    order = np.lexsort((matrix.argmax(axis=1), matrix.max(axis=1) < 0.05))  # harmless ones last
    image = axes.imshow(100 * matrix[order], cmap="Oranges", vmin=0, vmax=100, aspect="auto")
    rows, slots = (np.arange(0, size, 1 + size // 17) for size in matrix.shape)
    axes.set_yticks(rows, order[rows] + 1)
    axes.set_xticks(slots, slots + 1)
    axes.set(xlabel="slot", ylabel="memory token removed")
    axes.tick_params(length=0)
    return image


def draw_lesions(path, s, matrix):
    """See lesion_matrix."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(6.5, 5), layout="constrained")
    axes = figure.add_subplot(title=f"{s.config.variant}, {s.task}: which token holds which slot?")
    figure.colorbar(draw_matrix(axes, matrix), label="wrong answers (%)")
    memt.atomic_write(path, lambda file: figure.savefig(file, format="png", dpi=110))


def draw(out, s, state):
    """Draw the pictures -> a line that says where, or that matplotlib is missing."""
    curve, attention, lesions = paths = [out / name for name in PICTURES]
    for stale in paths:  # of a run that this one replaced
        stale.unlink(missing_ok=True)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return f"matplotlib is not installed: {', '.join(PICTURES)} are left out"
    draw_curve(curve, s, state.log)
    tokens = make_batch(s, TEST_ON, TEST).tokens
    draw_attention(attention, s, mean_maps(state.params, s.config, tokens))
    if s.config.memory > 1:  # at least one must stay
        batch = make_batch(s, LESIONED_ON, TEST)
        draw_lesions(lesions, s, lesion_matrix(state.params, s.config, batch))
    return "pictures: " + ", ".join(str(path) for path in paths if path.exists())


# ---------------------------------------------------------------- command line
def say(text, end="\n"):
    """Print; if the output is gone (a closed pipe, a full disk), go on silently."""
    try:
        print(text, end=end, flush=True)
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def reason(error):
    """An error in one line, never empty: a MemoryError often has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def show_progress(s, first, began):
    """-> show(state): a line in place on a terminal, a plain one every two seconds elsewhere."""
    last, terminal = 0.0, sys.stdout is not None and sys.stdout.isatty()

    def show(state):
        nonlocal last
        now, final = time.perf_counter(), finished(s, state)
        if not final and now - last < (0.1 if terminal else 2):
            return
        last = now
        left = round((s.steps - state.step) * (now - began) / (state.step - first))
        text = f"step {state.step}/{s.steps}  loss {state.loss:.3f}"
        if state.log:
            text += f"  symbol {state.log[-1][2]:6.1%}  exact {state.log[-1][3]:6.1%}"
        text += "" if final else f"  at most {left // 60}:{left % 60:02} left"
        width = shutil.get_terminal_size().columns - 1
        say(f"\r{text[:width]:<{width}}" if terminal else text, "" if terminal else "\n")

    return show


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with exit status 2."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


NUMBERS = {
    "memory": "memory tokens, M",
    "length": "symbols in a sequence, n",
    "symbols": "size of the alphabet",
    "width": "model dimension (length of each vector), C",
    "heads": "attention heads, H",
    "hidden": "width inside the feed-forward net, F",
    "layers": "layers, L",
    "window": "how far sequence positions attend; not in masked, membottleneck",
    "steps": "maximum number of training steps; a run stops when solved; --resume may raise it",
    "batch": "sequences per step",
    "seed": "random seed of data and initial parameters",
}


def defaults_by_variant():
    """A line for each variant."""
    line = "  {variant:<15} --memory {memory} --layers {layers} --lr {lr}"
    return [line.format(**as_dict(default_settings(variant))) for variant in memt.VARIANTS]


def make_parser():
    """Options without defaults: those may depend on the variant."""
    parser = Parser(
        description="Train a Memory Transformer on a toy task and draw what its memory does.",
        epilog="defaults are in brackets; by variant:\n" + "\n".join(defaults_by_variant()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    known = parser.add_argument
    known("--task", choices=TASKS, help=f"what to learn ({Settings.task})")
    known("--variant", choices=memt.VARIANTS, help=f"architecture ({Config.variant})")
    defaults = as_dict(Settings()) | dict.fromkeys(("memory", "layers"), "see below")
    for name, text in NUMBERS.items():
        default = "no limit" if defaults[name] is None else defaults[name]
        known(f"--{name}", type=int, help=f"{text} ({default})")
    known("--lr", type=float, help="largest learning rate (see below)")
    known("--optimizer", choices=OPTIMIZERS, help=f"training recipe ({Settings.optimizer})")
    shared = "all layers share the memory's update; memctrl and membottleneck only"
    known("--share-controller", action="store_true", help=shared)
    known("--out", type=Path, help="directory to write to (runs/TASK-VARIANT-SEED)")
    either = parser.add_mutually_exclusive_group().add_argument
    either("--resume", action="store_true", help="continue from the checkpoint in the directory")
    replace_it = "replace the run in the directory, file by file"
    either("--overwrite", action="store_true", help=replace_it)
    return parser


def prepare(given):
    """Options -> directory, settings and state to train; deletes nothing. ValueError or OSError."""
    resume, overwrite = given.pop("resume", False), given.pop("overwrite", False)
    name = "{task}-{variant}-{seed}".format(**as_dict(Settings()) | given)
    out = given.pop("out", None) or Path("runs", name)
    held = [file for file in FILES if (out / file).exists()]
    resumable = "checkpoint.npz" in held
    if resume:
        advice = "correct --out, or omit --resume to start a new run"
        must(resumable, f"{str(out)!r} holds no checkpoint: {advice}")
        return out, *read_run(out, given)
    advice = f"give {'--resume, ' * resumable}another --out, or --overwrite"
    must(overwrite or not held, f"{str(out)!r} holds {', '.join(held)}: {advice}")
    s = default_settings(**given)
    check_memory(s)
    state = start(s)
    out.mkdir(parents=True, exist_ok=True)
    return out, s, state


def read_run(out, given):
    """Settings and state of a run; the options must match it, but --steps may be larger."""
    s, state = read_checkpoint(out)
    check_memory(s)
    if given.get("steps", 0) > s.steps:  # with adam, the cosine is stretched: its rate jumps up
        s = replace(s, steps=given["steps"])
    for name, value in given.items():
        option, own = name.replace("_", "-"), as_dict(s)[name]
        must(value == own, f"--{option} is {value}, but the run has {own}: omit --{option}")
    return s, state


def resume_command(out):
    """To be pasted into a shell."""
    return f"python train_toy.py --resume --out {shlex.quote(str(out))}"


def run(out, s, state):
    """Train to the end or to an interruption -> exit status."""
    stopped = []

    def stop(number, _frame):
        stopped.append(number)
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    write_checkpoint(out, s, state)
    show, saved = show_progress(s, state.step, time.perf_counter()), time.perf_counter()
    for _ in training(s, state):
        show(state)
        if stopped or time.perf_counter() - saved > 5:
            write_checkpoint(out, s, state)
            saved = time.perf_counter()
        if stopped:
            say(f"\nstopped at step {state.step}; to continue:\n{resume_command(out)}")
            return 128 + stopped[0]
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    write_checkpoint(out, s, state)
    report(out, s, state)
    return 0


def report(out, s, state):
    """Save the model, test it, show examples, draw."""
    save_model(out / "model.npz", s, state.params)
    batch = make_batch(s, TEST_ON, TEST)
    scores = evaluate(state.params, s.config, batch)
    write_result(out, s, state, scores)
    for i in range(3):
        rows = (batch.tokens[i, : s.length], batch.targets[i], scores.outputs[i])
        say("")
        for name, row in zip(("input", "target", "output"), rows, strict=True):
            say(f"{name:>7}  {' '.join(map(str, row))}")
    end = "solved" if solved(state) else "not solved"
    say(f"\n{s.task}, {s.config.variant}, seed {s.seed}: {end} after {state.step} steps, "
        f"{state.seconds:.1f} seconds")  # fmt: skip
    say(f"test on {TEST_ON} sequences: loss {scores.loss:.3g}, symbol accuracy "
        f"{scores.symbol:.1%}, exact match {scores.exact:.1%}")  # fmt: skip
    say(f"\n{draw(out, s, state)}\nfiles in {out}")
    if not solved(state):
        say(f"\nto train for longer:\n{resume_command(out)} --steps {2 * s.steps}")
    say(f"\nto play with it:\npython -m experiments.page {shlex.quote(str(out / 'model.npz'))}")


def main():
    """The command: 0 done, 1 the run failed, 2 bad arguments, 130 or 143 interrupted."""
    parser = make_parser()
    given = vars(parser.parse_args())
    keep_heap()
    if hasattr(sys.stdout, "reconfigure"):  # not in a notebook
        sys.stdout.reconfigure(errors="replace")  # a directory's name that it can't show
    try:
        out, s, state = prepare(given)
    except (ValueError, TypeError, OSError, MemoryError) as error:
        parser.error(reason(error))
    try:
        return run(out, s, state)
    except (FloatingPointError, OSError, MemoryError, ValueError) as error:
        checkpoint = out / "checkpoint.npz"
        kept = f"; {checkpoint} is kept" if checkpoint.exists() else ""
        say("")
        print(f"train_toy.py: stopped: {reason(error)}{kept}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
