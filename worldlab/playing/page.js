"use strict";

// Each pair of keys lowers and raises one control.
const KEYS = ["ad", "sw", "fr", "gt", "hy", "ju", "ki", "lo"];
const ARROWS = { ArrowLeft: "a", ArrowRight: "d", ArrowDown: "s", ArrowUp: "w" };

const at = (id) => document.getElementById(id);
const held = new Set(); // keys
const springing = new Set(); // controls that were pushed a moment ago
let world = null; // what the server said once
let now = null; // what it said last
let values = []; // the sliders
let running = false;
let line = Promise.resolve(); // the orders under way
let waiting = 0; // how many
let traces = [[]]; // per branch: [step, reward in the simulator or null, reward in the dream]

async function ask(order, told = {}) {
  const reply = await fetch(`/${order}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(told),
  });
  const said = await reply.json();
  if (!reply.ok) throw new Error(said.error);
  return said;
}

// One order after another; what a person asks for waits for the step under way.
function order(name, told) {
  waiting += 1;
  line = line.then(() => obey(name, told));
  return line;
}

async function obey(name, told) {
  try {
    show(await ask(name, told));
    complain("");
    return true;
  } catch (error) {
    running = false;
    complain(error instanceof TypeError ? "The server does not answer; is worldlab play still running?" : error.message);
    return false;
  } finally {
    waiting -= 1;
    at("run").setAttribute("aria-pressed", String(running));
  }
}

function complain(sentence) {
  at("error").textContent = sentence;
  at("error").hidden = !sentence;
}

function picture(id, frames) {
  const url = frames && frames[at("camera").value];
  at(id).classList.toggle("empty", !url);
  if (url) at(id).querySelector("img").src = url;
}

function outcome(id, said, steps) {
  const chip = at(id);
  chip.className = "chip";
  chip.textContent = "";
  if (!said || !steps) return;
  chip.textContent = `reward ${said.reward.toFixed(2)}`;
  if (said.success) [chip.className, chip.textContent] = ["chip success", `${chip.textContent}, success`];
  else if (said.terminated) [chip.className, chip.textContent] = ["chip over", `${chip.textContent}, ended`];
  else if (said.truncated) [chip.className, chip.textContent] = ["chip over", `${chip.textContent}, time is up`];
}

function pictures() {
  for (const id of ["truth", "dream", "difference"]) picture(id, now[id]);
}

function show(said) {
  now = said;
  pictures();
  if (!said.begun) return;
  at("task").textContent = said.task ? `“${said.task}”` : "";
  at("source").textContent = `from ${said.source}`;
  at("steps").textContent = said.steps;
  at("back").disabled = said.branched === null;
  outcome("truth-outcome", said.happened, said.steps);
  outcome("dream-outcome", said.imagined, said.steps);
  chart();
}

function trace() {
  traces.at(-1).push([now.steps, now.happened && now.happened.reward, now.imagined.reward]);
  chart();
}

// Where the sliders stand when nobody touches them: joints stay where they are, everything else is at zero.
function rest() {
  springing.clear();
  values = world.controls.map(({ low, high }, i) =>
    Math.min(high, Math.max(low, world.follows && now.joints ? now.joints[i] : 0)),
  );
  sliders();
}

function sliders() {
  values.forEach((value, i) => {
    at(`control-${i}`).value = value;
    at(`value-${i}`).textContent = value.toFixed(2);
  });
}

// Held keys move joint targets on; where actions are no targets, they push to the end of the range and spring back.
function drive() {
  world.controls.forEach(({ low, high }, i) => {
    if (i >= KEYS.length) return;
    const push = Number(held.has(KEYS[i][1])) - Number(held.has(KEYS[i][0]));
    if (world.follows) values[i] = Math.min(high, Math.max(low, values[i] + push * world.nudge));
    else if (push || springing.has(i)) values[i] = push > 0 ? high : push < 0 ? low : Math.min(high, Math.max(low, 0));
    if (push) springing.add(i);
    else springing.delete(i);
  });
  sliders();
}

async function step() {
  if (waiting) return;
  drive();
  if (await order("step", { action: values })) trace();
}

function tick() {
  if ((running || held.size || springing.size) && now && now.begun) step();
}

async function back() {
  if (!(await order("back"))) return;
  traces.push(traces.at(-1).filter(([t]) => t <= now.steps));
  chart();
  rest();
}

async function restart(name, told) {
  running = false;
  if (!(await order(name, told))) return;
  traces = [[]];
  chart();
  rest();
}

const reset = () =>
  restart("reset", { episode: Number(at("episode").value), row: Number.parseInt(at("row").value || "0", 10) });

function chart() {
  const [left, right, top, bottom] = [34, 392, 10, 148];
  const points = traces.flat();
  const rewards = points.flatMap(([, a, b]) => (a === null ? [b] : [a, b]));
  const last = Math.max(20, ...points.map(([t]) => t));
  const low = Math.min(0, ...rewards);
  const high = Math.max(0.1, ...rewards);
  const x = (t) => left + ((right - left) * t) / last;
  const y = (r) => bottom - ((bottom - top) * (r - low)) / (high - low);
  const curve = (trace, column, kind, old) => {
    const d = trace
      .filter((p) => p[column] !== null)
      .map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(p[column]).toFixed(1)}`)
      .join("");
    return d ? `<path class="${kind}${old ? " left" : ""}" d="${d}"/>` : "";
  };
  const lines = traces.map((t, i) => {
    const old = i < traces.length - 1;
    return curve(t, 1, "truth", old) + curve(t, 2, "dream", old);
  });
  const marks = [low, high].map((r) => `<text x="${left - 6}" y="${y(r) + 3}" text-anchor="end">${r.toFixed(1)}</text>`);
  at("chart").innerHTML =
    `<path class="axis" d="M${left} ${y(0)}H${right}"/>${marks.join("")}` +
    `<text x="${right}" y="165" text-anchor="end">${last} steps</text>${lines.join("")}`;
}

