// The model of the page, in a worker: it gets a text, and answers with the tokens that follow, one by one.
//
// What is computed is what model.py, lib/generation.py and the tokenizers library compute. All shapes and tables come from
// `model`, which tools/page.py has written. A matrix of weights (rows, columns) is one array, row after row.
"use strict";

let model;
const weights = {};  // by the names of model.py

// --- Weights: the types of GGUF (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), little-endian

const HALF = Float32Array.from({ length: 65536 }, (_, bits) => {  // the value of each float16
  const sign = bits & 0x8000 ? -1 : 1, exponent = bits >> 10 & 31, fraction = bits & 1023;
  return exponent ? sign * (1024 + fraction) * 2 ** (exponent - 25) : sign * fraction * 2 ** -24;
});

const DECODE = {
  F32(view, values) {
    for (let i = 0; i < values.length; i++) values[i] = view.getFloat32(4 * i, true);
    return 4 * values.length;
  },
  F16(view, values) {
    for (let i = 0; i < values.length; i++) values[i] = HALF[view.getUint16(2 * i, true)];
    return 2 * values.length;
  },
  Q8_0(view, values) {  // a float16 that scales the 32 int8 after it
    let at = 0;
    for (let i = 0; i < values.length; at += 34) {
      const scale = HALF[view.getUint16(at, true)];
      for (let j = 2; j < 34; j++) values[i++] = scale * view.getInt8(at + j);
    }
    return at;
  },
};

function load(description, base64) {
  model = description;
  const binary = atob(base64), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  let at = 0;
  for (const [name, type, size] of model.tensors) {
    weights[name] = new Float32Array(size);
    at += DECODE[type](new DataView(bytes.buffer, at), weights[name]);
  }
  readVocabulary();
}

// --- Tokenizer: byte-level BPE. A token is written as a string with a character below 256 for each of its bytes.

let splits, tokenOf, joined, after;

function readVocabulary() {
  // `\s` is another set in JavaScript than in Unicode.
  const unicode = (source) => source.replaceAll("\\s", "\\p{White_Space}").replaceAll("\\S", "\\P{White_Space}");
  splits = model.splits.map((source) => new RegExp(unicode(source), "gu"));
  tokenOf = new Map(model.tokens.map((bytes, token) => [bytes, token]));
  joined = new Map(model.merges.map(([a, b], rank) => {
    const both = tokenOf.get(model.tokens[a] + model.tokens[b]);
    return [pair(a, b), { rank, both }];
  }));
  // The state of the UTF-8 automaton of lib/tokens/utf8.py after each token, for each state before it.
  const dead = 1 + Math.max(...model.transitions.map(([state]) => state));  // where nothing can follow
  const step = new Uint8Array((dead + 1) * 256).fill(dead);
  for (const [state, first, last, next] of model.transitions) {
    step.fill(next, 256 * state + first, 256 * state + last + 1);
  }
  after = Array.from({ length: dead }, (_, state) =>
    Uint8Array.from(model.tokens, (bytes) => {
      if (!bytes) return state === 0 ? 0 : dead;
      let now = state;
      for (let i = 0; i < bytes.length; i++) now = step[256 * now + bytes.charCodeAt(i)];
      return now;
    }),
  );
}

const pair = (a, b) => 65536 * a + b;

function encode(text) {
  let words = [text];
  for (const split of splits) words = words.flatMap((word) => isolate(word, split));
  const byteToken = (byte) => tokenOf.get(String.fromCharCode(byte));
  return words.flatMap((word) => merge(Array.from(new TextEncoder().encode(word), byteToken)));
}

// A word, cut before and after each match.
function isolate(word, split) {
  const parts = [];
  let end = 0;
  for (const match of word.matchAll(split)) {
    parts.push(word.slice(end, match.index), match[0]);
    end = match.index + match[0].length;
  }
  parts.push(word.slice(end));
  return parts.filter((part) => part);
}

// Join two neighbours as long as there is a merge for them, the one that was learned first before the others.
function merge(tokens) {
  while (true) {
    let best = { rank: Infinity }, left, right;
    for (let i = 1; i < tokens.length; i++) {
      const found = joined.get(pair(tokens[i - 1], tokens[i]));
      if (found?.rank < best.rank) [best, left, right] = [found, tokens[i - 1], tokens[i]];
    }
    if (best.rank === Infinity) return tokens;
    const shorter = [];
    for (let i = 0; i < tokens.length; i++) {
      const joins = tokens[i] === left && tokens[i + 1] === right;
      shorter.push(joins ? best.both : tokens[i]);
      if (joins) i++;
    }
    tokens = shorter;
  }
}

// The text of bytes, or the bytes as numbers where they are only a part of a character.
function readable(bytes) {
  const values = Array.from(bytes, (character) => character.charCodeAt());
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(values));
  } catch {
    return `<0x${values.map((value) => value.toString(16).padStart(2, "0")).join("")}>`;
  }
}

