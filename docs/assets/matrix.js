"use strict";

// Filters the matrix by category, state and words. The filter stands in the address, so that
// a filtered view can be linked; without this script the whole matrix is on the page.
{
  const form = document.querySelector(".matrix-filter");
  const table = document.querySelector(".matrix-table");
  const status = form.querySelector("[role=status]");
  const fields = [...form.elements].filter((field) => field.name);
  const rows = [...table.querySelectorAll("tr[id]")].map((element) => ({
    element,
    words: `${element.dataset.category} ${element.textContent}`.toLowerCase(),
  }));

  const shows = ({ element, words }, { name, value }) => {
    if (!value) return true;
    if (name === "words")
      return value.toLowerCase().split(/\s+/).every((word) => words.includes(word));
    if (name === "show") return element.dataset.show.split(" ").includes(value);
    return element.dataset[name] === value;
  };

  const apply = () => {
    let count = 0;
    for (const row of rows) {
      row.element.hidden = !fields.every((field) => shows(row, field));
      count += !row.element.hidden;
    }
    for (const group of table.tBodies)
      group.hidden = !group.querySelector("tr[id]:not([hidden])");
    const hint = count ? "" : "; clear the filter to see them";
    status.textContent = `${count} of ${rows.length} entries${hint}`;
  };

  const read = () => {
    const query = new URLSearchParams(location.search);
    for (const field of fields) {
      field.value = query.get(field.name) ?? "";
      if (field.selectedIndex === -1) field.value = "";
    }
    apply();
  };

  const write = () => {
    const address = new URL(location.href);
    for (const { name, value } of fields) {
      address.searchParams.delete(name);
      if (value) address.searchParams.set(name, value);
    }
    history.replaceState(history.state, "", address);
    apply();
  };

  // A link to an entry, or to a category, wins over a filter that hides it.
  const reveal = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (!target?.closest("[hidden]") || !table.contains(target)) return;
    form.reset();
    target.scrollIntoView();
  };

  form.addEventListener("input", write);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => {
    for (const field of fields) field.value = "";
    write();
  });
  addEventListener("hashchange", reveal);
  addEventListener("popstate", read);
  form.hidden = false;
  read();
  reveal();
}
