"""Small wrong edits of memt.py, autograd.py and train_toy.py, each of which the fast tests must notice.

    python -m tests.mutants                  # all of them, about four minutes on two idle cores
    python -m tests.mutants --only layernorm --jobs 1

Every mutant is a copy of the tree with one edit: where it is, text that stands there exactly once,
wrong text. Prints the mutants that survive and exits 1 if there is one, or if an edit no longer
fits the code. None is equivalent: each changes a number, a promise or a refusal.
"""
# ruff: noqa: E501 - a line is a mutant

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = {
    "memt": ["test_pairs.py", "test_trust.py", "test_model.py", "test_files.py",
             "test_attacks.py::test_bad_files"],
    "autograd": ["test_autograd.py", "test_trust.py"],
    "train_toy": ["test_train.py"],
}  # fmt: skip
SLOW = ["test_pairs.py::test_wiring", "test_model.py::test_gradients_against_finite_differences"]

MUTANTS = [
    # ------------------------------------------------------------ configuration and parameters
    ("memt.Config", '"memory", self.memory, 0 if plain else 1', '"memory", self.memory, 0'),
    ("memt.Config", "if plain and self.memory:", "if False:"),
    ("memt.Config", "self.width % 2 or ", ""),
    ("memt.Config", " or self.width % self.heads", ""),
    ("memt.Config", "if self.share_controller and not two_roles:", "if False:"),
    ("memt.Config", 'check_size("window", self.window, 0)', "pass"),
    ("memt.Config", '("masked", "membottleneck"):\n                raise', '():\n                raise'),
    ("memt.Config", '"layers"):', '):'),
    ("memt.check_size", "type(value) is not int", "not isinstance(value, int)"),
    ("memt.check_size", "least <= value", "least < value"),
    ("memt.check_size", "value < 2**31", "True"),
    ("memt.param_shapes", '"embed": (S + 1, C)', '"embed": (S, C)'),
    ("memt.param_shapes", "dict.fromkeys(prefixes)", "prefixes[:1]"),
    ("memt.role_names", '"masked"):', '):'),
    ("memt.role_names", '"controller" if', '"controller.seq" if'),
    ("memt.role_names", "if config.share_controller", "if not config.share_controller"),
    ("memt.role_names", '"seq": f"layers.{layer}.seq"', '"seq": f"layers.{layer}.mem"'),
    ("memt.role_params", 'startswith(prefix + ".")', 'startswith(prefix[:-4])'),
    ("memt.zero_params", "np.zeros(ends[-1], dtype)", "np.zeros(ends[-1])"),
    ("memt.zero_params", "vector[a:b].reshape", "vector[a:b].copy().reshape"),
    ("memt.init_params", "p[...] = 1", "p[...] = 0"),
    ("memt.init_params", 'name.endswith("_g")', 'name.endswith("_b")'),
    ("memt.init_params", '("embed", "memory")', '("embed",)'),
    ("memt.init_params", "else len(p)", "else p.shape[1]"),
    ("memt.init_params", "math.sqrt(fan_in)", "fan_in"),
    ("memt.init_params", "rng.standard_normal(p.shape)", "rng.standard_normal(p.shape, p.dtype)"),
    ("memt.init_params", "rng.standard_normal(p.shape)", "rng.standard_normal(p.shape[1])"),
    ("memt.flat", "vector is None or any(p.base is not vector for p in params.values())", "False"),
    # ------------------------------------------------------------ pieces
    ("memt.row_sum", "np.ones((x.shape[-1], 1), x.dtype)", "np.ones((x.shape[-1], 1))"),
    ("memt.column_sum", "np.ones(x.size // x.shape[-1], x.dtype)", "np.ones(x.size // x.shape[-1])"),
    ("memt.one_hot", "np.arange(size)", "np.arange(1, size + 1)"),
    ("memt.linear_forward", "y + b", "y"),
    ("memt.linear_forward", "y + b", "y - b"),
    ("memt.linear_forward", "(x, w, b)", "(x, w, None)"),
    ("memt.linear_backward", "dy2 @ w.T", "dy2 @ w"),
    ("memt.linear_backward", "rows_of(dy)", "rows_of(dy[::-1])"),
    ("memt.linear_backward", "dy2 @ w.T", "-dy2 @ w.T"),
    ("memt.linear_backward", "rows_of(x).T @ dy2", "rows_of(x)[1:].T @ dy2[1:]"),
    ("memt.linear_backward", "rows_of(x).T @ dy2", "-rows_of(x).T @ dy2"),
    ("memt.linear_backward", "column_sum(dy)", "dy2[0]"),
    ("memt.linear_backward", "column_sum(dy)", "column_sum(dy) / len(dy2)"),
    ("memt.layernorm_forward", "x - row_sum(x) / C", "x"),
    ("memt.layernorm_forward", "row_sum(centred * centred) / C", "row_sum(centred * centred) / (C - 1)"),
    ("memt.layernorm_forward", "row_sum(centred * centred) / C + 1e-5", "row_sum(centred * centred) / C + 1e-6"),
    ("memt.layernorm_forward", "1 / np.sqrt(row_sum(centred * centred) / C + 1e-5)", "1 / (np.sqrt(row_sum(centred * centred) / C) + 1e-5)"),
    ("memt.layernorm_forward", "row_sum(centred * centred)", "row_sum(x * x)"),
    ("memt.layernorm_forward", "xhat * g + b", "xhat + b"),
    ("memt.layernorm_forward", "xhat * g + b", "xhat * g"),
    ("memt.layernorm_backward", "dy * g", "dy"),
    ("memt.layernorm_backward", "dx = rstd * (", "dx = ("),
    ("memt.layernorm_backward", "dxhat - row_sum(dxhat) / C", "dxhat"),
    ("memt.layernorm_backward", "dxhat - row_sum(dxhat) / C", "dxhat + row_sum(dxhat) / C"),
    ("memt.layernorm_backward", "row_sum(dxhat) / C -", "row_sum(dxhat) -"),
    ("memt.layernorm_backward", " - xhat * (row_sum(dxhat * xhat) / C)", ""),
    ("memt.layernorm_backward", "- xhat * (row", "+ xhat * (row"),
    ("memt.layernorm_backward", "row_sum(dxhat * xhat) / C", "row_sum(dxhat * xhat)"),
    ("memt.layernorm_backward", "row_sum(dxhat * xhat) / C", "row_sum(dy * xhat) / C"),
    ("memt.layernorm_backward", "column_sum(dy * xhat)", "column_sum(dxhat * xhat)"),
    ("memt.layernorm_backward", "column_sum(dy * xhat)", "column_sum(dy)"),
    ("memt.layernorm_backward", "column_sum(dy)", "column_sum(dxhat)"),
    ("memt.relu_forward", "np.maximum(x, 0)", "np.maximum(x, 0.01 * x)"),
    ("memt.relu_backward", "cache > 0", "cache < 0"),
    ("memt.relu_backward", "cache > 0", "cache >= 0"),
    ("memt.relu_backward", "dy * (cache > 0)", "dy"),
    ("memt.row_max", "x.max(axis=-1, keepdims=True)", "x.max(keepdims=True)"),
    ("memt.row_max", "x.max(axis=-1, keepdims=True)", "x.max(axis=0, keepdims=True)"),
    ("memt.row_max", "columns.max(axis=0)", "columns.min(axis=0)"),
    ("memt.row_max", "columns.max(axis=0)", "columns[0]"),
    ("memt.softmax_forward", "s - row_max(s)", "s"),
    ("memt.softmax_forward", "s - row_max(s)", "s - s.max()"),
    ("memt.softmax_forward", "e / row_sum(e)", "e / e.sum()"),
    ("memt.softmax_backward", "dp - row_sum(dp * p)", "dp"),
    ("memt.softmax_backward", "dp - row_sum(dp * p)", "dp + row_sum(dp * p)"),
    ("memt.softmax_backward", "row_sum(dp * p)", "row_sum(dp)"),
    ("memt.softmax_backward", "row_sum(dp * p)", "(dp * p).sum(axis=-2, keepdims=True)"),
    ("memt.softmax_backward", "p * (dp", "(dp"),
    ("memt.split_heads", ".transpose(0, 2, 1, 3)", ".reshape(B, heads, N, -1)"),
    ("memt.split_heads", "heads, -1).transpose(0, 2, 1, 3)", "-1, heads).transpose(0, 3, 1, 2)"),
    ("memt.merge_heads", ".transpose(0, 2, 1, 3)", ""),
    ("memt.merge_heads", "x.transpose(0, 2, 1, 3)", "x.transpose(0, 2, 3, 1)"),
    ("memt.attention_forward", "linear_forward(x, wq)", "linear_forward(context[:, : x.shape[1]], wq)"),
    ("memt.attention_forward", " * (wq.shape[1] // heads) ** -0.5", ""),
    ("memt.attention_forward", "(wq.shape[1] // heads) ** -0.5", "wq.shape[1] ** -0.5"),
    ("memt.attention_forward", "** -0.5", "** -1"),
    ("memt.attention_forward", "k, v = kv[:, :heads], kv[:, heads:]", "v, k = kv[:, :heads], kv[:, heads:]"),
    ("memt.attention_forward", "k, v = kv[:, :heads], kv[:, heads:]", "k, v = kv[:, ::2], kv[:, 1::2]"),
    ("memt.attention_forward", "s if mask is None else s + mask", "s"),
    ("memt.attention_forward", "s + mask", "s - mask"),
    ("memt.attention_backward", "softmax_backward(do @ v.swapaxes(2, 3), p)", "do @ v.swapaxes(2, 3)"),
    ("memt.attention_backward", "do @ v.swapaxes(2, 3)", "-do @ v.swapaxes(2, 3)"),
    ("memt.attention_backward", "do @ v.swapaxes(2, 3)", "do @ k.swapaxes(2, 3)"),
    ("memt.attention_backward", "dv = p.swapaxes(2, 3) @ do", "dv = ds.swapaxes(2, 3) @ do"),
    ("memt.attention_backward", "dv = p.swapaxes(2, 3) @ do", "dv = 0 * v"),
    ("memt.attention_backward", "ds @ k * D**-0.5", "ds @ k"),
    ("memt.attention_backward", "ds @ k * D**-0.5", "ds @ k * D**-1"),
    ("memt.attention_backward", "ds @ k * D", "ds @ v * D"),
    ("memt.attention_backward", "dk = ds.swapaxes(2, 3) @ q", "dk = ds.swapaxes(2, 3) @ q * D**-0.5"),
    ("memt.attention_backward", "dk = ds.swapaxes(2, 3) @ q", "dk = -ds.swapaxes(2, 3) @ q"),
    ("memt.attention_backward", "(dk, dv)", "(dv, dk)"),
    ("memt.attention_backward", "q, k, v, p = cache", "q, v, k, p = cache"),
    ("memt.attention_backward", "q.shape[3]", "q.shape[2]"),
    ("memt.attention_backward", "do = split_heads(do, heads)", "do = split_heads(do[..., ::-1], heads)"),
    ("memt.attention_backward", "return dx, dcontext,", "return dx, -dcontext,"),
    ("memt.attention_backward", "return dx, dcontext, dwq, dwkv, dwo", "return dx, dcontext, dwo, dwkv, dwq"),
    ("memt.attention_backward", "np.concatenate((dk, dv), axis=1)", "np.stack((dk, dv), axis=2).reshape(len(k), 2 * heads, *k.shape[2:])"),
    ("memt.attention_backward", "merge_heads(dq), c_q", "merge_heads(q), c_q"),
    ("memt.attention_backward", "do, dwo, _ = linear_backward(dout, c_o)", "do, dwo, _ = linear_backward(dout / 2, c_o)"),
    ("memt.attention_backward", "linear_backward(dkv, c_kv)", "linear_backward(-dkv, c_kv)"),
    # ------------------------------------------------------------ one update
    ("memt.update_forward", "attention_forward(x, context,", "attention_forward(x, context / 2,"),
    ("memt.update_forward", "layernorm_forward(x + mh,", "layernorm_forward(mh,"),
    ("memt.update_forward", "layernorm_forward(a + ff,", "layernorm_forward(ff,"),
    ("memt.update_forward", "layernorm_forward(a + ff,", "layernorm_forward(x + ff,"),
    ("memt.update_forward", "linear_forward(r,", "linear_forward(u,"),
    ("memt.update_forward", 'layernorm_forward(x + mh, p["ln1_g"], p["ln1_b"])', 'layernorm_forward(x + mh, p["ln2_g"], p["ln2_b"])'),
    ("memt.update_forward", 'p["w1"], p["b1"])', 'p["w1"])'),
    ("memt.update_forward", 'p["w2"], p["b2"])', 'p["w2"])'),
    ("memt.update_forward", "heads, mask)", "heads, None)"),
    ("memt.update_forward", "mh, c_mh = attention_forward(x,", "mh, c_mh = attention_forward(layernorm_forward(x, p['ln1_g'], p['ln1_b'])[0],"),  # pre-LN
    ("memt.update_forward", "u, c_w1 = linear_forward(a,", "u, c_w1 = linear_forward(layernorm_forward(a, p['ln2_g'], p['ln2_b'])[0],"),
    ("memt.update_backward", "layernorm_backward(dh, c_ln2)", "layernorm_backward(dh, c_ln1)"),
    ("memt.update_backward", "linear_backward(dff, c_w2)", "linear_backward(dh, c_w2)"),
    ("memt.update_backward", "c_mh, c_ln1, c_w1, c_relu, c_w2, c_ln2 = cache", "c_mh, c_ln2, c_w1, c_relu, c_w2, c_ln1 = cache"),
    ("memt.update_backward", "relu_backward(dr, c_relu)", "dr"),
    ("memt.update_backward", "linear_backward(du, c_w1)", "linear_backward(dr, c_w1)"),
    ("memt.update_backward", "da + dff, c_ln1", "da, c_ln1"),
    ("memt.update_backward", "da + dff, c_ln1", "dff, c_ln1"),
    ("memt.update_backward", "da + dff, c_ln1", "da - dff, c_ln1"),
    ("memt.update_backward", "da + dff, c_ln1", "da + dh, c_ln1"),
    ("memt.update_backward", "attention_backward(dmh, c_mh)", "attention_backward(da, c_mh)"),
    ("memt.update_backward", "wq=dwq", "wq=dwo"),
    ("memt.update_backward", " wkv=dwkv,", ""),
    ("memt.update_backward", "ln1_b=dln1_b", "ln1_b=dln2_b"),
    ("memt.update_backward", "ln2_g=dln2_g", "ln2_g=dln1_g"),
    ("memt.update_backward", "b2=db2", "b2=-db2"),
    ("memt.update_backward", " b1=db1,", ""),
    ("memt.update_backward", "return dx + dmh", "return dx"),
    ("memt.update_backward", "return dx + dmh", "return dmh"),
    ("memt.update_backward", "return dx + dmh", "return dx - dmh"),
    ("memt.update_backward", "dx + dmh, dcontext", "dx + dmh, 0 * dcontext"),
    ("memt.add_into", "        dp[name] += grad", "        dp[name][...] = grad"),
    ("memt.add_into", "        dp[name] += grad", "        dp[name] = grad"),
    ("memt.add_into", "        dp[name] += grad", "        dp[name] -= grad"),
    # ------------------------------------------------------------ wirings
    ("memt.shared_forward", "(mem, seq), axis=1)", "(seq, mem), axis=1)"),
    ("memt.shared_forward", "(slice(None), M)", "(slice(None), M - 1)"),
    ("memt.shared_forward", "(M + read, 0)", "(read, 0)"),
    ("memt.shared_forward", "(M + read, 0)", "(M + read, 1)"),
    ("memt.shared_forward", "update_forward(x[:, rows], x,", "update_forward(x[:, rows], x[:, : x.shape[1] - 1],"),
    ("memt.shared_forward", "mask_rows(mask, rows))", "None)"),
    ("memt.shared_backward", "(dmem, dseq)", "(dseq, dmem)"),
    ("memt.shared_backward", "update_backward(dy, c_all", "update_backward(dy[:, ::-1], c_all"),
    ("memt.shared_backward", "dcontext[:, rows] += dx", "pass"),
    ("memt.shared_backward", "dcontext[:, rows] += dx", "dcontext[:, rows] = dx"),
    ("memt.shared_backward", "dcontext[:, rows] += dx", "dcontext[:, rows] -= dx"),
    ("memt.shared_backward", "dcontext[:, :M], dcontext[:, M:]", "0 * dcontext[:, :M], dcontext[:, M:]"),
    ("memt.shared_backward", "dcontext[:, :M], dcontext[:, M:]", "dcontext[:, 1 : M + 1], dcontext[:, M:]"),
    ("memt.memctrl_forward", "slice(M, None) if", "slice(M - 1, -1) if"),
    ("memt.memctrl_forward", "else M + read", "else read"),
    ("memt.memctrl_forward", "mask_rows(mask, rows))", "None)"),
    ("memt.memctrl_forward", "mask_rows(mask, rows))", "None if mask is None else mask[: seq.shape[1]])"),
    ("memt.memctrl_forward", 'update_forward(x[:, rows], x, p["seq"]', 'update_forward(x[:, rows], x, p["mem"]'),
    ("memt.memctrl_forward", 'update_forward(mem, x, p["mem"]', 'update_forward(mem, x, p["seq"]'),
    ("memt.memctrl_forward", 'update_forward(mem, x, p["mem"]', 'update_forward(mem, np.concatenate((mem, seq), axis=1), p["mem"]'),
    ("memt.memctrl_forward", 'update_forward(mem, x, p["mem"]', 'update_forward(mem, x[:, M:], p["mem"]'),
    ("memt.memctrl_forward", 'update_forward(mem, x, p["mem"]', 'update_forward(mem, mem, p["mem"]'),
    ("memt.memctrl_forward", "mem[:, :0], seq", "mem, seq"),
    ("memt.memctrl_backward", "dcontext[:, rows] += dx", "dcontext[:, rows] = dx"),
    ("memt.memctrl_backward", "dcontext[:, rows] += dx", "pass"),
    ("memt.memctrl_backward", 'update_backward(dseq, c_seq, dp["seq"])', 'update_backward(dseq, c_seq, dp["mem"])'),
    ("memt.memctrl_backward", 'update_backward(dmem, c_mem, dp["mem"])', 'update_backward(dmem, c_mem, dp["seq"])'),
    ("memt.memctrl_backward", "dcontext += dcontext_mem", "dcontext = dcontext_mem"),
    ("memt.memctrl_backward", "dcontext += dcontext_mem", "pass"),
    ("memt.memctrl_backward", "in memory:", "in memory[:0]:"),
    ("memt.memctrl_backward", "dcontext += dcontext_mem", "dcontext -= dcontext_mem"),
    ("memt.memctrl_backward", "dcontext[:, mem_rows] += dx", "pass"),
    ("memt.memctrl_backward", "dcontext[:, mem_rows] += dx", "dcontext[:, mem_rows] = dx"),
    ("memt.memctrl_backward", "dcontext[:, :M], dcontext[:, M:]", "dcontext[:, 1 : M + 1], dcontext[:, M:]"),
    ("memt.membottleneck_forward", 'x[:, rows], mem, p["seq"]', 'x[:, rows], x[:, :M], p["seq"]'),  # stale
    ("memt.membottleneck_forward", 'x[:, rows], mem, p["seq"]', 'x[:, rows], x, p["seq"]'),
    ("memt.membottleneck_forward", 'x[:, rows], mem, p["seq"]', 'x[:, rows], mem[:, 1:], p["seq"]'),
    ("memt.membottleneck_forward", 'update_forward(mem, x, p["mem"]', 'update_forward(mem, seq, p["mem"]'),
    ("memt.membottleneck_forward", 'update_forward(mem, x, p["mem"]', 'update_forward(mem, mem, p["mem"]'),
    ("memt.membottleneck_forward", "else M + read", "else read"),
    ("memt.membottleneck_forward", "slice(M, None) if", "slice(M - 1, -1) if"),
    ("memt.membottleneck_forward", "(slice(M), c_mem)", "(slice(1, M + 1), c_mem)"),
    ("memt.membottleneck_backward", "dmem + dmem_read", "dmem"),
    ("memt.membottleneck_backward", "dmem + dmem_read", "dmem_read"),
    ("memt.membottleneck_backward", "dmem + dmem_read", "dmem - dmem_read"),
    ("memt.membottleneck_backward", "dcontext[:, mem_rows] += dx_mem", "pass"),
    ("memt.membottleneck_backward", "dcontext[:, mem_rows] += dx_mem", "dcontext[:, mem_rows] = dx_mem"),
    ("memt.membottleneck_backward", "dcontext[:, rows] += dx_seq", "pass"),
    ("memt.membottleneck_backward", "dcontext[:, rows] += dx_seq", "dcontext[:, rows] = dx_seq"),
    ("memt.membottleneck_backward", 'c_seq, dp["seq"]', 'c_seq, dp["mem"]'),
    ("memt.membottleneck_backward", 'c_mem, dp["mem"]', 'c_mem, dp["seq"]'),
    ("memt.membottleneck_backward", "dcontext[:, :M], dcontext[:, M:]", "dcontext[:, 1 : M + 1], dcontext[:, M:]"),
    ("memt.build_mask", "mask[M:, M:]", "mask[M - 1 : -1, M - 1 : -1]"),
    ("memt.build_mask", "mask[M:, M:]", "mask[:T, :T]"),
    ("memt.build_mask", "> radius", ">= radius"),
    ("memt.build_mask", "> radius", "<= radius"),
    ("memt.build_mask", "np.abs(position[:, None] - position)", "(position[:, None] - position)"),
    ("memt.build_mask", "-1 if config", "0 if config"),
    ("memt.build_mask", "-np.inf", "-1e1"),
    ("memt.build_mask", "M + T), dtype)", "M + T))"),
    ("memt.mask_rows", "mask[rows]", "mask[:, rows]"),
    # ------------------------------------------------------------ the model and its loss
    ("memt.sinusoids", "np.arange(0, C, 2) / C", "np.arange(0, C, 2) / (C - 1)"),
    ("memt.sinusoids", "np.arange(0, C, 2) / C", "np.arange(C // 2) / C"),
    ("memt.sinusoids", "np.arange(T)[:, None]", "np.arange(1, T + 1)[:, None]"),
    ("memt.sinusoids", "(np.sin(angle), np.cos(angle)), axis=2", "(np.sin(angle), np.cos(angle)), axis=1"),
    ("memt.sinusoids", "(np.sin(angle), np.cos(angle))", "(np.cos(angle), np.sin(angle))"),
    ("memt.sinusoids", "10000", "1000"),
    ("memt.sinusoids", ".astype(dtype)", ""),
    ("memt.embedding_forward", " + sinusoids(T, C, embed.dtype)", ""),
    ("memt.embedding_forward", "np.broadcast_to(memory, (B, M, C))", "np.broadcast_to(memory, (B, M, C)) + sinusoids(M, C, embed.dtype)"),
    ("memt.embedding_backward", ").T @ rows_of(dseq)", ").T @ rows_of(dseq[::-1])"),
    ("memt.embedding_backward", "return dembed, dmem.sum(axis=0)", "dembed[tokens] = dseq\n    return dembed, dmem.sum(axis=0)"),
    ("memt.embedding_backward", "return dembed,", "return -dembed,"),
    ("memt.embedding_backward", "dmem.sum(axis=0)", "dmem[0]"),
    ("memt.embedding_backward", "dmem.sum(axis=0)", "dmem.mean(axis=0)"),
    ("memt.cross_entropy_forward", "logits - row_max(logits)", "logits"),
    ("memt.cross_entropy_forward", "z - np.log(", "z + np.log("),
    ("memt.cross_entropy_forward", "row_sum(np.exp(z))", "np.exp(z).sum()"),
    ("memt.cross_entropy_forward", "/ targets.size", "/ len(targets)"),
    ("memt.cross_entropy_forward", "np.log(", "np.log2("),
    ("memt.cross_entropy_forward", "return -(", "return ("),
    ("memt.cross_entropy_forward", "if targets.shape != logits.shape[:-1]:", "if False:"),
    ("memt.cross_entropy_backward", " - chosen", ""),
    ("memt.cross_entropy_backward", "logp, chosen = cache", "chosen, logp = cache"),
    ("memt.cross_entropy_backward", "np.exp(logp) - chosen", "chosen - np.exp(logp)"),
    ("memt.cross_entropy_backward", "np.exp(logp)", "logp"),
    ("memt.cross_entropy_backward", "float(dloss) * logp.shape[-1] / logp.size", "float(dloss)"),
    ("memt.cross_entropy_backward", "float(dloss) * logp.shape[-1] / logp.size", "float(dloss) / logp.size"),
    ("memt.cross_entropy_backward", "float(dloss) * ", ""),
    ("memt.cross_entropy_backward", "float(dloss)", "dloss"),
    ("memt.model_forward", "if l == config.layers - 1", "if l == 0"),
    ("memt.model_forward", "role_params(params, config, l)", "role_params(params, config, 0)"),
    ("memt.model_forward", 'params["out_w"], params["out_b"]', 'params["out_w"]'),
    ("memt.model_forward", "config.heads, mask, rows", "config.heads, None, rows"),
    ("memt.model_backward", "in reversed(range(config.layers))", "in range(config.layers)"),
    ("memt.model_backward", "dmem = np.zeros_like(mem)", "dmem = np.ones_like(mem)"),
    ("memt.model_backward", "dseq = backward(dmem,", "dseq = backward(0 * dmem,"),
    ("memt.model_backward", "dseq = backward(dmem,", "dseq = backward(-dmem,"),
    ("memt.model_backward", "role_params(grads, config, l)", "role_params(grads, config, 0)"),
    ("memt.model_backward", " out_b=dout_b", ""),
    ("memt.model_backward", "linear_backward(dlogits, c_out)", "linear_backward(2 * dlogits, c_out)"),
    ("memt.model_backward", "embedding_backward(dmem, dseq, c_embed)", "embedding_backward(dmem, -dseq, c_embed)"),
    ("memt.model_backward", "out_w=dout_w", "out_w=-dout_w"),
    ("memt.model_backward", " memory=dmemory,", ""),
    ("memt.model_backward", "zero_params(config, mem.dtype)", "zero_params(config, np.float64)"),
    ("memt.model_backward", "if dlogits.shape != shape:", "if False:"),
    ("memt.check_ids", "or not ids.size", ""),
    ("memt.check_ids", '"iu"', '"iub"'),
    ("memt.check_ids", "ids.max() >= size", "ids.max() > size"),
    ("memt.check_ids", "ids.min() < 0 or ", ""),
    ("memt.check_inputs", " or params[name].shape != shape", ""),
    ("memt.check_inputs", "config.symbols + 1)", "config.symbols)"),
    ("memt.check_inputs", "if tokens.ndim != 2:", "if False:"),
    ("memt.check_inputs", " or len(set(read.tolist())) < read.size", ""),
    ("memt.check_inputs", "if len({p.dtype for p in params.values()}) > 1:", "if False:"),
    # ------------------------------------------------------------ looking inside, files
    ("memt.attention_maps", "np.nan", "0"),
    ("memt.attention_maps", "out[:, :, rows] = 0", "pass"),
    ("memt.attention_maps", ": p.shape[-1]] = p", "-p.shape[-1] :] = p"),
    ("memt.attention_maps", "cache[-1].dtype", "float"),
    ("memt.final_memory", "if mem.shape[1] != config.memory:", "if False:"),
    ("memt.save", "**fill_params(config, params)", "**params"),
    ("memt.write_whole", ".part", ""),
    ("memt.write_whole", "os.replace(beside, path)", "os.rename(beside, str(path) + '.npz')"),
    ("memt.write_whole", "            os.remove(beside)", "            pass"),
    ("memt.write_whole", "        raise\n", "        return\n"),
    ("memt.load", "if config.layers > len(arrays):", "if False:"),
    ("memt.fill_params", "if param_shapes(config).keys() != arrays.keys():", "if False:"),
    ("memt.fill_params", ".shape != shape or", ".size != math.prod(shape) or"),
    ("memt.fill_params", " or arrays[name].dtype != dtype", ""),
    ("memt.fill_params", "if not np.isfinite(arrays[name]).all():", "if False:"),
    ("memt.fill_params", "[...] = arrays[name]", "[...] = arrays[name].T.reshape(shape)"),
    ("memt.read_npz", "allow_pickle=False", "allow_pickle=True"),
    ("memt.read_npz", "if sum(part.file_size for part in file.zip.infolist()) >", "if 0 >"),
    ("memt.read_npz", "if not all(isinstance(array, np.ndarray) for array in arrays.values()):", "if False:"),
    ("memt.read_npz", "except Exception", "except (ValueError, OSError)"),
    ("memt.reason", '" ".join(str(error).split())', "str(error)"),
    ("memt.reason", "[:200]", ""),
    # ------------------------------------------------------------ the tape
    ("autograd.Tensor", 'if "out" in kwargs:', "if False:"),
    ("autograd.Tensor", 'if method != "__call__":', "if False:"),
    ("autograd.Tensor", "if isinstance(x, Tensor)]", "if isinstance(x, Tensor)][:1]"),
    ("autograd.Tensor", "(axes[0] if len(axes) == 1 else axes) or None", "None"),
    ("autograd.Tensor", "__array__ = __float__", "__float__"),
    ("autograd.Tensor", "__bool__ = ", ""),
    ("autograd.Tensor", "return max_(self, axis, keepdims)", "return max_(self, axis, True)"),
    ("autograd.Tensor", "return sum_(self, axis, keepdims)", "return sum_(self, None, keepdims)"),
    ("autograd.record", "if function not in RULES:", "if False:"),
    ("autograd.record", "return rule(*args, **kwargs)", "return rule(*args)"),
    ("autograd.unbroadcast", "d = d.sum(axis=tuple(range(d.ndim - len(shape))))", "d = d[(0,) * (d.ndim - len(shape))]"),
    ("autograd.unbroadcast", "n == 1 and d.shape[i] != 1", "False"),
    ("autograd.unbroadcast", "keepdims=True", "keepdims=False"),
    ("autograd.unbroadcast", "d.sum(axis=stretched", "d.mean(axis=stretched"),
    ("autograd.add", "(y, lambda d: d)", "(y, lambda d: -d)"),
    ("autograd.add", "(x, lambda d: d), ", ""),
    ("autograd.subtract", "lambda d: -d", "lambda d: d"),
    ("autograd.multiply", "d * val(y)", "d * val(x)"),
    ("autograd.multiply", "d * val(x)", "d"),
    ("autograd.divide", "d / val(y)", "d * val(y)"),
    ("autograd.divide", "-d * out / val(y)", "d * out / val(y)"),
    ("autograd.divide", "-d * out / val(y)", "-d * out"),
    ("autograd.negative", "lambda d: -d", "lambda d: d"),
    ("autograd.power", "d * n * val(x)", "d * val(x)"),
    ("autograd.power", "(n - 1)", "n"),
    ("autograd.power", "if isinstance(n, Tensor):", "if False:"),
    ("autograd.exp", "d * out", "d"),
    ("autograd.exp", "d * out", "d / out"),
    ("autograd.log", "d / val(x)", "d * val(x)"),
    ("autograd.sqrt", "(2 * out)", "out"),
    ("autograd.sqrt", "d / (2 * out)", "d * (2 * out)"),
    ("autograd.maximum", "val(x) > val(y)", "val(x) < val(y)"),
    ("autograd.maximum", "val(x) > val(y)", "val(x) >= val(y)"),
    ("autograd.maximum", "d * ~first", "d"),
    ("autograd.matmul", "d @ val(y).swapaxes(-1, -2)", "(val(y) @ d.swapaxes(-1, -2)).swapaxes(-1, -2) * 2"),
    ("autograd.matmul", "val(x).swapaxes(-1, -2) @ d", "-val(x).swapaxes(-1, -2) @ d"),
    ("autograd.matmul", "if val(x).ndim < 2 or val(y).ndim < 2:", "if False:"),
    ("autograd.sum_", "if axis is not None and not keepdims:", "if False:"),
    ("autograd.sum_", "np.expand_dims(d, axis)", "np.expand_dims(d, 0)"),
    ("autograd.sum_", "np.broadcast_to(d, x.shape)", "np.broadcast_to(d, x.shape) / x.size"),
    ("autograd.mean", "(x.size // total.size)", "x.size"),
    ("autograd.mean", "total / (x.size // total.size)", "total"),
    ("autograd.max_", "largest / largest.sum(axis=axis, keepdims=True)", "largest"),
    ("autograd.max_", "share * d.reshape(kept.shape)", "d.reshape(kept.shape) + 0 * share"),
    ("autograd.max_", ".astype(x.dtype)", ""),
    ("autograd.reshape", "d.reshape(x.shape)", "d.T.reshape(x.shape)"),
    ("autograd.transpose", "np.argsort(axes)", "axes"),
    ("autograd.swapaxes", "d.swapaxes(axis1, axis2)", "d.reshape(x.shape)"),
    ("autograd.copy", "(x, lambda d: d)", "(x, lambda d: -d)"),
    ("autograd.copy", "(x, lambda d: d)", ""),
    ("autograd.broadcast_to", "(x, lambda d: d)", "(x, lambda d: d / 2)"),
    ("autograd.concatenate", "np.split(d, ends, axis)[i]", "np.split(d, ends, axis)[0]"),
    ("autograd.concatenate", "np.split(d, ends, axis)[i]", "np.split(d, ends, axis)[-1 - i]"),
    ("autograd.where", "np.where(condition, d, 0)", "d"),
    ("autograd.where", "np.where(condition, 0, d)", "np.where(condition, d, 0)"),
    ("autograd.getitem", "np.add.at(dx, index, d)", "dx[index] = d"),
    ("autograd.getitem", "dx[index] = d", "dx[index] = 2 * d"),
    ("autograd.getitem", "np.zeros(x.shape, d.dtype)", "np.ones(x.shape, d.dtype)"),
    ("autograd.getitem", "np.zeros(x.shape, d.dtype)", "np.zeros(x.shape)"),
    ("autograd.topological", "seen.add(id(tensor))", "pass"),
    ("autograd.topological", "stack.append((tensor, True))", "order.append(tensor)"),
    ("autograd.backward", "known + d", "d"),
    ("autograd.backward", "known + d", "known"),
    ("autograd.backward", "reversed(topological(out))", "topological(out)"),
    ("autograd.value_and_grad", "out = f(tensors)", "f(params)\n        out = f(tensors)"),
    ("autograd.value_and_grad", " or out.shape", ""),
    ("autograd.value_and_grad", "if not np.isclose(", "if False and not np.isclose("),
    ("autograd.value_and_grad", "np.zeros(t.shape, t.dtype)", "np.ones(t.shape, t.dtype)"),
    ("autograd.value_and_grad", "np.zeros(t.shape, t.dtype)", "np.zeros(t.shape)"),
    ("autograd.finite_differences", "(2 * step)", "step"),
    ("autograd.finite_differences", "p[i] = kept - step", "p[i] = kept"),
    ("autograd.finite_differences", "            p[i] = kept\n", ""),
    ("autograd.finite_differences", "np.array(p, np.float64)", "np.asarray(p)"),
    ("autograd.gradient_errors", "if grads.keys() != reference.keys():", "if False:"),
    ("autograd.gradient_errors", "if grads[name].shape != b.shape:", "if False:"),
    ("autograd.gradient_errors", "1e-3 * max(", "1e3 * max("),
    ("autograd.gradient_errors", "float(abs(grads[name] - b)", "float((grads[name] - b)"),
    ("autograd.gradient_errors", ".max(initial=0) / max(abs(b)", ".mean() / max(abs(b)"),
    ("autograd.gradient_errors", " or 1.0", ""),
    ("autograd.error_table", "np.argmax(abs(a - b))", "np.argmin(abs(a - b))"),
    ("autograd.error_table", "{a[i]:.6g}, {b[i]:.6g}", "{b[i]:.6g}, {a[i]:.6g}"),
    ("autograd.check_grad", "not error <= tolerance", "error > tolerance"),
    ("autograd.check_grad", "if wrong:", "if len(wrong) > 1:"),
    ("autograd.check_grad", "print(table)", "pass"),
    ("autograd.check_grad", "finite_differences(f, params, step)", "grads"),
    # ------------------------------------------------------------ train_toy.py: what it computes and keeps
    ("train_toy.Settings", '("length", "steps", "batch")', '("length", "steps")'),
    ("train_toy.Settings", 'memt.check_size("seed", self.seed, 0)', "pass"),
    ("train_toy.Settings", "0 < self.lr < math.inf", "0 < self.lr"),
    ("train_toy.Settings", "if self.task not in TASKS:", "if False:"),
    ("train_toy.default_settings", "**DEFAULTS.get(variant, {}), **given", "**given, **DEFAULTS.get(variant, {})"),
    ("train_toy.make_batch", "[s.seed, stream, step]", "[s.seed, stream]"),
    ("train_toy.make_batch", "[s.seed, stream, step]", "[s.seed, 0, step]"),
    ("train_toy.make_batch", "[s.seed, stream, step]", "[0, stream, step]"),
    ("train_toy.make_batch", "np.full_like(x, s.symbols)", "np.full_like(x, s.symbols - 1)"),
    ("train_toy.make_batch", "TASKS[s.task](x)", 'TASKS["copy"](x)'),
    ("train_toy.slots", "slice(s.length, 2 * s.length)", "slice(0, s.length)"),
    ("train_toy.evaluate", "right.all(axis=1)", "right.any(axis=1)"),
    ("train_toy.evaluate", "float(right.mean())", "float(right[:, 0].mean())"),
    ("train_toy.clip", "min(1.0, 1.0 /", "min(1.0, 2.0 /"),
    ("train_toy.clip", "min(1.0, 1.0 / np.linalg.norm(grad))", "1.0 / np.linalg.norm(grad)"),
    ("train_toy.learning_rate", "step / 100", "step / 10"),
    ("train_toy.learning_rate", "math.cos", "math.sin"),
    ("train_toy.learning_rate", ") / 2", ")"),
    ("train_toy.adam", "0.1 * (grad - m)", "0.1 * grad"),
    ("train_toy.adam", "grad * grad - v", "abs(grad) - v"),
    ("train_toy.adam", "m / (1 - 0.9**step)", "m"),
    ("train_toy.adam", "v / (1 - 0.999**step)", "v"),
    ("train_toy.adam", "1e-8", "1e-2"),
    ("train_toy.adam", "vector -=", "vector +="),
    ("train_toy.start", "[s.seed, START]", "[s.seed, TEST]"),
    ("train_toy.finished", "state.log[-2:]", "state.log[-1:]"),
    ("train_toy.finished", "len(state.log) > 1 and", "len(state.log) > 0 and"),
    ("train_toy.finished", "state.step >= s.steps", "state.step > s.steps"),
    ("train_toy.training", "clip(grad)", "pass"),
    ("train_toy.training", "TRAINING, step)", "TRAINING, 1)"),
    ("train_toy.training", "VALIDATION, step)", "TRAINING, step)"),
    ("train_toy.training", " or step == s.steps", ""),
    ("train_toy.training", "if not math.isfinite(sum(row, state.loss)):", "if False:"),
    ("train_toy.training", "state.log += [row] if row else []", "state.log = [row] if row else []"),
    ("train_toy.write_checkpoint", '"v": state.v', '"v": state.m'),
    ("train_toy.read_checkpoint", "array[:] = arrays[name]", "pass"),
    ("train_toy.read_checkpoint", 'int(about["step"])', "0"),
    ("train_toy.read_checkpoint", " or not np.isfinite(arrays[name]).all()", ""),
    ("train_toy.write_result", '"steps": state.step', '"steps": s.steps'),
    ("train_toy.prepare", "if held and not resume and not overwrite:", "if False:"),
    ("train_toy.prepare", "if resume and overwrite:", "if False:"),
    ("train_toy.prepare", "if getattr(s, name) != value:", "if False:"),
    ("train_toy.prepare", "(out / name).unlink()", "pass"),
    ("train_toy.run", "return 128 + stopped[0]", "return 0"),
    ("train_toy.Parser", "self.exit(2,", "self.exit(1,"),
    ("train_toy.main", "        return 1", "        return 0"),
]  # fmt: skip


