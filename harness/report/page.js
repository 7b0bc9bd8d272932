// Sorts a table by the column whose heading is pressed: numbers first, largest first at the first press; empty cells
// always last. Without this script the page is the same, in the order in which it was written.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    heading.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const isNumber = heading.classList.contains("n");
      const before = heading.getAttribute("aria-sort");
      const rising = before === "none" ? !isNumber : before === "descending";
      for (const other of headings) other.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const value = (row) => {
        const cell = row.cells[column];
        if (!isNumber) return cell.textContent.trim();
        return cell.dataset.value === undefined ? "" : Number(cell.dataset.value);
      };
      const compare = (a, b) => (isNumber ? a - b : a.localeCompare(b, undefined, { numeric: true }));
      const rows = [...body.rows].map((row) => [value(row), row]);
      const known = rows.filter(([key]) => key !== "").sort(([a], [b]) => (rising ? compare(a, b) : compare(b, a)));
      body.append(...[...known, ...rows.filter(([key]) => key === "")].map(([, row]) => row));
    });
  });
}
