"""How fast is memt, against PyTorch, and against another checkout of itself? Needs torch.

    python -m experiments.benchmark                          # training steps, then whole processes
    python -m experiments.benchmark --rounds 5 --runs 0 --old ../old

First, all must give the same loss and gradients for the same batch. Each contender has its own
process; all run on one core with one thread. They are timed in turn, in rounds, and each ratio is
taken within one round, so that it stays valid when the machine's speed drifts.
"""

import importlib.util
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count
from multiprocessing import get_context
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

import memt
import train_toy
from autograd import gradient_errors, value_and_grad
from experiments import bridge

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


# ------------------ a contender: size -> a function that does a training step -> loss, gradients
def numpy_step(size, old=None, tape=False):
    """memt; the memt.py of a directory `old`; memt's forward pass with the tape's gradients."""
    model = load(old) if old else memt
    params, config, (tokens, targets, at) = problem(size, model)
    vector, steps = model.flat(params), count(1)
    m, v = np.zeros_like(vector), np.zeros_like(vector)

    def loss_of(params):
        logits, _ = model.model_forward(params, tokens, config, at)
        return model.cross_entropy_forward(logits, targets)[0]

    def step():
        if tape:
            loss, grads = value_and_grad(loss_of)(params)
            grad = np.concatenate([g.ravel() for g in grads.values()])
        else:
            loss, grads = model.loss_and_grads(params, tokens, targets, config, at)
            grad = model.flat(grads)
        vector[:] -= 1e-4 * train_toy.adam(grad, m, v, next(steps))
        return loss, grads

    return step


def load(directory):
    """The memt.py of another checkout, beside this one."""
    spec = importlib.util.spec_from_file_location("old_memt", f"{directory}/memt.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def torch_update(x, context, p, heads):
    """memt.update_forward in idiomatic PyTorch; plain attention was not faster in our timings."""
    q, kv, C = x @ p["wq"], context @ p["wkv"], x.shape[-1:]
    q, k, v = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (q, *kv.chunk(2, dim=-1)))
    mh = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2) @ p["wo"]
    a = F.layer_norm(x + mh, C, p["ln1_g"], p["ln1_b"])
    ff = F.linear(F.relu(F.linear(a, p["w1"].T, p["b1"])), p["w2"].T, p["b2"])
    return F.layer_norm(a + ff, C, p["ln2_g"], p["ln2_b"])


def torch_logits(params, tokens, at, positions, config, only=False):
    """`only` (memtransformer): the last layer computes only the needed rows."""
    mem, seq = params["memory"].expand(len(tokens), -1, -1), params["embed"][tokens] + positions
    for layer in range(config.layers):
        p, both = memt.role_params(params, config, layer), torch.cat([mem, seq], dim=1)
        if config.variant == "membottleneck":
            mem = torch_update(mem, both, p["mem"], config.heads)
            seq = torch_update(seq, mem, p["seq"], config.heads)
        elif only and layer == config.layers - 1:
            seq = torch_update(seq[:, at], both, p["all"], config.heads)
        else:
            both = torch_update(both, both, p["all"], config.heads)
            mem, seq = both[:, : config.memory], both[:, config.memory :]
    return (seq if only else seq[:, at]) @ params["out_w"] + params["out_b"]


def torch_model(params, config, T, compiled=False, **given):
    """-> tensors by name; two functions: such tensors -> logits; a batch -> loss and gradients."""
    tensors = bridge.to_torch(params)
    positions = torch.tensor(memt.sinusoids(T, config.width, np.float32))
    logits = partial(torch_logits, positions=positions, config=config, **given)

    def loss_of(tokens, targets, at):
        return F.cross_entropy(logits(tensors, tokens, at).flatten(0, 1), targets.flatten())

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def loss_and_grads(tokens, targets, at):
        for tensor in tensors.values():
            tensor.grad = None
        loss = loss_of(torch.as_tensor(tokens), torch.as_tensor(targets), at)
        loss.backward()
        return loss.detach(), {name: tensor.grad for name, tensor in tensors.items()}

    return tensors, logits, loss_and_grads


def torch_step(size, **given):
    """PyTorch with fused Adam, which was at least as fast as foreach Adam in most timings."""
    params, config, batch = problem(size)
    tensors, _, loss_and_grads = torch_model(params, config, batch[0].shape[1], **given)
    adam = torch.optim.Adam(tensors.values(), lr=1e-4, fused=True)
    return lambda: (loss_and_grads(*batch), adam.step())[0]


