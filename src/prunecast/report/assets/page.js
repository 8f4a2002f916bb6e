"use strict";

for (const place of document.querySelectorAll("[data-spec]")) {
  const spec = JSON.parse(document.getElementById(place.dataset.spec).textContent);
  vegaEmbed(place, spec, { renderer: "svg", actions: false });
}

function compare(a, b) {
  if (a === undefined || b === undefined) return a === b ? 0 : a === undefined ? 1 : -1;
  const difference = Number(a) - Number(b);
  return Number.isNaN(difference) ? a.localeCompare(b) : difference;
}

function sortBy(table, column, descending) {
  const order = (row) => row.cells[column].dataset.order;
  const rows = [...table.tBodies[0].rows];
  const lacking = rows.filter((row) => order(row) === undefined);
  const present = rows.filter((row) => order(row) !== undefined);
  present.sort((a, b) => compare(order(a), order(b)) * (descending ? -1 : 1));
  table.tBodies[0].append(...present, ...lacking);
}

for (const button of document.querySelectorAll("table.sortable button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement;
    const table = heading.closest("table");
    const descending = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    sortBy(table, heading.cellIndex, descending);
  });
}
