// A figure is shown at six tenths of its size at least, where its labels can still be read; where
// that is wider than the column it scrolls in its box: site.css.
for (const image of document.querySelectorAll("article p > img")) {
  const keep = () => (image.style.minWidth = `${Math.ceil(0.6 * image.naturalWidth)}px`);
  image.complete ? keep() : image.addEventListener("load", keep);
}

// Tables with a column of numbers are sorted by a click on a heading, and back by another.

// The number a cell begins with: of "0.2074 ± 0.0026", "1,600" or "6.2e-10 (heavy tail, ...)".
function number(text) {
  const found = text.match(/^[-−]?[\d,]*\.?\d+(e[-+]?\d+)?/i);
  return found ? Number(found[0].replace("−", "-").replaceAll(",", "")) : NaN;
}

function sort(table, column, numeric, sign) {
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => {
    const text = row.cells[column].textContent.trim();
    return { row, key: numeric ? number(text) : text };
  });
  const missing = ({ key }) => key === "" || Number.isNaN(key);
  keyed.sort((a, b) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b); // last in both directions
    return sign * (numeric ? a.key - b.key : a.key.localeCompare(b.key, "en", { numeric: true }));
  });
  body.append(...keyed.map(({ row }) => row));
}

function isNumeric(heading) {
  return heading.style.textAlign === "right";
}

for (const table of document.querySelectorAll("article table")) {
  const headings = [...table.tHead.rows[0].cells];
  if (!headings.some(isNumeric)) continue;
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const descending = heading.ariaSort === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.ariaSort = descending ? "descending" : "ascending";
      sort(table, column, isNumeric(heading), descending ? -1 : 1);
    });
  });
}