CONTENDERS = {  # name -> how to make it, and whether train_toy.keep_heap is called
    "memt": (numpy_step, True),
    "idiomatic PyTorch": (torch_step, False),
    "PyTorch, same allocator setting": (torch_step, True),
    "as above, last layer: only needed rows": (partial(torch_step, only=True), True),
    "torch.compile": (partial(torch_step, compiled=True), False),
    "memt, gradients from autograd.py": (partial(numpy_step, tape=True), True),
}

# ---------------------------------------------------------------- timing in turn
STEP = []  # in a contender's process: its step, and how many a timing takes


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
    STEP[:] = make(size), SIZES[size][1]
    loss, grads = STEP[0]()
    answer = float(loss), {n: torch.as_tensor(g).numpy().copy() for n, g in grads.items()}
    timed(STEP[0], 3 * STEP[1])
    return answer


def again():
    return timed(*STEP)


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
        numpy_step(size)()
    return lambda: [a @ b for a, b in pairs]


def report_steps(size, rounds, contenders):
    """Print the ratios for one size."""
    print(f"\n{size}: batch, T, M, width, heads, hidden, layers = {SIZES[size][0]}")
    times = measure(size, rounds, contenders)
    ours = times.pop("memt")
    print(f"  memt: {spread(1000 * ours)} ms per step; memt's time divided by that of")
    for name, t in times.items():
        print(f"    {name:<38} {spread(ours / t)}")
    step, alone, n = numpy_step(size), products(size), SIZES[size][1]
    ratios = [timed(step, n) / timed(alone, n) for _ in range(rounds + 1)][1:]
    print(f"    {'its 2-D matrix products alone':<38} {spread(ratios)}")


def spread(values):
    """Median and interquartile range."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


# ---------------------------------------------------------------- the default run as a process
MEMT_JOB = """
import time, train_toy
train_toy.keep_heap()
s = train_toy.default_settings(seed={seed})
for state in train_toy.training(s, train_toy.start(s)):
    if state.step == 1:
        print(time.time() - {began})
print(time.time() - {began}, state.step)
"""
TORCH_JOB = "import experiments.benchmark as b; b.use_torch({seed})" + MEMT_JOB


def use_torch(seed):
    """Let train_toy's loop train in PyTorch: same start, batches and recipe."""
    torch.set_num_threads(1)
    torch.Tensor.bfloat16 = torch.Tensor.clone  # Muon rounds to it, which costs time on a CPU
    s = train_toy.default_settings(seed=seed)
    state = train_toy.start(s)
    tensors, logits, loss_and_grads = torch_model(state.weights, s.config, 2 * s.length)
    step, means = bridge.optimizer(tensors, s), bridge.to_torch(state.params)

    def loss_only(_params, tokens, targets, _config, at, _mask):
        return loss_and_grads(tokens, targets, at)[0], None

    @torch.no_grad()
    def update(_s, state, _grads):
        step()
        state.step += 1
        for mean, tensor in zip(means.values(), tensors.values(), strict=True):
            mean.lerp_(tensor, 0.1)  # the model is a running mean, as in train_toy.optimizer_step

    @torch.no_grad()
    def forward(_params, tokens, _config, at, _mask):
        return logits(means, torch.tensor(tokens), at).numpy(), None

    train_toy.keep_heap, train_toy.optimizer_step = lambda: 0, update
    memt.loss_and_grads, memt.model_forward = loss_only, forward


def whole_process(code, directory, seed):
    """-> seconds from the start of Python to the first step and until solved; number of steps."""
    command = [sys.executable, "-c", code.format(seed=seed, began=time.time())]
    done = subprocess.run(command, cwd=directory, stdout=subprocess.PIPE, check=True)
    return [float(word) for word in done.stdout.split()]


def report_jobs(runs, old):
    """Time whole processes in turn, one round per seed."""
    jobs = {"memt": (MEMT_JOB, "."), "PyTorch": (TORCH_JOB, ".")}
    jobs |= {f"memt of {old}": (MEMT_JOB, old)} if old else {}
    rows = [[whole_process(*job, seed) for job in jobs.values()] for seed in range(runs)]
    print("\nthe default training run, as a whole process")
    for name, (first, solved, steps) in zip(jobs, np.transpose(rows, (1, 2, 0)), strict=True):
        print(f"  {name}: first step after {spread(first)} s, solved after {spread(solved)} s "
              f"and {spread(steps)} steps")  # fmt: skip


def main():
    """The command."""
    parser = train_toy.Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="timings of each contender (15)")
    parser.add_argument("--runs", type=int, default=10, help="seeds of the default run (10)")
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
    for size in SIZES:
        report_steps(size, given.rounds, contenders)
    if given.runs:
        report_jobs(given.runs, given.old)


if __name__ == "__main__":
    main()
