// The page: it shows what the worker writes, and lets the reader choose otherwise.
"use strict";

const find = (id) => document.getElementById(id);

const worker = new Worker(URL.createObjectURL(new Blob([find("worker").textContent])));
worker.postMessage({ model: JSON.parse(find("description").textContent), weights: find("weights").textContent });
find("weights").remove();

// What is on the page: a text, and the pieces that the model wrote after it, each one or more whole characters.
let prompt = "", pieces = [];
let seed, writing = false;
let turn = 0;  // It counts the questions to the worker. An answer to an earlier one comes too late.
let began = null;  // when the first of the new pieces came, and how many tokens there were then

const nTokens = () => pieces.reduce((sum, piece) => sum + piece.tokens.length, 0);

// --- Write, stop, go on

find("form").onsubmit = (event) => {
  event.preventDefault();
  prompt = find("prompt").value;
  seed = Number(find("seed").value || Math.floor(Math.random() * 1e6));
  begin(0);
};
find("stop").onclick = () => {
  stop();
  find("more").focus();
};
find("more").onclick = () => begin(pieces.length);
find("form").addEventListener("invalid", () => { find("knobs").open = true; }, true);  // so that it can be seen

// Keep the first n pieces, and write after them. first: the token to begin with, if the reader chose one.
function begin(n, first) {
  if (!find("form").reportValidity()) return;
  pieces = pieces.slice(0, n);
  find("start").textContent = prompt;
  while (find("written").children.length > n) find("written").lastChild.remove();
  const knobs = Array.from(document.querySelectorAll("#knobs input"), (knob) => [knob.id, Number(knob.value)]);
  const settings = { ...Object.fromEntries(knobs), seed }, written = pieces.flatMap((piece) => piece.tokens);
  worker.postMessage({ turn: ++turn, prompt, written, first, settings });
  [writing, began] = [true, null];
  select(null);
  update();
}

// problem: what went wrong, in both languages
function stop(problem) {
  worker.postMessage({ turn: ++turn });
  writing = false;
  update(problem);
}

worker.onerror = ({ message }) => stop([message, message]);
worker.onmessage = ({ data }) => {
  if (data.problem) return stop(data.problem);
  if (data.turn !== turn) return;
  pieces.push(data.piece);
  writing = !data.ended;
  began ??= { time: performance.now(), tokens: nTokens() };
  draw(data.piece);
  update();
};

function update(problem) {
  find("write").hidden = writing;
  find("stop").hidden = !writing;
  find("more").hidden = writing || !pieces.length;
  const state = problem ?? (writing ? ["writing", "正在写"] : ["stopped", "停下了"]), n = nTokens();
  const figures = [state, [`${n} tokens`, `${n} 个 token`]];
  if (began && n > began.tokens) {
    const speed = Math.round((n - began.tokens) / (performance.now() - began.time) * 1000);
    figures.push([`${speed} a second`, `每秒 ${speed} 个`]);
  }
  if (!writing && pieces.length) figures.push([`seed ${seed}`, `种子 ${seed}`]);
  find("figures").replaceChildren(say(...[0, 1].map((i) => figures.map((figure) => figure[i]).join(" · "))));
  if (find("status").textContent !== state.join("")) find("status").replaceChildren(say(...state));  // It is read aloud.
}

// --- The text

find("surprise").onchange = () => find("text").classList.toggle("calm", !find("surprise").checked);

function draw(piece) {
  const span = document.createElement("span");
  span.className = piece.text ? "token" : "token bytes";
  span.textContent = piece.text || piece.name;
  span.classList.toggle("line", /^\s*\n$/.test(piece.text));  // Otherwise there is nothing to point at.
  span.style.setProperty("--s", Math.min(100, Math.round(piece.bits / 14 * 100)));
  find("written").append(span);
}

// --- What is known of a piece, and what else could stand there

let shown = null, pinned = null;  // the piece that is looked at, and the one that was clicked

function show(i) {
  shown = i;
  document.querySelector(".chosen")?.classList.remove("chosen");
  find("panel").hidden = i === null;
  if (i === null) return;
  const { text, name, tokens, bits, others } = pieces[i];
  find("written").children[i].classList.add("chosen");
  const surprise = say(`${bits.toFixed(1)} bits of surprise`, `意外程度 ${bits.toFixed(1)} 比特`);
  find("known").replaceChildren(`${visible(text || name)} ${percent(2 ** -bits)} · `, surprise);
  find("others").replaceChildren(...others.map(([token, text, share]) => {
    const button = document.createElement("button");
    button.append(visible(text), Object.assign(document.createElement("small"), { textContent: percent(share) }));
    button.ariaPressed = token === tokens[0];
    button.onclick = () => begin(i, token);
    return button;
  }));
}

const visible = (text) => text.replaceAll("\n", "↵").replaceAll(" ", "␣");
const percent = (share) => `${Number((100 * share).toPrecision(2))}%`;

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
