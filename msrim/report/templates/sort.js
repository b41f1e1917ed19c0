for (const table of document.querySelectorAll(".sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  const number = (text) => Number(text.replace("−", "-"));
  const missing = (text) => text === "n/a" || text === "–";
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [a, b].map((row) => row.cells[column].textContent);
        // What is missing goes last in either direction.
        if (missing(x) !== missing(y)) return missing(x) ? 1 : -1;
        const order = number(x) - number(y) || x.localeCompare(y);
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}
