// The table of runs: a click on a header sorts by it, another turns the order round; ticks show and hide curves.
"use strict";

(() => {
  const table = document.getElementById("runs");
  if (!table) return;
  const body = table.tBodies[0];

  // Numbers before text, both before what is missing, whichever way round.
  function compare(one, other, sign) {
    if (one === "" || other === "") return (one === "") - (other === "");
    const [first, second] = [Number(one), Number(other)];
    if (!Number.isNaN(first) && !Number.isNaN(second)) return sign * (first - second);
    return sign * one.localeCompare(other, "en", { numeric: true });
  }

  function sortBy(header, column) {
    const isFirst = header.getAttribute("aria-sort") === "none";
    const wasUp = header.getAttribute("aria-sort") === "ascending";
    const isUp = isFirst ? header.dataset.first !== "descending" : !wasUp;
    for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", isUp ? "ascending" : "descending");
    const value = (row) => row.cells[column].dataset.order;
    body.append(...[...body.rows].sort((one, other) => compare(value(one), value(other), isUp ? 1 : -1)));
  }

  for (const header of table.querySelectorAll("th[aria-sort]")) {
    header.querySelector("button").addEventListener("click", () => sortBy(header, header.cellIndex));
  }
  const boxes = [...table.querySelectorAll("input[data-curve]")];
  const update = () => charts.hide(boxes.filter((box) => !box.checked).map((box) => box.dataset.curve));
  for (const box of boxes) box.addEventListener("change", update);
  update(); // a browser may remember ticks from before
})();
