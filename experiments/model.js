"use strict";
// memt's forward pass for one sequence, written from the equations; names as in memt.py, whose
// docstrings say more. A matrix is an array of rows; params: name -> matrix, or vector for biases.

// ---------------------------------------------------------------- pieces
function linear_forward(x, w, b) {
  // y = x w + b
  return x.map((row) => {
    const y = new Float64Array(w[0].length);
    if (b) y.set(b);
    row.forEach((value, i) => {
      const weights = w[i];
      for (let o = 0; o < y.length; o++) y[o] += value * weights[o];
    });
    return y;
  });
}

const add = (x, y) => x.map((row, i) => row.map((value, j) => value + y[i][j]));
const mean = (row) => row.reduce((sum, value) => sum + value, 0) / row.length;

function layernorm_forward(x, g, b) {
  // g (x - mean) / std + b
  return x.map((row) => {
    const centre = mean(row);
    const centred = row.map((value) => value - centre);
    const std = Math.sqrt(mean(centred.map((value) => value * value)) + 1e-5);
    return centred.map((value, j) => (g[j] * value) / std + b[j]);
  });
}

const relu_forward = (x) => x.map((row) => row.map((value) => Math.max(value, 0)));

function softmax_forward(s) {
  const most = Math.max(...s);
  const e = s.map((value) => Math.exp(value - most));
  let sum = 0;
  for (let j = 0; j < e.length; j++) sum += e[j];
  return e.map((value) => value / sum);
}

function attention_forward(x, context, p, heads, allowed) {
  // MH(x, context); allowed(i, j): may row i of x attend to row j of context? -> out, maps (H, N, K)
  const q = linear_forward(x, p.wq);
  const kv = linear_forward(context, p.wkv);
  const C = p.wq.length;
  const D = C / heads;
  const merged = x.map(() => new Float64Array(C));
  const maps = [];
  for (let h = 0; h < heads; h++) {
    const [from, to] = [h * D, (h + 1) * D];
    const score = (query, key) => {
      let sum = 0;
      for (let d = from; d < to; d++) sum += query[d] * key[d];
      return sum / Math.sqrt(D);
    };
    const scores = (query, i) =>
      kv.map((key, j) => (allowed(i, j) ? score(query, key) : -Infinity));
    maps.push(q.map((query, i) => softmax_forward(scores(query, i))));
    maps[h].forEach((weights, i) => {
      const sum = merged[i];
      kv.forEach((value, j) => {
        for (let d = from; d < to; d++) sum[d] += weights[j] * value[C + d];
      });
    });
  }
  return [linear_forward(merged, p.wo), maps];
}

// ---------------------------------------------------------------- one update, three wirings
function update_forward(x, context, p, heads, allowed) {
  // U(x, context): a = LN(x + MH(x, context)), h = LN(a + FF(a))
  const [mh, maps] = attention_forward(x, context, p, heads, allowed);
  const a = layernorm_forward(add(x, mh), p.ln1_g, p.ln1_b);
  const ff = linear_forward(relu_forward(linear_forward(a, p.w1, p.b1)), p.w2, p.b2);
  return [layernorm_forward(add(a, ff), p.ln2_g, p.ln2_b), maps];
}

// mem, seq; own(role) -> its parameters -> the new mem, seq, and the maps of their rows

function shared_forward(mem, seq, own, heads, allowed) {
  const both = [...mem, ...seq];
  const [y, maps] = update_forward(both, both, own("all"), heads, allowed);
  const M = mem.length;
  return [y.slice(0, M), y.slice(M), maps.map((m) => m.slice(0, M)), maps.map((m) => m.slice(M))];
}

function memctrl_forward(mem, seq, own, heads, allowed) {
  const both = [...mem, ...seq];
  const of_seq = (i, j) => allowed(mem.length + i, j);
  const [new_mem, mem_maps] = update_forward(mem, both, own("mem"), heads, allowed);
  const [new_seq, seq_maps] = update_forward(seq, both, own("seq"), heads, of_seq);
  return [new_mem, new_seq, mem_maps, seq_maps];
}

function membottleneck_forward(mem, seq, own, heads, allowed) {
  const [new_mem, mem_maps] = update_forward(mem, [...mem, ...seq], own("mem"), heads, allowed);
  const [new_seq, seq_maps] = update_forward(seq, new_mem, own("seq"), heads, () => true);
  return [new_mem, new_seq, mem_maps, seq_maps];
}

const WIRINGS = { memctrl: memctrl_forward, membottleneck: membottleneck_forward };

// ---------------------------------------------------------------- the model
const UPDATE_PARAMS = "wq wkv wo ln1_g ln1_b w1 b1 w2 b2 ln2_g ln2_b".split(" ");

const position = (i, j, C) => {
  const angle = i / 10000 ** ((j - (j % 2)) / C);
  return j % 2 ? Math.cos(angle) : Math.sin(angle);
};

function model_forward(params, tokens, config, removed = []) {
  // tokens (T) -> logits (T, O), maps (L, H, M+T, M+T). Removed memory tokens: their rows are left
  // out of the model, as in experiments/lesions.py, and 0 in the maps.
  const { width: C, heads, window: radius, variant } = config;
  const embed = (token, i) =>
    params.embed[token].map((value, j) => value + (config.positions ? position(i, j, C) : 0));
  const kept = [...params.memory.keys()].filter((m) => !removed.includes(m));
  let [mem, seq] = [kept.map((m) => params.memory[m]), tokens.map(embed)];
  const M = mem.length;
  const near = variant === "masked" ? -1 : (radius ?? Infinity);
  const allowed = (i, j) => i < M || j < M || Math.abs(i - j) <= near;
  const maps = [];
  for (let l = 0; l < config.layers; l++) {
    const forward = WIRINGS[variant] ?? shared_forward;
    const own = (role) => role_params(params, config, l, role);
    const [new_mem, new_seq, mem_maps, seq_maps] = forward(mem, seq, own, heads, allowed);
    [mem, seq] = [new_mem, new_seq];
    maps.push(mem_maps.map((m, h) => whole([...m, ...seq_maps[h]], kept, params.memory.length)));
  }
  return { logits: linear_forward(seq, params.out_w, params.out_b), maps };
}

function role_params(params, config, l, role) {
  const prefix = role === "mem" && config.share_controller ? "controller" : `layers.${l}.${role}`;
  return Object.fromEntries(UPDATE_PARAMS.map((name) => [name, params[`${prefix}.${name}`]]));
}

function whole(map, kept, M) {
  // rows and columns of a map put where they would be had no memory token been removed
  const T = map.length - kept.length;
  const places = [...kept, ...Array.from({ length: T }, (_, t) => M + t)];
  const full = Array.from({ length: M + T }, () => new Float64Array(M + T));
  map.forEach((row, i) => row.forEach((weight, j) => (full[places[i]][places[j]] = weight)));
  return full;
}
