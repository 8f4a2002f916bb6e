
// Fronts: the one chart that is drawn here, because a reader picks what it shows.

const SVG = "http://www.w3.org/2000/svg";
const FIRST_NUMBER = 5; // of a row: case, model, series, tuning, label, then pairs of own and dense parent's numbers

function draw(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function short(value) {
  for (const [step, unit, letter] of [[1e9, 1e9, " G"], [1e6, 1e6, " M"], [1e4, 1e3, " k"]]) {
    if (value >= step) return `${Number((value / unit).toPrecision(3))}${letter}`;
  }
  return `${Number(value.toPrecision(3))}`;
}

function startFronts(view) {
  const data = JSON.parse(view.querySelector("#front-data").textContent);
  const form = view.querySelector("#filters");
  const option = (select, text, value) => select.append(new Option(text, value));
  data.cases.forEach((place, index) => option(form.elements.case, place.name, index));
  if (data.cases.length === 1) form.elements.case.value = "0";
  data.costs.forEach((cost, index) => option(form.elements.cost, cost.name.replace("Error against ", ""), index));
  for (const [kind, names] of [["models", data.models.map((model) => model.name)], ["series", data.series.map((series) => series.name)]]) {
    const box = form.querySelector(`[data-filter=${kind}]`);
    names.forEach((name, index) => {
      const label = document.createElement("label");
      const input = Object.assign(document.createElement("input"), { type: "checkbox", value: index, checked: true });
      label.append(input, ` ${name}`);
      box.append(label);
    });
  }
  const update = () => showFront(view, data, chosen(form));
  form.addEventListener("change", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  update();
}

function chosen(form) {
  const ticked = (kind) => new Set([...form.querySelectorAll(`[data-filter=${kind}] input:checked`)].map((input) => Number(input.value)));
  return {
    one: form.elements.case.value === "" ? null : Number(form.elements.case.value),
    cost: Number(form.elements.cost.value),
    models: ticked("models"),
    series: ticked("series"),
    tuning: ticked("tuning").add(2),
  };
}

function points(data, wanted) {
  const at = FIRST_NUMBER + 2 + 2 * wanted.cost;
  const found = data.rows.filter((row) => wanted.models.has(row[1]) && wanted.series.has(row[2]) && wanted.tuning.has(row[3])
    && row[FIRST_NUMBER] !== null && row[at] !== null && (wanted.one === null || row[0] === wanted.one));
  if (wanted.one !== null) return found.map((row) => ({ row, error: row[FIRST_NUMBER], cost: row[at], cases: 1 }));
  const groups = new Map();
  for (const row of found) {
    if (row[FIRST_NUMBER + 1] === null || row[at + 1] === null) continue;
    const key = row.slice(1, FIRST_NUMBER).join("\n");
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(row);
  }
  const average = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
  const mean = (rows, own) => { // each data set counts alike, however many horizons it has
    const sets = new Map(rows.map((row) => [data.cases[row[0]].page, []]));
    for (const row of rows) sets.get(data.cases[row[0]].page).push(Math.log(row[own] / row[own + 1]));
    return Math.exp(average([...sets.values()].map(average)));
  };
  return [...groups.values()]
    .filter((rows) => data.series[rows[0][2]].name !== "naive")
    .map((rows) => ({ row: rows[0], error: mean(rows, FIRST_NUMBER), cost: mean(rows, at), cases: rows.length }));
}

function frontOf(spots) {
  let best = Infinity;
  const ordered = [...spots].sort((a, b) => a.cost - b.cost || a.error - b.error);
  return ordered.filter((spot) => spot.error < best && ((best = spot.error), true));
}

function logScale(low, high, start, stop) {
  const margin = high > low ? (high / low) ** 0.06 : 1.5;
  const [from, to] = [Math.log(low / margin), Math.log(high * margin)];
  const scale = (value) => start + ((stop - start) * (Math.log(value) - from)) / (to - from);
  scale.ticks = [];
  const decades = [];
  for (let power = Math.floor(from / Math.LN10); power <= Math.ceil(to / Math.LN10); power += 1) decades.push(power);
  for (const parts of [[1], [1, 3], [1, 2, 5], [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8]]) {
    const inside = decades.flatMap((power) => parts.map((part) => part * 10 ** power)).filter((tick) => Math.log(tick) >= from && Math.log(tick) <= to);
    if (scale.ticks.length >= 2 && inside.length > 8) break;
    scale.ticks = inside;
  }
  return scale;
}

function mark(series, x, y, filled) {
  const look = { fill: filled ? series.colour : "#ffffff", stroke: series.colour, "stroke-width": 1.6 };
  if (!series.corners.length) return draw("circle", { cx: x, cy: y, r: 4, ...look });
  const corners = series.corners.map(([across, down]) => `${x + 4 * across} ${y + 4 * down}`);
  return draw("path", { d: `M${corners.join("L")}Z`, ...look });
}

function showFront(view, data, wanted) {
  const spots = points(data, wanted);
  const most = Math.max(0, ...spots.map((spot) => spot.cases));
  const front = frontOf(spots.filter((spot) => spot.cases === most)); // the others were not tried everywhere
  const body = view.querySelector("#front-table tbody");
  const unit = wanted.one === null ? " ×" : "";
  body.replaceChildren(...front.map((spot) => {
    const row = document.createElement("tr");
    const link = document.createElement("a");
    link.href = `#${wanted.one === null ? data.models[spot.row[1]].page : data.cases[wanted.one].page}`;
    link.textContent = spot.row[4];
    row.insertCell().append(link);
    for (const [text, kind] of [[spot.error.toPrecision(4) + unit, "number"], [short(spot.cost) + unit, "number"], [spot.cases, "number"]]) {
      Object.assign(row.insertCell(), { textContent: text, className: kind });
    }
    return row;
  }));
  view.querySelector("#front").replaceChildren(spots.length ? frontChart(view, data, wanted, spots, front) : "Nothing is left to show.");
}

// The table as a file: no text in it is a formula to a spreadsheet, or a command to LaTeX.

const LATEX = { "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", $: "\\$", "&": "\\&", "%": "\\%", "#": "\\#", _: "\\_", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "[": "{[}", "*": "{*}", "\u00d7": "$\\times$", "\u2212": "$-$" };

function tableFile(table, kind) {
  const lines = [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent.replace(/[\s\p{Cc}]+/gu, " ").trim()));
  if (kind === "csv") {
    const inert = (text) => (/^[=+\-@]/.test(text) ? `'${text}` : text);
    return lines.map((line) => line.map((text) => `"${inert(text).replaceAll('"', '""')}"`).join(",")).join("\n") + "\n";
  }
  const escaped = lines.map((line) => line.map((text) => text.replace(/[\\{}$&%#_~^<>|[*\u00d7\u2212]/g, (sign) => LATEX[sign])).join(" & ") + " \\\\");
  return ["\\begin{tabular}{lrrr}", "\\toprule", escaped[0], "\\midrule", ...escaped.slice(1), "\\bottomrule", "\\end{tabular}", ""].join("\n");
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-table]");
  if (!button) return;
  const kind = button.dataset.table;
  give(new Blob([tableFile(document.getElementById("front-table"), kind)], { type: "text/plain" }), `front.${kind}`);
});

function frontChart(view, data, wanted, spots, front) {
  const width = Math.max(340, Math.min(900, view.querySelector("#front").clientWidth || 420));
  const keys = [...new Set(spots.map((spot) => spot.row[2]))].map((index) => data.series[index]);
  const perLine = Math.max(1, Math.floor((width - 20) / 170));
  const top = 18 * Math.ceil(keys.length / perLine) + 14;
  const height = top + 340;
  const svg = draw("svg", { xmlns: SVG, viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "font-family": getComputedStyle(document.body).fontFamily });
  const [cost, unit] = [data.costs[wanted.cost], wanted.one === null ? " ×" : ""];
  svg.setAttribute("aria-label", `Error against ${cost.axis}; on the front: ${front.map((spot) => spot.row[4]).join(", ")}`);
  keys.forEach((series, index) => {
    const [x, y] = [14 + 170 * (index % perLine), 14 + 18 * Math.floor(index / perLine)];
    const key = draw("g", { class: "key", "data-series": series.name });
    key.append(mark(series, x + 6, y - 4, true), draw("text", { x: x + 18, y, "font-size": 11, fill: "#1f2933" }, series.name));
    svg.append(key);
  });
  const best = Math.min(...spots.map((spot) => spot.error));
  const ceiling = Math.min(Math.max(...spots.map((spot) => spot.error)), 4 * best);
  const x = logScale(Math.min(...spots.map((spot) => spot.cost)), Math.max(...spots.map((spot) => spot.cost)), 58, width - 14);
  const y = logScale(best, ceiling, height - 46, top);
  for (const tick of y.ticks) {
    svg.append(draw("line", { x1: 58, x2: width - 14, y1: y(tick), y2: y(tick), stroke: "#e9ecf0" }));
    svg.append(draw("text", { x: 52, y: y(tick) + 4, "text-anchor": "end", "font-size": 11, fill: "#616e7c" }, short(tick) + unit));
  }
  for (const tick of x.ticks) {
    svg.append(draw("line", { x1: x(tick), x2: x(tick), y1: height - 46, y2: height - 42, stroke: "#cbd2d9" }));
    svg.append(draw("text", { x: x(tick), y: height - 30, "text-anchor": "middle", "font-size": 11, fill: "#616e7c" }, short(tick) + unit));
  }
  svg.append(draw("text", { x: (58 + width) / 2, y: height - 10, "text-anchor": "middle", "font-size": 11, fill: "#1f2933" }, `${cost.axis}${unit ? ", dense = 1" : ""}`));
  const middle = (top + height - 46) / 2;
  svg.append(draw("text", { x: 13, y: middle, "text-anchor": "middle", "font-size": 11, fill: "#1f2933", transform: `rotate(-90 13 ${middle})` }, `test MSE${unit ? ", dense = 1" : ""}`));
  const steps = front.flatMap((spot, index) => [...(index ? [[x(spot.cost), y(front[index - 1].error)]] : []), [x(spot.cost), y(spot.error)]]);
  if (steps.length) steps.push([width - 14, steps.at(-1)[1]]);
  svg.append(draw("path", { d: `M${steps.map((step) => step.join(" ")).join("L")}`, fill: "none", stroke: "#1f2933" }));
  for (const spot of spots) svg.append(frontMark(data, spot, x, y, { ceiling, top, unit }));
  return svg;
}

function frontMark(data, spot, x, y, { ceiling, top, unit }) {
  const series = data.series[spot.row[2]];
  const group = draw("g", { class: "tip series", "data-series": series.name });
  group.append(draw("title", {}, `${spot.row[4]}\nerror ${spot.error.toPrecision(4)}${unit}\ncost ${short(spot.cost)}${unit}${unit ? `\nmean of ${spot.cases}` : ""}`));
  if (spot.error <= ceiling) group.append(mark(series, x(spot.cost), y(spot.error), spot.row[3] !== 0));
  else group.append(draw("path", { d: `M${x(spot.cost)} ${top - 6}l4 6h-8Z`, fill: series.colour }));
  return group;
}