def mutated(tree: Path, place: str, text: str, wrong: str) -> tuple[str, str]:
    """Name and source of the file with the edit. Raises ValueError unless it fits exactly once."""
    module, name = place.split(".")
    source = (tree / f"{module}.py").read_text(encoding="utf-8")
    nodes = [node for node in ast.parse(source).body if getattr(node, "name", None) == name]
    lines = source.splitlines(keepends=True)
    where = [slice(node.lineno - 1, node.end_lineno) for node in nodes]
    found = sum("".join(lines[part]).count(text) for part in where)
    if found != 1:
        raise ValueError(f"{place}: {text!r} stands there {found} times: must be once")
    lines[where[0]] = ["".join(lines[where[0]]).replace(text, wrong)]
    return f"{module}.py", "".join(lines)


def run_tests(tree: Path, module: str) -> int:
    """pytest's exit status in a copy of the project: 0 where all pass."""
    command = [sys.executable, "-m", "pytest", "-xq", "-p", "no:cacheprovider"]
    command += ["--tb=no", "--assert=plain"]  # nobody reads why
    command += [f"tests/{name}" for name in TESTS[module]]
    command += [f"--deselect=tests/{name}" for name in SLOW]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        return subprocess.run(
            command, cwd=tree, env=environment, timeout=900,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ).returncode  # fmt: skip
    except subprocess.TimeoutExpired:
        return 0  # nothing noticed


