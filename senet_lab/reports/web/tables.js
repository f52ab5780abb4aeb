// Tables: a click on a column's head sorts by it, upwards, downwards and back; all columns on demand; buttons that copy
// a table in a form for another document.

// What a cell is sorted by: its number, units and all, or its text.
function weight(cell) {
  const words = cell.textContent.replace(/^[▼▲▽△●○■□✕] /, "").trim();
  const found = /^[<+]? ?(−?[\d,]*\.?\d+)(?: ([kMG])\b)?/.exec(words);
  if (!found || cell.classList.contains("words")) return words;
  const unit = UNITS.find(([, letter]) => letter === found[2])?.[0] ?? 1;
  return Number(found[1].replace("−", "-").replaceAll(",", "")) * unit;
}

document.querySelectorAll("article.study table, #studies table").forEach((table) => {
  const body = table.tBodies[0], original = [...body.rows];
  [...table.tHead.rows[0].cells].forEach((head, column, heads) => {
    const button = html("button", { type: "button", title: "Sort" });
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: null }[head.ariaSort] ?? (head.ariaSort ? null : "ascending");
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      const lines = [...original];
      if (next) {
        head.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        const weights = new Map(lines.map((line) => [line, weight(line.cells[column])]));
        lines.sort((one, other) => {
          const a = weights.get(one), b = weights.get(other);
          if (a === "" || b === "") return (a === "") - (b === ""); // empty cells stay last
          return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
        });
      }
      body.append(...lines);
    });
  });
});

const columns = document.getElementById("columns");
columns.addEventListener("click", () => toggle(columns, document.body.classList.toggle("all-columns")));
columns.hidden = !document.querySelector("article.study .more");

document.querySelectorAll(".copy button").forEach((button) => {
  button.addEventListener("click", async () => {
    const status = button.parentElement.querySelector("[role=status]");
    try {
      await navigator.clipboard.writeText(button.nextElementSibling.content.textContent);
      status.textContent = ` ${button.textContent} copied`;
    } catch {
      status.textContent = " The browser does not allow it: the files lie in the study's folder";
    }
  });
});
