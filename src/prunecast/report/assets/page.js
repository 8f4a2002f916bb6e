"use strict";

// Pages: all but the first lie in the file compressed and are unpacked when they are first asked for.

const views = document.getElementById("views");
const packed = new Map([...document.querySelectorAll("script[data-page]")].map((script) => [script.dataset.page, script]));
const opened = new Map([["overview", document.getElementById("overview")]]);
const title = document.title;

async function unpack(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

async function reveal(name) {
  if (!opened.has(name)) {
    const view = document.createElement("div");
    view.className = "view";
    opened.set(name, view);
    views.append(view);
    if (typeof DecompressionStream === "undefined") {
      view.innerHTML = "<p class='warning'>This browser is too old to unpack the page; its tables lie beside this file as CSV.</p>";
    } else if (name === "record") view.append(document.createElement("section"));
    else {
      view.innerHTML = await unpack(`page-${name}`);
      await drawAll(view);
    }
  }
  return opened.get(name);
}

function place() {
  const [name, anchor] = location.hash.slice(1).split(":");
  if (name === "everything") return { names: ["overview", ...packed.keys()], anchor: "" };
  if (name === "overview" || name === "record" || packed.has(name)) return { names: [name], anchor: anchor ?? "" };
  return document.getElementById(name) && name ? null : { names: ["overview"], anchor: "" };
}

async function route(event) {
  const wanted = place();
  if (wanted === null) return;
  const shown = [];
  for (const name of wanted.names) shown.push(await reveal(name));
  for (const view of opened.values()) view.hidden = !shown.includes(view);
  dispatchEvent(new Event("resize")); // the window may have changed while a chart as wide as its page was hidden
  const [first] = wanted.names;
  if (first === "record") await showRecord(shown[0].firstChild, wanted.anchor);
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
  const target = (wanted.anchor && document.getElementById(wanted.anchor)) || null;
  const focused = target ?? shown[0];
  if (event) (focused.querySelector("[tabindex='-1']") ?? focused).focus({ preventScroll: true });
  if (target) target.scrollIntoView();
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
  for (const menu of document.querySelectorAll("nav details[open]")) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

// Records that have no file beside the page: all that the study's tables say of one stage.

let records = null;

async function showRecord(section, fingerprint) {
  records ??= JSON.parse(await unpack("records"));
  const row = records.fingerprint.indexOf(fingerprint);
  const head = Object.assign(document.createElement("h2"), { textContent: `Record ${fingerprint}`, tabIndex: -1 });
  const list = document.createElement("dl");
  for (const [name, values] of Object.entries(records)) {
    if (row < 0 || values[row] === null) continue;
    for (const [tag, text] of [["dt", name], ["dd", values[row]]]) {
      list.append(Object.assign(document.createElement(tag), { textContent: text }));
    }
  }
  section.replaceChildren(head, list);
}

// Tables: a click on a heading sorts, a second one turns the order round; what has no number stays last.

function compare(a, b) {
  const difference = Number(a) - Number(b);
  return Number.isNaN(difference) ? a.localeCompare(b) : difference;
}

document.addEventListener("click", (event) => {
  const heading = event.target.closest("table.sortable th button")?.parentElement;
  if (!heading) return;
  const table = heading.closest("table");
  const descending = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const order = (row) => row.cells[heading.cellIndex].dataset.order ?? row.cells[heading.cellIndex].textContent;
  const rows = [...table.tBodies[0].rows];
  const present = rows.filter((row) => order(row) !== "");
  present.sort((a, b) => compare(order(a), order(b)) * (descending ? -1 : 1));
  table.tBodies[0].append(...present, ...rows.filter((row) => order(row) === ""));
});

// Charts: drawn by Vega when their page is opened; those of the first page are pictures until they are pointed at.

let charting = null;

const SAVED_WIDTH = 720; // of a chart that is as wide as its page, where it is drawn for a file

function chartsOf(part) {
  return JSON.parse(part.closest(".view").querySelector("script.specs").textContent);
}

async function load() {
  const library = Object.assign(document.createElement("script"), { textContent: await unpack("vega") });
  document.head.append(library);
  return JSON.parse(await unpack("templates"));
}

async function draw(element, chart, titled) {
  charting ??= load();
  const { config, templates } = await charting;
  const template = templates[chart.template];
  const params = [...Object.entries(chart.params).map(([name, value]) => ({ name, value })), ...(template.params ?? [])];
  const spec = { ...template, params, datasets: chart.data, ...(titled ? { title: chart.title } : {}) };
  if (spec.width === "container" && !element.isConnected) spec.width = SAVED_WIDTH;
  const inner = document.createElement("div"); // Vega gives what it draws in a name of its own
  element.replaceChildren(inner);
  return vegaEmbed(inner, spec, { ast: true, renderer: "svg", actions: false, logLevel: 1, config });
}

async function drawAll(view) {
  if (!view.querySelector("script.specs")) return;
  const charts = chartsOf(view);
  for (const plot of view.querySelectorAll("[data-chart]")) {
    const drawn = await draw(plot, charts[plot.dataset.chart], false);
    if (plot.dataset.chart === "front") followFront(drawn, view.querySelector("#front-table"));
  }
}

document.addEventListener("pointerover", async (event) => {
  const plot = event.target.closest?.(".plot.still");
  if (!plot) return;
  plot.classList.remove("still");
  await draw(plot, chartsOf(plot)[plot.dataset.chart], true);
});

function give(address, name) {
  Object.assign(document.createElement("a"), { href: address, download: name }).click();
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-save]");
  if (!button) return;
  const { save, name } = button.dataset;
  const { view } = await draw(document.createElement("div"), chartsOf(button)[name], true);
  give(await view.toImageURL(save, 3), `${name}.${save}`);
});

