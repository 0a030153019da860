// The page: its state is in the address after "#", so that going back walks
// back. All text is set as text, never as HTML.

import { color, NeighborMap } from "./map.js";

const PAGE = 60; // Images of a page, and of the first neighbors.
const PAIRS = 24;
const TRAIL = 12;
const WAIT = 1000; // Milliseconds until something unfinished is asked again.

const $ = (selector) => document.querySelector(selector);
const about = await (await fetch("api/about")).json();
const files = []; // What was dropped: its name, picture and neighbors.
const trail = [];
const ticked = new Set(about.ticked);
let request = 0; // The newest; answers to earlier ones are ignored.
let picturesAreReady = about.pictures_are_ready;

// === Requests ===

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Has it been stopped?");
  }
  if (!answer.ok) {
    const { error } = await answer.json().catch(() => ({}));
    throw new Error(error || `The server answered ${answer.status}.`);
  }
  return answer;
}

const askJson = async (path, options) => (await ask(path, options)).json();

function say(text) {
  $("#message").textContent = text;
}

// Runs what may fail, and shows why it did.
async function attempt(action) {
  try {
    say("");
    await action();
  } catch (error) {
    say(error.message);
  }
}

// === The state in the address ===

const state = () => new URLSearchParams(location.hash.slice(1));

// Adds a step to go back to, or replaces the present one.
function go(values, isReplacing = false) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value !== "" && value !== 0 && value != null) {
      parameters.set(name, value);
    }
  }
  const hash = `#${parameters}`;
  if (hash === (location.hash || "#") || isReplacing) {
    history.replaceState(null, "", hash);
    render();
  } else location.hash = hash;
}

const goToImage = (position) => go({ image: String(position) });

function render() {
  const now = state();
  const number = ++request;
  attempt(async () => {
    if (now.has("duplicates")) {
      setView("duplicates");
      await showPairs(now, number);
      return;
    }
    setView(now.has("map") ? "map" : "images");
    if (now.has("image")) await showImage(now, number);
    else if (files[now.get("file")]) showFile(files[now.get("file")]);
    else await showFound(now, number);
  });
}

function setView(view) {
  document.body.dataset.view = view;
  for (const button of document.querySelectorAll("nav [data-view]")) {
    if (button.dataset.view === view) {
      button.setAttribute("aria-current", "page");
    } else button.removeAttribute("aria-current");
  }
}

// === Tiles ===

const source = (kind, position) => `${kind}/${position}?v=${about.version}`;

function setPicture(image, url) {
  image.dataset.url = url;
  image.onerror = () => {
    if (picturesAreReady) {
      image.alt = "missing";
      return;
    }
    // The pictures of a dataset are still being read.
    setTimeout(async () => {
      picturesAreReady =
        (await askJson("api/about").catch(() => about)).pictures_are_ready;
      if (image.dataset.url === url) image.src = `${url}&again=${Date.now()}`;
    }, WAIT);
  };
  image.src = url;
}

