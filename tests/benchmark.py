"""How fast is memt, against what people would use instead?

    python -m tests.benchmark                 # training steps, and whole runs from a cold start
    python -m tests.benchmark --rounds 5 --runs 2

First everyone must give the same loss and gradients for the same batch. Then each contender lives
in a process of its own, all on one core with one thread, and they are timed in turn, in rounds;
a ratio is taken within a round, so that it holds when the machine's speed drifts.
"""

import argparse
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from functools import partial
from importlib.metadata import version

import train_toy  # before NumPy: it asks for one thread

# isort: split
import numpy as np
import torch
import torch.nn.functional as F

import memt
from autograd import gradient_errors, value_and_grad

# batch, T, M, width, heads, hidden, layers; steps per timing
SIZES = {
    "T": ((32, 16, 4, 32, 2, 128, 2), 20),
    "S": ((64, 24, 8, 64, 4, 256, 2), 5),
    "M": ((64, 64, 8, 128, 4, 512, 4), 1),
}


def problem(size: str):
    """Parameters, tokens, targets, config, the slice that is read (the second half)."""
    (B, T, M, C, H, hidden, L), _ = SIZES[size]
    config = memt.Config(10, C, H, hidden, L, M, "memtransformer")
    rng = np.random.default_rng(0)
    tokens = rng.integers(11, size=(B, T))
    targets = rng.integers(10, size=(B, T - T // 2))
    return memt.init_params(config, rng), tokens, targets, config, slice(T // 2, T)


# ---------------------------------------------------------------- the contenders: one step each


def memt_step(size: str):
    """memt as it ships -> a training step, and its loss and gradients."""
    params, tokens, targets, config, read = problem(size)
    vector = memt.flat(params)
    m, v, steps = np.zeros_like(vector), np.zeros_like(vector), [0]

    def loss_and_grads():
        logits, cache = memt.model_forward(params, tokens, config, read)
        loss, loss_cache = memt.cross_entropy_forward(logits, targets)
        return loss, memt.model_backward(memt.cross_entropy_backward(1.0, loss_cache), cache)

    def step():
        _, grads = loss_and_grads()
        steps[0] += 1
        train_toy.adam(vector, memt.flat(grads), m, v, steps[0], 1e-4)

    return step, loss_and_grads


def tape_step(size: str):
    """memt's forward, differentiated by the tape of autograd.py."""
    params, tokens, targets, config, read = problem(size)
    vector = memt.flat(params)
    m, v, steps = np.zeros_like(vector), np.zeros_like(vector), [0]

    def f(p):
        logits, _ = memt.model_forward(p, tokens, config, read)
        return memt.cross_entropy_forward(logits, targets)[0]

    def step():
        _, grads = value_and_grad(f)(params)
        steps[0] += 1
        grad = np.concatenate([g.ravel() for g in grads.values()])
        train_toy.adam(vector, grad, m, v, steps[0], 1e-4)

    return step, lambda: value_and_grad(f)(params)


def torch_update(x, context, p, heads, fused):
    C = x.shape[-1]

    def split(y):
        return y.unflatten(-1, (heads, -1)).transpose(1, 2)

    k, v = (context @ p["wkv"]).chunk(2, dim=-1)
    q, k, v = split(x @ p["wq"]), split(k), split(v)
    if fused:
        o = F.scaled_dot_product_attention(q, k, v)
    else:
        o = (q @ k.transpose(-2, -1) * (C // heads) ** -0.5).softmax(-1) @ v
    x = F.layer_norm(x + o.transpose(1, 2).flatten(2) @ p["wo"], (C,), p["ln1_g"], p["ln1_b"])
    ff = F.linear(F.relu(F.linear(x, p["w1"].T, p["b1"])), p["w2"].T, p["b2"])
    return F.layer_norm(x + ff, (C,), p["ln2_g"], p["ln2_b"])


def torch_logits(params, tokens, config, read, positions, fused, only_read):
    """memtransformer and membottleneck as they are written in PyTorch; float32."""
    M, H = config.memory, config.heads
    seq = params["embed"][tokens] + positions
    mem = params["memory"].expand(len(tokens), -1, -1)
    for layer in range(config.layers):
        p = memt.role_params(params, config, layer)
        x = torch.cat([mem, seq], dim=1)
        rows = read if only_read and layer == config.layers - 1 else slice(None)
        if config.variant == "membottleneck":
            mem = torch_update(mem, x, p["mem"], H, fused)
            seq = torch_update(seq[:, rows], mem, p["seq"], H, fused)
        elif rows is read:
            seq = torch_update(seq[:, rows], x, p["all"], H, fused)
        else:
            x = torch_update(x, x, p["all"], H, fused)
            mem, seq = x[:, :M], x[:, M:]
    seq = seq if only_read else seq[:, read]
    return seq @ params["out_w"] + params["out_b"]


def torch_step(size: str, only_read=False, compiled=False, fused=True, optimiser="foreach"):
    """The same model in PyTorch -> a training step, and its loss and gradients."""
    params, tokens, targets, config, read = problem(size)
    params = {n: torch.tensor(p, requires_grad=True) for n, p in params.items()}
    tokens, targets = torch.from_numpy(tokens), torch.from_numpy(targets).flatten()
    positions = torch.from_numpy(memt.sinusoids(tokens.shape[1], config.width, np.float32))
    adam = torch.optim.Adam(params.values(), lr=1e-4, **{optimiser: True})

    def loss_of(params, tokens, targets):
        logits = torch_logits(params, tokens, config, read, positions, fused, only_read)
        return F.cross_entropy(logits.flatten(0, 1), targets)

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def step():
        adam.zero_grad()
        loss_of(params, tokens, targets).backward()
        adam.step()

    def loss_and_grads():
        adam.zero_grad()
        loss = loss_of(params, tokens, targets)
        loss.backward()
        return loss.item(), {n: p.grad.numpy().copy() for n, p in params.items()}

    return step, loss_and_grads


def fastest_torch(size: str, **given):
    """The best of plain and fused attention, foreach and fused Adam."""
    ways = [(f, o) for f in (True, False) for o in ("foreach", "fused")]
    if given.get("compiled"):
        ways = [(True, "fused")]
    times = []
    for f, o in ways:
        step, _ = torch_step(size, fused=f, optimiser=o, **given)
        times.append(min(timed(step, SIZES[size][1]) for _ in range(4)))
    fused, optimiser = ways[int(np.argmin(times))]
    made = torch_step(size, fused=fused, optimiser=optimiser, **given)
    return *made, f"{'fused' if fused else 'plain'} attention, {optimiser} Adam"


# name -> (make(size), keeps the heap)
CONTENDERS = {
    "memt": (memt_step, True),
    "torch": (fastest_torch, False),
    "torch, heap kept": (fastest_torch, True),
    "torch, only what is read, heap kept": (partial(fastest_torch, only_read=True), True),
    "torch.compile": (partial(fastest_torch, compiled=True), False),
    "tape": (tape_step, True),
}


# ---------------------------------------------------------------- timing in turn


def timed(step, n: int) -> float:
    """Seconds per step."""
    began = time.perf_counter()
    for _ in range(n):
        step()
    return (time.perf_counter() - began) / n


def worker(name: str, size: str, core: int | None, pipe) -> None:
    """A contender in its own process: answers every request with the seconds of one step."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    make, heap = CONTENDERS[name]
    if heap:
        train_toy.keep_heap()
    try:
        step, loss_and_grads, *way = make(size)
        pipe.send((*loss_and_grads(), *way))
    except Exception as error:  # torch.compile needs a compiler
        return pipe.send(error)
    timed(step, 3 * SIZES[size][1])
    while pipe.recv():
        pipe.send(timed(step, SIZES[size][1]))


def start(name: str, size: str, core: int | None):
    """-> the pipe to a new worker, and what it sent first: loss, gradients, its way."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process
    process(target=worker, args=(name, size, core, there), daemon=True).start()
    return here, here.recv()


def measure(size: str, rounds: int, core: int | None) -> dict[str, np.ndarray]:
    """name -> seconds per step in every round. Raises AssertionError if the results differ."""
    pipes, first = {}, None
    for name in CONTENDERS:
        pipe, answer = start(name, size, core)
        if isinstance(answer, Exception):
            print(f"  {name}: not here ({str(answer).splitlines()[0]})")
            continue
        loss, grads, *way = answer
        first = first or (loss, grads)
        error = max(gradient_errors(grads, first[1]).values())
        assert abs(loss - first[0]) < 1e-5 and error < 1e-3, (name, loss, error)
        print(f"  {name}: loss {loss:.5f}, gradients {error:.0e} off memt's  {' '.join(way)}")
        pipes[name] = pipe
    times = defaultdict(list)
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send(True)
            times[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    return {name: np.array(t) for name, t in times.items()}


# ---------------------------------------------------------------- where a step spends its time

PARTS = {
    "linear_forward": "2-D products, with biases",
    "linear_backward": "2-D products, with biases",
    "attention_forward": "attention products, heads",
    "attention_backward": "attention products, heads",
    "softmax_forward": "softmax",
    "softmax_backward": "softmax",
    "layernorm_forward": "LayerNorm",
    "layernorm_backward": "LayerNorm",
    "relu_forward": "ReLU",
    "relu_backward": "ReLU",
    "embedding_forward": "embedding, loss",
    "embedding_backward": "embedding, loss",
    "cross_entropy_forward": "embedding, loss",
    "cross_entropy_backward": "embedding, loss",
    "adam": "Adam",
}


def shares(size: str, steps: int) -> dict[str, float]:
    """part -> its share of a step, each without the parts that it calls."""
    spent, inside = defaultdict(float), []

    def watch(function, part):
        def watched(*args, **kwargs):
            inside.append(0.0)
            began = time.perf_counter()
            out = function(*args, **kwargs)
            took = time.perf_counter() - began
            spent[part] += took - inside.pop()
            if inside:
                inside[-1] += took
            return out

        return watched

    step, _ = memt_step(size)
    timed(step, 3)
    originals = {n: (train_toy if n == "adam" else memt) for n in PARTS}
    originals = {n: (module, getattr(module, n)) for n, module in originals.items()}
    for n, (module, function) in originals.items():
        setattr(module, n, watch(function, PARTS[n]))
    whole = timed(step, steps) * steps
    for n, (module, function) in originals.items():
        setattr(module, n, function)
    spent["the rest: wiring, residuals"] = whole - sum(spent.values())
    return {part: t / whole for part, t in spent.items()}


def products(size: str):
    """A function that does the 2-D matrix products of one step and nothing else."""
    pairs, linear_forward, linear_backward = [], memt.linear_forward, memt.linear_backward

    def forward(x, w, b=None):
        pairs.append((np.array(memt.rows_of(x)), w))
        return linear_forward(x, w, b)

    def backward(dy, cache):
        x, w, _ = cache
        dy2 = np.array(memt.rows_of(dy))
        pairs.extend([(dy2, w.T), (np.array(memt.rows_of(x)).T, dy2)])
        return linear_backward(dy, cache)

    memt.linear_forward, memt.linear_backward = forward, backward
    memt_step(size)[1]()
    memt.linear_forward, memt.linear_backward = linear_forward, linear_backward
    return lambda: [a @ b for a, b in pairs]


def report_parts(size: str, rounds: int) -> None:
    """The shares, and how far a step is from its matrix products alone."""
    for part, share in sorted(shares(size, 10 * SIZES[size][1]).items(), key=lambda x: -x[1]):
        print(f"  {share:6.1%}  {part}")
    step, alone, n = memt_step(size)[0], products(size), SIZES[size][1]
    timed(alone, 3)
    ratio = [timed(step, n) / timed(alone, n) for _ in range(rounds)]
    print(f"  a step takes {spread(ratio)} of its 2-D matrix products alone")


# ---------------------------------------------------------------- whole runs from a cold start


def run_torch(seed: int) -> None:
    """The same by PyTorch: same model, start, batches, rule to stop."""
    torch.set_num_threads(1)
    s = train_toy.default_settings(seed=seed)
    config, slots, state = s.config(), train_toy.slots(s), train_toy.start(s)
    params = {n: torch.tensor(p, requires_grad=True) for n, p in state.params.items()}
    positions = torch.from_numpy(memt.sinusoids(2 * s.length, s.width, np.float32))
    adam = torch.optim.Adam(params.values(), lr=s.lr, foreach=True)

    def logits_of(tokens):
        return torch_logits(params, tokens, config, slots, positions, True, False)

    while not train_toy.finished(s, state):
        state.step += 1
        for group in adam.param_groups:
            group["lr"] = train_toy.learning_rate(state.step, s.steps, s.lr)
        batch = train_toy.make_batch(s, s.batch, train_toy.TRAINING, state.step)
        tokens, targets = (torch.from_numpy(np.ascontiguousarray(x)) for x in batch)
        adam.zero_grad()
        F.cross_entropy(logits_of(tokens).flatten(0, 1), targets.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(params.values(), 1.0)
        adam.step()
        if state.step == 1:
            print("first", flush=True)
        if state.step % train_toy.VALIDATE_EVERY == 0 or state.step == s.steps:
            batch = train_toy.make_batch(s, train_toy.VALIDATE_ON, train_toy.VALIDATION, state.step)
            tokens, targets = (torch.from_numpy(np.ascontiguousarray(x)) for x in batch)
            with torch.no_grad():
                right = logits_of(tokens).argmax(-1) == targets
            exact = float(right.all(1).float().mean())
            state.log.append((state.step, 0.0, float(right.float().mean()), exact))
    print("solved", state.step, flush=True)


def cold_start(code: str, core: int | None) -> tuple[float, float, int]:
    """Seconds from starting Python to the first step, to solved, and how many steps it took."""
    pin = ["taskset", "-c", str(core)] if core is not None else []
    began = time.perf_counter()
    process = subprocess.Popen(
        [*pin, sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    first = time.perf_counter() - began
    steps = int(process.stdout.readline().split()[1])
    solved = time.perf_counter() - began
    process.wait()
    return first, solved, steps


def report_runs(runs: int, core: int | None) -> None:
    """Cold starts of both, in turn, over seeds."""
    rows = []
    for seed in range(runs):
        ours = cold_start(MEMT_RUN.format(seed=seed), core)
        theirs = cold_start(f"from tests.benchmark import run_torch; run_torch({seed})", core)
        rows.append((*ours, *theirs))
        for name, (first, solved, steps) in (("memt", ours), ("torch", theirs)):
            print(f"  seed {seed}, {name}: {first:.2f} s, solved {solved:.2f} s, {steps} steps")
    a = np.array(rows)
    print(f"  first step: memt {spread(a[:, 0], 's')}, torch {spread(a[:, 3], 's')}")
    print(f"  solved: memt {spread(a[:, 1], 's')}, torch {spread(a[:, 4], 's')}")
    print(f"  solved, memt / torch: {spread(a[:, 1] / a[:, 4])}")


# run_memt, written so that a cold start imports nothing of this file
MEMT_RUN = """
import train_toy
train_toy.keep_heap()
s = train_toy.default_settings(seed={seed})
state = train_toy.start(s)
for _ in train_toy.training(s, state):
    if state.step == 1:
        print("first", flush=True)
print("solved", state.step, flush=True)
"""


# ---------------------------------------------------------------- the report


def spread(values, unit="") -> str:
    """Median, and the range of the middle half."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.3g} {unit}".strip() + f" [{low:.3g} to {high:.3g}]"


def cpu() -> str:
    """The processor's name, where the system tells."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description="memt against PyTorch, in ratios")
    parser.add_argument("--rounds", type=int, default=15, help="timings of each contender (15)")
    parser.add_argument("--runs", type=int, default=10, help="cold starts of the main job (10)")
    parser.add_argument("--sizes", default="TSM", help="which of T, S, M (TSM)")
    given = parser.parse_args()
    core = max(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else None
    print(f"{cpu()}, {os.cpu_count()} cores, one used; {platform.system()}")
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, torch {version('torch')}")
    for size in given.sizes:
        print(f"\n{size}: batch, T, M, width, heads, hidden, layers = {SIZES[size][0]}")
        times = measure(size, given.rounds, core)
        ours = times.pop("memt")
        print(f"  memt: {spread(1000 * ours, 'ms')} per step; memt's time divided by")
        for name, t in times.items():
            print(f"    {name:<36} {spread(ours / t)}")
        if core is not None:
            os.sched_setaffinity(0, {core})
        train_toy.keep_heap()
        report_parts(size, given.rounds)
    if given.runs:
        print("\nthe main job from a cold start, one core")
        report_runs(given.runs, core)


if __name__ == "__main__":
    main()
