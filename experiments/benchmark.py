"""How fast is memt, against PyTorch, and against another checkout of itself? Needs torch.

    python -m experiments.benchmark                        # training steps, then whole processes
    python -m experiments.benchmark --rounds 5 --runs 0 --sizes tiny small --old ../old

First, all must give the same loss and gradients for the same batch. Each contender has its own
process; all run on one core with one thread. They are timed in turn, in rounds, and each ratio is
taken within one round, so that it stays valid when the machine's speed drifts.
"""

import importlib
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

import memt
import train_toy
from autograd import gradient_errors, value_and_grad

# batch, T, M, width, heads, hidden, layers; steps per timing
SIZES = {
    "tiny": ((32, 16, 4, 32, 2, 128, 2), 20),
    "small": ((64, 24, 8, 64, 4, 256, 2), 5),
    "medium": ((64, 64, 8, 128, 4, 512, 4), 1),
}


def problem(size, model=memt):
    """Parameters, config, and a batch: tokens, targets, the positions whose logits are wanted."""
    (B, T, M, C, H, hidden, L), _ = SIZES[size]
    config, rng = model.Config(10, C, H, hidden, L, M, "memtransformer"), np.random.default_rng(0)
    tokens, targets = rng.integers(11, size=(B, T)), rng.integers(10, size=(B, T - T // 2))
    return model.init_params(config, rng), config, (tokens, targets, slice(T // 2, T))


# ------------------ a contender: size -> functions: loss and gradients; a training step


def numpy_step(size, old=None, tape=False):
    """memt; an older memt (`old`); memt's forward pass with the tape's gradients (`tape`)."""
    model, toy = load(old) if old else (memt, train_toy)
    params, config, (tokens, targets, at) = problem(size, model)
    vector = model.flat(params)
    m, v, steps = np.zeros_like(vector), np.zeros_like(vector), iter(range(1, sys.maxsize))

    def forward(params):
        logits, cache = model.model_forward(params, tokens, config, at)
        return *model.cross_entropy_forward(logits, targets), cache

    def loss_and_grads():
        if tape:
            return value_and_grad(lambda p: forward(p)[0])(params)
        loss, c_loss, cache = forward(params)
        return loss, model.model_backward(model.cross_entropy_backward(1.0, c_loss), cache)

    def step():
        _, grads = loss_and_grads()
        grad = np.concatenate([g.ravel() for g in grads.values()]) if tape else model.flat(grads)
        toy.adam(vector, grad, m, v, next(steps), 1e-4)

    return loss_and_grads, step


def load(directory):
    """memt and train_toy of another checkout; those of this one stay imported."""
    here = {name: sys.modules.pop(name) for name in ("memt", "train_toy")}
    with patch.object(sys, "path", [directory, *sys.path]):
        there = [importlib.import_module(name) for name in here]
    sys.modules.update(here)
    return there


def torch_update(x, context, p, heads, fused):
    """memt.update_forward in idiomatic PyTorch, with fused or plain attention."""
    q, kv, C = x @ p["wq"], context @ p["wkv"], x.shape[-1:]
    q, k, v = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (q, *kv.chunk(2, dim=-1)))
    if fused:
        o = F.scaled_dot_product_attention(q, k, v)
    else:
        o = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v
    a = F.layer_norm(x + o.transpose(1, 2).flatten(2) @ p["wo"], C, p["ln1_g"], p["ln1_b"])
    ff = F.linear(F.relu(F.linear(a, p["w1"].T, p["b1"])), p["w2"].T, p["b2"])
    return F.layer_norm(a + ff, C, p["ln2_g"], p["ln2_b"])


def torch_logits(params, tokens, at, positions, config, fused=True, only=False):
    """`only` (memtransformer): the last layer computes only the wanted rows."""
    mem, seq = params["memory"].expand(len(tokens), -1, -1), params["embed"][tokens] + positions
    for layer in range(config.layers):
        p, both = memt.role_params(params, config, layer), torch.cat([mem, seq], dim=1)
        if config.variant == "membottleneck":
            mem = torch_update(mem, both, p["mem"], config.heads, fused)
            seq = torch_update(seq, mem, p["seq"], config.heads, fused)
        elif only and layer == config.layers - 1:
            seq = torch_update(seq[:, at], both, p["all"], config.heads, fused)
        else:
            both = torch_update(both, both, p["all"], config.heads, fused)
            mem, seq = both[:, : config.memory], both[:, config.memory :]
    return (seq if only else seq[:, at]) @ params["out_w"] + params["out_b"]


def torch_model(params, config, T, compiled=False, **given):
    """-> Adam; two functions, which compute the logits, and the loss and gradients.

    Fused Adam was at least as fast as foreach Adam in most of our timings.
    """
    params = {n: torch.tensor(p, requires_grad=True) for n, p in params.items()}
    adam = torch.optim.Adam(params.values(), lr=1e-4, fused=True)
    positions = torch.tensor(memt.sinusoids(T, config.width, np.float32))

    def logits(tokens, at):
        return torch_logits(params, tokens, at, positions, config, **given)

    def loss_of(tokens, targets, at):
        return F.cross_entropy(logits(tokens, at).flatten(0, 1), targets.flatten())

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def loss_and_grads(tokens, targets, at):
        adam.zero_grad()
        loss = loss_of(tokens, targets, at)
        loss.backward()
        return loss.detach(), {n: p.grad for n, p in params.items()}

    return adam, logits, loss_and_grads


def torch_step(size, **given):
    params, config, (tokens, targets, at) = problem(size)
    adam, _, loss_and_grads = torch_model(params, config, tokens.shape[1], **given)
    loss_and_grads = partial(loss_and_grads, torch.tensor(tokens), torch.tensor(targets), at)
    return loss_and_grads, lambda: (loss_and_grads(), adam.step())


def faster_torch(size, **given):
    """With plain or with fused attention, whichever is faster."""
    steps = {fused: torch_step(size, fused=fused, **given)[1] for fused in (False, True)}
    fused = min(steps, key=lambda way: min(timed(steps[way], SIZES[size][1]) for _ in range(4)))
    return torch_step(size, fused=fused, **given)


CONTENDERS = {  # name -> how to make it, and whether train_toy.keep_heap is called
    "memt": (numpy_step, True),
    "idiomatic PyTorch": (faster_torch, False),
    "PyTorch, same allocator setting": (faster_torch, True),
    "the same, only the wanted rows": (partial(faster_torch, only=True), True),
    "torch.compile": (partial(torch_step, compiled=True), False),
    "the gradients of the tape": (partial(numpy_step, tape=True), True),
}

# ---------------------------------------------------------------- timing in turn

STEP = []  # in a contender's process


def timed(step, n):
    """Seconds per step."""
    began = time.perf_counter()
    for _ in range(n):
        step()
    return (time.perf_counter() - began) / n


def prepare(size, make, heap):
    """In a contender's process: make its step and warm up -> loss and gradients."""
    torch.set_num_threads(1)
    if heap:
        train_toy.keep_heap()
    loss_and_grads, step = make(size)
    loss, grads = loss_and_grads()
    answer = float(loss), {n: torch.as_tensor(g).numpy().copy() for n, g in grads.items()}
    STEP.append(partial(timed, step, SIZES[size][1]))
    timed(STEP[0], 3)
    return answer


def again():
    return STEP[0]()


def measure(size, rounds, contenders):
    """Name -> seconds per step in every round. Raises AssertionError where results differ."""
    pools, first = {}, None
    for name, (make, heap) in contenders.items():
        pool = ProcessPoolExecutor(1, get_context("spawn"))
        try:
            loss, grads = pool.submit(prepare, size, make, heap).result()
        except Exception as error:  # torch.compile needs a compiler
            print(f"  {name}: not available ({type(error).__name__})")
            continue
        first, pools[name] = first or (loss, grads), pool
        error = max(gradient_errors(grads, first[1]).values())
        assert abs(loss - first[0]) < 1e-5 and error < 1e-3, (name, loss, error)
    rows = [[pool.submit(again).result() for pool in pools.values()] for _ in range(rounds)]
    for pool in pools.values():
        pool.shutdown()
    return dict(zip(pools, np.transpose(rows), strict=True))


def products(size):
    """A function that does the 2-D matrix products of one step and nothing else."""
    pairs, backward = [], memt.linear_backward

    def watched(dy, cache):
        x, dy2, w = memt.rows_of(cache[0]), memt.rows_of(dy), cache[1]
        pairs.extend([(x, w), (dy2, w.T), (x.T, dy2)])
        return backward(dy, cache)

    with patch.object(memt, "linear_backward", watched):
        numpy_step(size)[0]()
    return lambda: [a @ b for a, b in pairs]


def report_steps(size, rounds, contenders):
    """Print the ratios for one size."""
    print(f"\n{size}: batch, T, M, width, heads, hidden, layers = {SIZES[size][0]}")
    times = measure(size, rounds, contenders)
    ours = times.pop("memt")
    print(f"  memt: {spread(1000 * ours)} ms per step; memt's time divided by that of")
    for name, t in times.items():
        print(f"    {name:<36} {spread(ours / t)}")
    step, alone, n = numpy_step(size)[1], products(size), SIZES[size][1]
    ratios = [timed(step, n) / timed(alone, n) for _ in range(rounds + 1)][1:]
    print(f"    {'its 2-D matrix products alone':<36} {spread(ratios)}")


def spread(values):
    """Median and interquartile range."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


# ---------------------------------------------------------------- the main job as a whole process

MEMT_JOB = """
import train_toy
train_toy.keep_heap()
s = train_toy.default_settings(seed={})
for state in train_toy.training(s, train_toy.start(s)):
    if state.step == 1:
        print("first", flush=True)
print(state.step, flush=True)
"""


def torch_job(seed):
    """The same job in PyTorch, run by train_toy's loop: same start, batches and schedule."""
    torch.set_num_threads(1)
    s = train_toy.default_settings(seed=seed)
    start = train_toy.start(s).params
    adam, logits, loss_and_grads = torch_model(start, s.config, 2 * s.length)
    tensors = adam.param_groups[0]["params"]

    def step(_vector, _grad, _m, _v, _step, lr):
        torch.nn.utils.clip_grad_norm_(tensors, 1.0)
        adam.param_groups[0]["lr"] = lr
        adam.step()

    def loss_only(_params, tokens, targets, _config, at, _mask):
        return loss_and_grads(torch.tensor(tokens), torch.tensor(targets), at)[0], start

    def forward(_params, tokens, _config, at, _mask):
        with torch.no_grad():
            return logits(torch.tensor(tokens), at).numpy(), None

    train_toy.keep_heap, train_toy.clip, train_toy.adam = lambda: 0, lambda grad: 0, step
    memt.loss_and_grads, memt.model_forward = loss_only, forward
    exec(MEMT_JOB.format(seed))


def whole_process(code, directory):
    """-> seconds from the start of Python to the first step and until solved; number of steps."""
    began, command = time.perf_counter(), [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        first = time.perf_counter() - began
        steps = int(process.stdout.readline())
        return first, time.perf_counter() - began, steps


def report_jobs(runs, old):
    """Time whole processes in turn, one round per seed."""
    torch_code = "from experiments.benchmark import torch_job; torch_job({})"
    jobs = {"memt": (MEMT_JOB, "."), "PyTorch": (torch_code, ".")}
    jobs |= {f"memt of {old}": (MEMT_JOB, old)} if old else {}
    rows = [[whole_process(c.format(n), d) for c, d in jobs.values()] for n in range(runs)]
    print("\nthe main job as a whole process")
    for name, (first, solved, steps) in zip(jobs, np.transpose(rows, (1, 2, 0)), strict=True):
        print(f"  {name}: first step after {spread(first)} s, solved after {spread(solved)} s "
              f"and {spread(steps)} steps")  # fmt: skip


def main():
    """The command."""
    parser = train_toy.Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="timings of each contender (15)")
    parser.add_argument("--runs", type=int, default=10, help="number of seeds of the main job (10)")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[*SIZES], help="(all)")
    parser.add_argument("--old", help="directory with an older memt.py and train_toy.py")
    given, contenders = parser.parse_args(), dict(CONTENDERS)
    if given.old and not os.path.exists(f"{given.old}/memt.py"):
        parser.error(f"--old is {given.old!r}: must be a directory with memt.py and train_toy.py")
    if given.old:
        contenders[f"memt of {given.old}"] = (partial(numpy_step, old=given.old), True)
    if hasattr(os, "sched_setaffinity"):  # child processes inherit it
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(f"{platform.platform()}, NumPy {np.__version__}, torch {torch.__version__}, one core")
    train_toy.keep_heap()
    for size in given.sizes:
        report_steps(size, given.rounds, contenders)
    if given.runs:
        report_jobs(given.runs, given.old)


if __name__ == "__main__":
    main()
