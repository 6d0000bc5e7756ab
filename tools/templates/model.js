// The page: it shows what the worker reads and writes, lets the reader choose otherwise, and look inside.
"use strict";

const find = (id) => document.getElementById(id);

const worker = new Worker(URL.createObjectURL(new Blob([find("worker").textContent])));
const model = JSON.parse(find("description").textContent);
worker.postMessage({ model, weights: find("weights").textContent });
find("weights").remove();

// What is on the page: the pieces of a text, given ones and those that the model wrote, each one or more whole characters.
let pieces = [];
let seed, working = false;
let turn = 0;  // It counts the questions to the worker. An answer to an earlier one comes too late.
let began = null;  // when the first of the new pieces came, and how many tokens there were then
let before = null;  // the bits per character of the text that was read before

const tokensOf = (pieces) => pieces.flatMap((piece) => piece.tokens);
const sum = (values) => values.reduce((total, value) => total + value, 0);

// Those of the text on the page, if it was only read.
function bitsPerCharacter() {
  if (!pieces.at(-1)?.given) return null;
  return (sum(pieces.map((piece) => piece.bits)) / sum(pieces.map((piece) => [...piece.text].length))).toFixed(2);
}

// An element with some content, such as cells in a row.
function make(tag, ...content) {
  const element = document.createElement(tag);
  element.append(...content);
  return element;
}

// --- Read, write, stop, go on

find("form").onsubmit = (event) => {
  event.preventDefault();
  start(Number(find("length").value));
};
find("read").onclick = () => find("prompt").value && start(0);
find("stop").onclick = () => {
  stop();
  find("more").focus();
};
find("more").onclick = () => begin(pieces.length, { given: [] });
find("form").addEventListener("invalid", () => { find("knobs").open = true; }, true);  // so that it can be seen
for (const button of document.querySelectorAll("#beginnings button")) {
  button.onclick = () => {
    find("prompt").value = button.textContent;
    find("form").requestSubmit();
  };
}

// Read the text of the field, and write so many tokens after it.
function start(length) {
  seed = Number(find("seed").value || Math.floor(Math.random() * 1e6));
  before = bitsPerCharacter() ?? before;
  begin(0, { text: find("prompt").value }, length);
}

// Keep the first n pieces, and go on after them with a text or with given tokens, if any.
function begin(n, how, length = Number(find("length").value)) {
  if (!find("form").reportValidity()) return;
  pieces = pieces.slice(0, n);
  while (find("text").children.length > n) find("text").lastChild.remove();
  worker.postMessage({ turn: ++turn, ...how, written: tokensOf(pieces), settings: { ...settings(), length } });
  [working, began] = [true, null];
  select(null);
  update();
}

function settings() {
  const knobs = Array.from(document.querySelectorAll("#knobs input"), (knob) => [knob.id, Number(knob.value)]);
  return { ...Object.fromEntries(knobs), seed, off };
}

// problem: what went wrong, in both languages
function stop(problem) {
  worker.postMessage({ turn: ++turn });
  working = asking = false;
  update(problem);
}

worker.onerror = ({ message }) => stop([message, message]);
worker.onmessage = ({ data }) => {
  if (data.problem) return stop(data.problem);
  if (data.inside) return heardInside(data.inside);
  if (data.turn !== turn) return;
  pieces.push(data.piece);
  working = !data.ended;
  began ??= { time: performance.now(), tokens: tokensOf(pieces).length };
  draw(data.piece);
  update();
};

function update(problem) {
  find("write").hidden = find("read").hidden = working;
  find("stop").hidden = !working;
  find("more").hidden = working || !pieces.length;
  const n = tokensOf(pieces).length, bits = working ? null : bitsPerCharacter();
  const state = problem ?? (working ? ["at work", "正在算"] : ["stopped", "停下了"]);
  const figures = [state, [`${n} tokens`, `${n} 个 token`]];
  if (began && n > began.tokens) {
    const speed = Math.round((n - began.tokens) / (performance.now() - began.time) * 1000);
    figures.push([`${speed} a second`, `每秒 ${speed} 个`]);
  }
  if (bits) {
    figures.push([`${bits} bits per character`, `每字 ${bits} 比特`]);
    if (before) figures.push([`the text before: ${before}`, `上一份：${before}`]);
  } else if (!working && pieces.length) figures.push([`seed ${seed}`, `种子 ${seed}`]);
  find("figures").replaceChildren(say(...[0, 1].map((i) => figures.map((figure) => figure[i]).join(" · "))));
  if (find("status").textContent !== state.join("")) find("status").replaceChildren(say(...state));  // It is read aloud.
}

// --- The text

find("surprise").onchange = () => find("text").classList.toggle("calm", !find("surprise").checked);

function draw(piece) {
  const span = make("span", piece.text || piece.name);
  span.className = piece.text ? "token" : "token bytes";
  span.classList.toggle("given", piece.given);
  span.classList.toggle("line", /^\s*\n$/.test(piece.text));  // Otherwise there is nothing to point at.
  span.style.setProperty("--s", Math.min(100, Math.round(piece.bits / 14 * 100)));
  find("text").append(span);
}