// --- Model: the blocks of Qwen3, for one token at a time

function product(matrix, x) {
  const columns = x.length, result = new Float32Array(matrix.length / columns);
  for (let row = 0; row < result.length; row += 4) {  // Four sums do not wait for one another.
    const first = row * columns, second = first + columns, third = second + columns, fourth = third + columns;
    let a = 0, b = 0, c = 0, d = 0;
    for (let i = 0; i < columns; i++) {
      const value = x[i];
      a += matrix[first + i] * value;
      b += matrix[second + i] * value;
      c += matrix[third + i] * value;
      d += matrix[fourth + i] * value;
    }
    result[row] = a;
    result[row + 1] = b;  // Beyond the end of an array JavaScript reads undefined, and writes nothing.
    result[row + 2] = c;
    result[row + 3] = d;
  }
  return result;
}

function rmsNorm(x, weight) {
  let squares = 0;
  for (const value of x) squares += value * value;
  const scale = 1 / Math.sqrt(squares / x.length + model.norm_eps);
  return x.map((value, i) => value * scale * weight[i]);
}

// RMSNorm of one head, and RoPE in its place.
function normAndTurn(head, weight, position) {
  const normed = rmsNorm(head, weight), half = head.length / 2;
  for (let i = 0; i < half; i++) {
    const angle = position * model.rope_theta ** (-i / half), cos = Math.cos(angle), sin = Math.sin(angle);
    head[i] = normed[i] * cos - normed[i + half] * sin;
    head[i + half] = normed[i + half] * cos + normed[i] * sin;
  }
}

// What is computed on the way passes through here. It can be looked at, and a part that is switched off gives nothing.
let seen = null;  // a Map, while somebody looks
let off = [];  // the names of parts

function inside(name, values) {
  seen?.set(name, values);
  return off.includes(name) ? values.fill(0) : values;
}

let cache;  // {keys, values}: of each layer, (block_size, n_kv_head * head_size); tokens: those that are in it
const caches = new Map();  // one for each place where a window began, and for what was off

function useCache(name) {
  cache = caches.get(name);
  if (cache) return;
  const size = model.block_size * model.n_kv_head * model.head_size;
  const make = () => Array.from({ length: model.n_layer }, () => new Float32Array(size));
  caches.set(name, cache = { keys: make(), values: make(), tokens: [] });
  if (caches.size > 32) caches.delete(caches.keys().next().value);
}

function attention(x, layer, position) {
  const { n_head, n_kv_head, head_size } = model, name = `blocks.${layer}.attn`;
  const keys = cache.keys[layer], values = cache.values[layer], width = n_kv_head * head_size;
  const qkv = product(weights[`${name}.qkv.weight`], x), heads = n_head + n_kv_head;
  for (let h = 0; h < heads; h++) {
    const weight = weights[`${name}.${h < n_head ? "q" : "k"}_norm.weight`];
    normAndTurn(qkv.subarray(h * head_size, (h + 1) * head_size), weight, position);
  }
  keys.set(qkv.subarray(n_head * head_size, heads * head_size), position * width);
  values.set(qkv.subarray(heads * head_size), position * width);
  const result = new Float32Array(n_head * head_size), scores = new Float32Array(position + 1);
  for (let h = 0; h < n_head; h++) {
    const q = h * head_size, kv = Math.floor(h * n_kv_head / n_head) * head_size;  // Several heads share one of these.
    for (let t = 0; t <= position; t++) {
      let score = 0;
      for (let i = 0; i < head_size; i++) score += qkv[q + i] * keys[t * width + kv + i];
      scores[t] = score / Math.sqrt(head_size);
    }
    inside(`${layer} shares ${h}`, softmax(scores)).forEach((share, t) => {
      for (let i = 0; i < head_size; i++) result[q + i] += share * values[t * width + kv + i];
    });
    inside(`${layer} head ${h}`, result.subarray(q, q + head_size));
  }
  return product(weights[`${name}.proj.weight`], result);
}

function softmax(scores) {
  const highest = largest(scores), shares = new Float32Array(scores.length);
  for (let i = 0; i < scores.length; i++) shares[i] = Math.exp(scores[i] - highest);
  const total = sum(shares);
  for (let i = 0; i < scores.length; i++) shares[i] /= total;
  return shares;
}

function sum(values) {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i];
  return total;
}

function largest(values) {
  let best = -Infinity;
  for (let i = 0; i < values.length; i++) if (values[i] > best) best = values[i];
  return best;
}