function element(kind, className = "", text = "") {
  const made = document.createElement(kind);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

const className = (item) => about.classes[item.label] ?? "";

function tile(item, action) {
  const button = element("button", "tile");
  button.type = "button";
  button.dataset.position = item.position;
  button.title = item.name;
  const image = element("img");
  image.loading = "lazy";
  image.decoding = "async";
  image.width = image.height = 128;
  image.alt = item.name;
  setPicture(image, source("thumbnails", item.position));
  button.append(image);
  const parts = [item.score?.toFixed(3), className(item)].filter(Boolean);
  if (parts.length) button.append(element("span", "", parts.join(" ")));
  button.append(element("span", "name", item.name.split("/").at(-1)));
  button.addEventListener("click", action);
  return button;
}

function fill(items) {
  $("#grid").replaceChildren(
    ...items.map((item) => tile(item, () => goToImage(item.position))));
}

function setPages(section, start, size, total, change) {
  const [previous, next] = section.querySelectorAll(".pages button");
  const last = Math.min(start + size, total);
  section.querySelector(".pages").hidden = total <= size && !start;
  section.querySelector(".pages span").textContent =
    total ? `${start + 1} to ${last} of ${total.toLocaleString("en")}` : "";
  previous.disabled = start <= 0;
  next.disabled = last >= total;
  previous.onclick = () => change(Math.max(0, start - size));
  next.onclick = () => change(start + size);
}

// === Images ===

async function showFound(now, number) {
  const text = now.get("text") ?? "";
  const label = now.get("class") ?? "";
  const start = Number(now.get("start") ?? 0);
  const query = new URLSearchParams(
    { text, class: label === "" ? -1 : label, start, count: PAGE });
  const { total, items } = await askJson(`api/find?${query}`);
  if (number !== request) return;
  $("#query").hidden = true;
  const input = $("#search").elements.text;
  if (input !== document.activeElement) input.value = text;
  $("#search").elements.class.value = label;
  const isFiltered = text || label !== "";
  $("#heading").textContent = !total ? "No image has this name and class."
    : `${total.toLocaleString("en")} images${isFiltered ? " found" : ""}. ` +
      "Click one, or drop a photograph, to see its neighbors.";
  fill(items);
  const view = now.has("map") ? { map: "1" } : {};
  setPages($("#images"), start, PAGE, total,
    (to) => { go({ ...view, text, class: label, start: to }); scrollTo(0, 0); });
  map?.mark([]);
}

function showQuery(name, note, url) {
  $("#query").hidden = false;
  $("#query h2").textContent = name;
  $("#query p").textContent = note;
  const image = $("#query img");
  image.alt = name;
  setPicture(image, url);
}

function showNeighbors(items, count, more) {
  $("#heading").textContent = items.length
    ? `The ${items.length} nearest images with their cosines`
    : "There is no other image.";
  fill(items);
  setPages($("#images"), 0, 1, 0, () => {});
  if (items.length === count && count < 500) {
    const button = element("button", "", "Show more");
    button.addEventListener("click", more);
    $("#grid").append(button);
  }
}

async function showImage(now, number) {
  const position = Number(now.get("image"));
  const count = Number(now.get("count") ?? PAGE);
  const { image, items } =
    await askJson(`api/neighbors/${position}?count=${count}`);
  if (number !== request) return;
  showQuery(image.name, className(image), source("pictures", position));
  showNeighbors(items, count,
    () => go({ image: String(position), count: Math.min(500, 2 * count) }));
  if (trail.at(-1)?.position !== position) trail.push(image);
  const before = trail.slice(-TRAIL - 1, -1);
  $("#trail").replaceChildren(
    ...before.map((item) => tile(item, () => goToImage(item.position))));
  map?.mark([position, ...items.slice(0, 20).map((item) => item.position)]);
  if (!now.has("count")) scrollTo(0, 0);
}

function showFile(file) {
  showQuery(file.name, "not one of these images", file.url);
  showNeighbors(file.items, Infinity);
  map?.mark([undefined, ...file.items.slice(0, 20).map((item) => item.position)]);
  scrollTo(0, 0);
}

async function openFile(file) {
  say(`Searching for the neighbors of ${file.name}.`);
  const { items } = await askJson(`api/neighbors?count=${PAGE}`, {
    method: "POST",
    headers: {
      "Content-Type": "application/octet-stream",
      "X-Version": about.version,
    },
    body: file,
  });
  files.push({ name: file.name, url: URL.createObjectURL(file), items });
  go({ file: String(files.length - 1) });
}

// === Near-duplicates ===

async function showPairs(now, number) {
  const start = Number(now.get("start") ?? 0);
  $("#summary").textContent =
    "Searching for near-duplicates. Among many images, this takes minutes.";
  let found = await askJson(`api/duplicates?start=${start}&count=${PAIRS}`);
  while (!found.is_ready) {
    await new Promise((resolve) => setTimeout(resolve, WAIT));
    if (number !== request) return;
    found = await askJson(`api/duplicates?start=${start}&count=${PAIRS}`);
  }
  if (number !== request) return;
  $("#summary").textContent =
    `${found.total.toLocaleString("en")} pairs of near-duplicates, the most ` +
    `similar first.${found.is_complete ? "" : " There may be more."}`;
  $("#pairs").replaceChildren(...found.items.map(pairOf));
  setPages($("#duplicates"), start, PAIRS, found.total,
    (to) => { go({ duplicates: "1", start: to }); scrollTo(0, 0); });
  showTicked();
}

function pairOf({ first, second, score }) {
  const row = element("li");
  row.append(element("p", "faint", `cosine ${score.toFixed(3)}`));
  for (const item of [first, second]) {
    const button = tile(item, () => attempt(() => tick(item.position)));
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault(); // It would tick the image, as Space does.
      goToImage(item.position);
    });
    button.setAttribute("role", "checkbox");
    button.setAttribute("aria-label", `Remove ${item.name}`);
    const link = element("a", "", "neighbors");
    link.href = `#image=${item.position}`;
    const half = element("div");
    half.append(button, link);
    row.append(half);
  }
  return row;
}