// --- What is known of a piece, and what else could stand there

let shown = null, pinned = null;  // the piece that is looked at, and the one that was clicked

function show(i) {
  shown = i;
  document.querySelector(".chosen")?.classList.remove("chosen");
  find("panel").hidden = i === null;
  if (i === null) return look();
  const { text, name, tokens, bits, others } = pieces[i];
  find("text").children[i].classList.add("chosen");
  const share = percent(2 ** -bits);
  find("known").replaceChildren(`${visible(text || name)} ${share} · `,
    say(`log₂(1 / ${share}) = ${bits.toFixed(1)} bits of surprise`, `意外程度 log₂(1 / ${share}) = ${bits.toFixed(1)} 比特`));
  find("others").replaceChildren(...others.map(([token, text, share]) => {
    const button = make("button", visible(text), make("small", percent(share)));
    button.ariaPressed = token === tokens[0];
    button.onclick = () => begin(i, { given: [token] });
    return button;
  }));
  look();
}

const visible = (text) => text.replaceAll("\n", "↵").replaceAll(" ", "␣");
const percent = (share) => share && share < 1e-5 ? "<0.001%" : `${Number((100 * share).toPrecision(2))}%`;

// Pointing at a token shows what is known of it. After a click that stays while the pointer goes on.
function select(i) {
  pinned = i;
  show(i);
  if (i !== null) find("text").children[i].scrollIntoView({ block: "nearest" });
}

function indexOf(element) {
  const i = Array.prototype.indexOf.call(find("text").children, element);
  return i < 0 ? null : i;
}

find("text").onpointerover = ({ target }) => show(indexOf(target) ?? pinned ?? shown);
find("text").onpointerleave = () => show(pinned ?? shown);
find("text").onclick = ({ target }) => select(indexOf(target));

function move(step) {
  if (pieces.length) select(shown === null ? 0 : Math.max(0, Math.min(pieces.length - 1, shown + step)));
}

find("back").onclick = () => move(-1);
find("forth").onclick = () => move(1);
find("text").onkeydown = (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  event.preventDefault();
  move(step);
};

// --- Inside: what happened when the piece that is looked at was chosen

let part = "0 attention", off = [];  // the part of the model that is looked at, and those that are switched off
let asking = false, again = false;  // The worker gets one such question at a time.
let inside;  // its answer

find("knobs").oninput = look;
find("inside").ontoggle = () => {
  find(find("inside").open ? "choice" : "form").append(find("knobs"));  // where it is seen what they do
  look();
};

function look() {
  const open = shown !== null && find("inside").open;
  find("text").classList.toggle("looking", open);
  again = asking;
  if (!open || asking || !find("form").checkValidity()) return;
  asking = true;
  const written = tokensOf(pieces.slice(0, shown)), token = pieces[shown].tokens[0];
  worker.postMessage({ look: true, written, token, settings: settings() });
}

function heardInside(answer) {
  asking = false;
  if (again) return look();
  inside = answer;
  drawParts();
  drawLayers();
  drawChoice();
}

// A part is "0 head 2", "0 attention" or "0 mlp", of layer 0.
function nameOf(part) {
  const [layer, kind, head] = part.split(" "), n = Number(layer) + 1, h = Number(head) + 1;
  return {
    head: [`layer ${n}, head ${h}`, `第 ${n} 层第 ${h} 个头`],
    attention: [`the attention of layer ${n}`, `第 ${n} 层的注意力`],
    mlp: [`the MLP of layer ${n}`, `第 ${n} 层的 MLP`],
  }[kind];
}

// The share of its attention that a head, or the mean of a layer, pays to each token of the window. An MLP pays none.
function sharesOf(part) {
  const [layer, kind, head] = part.split(" "), heads = inside.heads[layer];
  if (kind === "attention") return heads[0].map((_, t) => sum(heads.map((shares) => shares[t])) / heads.length);
  return kind === "head" ? heads[head] : null;
}

// Where most of the attention goes.
function kindOf(shares) {
  const tokens = inside.window, last = tokens.length - 1, total = [0, 0, 0, 0];
  shares.forEach((share, t) => {
    total[t === 0 ? 0 : t > last - 4 ? 1 : tokens[t] === tokens[last] ? 2 : 3] += share;
  });
  return [
    ["the beginning", "开头"], ["the last tokens", "最近几个 token"], ["the same token before", "前面同样的 token"], ["earlier text", "更早的文本"],
  ][total.indexOf(Math.max(...total))];
}

// A picture of them in one line, from far to near: the first token, more than 32 tokens ago, 16 to 31, …, 1, the last one.
function shapeOf(shares) {
  const bars = Array(8).fill(0), last = shares.length - 1;
  shares.forEach((share, t) => { bars[t === 0 ? 0 : 7 - Math.min(6, Math.ceil(Math.log2(last - t + 1)))] += share; });
  const color = (share) => `color-mix(in srgb, var(--blue) ${Math.round(100 * share)}%, transparent)`;
  return `linear-gradient(to right, ${bars.map((share, i) => `${color(share)} ${12.5 * i}% ${12.5 * (i + 1)}%`)})`;
}

