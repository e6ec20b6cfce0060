"use strict";

// The colour scheme is the system's until the button is pressed.
{
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => { button.textContent = isDark() ? "Light colours" : "Dark colours"; };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    label();
  });
  system.addEventListener("change", label);
  button.hidden = false;
  label();
}

// A click on a column's heading sorts by it, a second one the other way round. What is missing stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const sign = heading.ariaSort === "ascending" ? -1 : 1;
      headings.forEach((each) => { each.ariaSort = null; });
      heading.ariaSort = sign === 1 ? "ascending" : "descending";
      body.append(...sortRows([...body.rows], column, sign));
    });
  });
}

function sortRows(rows, column, sign) {
  // The first line of a cell is its value; an interval may stand below.
  const text = (row) => row.cells[column].firstChild?.textContent.trim() ?? "";
  const isMissing = (row) => ["", "–"].includes(text(row));
  const present = rows.filter((row) => !isMissing(row));
  const numeric = present.every((row) => /^(∞|[-−+]?\.?\d)/.test(text(row)));
  const number = (row) => (text(row) === "∞" ? Infinity : parseFloat(text(row).replace("−", "-")));
  const compare = numeric
    ? (a, b) => (number(a) === number(b) ? 0 : number(a) - number(b))
    : (a, b) => text(a).localeCompare(text(b), "en", { numeric: true });
  present.sort((a, b) => sign * compare(a, b));
  return [...present, ...rows.filter(isMissing)];
}
