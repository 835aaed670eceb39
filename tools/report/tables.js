// Tables: figures by class, which can be sorted, and the most frequent confusions.

const order = { column: -1, descending: true };

function tableOf(state) {
  const tables = DATA.tables.filter((table) => table.section === state.section);
  return tables.find((table) => table.size === state.size) || null;
}

function sorted(rows) {
  if (order.column < 0) return rows;
  const sign = order.descending ? -1 : 1;
  const key = (row) => row[order.column];
  // What could not be measured is last either way.
  return [...rows].sort((a, b) => {
    if (key(a) === null || key(b) === null) return (key(a) === null) - (key(b) === null);
    return sign * (typeof key(a) === "number" ? key(a) - key(b) : String(key(a)).localeCompare(String(key(b))));
  });
}

function headOf(columns, state) {
  const row = element("tr");
  columns.forEach((name, i) => {
    const cell = element("th", "", { scope: "col", class: i ? "number" : "" });
    if (i === order.column) cell.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
    const button = element("button", name, { type: "button" });
    button.addEventListener("click", () => {
      const again = order.column === i;
      Object.assign(order, { column: i, descending: again ? !order.descending : i > 0 });
      drawTable(tableOf(state), state);
      byId("class-table").querySelectorAll("thead button")[i].focus();
    });
    cell.append(button);
    row.append(cell);
  });
  const head = element("thead");
  head.append(row);
  return head;
}

function drawTable(table, state) {
  const body = element("tbody");
  const fractions = table.columns.map((_, i) => table.rows.some((row) => typeof row[i] === "number" && !Number.isInteger(row[i])));
  for (const values of sorted(table.rows)) {
    if (state.class && values[0] !== state.class) continue;
    const row = element("tr");
    values.forEach((value, i) => {
      const cell = element(i ? "td" : "th", i ? shown(value, 3, fractions[i]) : "", i ? { class: "number" } : { scope: "row" });
      if (!i) {
        const pick = element("button", value, { type: "button", class: "pick name", title: `Show only ${value}` });
        pick.addEventListener("click", () => choose({ class: state.class === value ? "" : value }));
        cell.append(pick);
      } else if (table.bars.includes(table.columns[i]) && value !== null) {
        cell.classList.add("meter");
        cell.style.setProperty("--share", Math.max(0, Math.min(1, value)));
      }
      row.append(cell);
    });
    body.append(row);
  }
  const made = element("table");
  made.append(headOf(table.columns, state), body);
  const place = byId("class-table");
  const { scrollTop } = place;
  place.replaceChildren(made);
  place.scrollTop = scrollTop;
}

function drawClasses(state) {
  if (!byId("classes")) return;
  const table = tableOf(state);
  const measures = byId("measures");
  measures.replaceChildren();
  if (!table) {
    byId("class-table").replaceChildren(element("p", "No figures of this kind.", { class: "pale" }));
    return empty("plot-bars", "No figures of this kind.");
  }
  const column = table.bars.includes(state.bars) ? state.bars : table.bars[0];
  for (const name of table.bars) {
    const button = element("button", name, { type: "button", value: name, "aria-pressed": String(name === column) });
    button.addEventListener("click", () => {
      choose({ bars: name === table.bars[0] ? "" : name });
      [...measures.children].find((other) => other.value === name).focus();
    });
    measures.append(button);
  }
  if (column) drawBars(table, column, state);
  drawTable(table, state);
}

function drawConfusions(state) {
  if (!byId("confusion")) return;
  const { rows, columns, counts } = DATA.confusion;
  const part = shares();
  const pairs = [];
  rows.forEach((truth, i) => columns.forEach((found, j) => {
    const fits = !state.class || state.class === truth || state.class === found;
    if (truth !== found && counts[i][j] && fits) pairs.push([truth, found, counts[i][j], part[i][j]]);
  }));
  pairs.sort((a, b) => b[2] - a[2]);
  const body = element("tbody");
  for (const [truth, found, count, share] of pairs.slice(0, 20)) {
    const row = element("tr");
    for (const name of [truth, found]) {
      const cell = element("td", "", { class: "name", title: name });
      cell.append(element("span", name));
      row.append(cell);
    }
    for (const text of [shown(count), `${(100 * share).toFixed(1)} %`]) row.append(element("td", text, { class: "number" }));
    body.append(row);
  }
  const head = element("thead");
  const titles = element("tr");
  ["True", "Found", "Count", "Of its row"].forEach((title, i) => titles.append(element("th", title, { scope: "col", class: i > 1 ? "number" : "" })));
  head.append(titles);
  const table = element("table");
  table.append(head, body);
  byId("confusion-list").replaceChildren(pairs.length ? table : element("p", "None.", { class: "pale" }));
}