function drawParts() {
  const focused = [...find("parts").children].indexOf(document.activeElement);
  const names = inside.heads.flatMap((heads, layer) =>
    [...heads.map((_, h) => `${layer} head ${h}`), `${layer} attention`, `${layer} mlp`]);
  find("parts").style.setProperty("--columns", model.n_head + 2);
  find("parts").replaceChildren(...names.map((name) => {
    const shares = sharesOf(name), kind = shares && kindOf(shares);
    const button = make("button", make("span", say(...nameOf(name).map((text, i) => kind ? `${text}: ${kind[i]}` : text))));
    button.firstChild.className = "unseen";
    button.dataset.label = name.endsWith("mlp") ? "MLP" : name.endsWith("attention") ? "∅" : "";
    button.ariaPressed = name === part;
    button.classList.toggle("off", off.includes(name));
    if (shares) button.style.backgroundImage = shapeOf(shares);
    button.onclick = () => {
      part = name;
      drawParts();
    };
    return button;
  }));
  find("parts").children[focused]?.focus();
  drawAttention();
  const name = nameOf(part);
  find("toggle").replaceChildren(off.includes(part)
    ? say(`switch ${name[0]} on`, `打开${name[1]}`) : say(`switch ${name[0]} off`, `关掉${name[1]}`));
  find("off").hidden = !off.length;
  find("which").replaceChildren(say(...["; ", "、"].map((comma, i) => off.map((part) => nameOf(part)[i]).join(comma))));
}

// Colour the text before the piece by the attention that is paid to it.
function drawAttention() {
  const shares = [...sharesOf(part) ?? []], most = Math.max(0.01, ...shares);
  let t = 1 - inside.start;  // of the first token of the first piece, in the window
  [...find("text").children].forEach((span, i) => {
    const n = pieces[i].tokens.length, share = i < shown ? sum(shares.slice(Math.max(0, t), Math.max(0, t += n))) : 0;
    span.style.setProperty("--a", Math.round(50 * share / most));
  });
  const first = percent(inside.start ? 0 : shares[0]), kind = shares.length ? kindOf(shares) : null;
  find("attention").replaceChildren(kind ? say(
    `${nameOf(part)[0]} looks mostly at ${kind[0]}. The darkest colour is ${percent(most)}; ${first} goes to the mark of the beginning.`,
    `${nameOf(part)[1]}主要看：${kind[1]}。颜色最深处是 ${percent(most)}，开头的标记得到 ${first}。`,
  ) : say("The MLP looks at this one place only.", "MLP 只看当前这一个位置。"));
}

function drawLayers() {
  find("layers").replaceChildren(...inside.layers.map(({ likely, rank, share }, layer) => make("tr",
    make("td", layer ? say(`layer ${layer}`, `第 ${layer} 层`) : say("embedding", "嵌入")),
    make("td", likely.map(([, text, share]) => `${visible(text)} ${percent(share)}`).join("  ")),
    make("td", rank.toLocaleString("en")),
    make("td", percent(share)),
  )));
}

function drawChoice() {
  const { bars, left, point } = inside.choice, { text, name, tokens, given } = pieces[shown];
  const bar = (share) => {
    const element = make("i");
    element.style.width = `${share}%`;
    return element;
  };
  find("bars").replaceChildren(...bars.map(({ token, text, model, sharp, share, cut }) => {
    const left = cut ? say(`cut by ${cut}`, `被 ${cut} 去掉`) : percent(share);
    const row = make("tr", ...[visible(text), percent(model), percent(sharp)].map((text) => make("td", text)));
    row.append(make("td", bar(40 * share), left));
    row.classList.toggle("here", token === tokens[0]);
    return row;
  }));
  const n = left.toLocaleString("en"), fell = point?.toFixed(3), written = visible(text || name);
  find("drawn").replaceChildren(say(left === 1 ? "One token is left. " : `${n} tokens are left. `, `剩下 ${n} 个 token。`), given
    ? say(`${written} was given, not drawn.`, `“${written}”是给定的，不是抽出来的。`) : point === null
    ? say("With these settings another one would be drawn.", "用现在的设置，抽到的会是别的。")
    : say(`Side by side, the likeliest first, they fill this line. The draw fell at ${fell}, on ${written}.`,
      `把它们从最可能的起并排放好，正好占满这条线。抽签落在 ${fell} 处，是“${written}”。`));
  find("strip").hidden = given || point === null;
  find("strip").replaceChildren(...bars.slice(0, 8).filter(({ share }) => share).map(({ share }) => bar(100 * share)));
  find("strip").style.setProperty("--point", `${100 * point}%`);
}

// What is off stays off until the reader switches it on, also for what is written.
find("toggle").onclick = () => {
  off = off.includes(part) ? off.filter((other) => other !== part) : [...off, part].sort();
  look();
};
find("all_on").onclick = () => {
  off = [];
  find("off").hidden = true;
  look();
};
