// The table of units: what the map shows, for eyes that prefer text; rows are made for one page at a time.
const PAGE = 25;

function startUnits() {
  const details = document.getElementById("units");
  const filter = document.getElementById("units-filter");
  const [back, next] = [document.getElementById("units-back"), document.getElementById("units-next")];
  const place = document.getElementById("units-place");
  let rows = [];
  let page = 0;
  const texts = (row) => [
    keyOf(row)[3], ...keyOf(row).slice(0, 3),
    ...units.numbers.map((column) => numberText(column, row)),
    ...units.categories.slice(4).map((column) => {
      const probability = probabilityOf(column, row);
      const text = levelOf(column, row);
      return text && probability !== null ? `${text} (p = ${probability.toFixed(2)})` : text;
    }),
  ];
  const show = () => {
    const body = document.getElementById("units-body");
    body.replaceChildren();
    for (const row of rows.slice(page * PAGE, (page + 1) * PAGE)) {
      const line = make("tr");
      texts(row).forEach((text, i) => line.append(make(i ? "td" : "th", text, i ? {} : { scope: "row" })));
      body.append(line);
    }
    const pages = Math.max(1, Math.ceil(rows.length / PAGE));
    place.textContent = `${rows.length.toLocaleString("en")} units, page ${page + 1} of ${pages}`;
    back.disabled = page === 0;
    next.disabled = page >= pages - 1;
  };
  const search = () => {
    const wanted = filter.value.trim().toLowerCase();
    rows = [];
    for (let row = 0; row < units.n; row++) {
      if (!wanted || texts(row).some((text) => text.toLowerCase().includes(wanted))) rows.push(row);
    }
    page = 0;
    show();
  };
  let timer = 0;
  filter.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(search, 250); });
  back.addEventListener("click", () => { page--; show(); });
  next.addEventListener("click", () => { page++; show(); });
  details.addEventListener("toggle", () => {
    if (!details.open || document.getElementById("units-head").children.length) return;
    const head = make("tr");
    const titles = ["unit", "subject", "session", "population", ...units.numbers.map((column) => (column.unit ? `${column.title} (${column.unit})` : column.title)), ...units.categories.slice(4).map((column) => column.title)];
    for (const title of titles) head.append(make("th", title, { scope: "col" }));
    document.getElementById("units-head").append(head);
    search();
  });
}