def copy_tree(source: Path, target: Path) -> None:
    """What the tests need; those are copied with their compiled files, the modules without."""
    for name in ("memt.py", "autograd.py", "train_toy.py", "pyproject.toml"):
        shutil.copy2(source / name, target / name)
    shutil.copytree(source / "tests", target / "tests")


def survives(base: Path, mutant: tuple[str, str, str]) -> bool:
    """Whether the tests pass in a copy of base with this edit."""
    with tempfile.TemporaryDirectory() as tree:
        copy_tree(base, Path(tree))
        name, source = mutated(base, *mutant)
        (Path(tree) / name).write_text(source, encoding="utf-8")
        return run_tests(Path(tree), Path(name).stem) == 0


def main() -> int:
    """The command: 0 if every mutant is killed."""
    parser = argparse.ArgumentParser(description="Run the fast tests against wrong edits.")
    parser.add_argument("--only", default="", help="part of the place, like layernorm")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    given, began = parser.parse_args(), time.perf_counter()
    for mutant in MUTANTS:
        ast.parse(mutated(ROOT, *mutant)[1])  # raises for an edit that doesn't fit
    chosen = [mutant for mutant in MUTANTS if given.only in mutant[0]]
    with tempfile.TemporaryDirectory() as base, ThreadPoolExecutor(given.jobs) as pool:
        copy_tree(ROOT, Path(base))
        if any(pool.map(partial(run_tests, Path(base)), TESTS)):
            sys.exit("the tests fail without any edit")
        alive = 0
        for mutant, lives in zip(
            chosen, pool.map(partial(survives, Path(base)), chosen), strict=True
        ):
            alive += lives
            if lives:
                print("SURVIVED {}: {!r} -> {!r}".format(*mutant), flush=True)
    print(f"{len(chosen)} mutants, {alive} survived, {time.perf_counter() - began:.0f} s")
    return int(alive > 0)


if __name__ == "__main__":
    sys.exit(main())
