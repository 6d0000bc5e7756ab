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
  makeCache();
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

// A prompt as TextModel.encode makes it.
function encodePrompt(prompt) {
  const tokens = encode(prompt);
  if (model.bos !== null) tokens.unshift(model.bos);
  if (!tokens.length) tokens.push(model.eos);
  return tokens.slice(-(model.block_size - 1));
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

let cache;  // {keys, values}: of each layer, (block_size, n_kv_head * head_size); tokens: those that are in it; start

function makeCache() {
  const size = model.block_size * model.n_kv_head * model.head_size;
  const make = () => Array.from({ length: model.n_layer }, () => new Float32Array(size));
  cache = { keys: make(), values: make(), tokens: [], start: 0 };
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
    softmax(scores).forEach((share, t) => {
      for (let i = 0; i < head_size; i++) result[q + i] += share * values[t * width + kv + i];
    });
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
    add(attention(rmsNorm(x, weights[`blocks.${layer}.attn_norm.weight`]), layer, position));
    add(mlp(rmsNorm(x, weights[`blocks.${layer}.mlp_norm.weight`]), layer));
  }
  return x;
}

// The logits of the token after these. What the cache knows of them is not computed again.
function logits(tokens) {
  let start = 0;  // of the window, which slides in leaps as that of stream in lib/generation.py does
  while (tokens.length - start > model.block_size) start += model.block_size + 1 - (model.block_size >> 1);
  const window = tokens.slice(start), known = start === cache.start ? cache.tokens : [];
  let position = 0, x;
  while (position < window.length - 1 && window[position] === known[position]) position++;
  for (; position < window.length; position++) x = hidden(window[position], position);
  [cache.tokens, cache.start] = [window, start];
  return product(weights["lm_head.weight"] ?? weights["embedding.weight"], rmsNorm(x, weights["norm.weight"]));
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

// The next token, as next_token of lib/generation.py chooses it. tokens: those before it.
function choose(logits, tokens, { temperature, top_k, top_p, min_p, repetition_penalty, seed }) {
  for (const token of new Set(tokens)) {
    logits[token] = logits[token] > 0 ? logits[token] / repetition_penalty : logits[token] * repetition_penalty;
  }
  const highest = largest(logits);
  if (temperature < 1e-5) return logits.indexOf(highest);
  let shares = softmax(logits.map((logit) => (logit - highest) / temperature));
  const keep = (isKept) => { shares = shares.map((share) => isKept(share) ? share : 0); };
  if (top_k > 0 && top_k < shares.length) {
    const least = shares.slice().sort().at(-top_k);
    keep((share) => share >= least);
  }
  const enough = top_p * sum(shares), least = min_p * largest(shares);
  if (min_p > 0) keep((share) => share >= least);
  for (let draw = 0; ; draw++) {
    const point = random(seed, tokens.length, draw) * sum(shares);
    let passed = 0;
    const token = shares.findIndex((share) => (passed += share) > point), drawn = shares[token];
    if (top_p === 1 || shares.reduce((total, share) => share > drawn ? total + share : total, 0) < enough) return token;
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

// What follows these tokens, which are made longer: a token, or those that make a character together.
// first: the token to begin with, if the reader has chosen it.
function write(tokens, settings, first) {
  const piece = { tokens: [], bits: 0 };
  let state = 0;
  do {
    const scores = logits(tokens).map((score, token) => after[state][token] < after.length ? score : -Infinity);
    if (!Number.isFinite(largest(scores))) throw DAMAGED;
    const shares = softmax(scores);
    piece.others ??= likely(shares, 6);
    const token = first ?? choose(scores, tokens, settings);
    first = undefined;
    piece.bits -= Math.log2(shares[token]);
    piece.tokens.push(token);
    tokens.push(token);
    state = after[state][token];
  } while (state !== 0);
  piece.text = readable(piece.tokens.map((token) => model.tokens[token]).join(""));
  piece.name = textOf(piece.tokens[0]);
  return piece;
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
  turn = question.turn;
  if (!question.settings) return;
  const { prompt, written, settings } = question;
  const tokens = [...encodePrompt(prompt), ...written], goal = tokens.length + settings.length;
  for (let { first } = question, ended = false; turn === question.turn && !ended; first = undefined) {
    const piece = write(tokens, settings, first);
    ended = piece.tokens[0] === model.eos || tokens.length >= goal;
    postMessage({ turn, piece, ended });
    await hear();
  }
}

const DAMAGED = ["the logits are not finite: the weights are damaged", "logits 不是有限的数：权重已损坏"];
onmessage = ({ data }) => answer(data).catch((error) => {
  postMessage({ problem: error === DAMAGED ? error : [error.message, error.message] });
});