// The fronts: the table has what is on the front of the chart now; as a file, no text of it is a formula or a command.

function followFront({ view, vgSpec }, table) {
  const find = (marks) => marks.flatMap((mark) => (mark.name?.startsWith("front") && mark.from ? [mark.from.facet?.data ?? mark.from.data] : find(mark.marks ?? [])));
  const [source] = find(vgSpec.marks);
  const fill = () => {
    const heads = table.tHead.rows[0].cells;
    [heads[1].dataset.unit, heads[2].dataset.unit] = [view.signal("error_title"), view.signal("cost_title")];
    const unit = view.signal("place") === table.dataset.everywhere ? " ×" : "";
    table.tBodies[0].replaceChildren(...view.data(source).toSorted((a, b) => a.cost - b.cost).map((point) => {
      const row = document.createElement("tr");
      const link = Object.assign(document.createElement("a"), { href: `#${point.page}`, textContent: point.label });
      row.insertCell().append(link);
      for (const text of [point.error.toPrecision(4) + unit, point.cost.toPrecision(3) + unit, point.cases]) {
        Object.assign(row.insertCell(), { textContent: text, className: "number" });
      }
      return row;
    }));
  };
  view.addDataListener(source, fill);
  fill();
}

const LATEX = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "[": "{[}", "*": "{*}", "\u00d7": "$\\times$", "\u2212": "$-$" };

document.addEventListener("click", (event) => {
  const kind = event.target.closest("[data-table]")?.dataset.table;
  if (!kind) return;
  const table = document.getElementById("front-table");
  const lines = [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent.replace(/[\s\p{Cc}]+/gu, " ").trim()));
  const inert = (text) => (/^[=+\-@]/.test(text) ? `'${text}` : text);
  const csv = () => lines.map((line) => line.map((text) => `"${inert(text).replaceAll('"', '""')}"`).join(",")).join("\n");
  const tex = () => {
    const rows = lines.map((line) => line.map((text) => text.replace(/[\\{}$&%#_~^<>|[*\u00d7\u2212]/g, (sign) => LATEX[sign] ?? `\\${sign}`)).join(" & ") + " \\\\");
    return ["\\begin{tabular}{lrrr}", "\\toprule", rows[0], "\\midrule", ...rows.slice(1), "\\bottomrule", "\\end{tabular}"].join("\n");
  };
  give(URL.createObjectURL(new Blob([`${kind === "csv" ? csv() : tex()}\n`], { type: "text/plain" })), `front.${kind}`);
});