function mlp(x, layer) {
  const gateUp = product(weights[`blocks.${layer}.mlp.gate_up.weight`], x), half = gateUp.length / 2;
  const inner = gateUp.subarray(0, half).map((gate, i) => gate / (1 + Math.exp(-gate)) * gateUp[half + i]);
  return product(weights[`blocks.${layer}.mlp.proj.weight`], inner);
}

// The residual stream after the last block, for one token; its keys and values go into the cache.
function hidden(token, position) {
  let x = weights["embedding.weight"].slice(token * model.n_embd, (token + 1) * model.n_embd);
  const add = (y) => { x = x.map((value, i) => value + y[i]); };
  for (let layer = 0; layer < model.n_layer; layer++) {
    inside(`${layer} stream`, x);
    add(inside(`${layer} attention`, attention(rmsNorm(x, weights[`blocks.${layer}.attn_norm.weight`]), layer, position)));
    add(inside(`${layer} mlp`, mlp(rmsNorm(x, weights[`blocks.${layer}.mlp_norm.weight`]), layer)));
  }
  return inside(`${model.n_layer} stream`, x);
}

// The logits that the residual stream gives.
const unembed = (x) =>
  product(weights["lm_head.weight"] ?? weights["embedding.weight"], rmsNorm(x, weights["norm.weight"]));

// Where the window begins: it slides in leaps as that of stream in lib/generation.py does.
function startOf(tokens) {
  let start = 0;
  while (tokens.length - start > model.block_size) start += model.block_size + 1 - (model.block_size >> 1);
  return start;
}

// The logits of the token after these. What a cache knows of them is not computed again.
function logits(tokens) {
  const start = startOf(tokens), window = tokens.slice(start);
  useCache(`${start} ${off}`);
  let position = 0, x;
  while (position < window.length - 1 && window[position] === cache.tokens[position]) position++;
  for (let i = position; i < window.length; i++) x = hidden(window[i], i);
  if (window.some((token, i) => token !== cache.tokens[i])) cache.tokens = window;
  return unembed(x);
}

// --- Sampling

// A number from 0 to 1, a function of these alone. So a text that was stopped goes on as if it had not been.
function random(...numbers) {
  const mix = (z) => {  // https://github.com/skeeto/hash-prospector
    z = Math.imul(z ^ z >>> 16, 0x21f0aaad);
    z = Math.imul(z ^ z >>> 15, 0xd35a2d97);
    return z ^ z >>> 15;
  };
  return (numbers.reduce((z, number) => mix(z + number), 0) >>> 0) / 2 ** 32;
}

// The share of each token after penalty and temperature.
function sharpened(logits, tokens, { temperature, repetition_penalty }) {
  const scores = logits.slice();
  for (const token of new Set(tokens)) {
    scores[token] = scores[token] > 0 ? scores[token] / repetition_penalty : scores[token] * repetition_penalty;
  }
  const highest = largest(scores), best = scores.indexOf(highest);
  if (temperature < 1e-5) return scores.fill(0).fill(1, best, best + 1);
  return softmax(scores.map((score) => (score - highest) / temperature));
}

// The least shares that top-k and min-p let pass.
const leastOf = (shares, { top_k, min_p }) => ({
  "top-k": top_k > 0 && top_k < shares.length ? shares.slice().sort().at(-top_k) : 0,
  "min-p": min_p * largest(shares),
});

// The next token, as next_token of lib/generation.py chooses it, and where in its share the drawn number fell.
// tokens: those before it.
function choose(logits, tokens, settings) {
  let shares = sharpened(logits, tokens, settings);
  const least = leastOf(shares, settings), keep = (isKept) => { shares = shares.map((share) => isKept(share) ? share : 0); };
  if (least["top-k"]) keep((share) => share >= least["top-k"]);
  const enough = settings.top_p * sum(shares);
  if (least["min-p"]) keep((share) => share >= least["min-p"]);
  for (let draw = 0; ; draw++) {
    const point = random(settings.seed, tokens.length, draw) * sum(shares);
    let passed = 0;
    const token = shares.findIndex((share) => (passed += share) > point), drawn = shares[token];
    const larger = () => shares.reduce((total, share) => share > drawn ? total + share : total, 0);
    if (settings.top_p === 1 || larger() < enough) return [token, (point - passed + drawn) / drawn];
    keep((share) => share > drawn);
  }
}

// The likeliest n tokens: [token, its text, its probability].
function likely(shares, n) {
  const found = [];
  shares.forEach((share, token) => {
    if (share <= (found[n - 1]?.share ?? 0)) return;
    found.push({ token, share });
    found.sort((a, b) => b.share - a.share).splice(n);
  });
  return found.map(({ token, share }) => [token, textOf(token), share]);
}

const textOf = (token) => model.special[token] ?? readable(model.tokens[token]);

// What is known of each token, but for those after which no character can be completed. state: of the UTF-8 automaton
const possible = (values, state, otherwise) =>
  values.map((value, token) => after[state][token] < after.length ? value : otherwise);