function build() {
  document.title = `${world.title} · worldlab play`;
  at("hint").textContent = world.follows ? "hold keys, or move sliders and step" : "hold keys; let go to rest";
  at("camera").append(...world.cameras.map((name) => new Option(name)));
  at("cameras").hidden = world.cameras.length < 2;
  at("episode").append(...world.episodes.map((i) => new Option(i)));
  at("recorded").hidden = !world.episodes.length;
  at("restart").hidden = !world.simulator;
  at("notes").replaceChildren(
    ...world.notes.map((sentence) => Object.assign(document.createElement("p"), { textContent: sentence })),
  );
  world.controls.forEach(({ name, low, high }, i) => {
    const row = document.createElement("div");
    row.className = "control";
    const key = (k) => (i < KEYS.length ? `<kbd data-key="${KEYS[i][k]}">${KEYS[i][k].toUpperCase()}</kbd>` : "<i></i>");
    row.innerHTML = `<span></span>${key(0)}<input id="control-${i}" type="range" step="any">${key(1)}<output id="value-${i}"></output>`;
    const [label, slider] = [row.querySelector("span"), row.querySelector("input")];
    label.textContent = label.title = name;
    Object.assign(slider, { min: low, max: high });
    slider.setAttribute("aria-label", name);
    slider.addEventListener("input", () => {
      values[i] = Number(slider.value);
      at(`value-${i}`).textContent = values[i].toFixed(2);
    });
    at("controls").append(row);
  });
}

function key(event, down) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input[type=number]")) return;
  const name = ARROWS[event.key] || event.key.toLowerCase();
  if (KEYS.slice(0, world.controls.length).some((pair) => pair.includes(name))) {
    event.preventDefault();
    held[down ? "add" : "delete"](name);
    for (const cap of document.querySelectorAll(`[data-key="${name}"]`)) cap.classList.toggle("held", down);
    return;
  }
  const buttons = { " ": "step", enter: "run", b: "branch", n: "back" };
  if (!down || event.repeat) return;
  if (name === "m") reset();
  else if (name in buttons && !at(buttons[name]).disabled) at(buttons[name]).click();
  else return;
  event.preventDefault();
}

async function start() {
  world = await ask("about");
  build();
  show(world.now);
  rest();
  at("camera").addEventListener("change", pictures);
  at("step").addEventListener("click", step);
  at("run").addEventListener("click", () => {
    running = !running;
    at("run").setAttribute("aria-pressed", String(running));
  });
  at("branch").addEventListener("click", () => order("branch"));
  at("back").addEventListener("click", back);
  at("restart").addEventListener("click", () => restart("restart"));
  at("recorded").addEventListener("submit", (event) => (event.preventDefault(), reset()));
  at("picture").addEventListener("change", ({ target }) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => restart("show", { picture: reader.result }));
    if (target.files[0]) reader.readAsDataURL(target.files[0]);
    target.value = "";
  });
  addEventListener("keydown", (event) => key(event, true));
  addEventListener("keyup", (event) => key(event, false));
  addEventListener("blur", () => held.clear());
  setInterval(tick, 1000 / world.fps);
}

start().catch((error) => complain(error.message));