async function tick(position) {
  const answer = await askJson("api/ticked", {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Version": about.version },
    body: JSON.stringify({ position, ticked: !ticked.has(position) }),
  });
  ticked.clear();
  answer.ticked.forEach((each) => ticked.add(each));
  showTicked();
}

function showTicked() {
  $("#ticked-count").textContent = ticked.size.toLocaleString("en");
  for (const button of document.querySelectorAll("#pairs .tile")) {
    button.setAttribute(
      "aria-checked", ticked.has(Number(button.dataset.position)));
  }
}

// === The map ===

function showTip(position, x, y) {
  const tip = $("#tip");
  tip.hidden = position < 0;
  $("canvas").style.cursor = position < 0 ? "grab" : "pointer";
  if (position < 0 || tip.dataset.position === String(position)) return;
  tip.dataset.position = position;
  setPicture(tip.querySelector("img"), source("thumbnails", position));
  const plot = $("#plot");
  tip.style.left = `${x + 140 > plot.clientWidth ? x - 135 : x + 15}px`;
  tip.style.top = `${Math.max(0, Math.min(y, plot.clientHeight - 150))}px`;
}

async function loadMap(map) {
  let answer = await askJson("api/map");
  while (!answer.is_ready) {
    await new Promise((resolve) => setTimeout(resolve, WAIT));
    answer = await askJson("api/map");
  }
  const content = await (await ask("api/map?places=1")).arrayBuffer();
  map.show(new Uint16Array(content, 0, 2 * about.count),
    new Uint8Array(content, 4 * about.count));
  $("#map-state").textContent = "";
  $("#legend").replaceChildren(...answer.groups.map((name, group) => {
    const isClass = about.classes[group] === name;
    const entry = element(isClass ? "a" : "span");
    const dot = element("i");
    dot.style.background = color(group);
    entry.append(dot, name);
    if (isClass) entry.href = `#class=${group}`;
    return entry;
  }));
}

function makeMap() {
  if (!about.has_rows) return null;
  const choose = (position) => {
    $("#tip").hidden = true;
    goToImage(position);
  };
  const made = new NeighborMap($("canvas"), { choose, point: showTip });
  loadMap(made).catch((error) => { $("#map-state").textContent = error.message; });
  for (const button of document.querySelectorAll("#zoom button")) {
    const factor = Number(button.dataset.zoom);
    button.addEventListener(
      "click", () => (factor ? made.zoomBy(factor) : made.reset()));
  }
  return made;
}

// === Keyboard ===

