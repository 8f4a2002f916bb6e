"use strict";

// Pages: all but the first lie in the file compressed and are unpacked when they are first asked for.

const views = document.getElementById("views");
const overview = document.getElementById("overview");
const packed = new Map([...document.querySelectorAll("script[data-page]")].map((script) => [script.dataset.page, script]));
const opened = new Map([["overview", overview]]);
const title = document.title;

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

async function reveal(name) {
  if (!opened.has(name)) {
    const view = document.createElement("div");
    view.className = "view";
    opened.set(name, view);
    view.innerHTML = typeof DecompressionStream === "undefined"
      ? "<p class='warning'>This browser is too old to unpack the page; its tables lie beside this file as CSV.</p>"
      : await unpack(packed.get(name).textContent);
    views.append(view);
    if (view.querySelector("#front-data")) startFronts(view);
  }
  return opened.get(name);
}

function place() {
  const [name, anchor] = location.hash.slice(1).split(":");
  if (name === "everything") return { names: ["overview", ...packed.keys()], anchor: "" };
  if (name === "overview" || packed.has(name)) return { names: [name], anchor: anchor ?? "" };
  return document.getElementById(name) && name ? null : { names: ["overview"], anchor: "" };
}

async function route(event) {
  const wanted = place();
  if (wanted === null) return;
  const shown = [];
  for (const name of wanted.names) shown.push(await reveal(name));
  for (const view of opened.values()) view.hidden = !shown.includes(view);
  const [first] = wanted.names;
  const name = packed.get(first)?.dataset.title;
  document.title = name && wanted.names.length === 1 ? `${name} - ${title}` : title;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${first}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  for (const menu of document.querySelectorAll("nav details")) {
    menu.open = false;
    menu.classList.toggle("current", menu.querySelector("[aria-current]") !== null);
  }
  const target = wanted.anchor ? document.getElementById(wanted.anchor) : shown[0];
  if (event) (target?.querySelector("[tabindex='-1']") ?? target)?.focus({ preventScroll: true });
  if (wanted.anchor && target) target.scrollIntoView();
  else if (event) scrollTo(0, 0);
  document.documentElement.dataset.shown = location.hash || "#overview";
}

addEventListener("hashchange", route);
route();

document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("nav details[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  hideTip();
  for (const menu of document.querySelectorAll("nav details[open]")) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

// Tables: a click on a heading sorts, a second one turns the order round; what has no number stays last.

function compare(a, b) {
  const difference = Number(a) - Number(b);
  return Number.isNaN(difference) ? a.localeCompare(b) : difference;
}

function sortBy(table, column, descending) {
  const order = (row) => row.cells[column].dataset.order ?? row.cells[column].textContent;
  const rows = [...table.tBodies[0].rows];
  const lacking = rows.filter((row) => order(row) === "");
  const present = rows.filter((row) => order(row) !== "");
  present.sort((a, b) => compare(order(a), order(b)) * (descending ? -1 : 1));
  table.tBodies[0].append(...present, ...lacking);
}

document.addEventListener("click", (event) => {
  const heading = event.target.closest("table.sortable th button")?.parentElement;
  if (!heading) return;
  const table = heading.closest("table");
  const descending = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  sortBy(table, heading.cellIndex, descending);
});

// Charts: words at a mark that is pointed at, a series alone when its name is clicked, and the chart as a file.

const tip = document.getElementById("tip");

function hideTip() {
  tip.hidden = true;
}

function showTip(mark) {
  const words = mark.querySelector("title");
  if (words) {  // or the browser would show its own tip as well
    mark.dataset.tip = words.textContent;
    words.remove();
  }
  tip.textContent = mark.dataset.tip;
  tip.hidden = false;
  const box = mark.getBoundingClientRect();
  const left = Math.min(Math.max(8, box.left + box.width / 2 - tip.offsetWidth / 2), innerWidth - tip.offsetWidth - 8);
  const above = box.top - tip.offsetHeight - 8;
  tip.style.left = `${left + scrollX}px`;
  tip.style.top = `${(above > 0 ? above : box.bottom + 8) + scrollY}px`;
}

document.addEventListener("pointerover", (event) => {
  const mark = event.target.closest?.("svg .tip");
  if (mark) showTip(mark);
  else hideTip();
});

function pick(svg, key) {
  const again = svg.dataset.picked === key;
  if (again) delete svg.dataset.picked;
  else svg.dataset.picked = key;
  for (const part of svg.querySelectorAll("[data-series]")) {
    part.classList.toggle("faded", !again && part.dataset.series !== key);
  }
}

document.addEventListener("click", (event) => {
  const key = event.target.closest?.("svg .key");
  if (key) pick(key.closest("svg[role]"), key.dataset.series);
});

function asFile(figure) {
  const drawn = figure.querySelector("svg[role]");
  const [, , width, height] = drawn.getAttribute("viewBox").split(" ").map(Number);
  const copy = drawn.cloneNode(true);
  for (const mark of copy.querySelectorAll("[data-tip]")) {
    const words = document.createElementNS("http://www.w3.org/2000/svg", "title");
    words.textContent = mark.dataset.tip;
    mark.prepend(words);
    mark.removeAttribute("data-tip");
  }
  copy.setAttribute("viewBox", `0 -30 ${width} ${height + 30}`);
  copy.setAttribute("width", width);
  copy.setAttribute("height", height + 30);
  const paper = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of Object.entries({ x: 0, y: -30, width, height: height + 30, fill: "#fff" })) paper.setAttribute(name, value);
  const head = document.createElementNS("http://www.w3.org/2000/svg", "text");
  for (const [name, value] of Object.entries({ x: 14, y: -8, "font-size": 14, "font-weight": 600, fill: "#1f2933" })) head.setAttribute(name, value);
  head.textContent = figure.querySelector("h4")?.textContent ?? "";
  copy.prepend(paper, head);
  return { blob: new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" }), width, height: height + 30 };
}

function give(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function asPixels({ blob, width, height }) {
  const image = new Image();
  image.src = URL.createObjectURL(blob);
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = 3 * width;
  canvas.height = 3 * height;
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-save]");
  if (!button) return;
  const file = asFile(button.closest("figure"));
  give(button.dataset.save === "png" ? await asPixels(file) : file.blob, `${button.dataset.name}.${button.dataset.save}`);
});