// What follows these tokens, which are made longer: a token, or those that make a character together.
// given: the tokens to begin with, of a text or chosen by the reader. Those that are used up are taken from it.
function write(tokens, settings, given = []) {
  off = settings.off ?? [];
  const piece = { tokens: [], bits: 0, given: given.length > 0 };
  let state = 0;
  do {
    const scores = logits(tokens), shares = softmax(scores);
    if (!Number.isFinite(largest(scores))) throw DAMAGED;
    piece.others ??= likely(possible(shares, state, 0), 6);
    const token = given.shift() ?? choose(possible(scores, state, -Infinity), tokens, settings)[0];
    piece.bits -= Math.log2(shares[token]);
    piece.tokens.push(token);
    tokens.push(token);
    state = after[state][token];
  } while (state !== 0);
  piece.text = readable(piece.tokens.map((token) => model.tokens[token]).join(""));
  piece.name = textOf(piece.tokens[0]);
  return piece;
}

// --- What was inside when a token was chosen after these

function look(tokens, token, settings) {
  off = settings.off ?? [];
  seen = new Map();
  const scores = logits(tokens), found = seen;
  seen = null;
  const layers = Array.from({ length: model.n_layer + 1 }, (_, layer) => {  // what the model would say if it ended here
    const shares = softmax(unembed(found.get(`${layer} stream`))), share = shares[token];
    const rank = shares.reduce((rank, other) => rank + (other > share), 1);
    return { likely: likely(possible(shares, 0, 0), 3), share, rank };
  });
  const heads = Array.from({ length: model.n_layer }, (_, layer) =>
    Array.from({ length: model.n_head }, (_, h) => found.get(`${layer} shares ${h}`)));
  const start = startOf(tokens), window = tokens.slice(start);
  return { layers, heads, start, window, choice: explain(scores, tokens, token, settings) };
}

// How choose comes to a token: the likeliest ones and this one, each with its share as the model has it and after the
// temperature, and the rule that cuts it off; of those that are left, where the drawn number fell, from 0 to 1.
function explain(logits, tokens, token, settings) {
  const shares = softmax(logits), scores = possible(logits, 0, -Infinity);
  const sharp = sharpened(scores, tokens, settings), least = leastOf(sharp, settings);
  const passed = (share) => share >= least["top-k"] && share >= least["min-p"];
  const enough = settings.top_p < 1 ? settings.top_p * sum(sharp.filter((share) => share >= least["top-k"])) : Infinity;
  let total = 0, left = 0;
  least["top-p"] = 0;
  for (const share of sharp.filter(passed).sort().reverse()) {
    if (total >= enough) break;
    [total, left, least["top-p"]] = [total + share, left + (share > 0), share];
  }
  const cutBy = (share) => ["top-k", "min-p", "top-p"].find((rule) => share < least[rule]);
  const [drawn, within] = choose(scores, tokens, settings);
  const before = drawn === token && sum(sharp.filter((share, other) =>
    !cutBy(share) && (share > sharp[token] || share === sharp[token] && other < token)));
  const shown = likely(sharp, 8).map(([other]) => other);
  if (!shown.includes(token)) shown.push(token);
  const bars = shown.map((other) => {
    const share = cutBy(sharp[other]) ? 0 : sharp[other] / total;
    return { token: other, text: textOf(other), model: shares[other], sharp: sharp[other], share, cut: cutBy(sharp[other]) };
  });
  return { bars, left, point: drawn === token ? (before + within * sharp[token]) / total : null };
}

// --- Questions and answers

let turn;  // A new question, or the order to stop, ends what an earlier one asked for.
const channel = new MessageChannel();
const hear = () => new Promise((resolve) => {  // what the page may have said meanwhile
  channel.port1.onmessage = resolve;
  channel.port2.postMessage(null);
});

async function answer(question) {
  if (question.model) load(question.model, question.weights);
  const { text, written, settings } = question, tokens = [model.bos ?? model.eos, ...(written ?? [])];
  if (question.look) return postMessage({ inside: look(tokens, question.token, settings) });
  turn = question.turn;
  if (!settings) return;
  const given = text === undefined ? question.given : encode(text);
  const goal = tokens.length + settings.length + (text === undefined ? 0 : given.length);
  for (let ended = false; turn === question.turn && !ended;) {
    const piece = write(tokens, settings, given);
    ended = !given.length && (piece.tokens[0] === model.eos || tokens.length >= goal);
    postMessage({ turn, piece, ended });
    await hear();
  }
}

const DAMAGED = ["the logits are not finite: the weights are damaged", "logits 不是有限的数：权重已损坏"];
onmessage = ({ data }) => answer(data).catch((error) => {
  postMessage({ problem: error === DAMAGED ? error : [error.message, error.message] });
});