// Moves the focus to the tile in a direction, by its place on the screen.
function moveFocus(key) {
  const tiles = [...document.querySelectorAll("main .tile")]
    .filter((each) => each.offsetParent);
  const from = document.activeElement;
  const place = tiles.indexOf(from);
  if (place < 0) {
    tiles.find((each) => !each.closest("#trail"))?.focus();
    return;
  }
  if (key === "ArrowLeft" || key === "ArrowRight") {
    tiles[place + (key === "ArrowLeft" ? -1 : 1)]?.focus();
    return;
  }
  const sign = key === "ArrowUp" ? -1 : 1;
  const here = from.getBoundingClientRect();
  let best = null;
  for (const other of tiles) {
    const box = other.getBoundingClientRect();
    const down = sign * (box.top - here.top);
    if (down <= 5) continue;
    const distance = 4 * down + Math.abs(box.left - here.left);
    if (!best || distance < best.distance) best = { other, distance };
  }
  best?.other.focus();
}

const pageButton = (name) => [...document.querySelectorAll(`.pages .${name}`)]
  .find((button) => button.offsetParent);

const KEYS = {
  "/": () => { $("#search").elements.text.focus(); },
  "?": () => $("#help").showModal(),
  Backspace: () => history.back(),
  n: () => pageButton("next")?.click(),
  p: () => pageButton("previous")?.click(),
  r: () => goToRandom(),
  o: () => $("#file").click(),
  i: () => go({}),
  m: () => {
    if (about.has_rows && !$("canvas").offsetParent) go({ map: "1" });
    $("canvas").focus();
  },
  d: () => about.has_rows && go({ duplicates: "1" }),
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target.closest("input, select");
  if (isTyping) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if ($("#help").open) return;
  if (event.key.startsWith("Arrow")) moveFocus(event.key);
  else if (KEYS[event.key]) KEYS[event.key]();
  else return;
  event.preventDefault();
});

// === What is clicked and dropped ===

const goToRandom = () => goToImage(Math.floor(Math.random() * about.count));

function takeFile(list) {
  const [file] = list ?? [];
  if (file) attempt(() => openFile(file));
  return Boolean(file);
}

$("#random").addEventListener("click", goToRandom);
$("#open").addEventListener("click", () => $("#file").click());
$("#keys").addEventListener("click", () => $("#help").showModal());
$("#file").addEventListener("change", (event) => {
  takeFile(event.target.files);
  event.target.value = ""; // The same file can be chosen again.
});
for (const button of document.querySelectorAll("nav [data-view]")) {
  const { view } = button.dataset;
  button.addEventListener(
    "click", () => go(view === "images" ? {} : { [view]: "1" }));
}
let typing;
function search() {
  clearTimeout(typing);
  const { text, class: label } = $("#search").elements;
  // What is typed letter by letter is one step to go back to.
  const isReplacing = state().has("text");
  go({ text: text.value.trim(), class: label.value }, isReplacing);
}
$("#search").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
$("#search").elements.class.addEventListener("change", search);
$("#search").elements.text.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(search, 300);
});

addEventListener("dragover", (event) => {
  event.preventDefault();
  $("#drop").hidden = false;
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("#drop").hidden = true;
});
addEventListener("drop", (event) => {
  event.preventDefault();
  $("#drop").hidden = true;
  if (!takeFile(event.dataTransfer.files)) say("Drop an image file.");
});
addEventListener("paste", (event) => takeFile(event.clipboardData.files));
addEventListener("hashchange", render);

// === Start ===

document.title = `Browse ${about.title}`;
$("#title bdi").textContent = about.title;
$("#count").textContent = `${about.count.toLocaleString("en")} images`;
$("#ticked-file").textContent = about.ticked_file;
document.body.classList.toggle("no-rows", !about.has_rows);
const classes = $("#search").elements.class;
classes.append(new Option("All classes", ""));
about.classes.forEach((name, label) => classes.append(new Option(name, label)));
classes.hidden = !about.classes.length;
const map = makeMap();
render();
