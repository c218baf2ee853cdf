"use strict";
// Without this script the page shows everything: all samples, all stages, tables in their stored order.

function sortable(table) {
  for (const head of table.querySelectorAll("thead th")) {
    if (!head.textContent.trim()) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending";
      for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => {
        const cell = row.cells[head.cellIndex];
        const number = parseFloat(cell.dataset.value ?? cell.textContent.replace("<", "").replace("−", "-"));
        return Number.isNaN(number) ? cell.textContent.trim() : number;
      };
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (typeof x === typeof y) return (typeof x === "number" ? x - y : x.localeCompare(y)) * (up ? 1 : -1);
        return typeof x === "number" ? -1 : 1; // what was not measured stays last
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort(order));
    });
  }
}

function tabs(box) {
  const panes = [...box.querySelectorAll("[data-tab]")];
  if (panes.length < 2) return;
  const list = document.createElement("div");
  list.setAttribute("role", "tablist");
  const show = (index, focus) => {
    panes.forEach((pane, i) => {
      pane.style.display = i === index ? "" : "none";
      list.children[i].setAttribute("aria-selected", i === index);
      list.children[i].tabIndex = i === index ? 0 : -1;
    });
    if (focus) list.children[index].focus();
  };
  panes.forEach((pane, i) => {
    const tab = document.createElement("button");
    tab.type = "button";
    tab.setAttribute("role", "tab");
    tab.textContent = pane.dataset.tab;
    tab.addEventListener("click", () => show(i));
    tab.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (move) show((i + move + panes.length) % panes.length, true);
    });
    list.append(tab);
    pane.setAttribute("role", "tabpanel");
    pane.setAttribute("aria-label", pane.dataset.tab);
    pane.querySelector("h4").style.display = "none";
  });
  box.prepend(list);
  show(0);
}

function browse(section) {
  const bar = section.querySelector(".browse");
  if (!bar) return;
  const samples = [...section.querySelectorAll(".sample")];
  const texts = samples.map((sample) => sample.textContent.toLowerCase());
  const [filter, all] = [bar.querySelector("[type=search]"), bar.querySelector("[type=checkbox]")];
  const none = section.querySelector(".none");
  let at = 0;
  const update = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = samples.filter((_, i) => words.every((word) => texts[i].includes(word)));
    at = Math.max(0, Math.min(at, found.length - 1));
    for (const sample of samples) sample.hidden = all.checked ? !found.includes(sample) : sample !== found[at];
    none.hidden = found.length > 0;
    const place = all.checked ? `${found.length}` : `${found.length ? at + 1 : 0} of ${found.length}`;
    bar.querySelector("output").textContent = place + (words.length ? ` matching, ${samples.length} in all` : "");
    for (const button of bar.querySelectorAll("button")) {
      const next = at + Number(button.dataset.move);
      button.disabled = all.checked || next < 0 || next >= found.length;
    }
  };
  for (const button of bar.querySelectorAll("button")) {
    button.addEventListener("click", () => { at += Number(button.dataset.move); update(); });
  }
  filter.addEventListener("input", () => { at = 0; update(); });
  all.addEventListener("change", update);
  bar.hidden = false;
  update();
}

document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("[data-tabs]").forEach(tabs);
document.querySelectorAll("#samples").forEach(browse);
