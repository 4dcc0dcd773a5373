"use strict";
(() => {
  const table = document.getElementById("items");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const heads = Array.from(table.tHead.rows[0].cells);
  const state = document.getElementById("state");
  const filter = document.getElementById("filter");
  const shown = document.getElementById("shown");
  const isNumber = (text) => text !== "" && Number.isFinite(Number(text));

  function compare(a, b) {
    if (isNumber(a) && isNumber(b)) return Number(a) - Number(b);
    if (isNumber(a) !== isNumber(b)) return isNumber(a) ? -1 : 1;
    return a < b ? -1 : a > b ? 1 : 0;
  }

  function sortBy(column) {
    const down = heads[column].getAttribute("aria-sort") === "ascending";
    heads.forEach((head) => head.setAttribute("aria-sort", "none"));
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    const keyed = rows.map((row, at) => [row.cells[column].textContent, at, row]);
    // Empty cells stay at the end whichever way it goes.
    keyed.sort((a, b) => {
      if ((a[0] === "") !== (b[0] === "")) return a[0] === "" ? 1 : -1;
      return (down ? compare(b[0], a[0]) : compare(a[0], b[0])) || a[1] - b[1];
    });
    body.append(...keyed.map((each) => each[2]));
  }

  function choose() {
    const words = filter.value.toLowerCase();
    let count = 0;
    for (const row of rows) {
      const fits = (!state.value || row.dataset.state === state.value)
        && (!words || row.textContent.toLowerCase().includes(words));
      row.hidden = !fits;
      count += fits ? 1 : 0;
    }
    shown.textContent = count === rows.length ? "" : `${count} of ${rows.length} rows`;
  }

  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => sortBy(column));
  });
  state.addEventListener("change", choose);
  filter.addEventListener("input", choose);
})();
