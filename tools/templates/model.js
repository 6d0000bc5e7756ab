// The page: it shows what the worker writes, and lets the reader choose otherwise.
"use strict";

const find = (id) => document.getElementById(id);
const chinese = navigator.language.startsWith("zh");
const say = (english, inChinese) => chinese ? inChinese : english;
document.documentElement.lang = chinese ? "zh" : "en";

const worker = new Worker(URL.createObjectURL(new Blob([find("worker").textContent])));
worker.postMessage({ model: JSON.parse(find("description").textContent), weights: find("weights").textContent });
find("weights").remove();

let prompt = "", pieces = [];  // what is on the page: a text, and what the model wrote after it
let turn = 0;  // counts what the worker was asked for; an answer to an earlier question is not wanted any more
let writing = false, goal, began, counted, seed, settings;
let shown = null, pinned = null;  // the piece that is looked at, and the one that was clicked

const nTokens = () => pieces.reduce((sum, piece) => sum + piece.tokens.length, 0);

// --- Write, stop, go on

function begin(first) {
  if (!find("form").reportValidity()) return;
  const knobs = Array.from(document.querySelectorAll(".knobs input"), (knob) => [knob.id, Number(knob.value)]);
  settings = { ...Object.fromEntries(knobs), seed };
  [writing, goal, began, counted] = [true, nTokens() + settings.length, null, 0];
  select(null);
  ask(first);
}

function ask(first) {
  turn++;
  worker.postMessage({ turn, prompt, written: pieces.flatMap((piece) => piece.tokens), first, settings });
  update();
}

worker.onmessage = ({ data }) => {
  if (data.turn !== turn || !writing) return;
  add(data.piece);
  if (began) counted += data.piece.tokens.length;
  else began = performance.now();  // Before the first token it reads the prompt.
  if (data.piece.ended || nTokens() >= goal) writing = false;
  if (writing) ask();
  else update();
};

worker.onerror = (event) => {
  event.preventDefault();
  writing = false;
  update();
  find("status").textContent = event.message;
};

function update() {
  const speed = counted && Math.round(counted / (performance.now() - began) * 1000);
  find("write").hidden = writing;
  find("stop").hidden = !writing;
  find("more").hidden = writing || !pieces.length;
  find("text").ariaBusy = writing;
  if (!pieces.length) find("status").textContent = writing ? say("reading …", "读开头……") : "";
  else {
    const doing = writing ? say("writing", "正在写") : pieces.at(-1).ended ? say("the text has ended", "文章写完了") : say("stopped", "停下了");
    const parts = [doing, say(`${nTokens()} tokens`, `${nTokens()} 个 token`)];
    if (speed) parts.push(say(`${speed} tokens a second`, `每秒 ${speed} 个`));
    if (!writing) parts.push(say(`seed ${seed}`, `种子 ${seed}`));
    find("figures").textContent = parts.join(" · ");
    find("status").textContent = doing;
  }
}

find("form").onsubmit = (event) => {
  event.preventDefault();
  prompt = find("prompt").value;
  seed = Number(find("seed").value || Math.floor(Math.random() * 1e6));
  keep(0);
  begin();
};
find("stop").onclick = () => { writing = false; update(); find("more").focus(); };
find("more").onclick = () => begin();
find("surprise").onchange = () => find("text").classList.toggle("calm", !find("surprise").checked);

// --- The text, and what else could stand there

function keep(n) {
  pieces.length = n;
  find("start").textContent = prompt;
  while (find("written").children.length > n) find("written").lastChild.remove();
}

function add(piece) {
  const span = document.createElement("span");
  span.className = "token";
  span.textContent = piece.text || piece.others.find(([token]) => token === piece.tokens[0])?.[1] || "▫";
  span.classList.toggle("bytes", !piece.text);
  span.style.setProperty("--s", Math.min(100, Math.round(piece.bits / 14 * 100)));
  find("written").append(span);
  pieces.push(piece);
}

function show(i) {
  shown = i;
  for (const span of document.querySelectorAll(".chosen")) span.classList.remove("chosen");
  find("panel").hidden = i === null;
  if (i === null) return;
  const piece = pieces[i], share = 2 ** -piece.bits;
  find("written").children[i].classList.add("chosen");
  find("known").textContent = `${visible(piece.text)} ${percent(share)} · ` + say(`${piece.bits.toFixed(1)} bits of surprise`, `意外程度 ${piece.bits.toFixed(1)} 比特`);
  find("others").replaceChildren(...piece.others.map(([token, text, share]) => {
    const button = document.createElement("button");
    button.append(visible(text), Object.assign(document.createElement("small"), { textContent: percent(share) }));
    button.ariaPressed = token === piece.tokens[0];
    button.onclick = () => { keep(i); begin(token); };
    return button;
  }));
}

const visible = (text) => text.replaceAll("\n", "↵").replaceAll(" ", "␣");
const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}%`;

// Pointing at a token shows what is known of it. After a click that stays while the pointer goes on.
function select(i) {
  pinned = i;
  show(i);
  if (i !== null) find("written").children[i].scrollIntoView({ block: "nearest" });
}

function indexOf(element) {
  const i = Array.prototype.indexOf.call(find("written").children, element);
  return i < 0 ? null : i;
}

find("text").onpointerover = ({ target }) => show(indexOf(target) ?? pinned ?? shown);
find("text").onpointerleave = () => show(pinned ?? shown);
find("text").onclick = ({ target }) => select(indexOf(target));

function move(step) {
  if (pieces.length) select(Math.max(0, Math.min(pieces.length - 1, shown === null ? 0 : shown + step)));
}

find("back").onclick = () => move(-1);
find("forth").onclick = () => move(1);
find("text").onkeydown = (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) move(step), event.preventDefault();
};
