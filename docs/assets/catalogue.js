"use strict";

// The copy button gives the bytes of the file. The theme would trim the text's end, and with it
// the final newline; it takes the text from this attribute when there is one.
document.addEventListener(
  "click",
  (event) => {
    const button = event.target.closest?.("[data-clipboard-target]");
    if (!button) return;
    const code = document.querySelector(button.dataset.clipboardTarget);
    button.setAttribute("data-clipboard-text", code.textContent);
  },
  true,
);

// What the theme leaves without a name.
document.querySelector(".md-search[role=dialog]")?.setAttribute("aria-label", "Search");
for (const nav of document.querySelectorAll(".md-nav[aria-labelledby]")) {
  const label = document.getElementById(nav.getAttribute("aria-labelledby"));
  if (!label || label.textContent.trim()) continue; // the section's name is in its link
  nav.removeAttribute("aria-labelledby");
  nav.setAttribute("aria-label", label.parentElement.textContent.trim());
}
const headings = [...document.querySelectorAll(".md-content :is(h1, h2, h3)[id]")];
for (const table of document.querySelectorAll(".md-typeset table")) {
  if (table.caption || table.hasAttribute("aria-label")) continue;
  const heading = headings.findLast(
    (h) => h.compareDocumentPosition(table) & Node.DOCUMENT_POSITION_FOLLOWING,
  );
  if (heading) table.setAttribute("aria-label", heading.firstChild.textContent.trim());
}

// What scrolls sideways can be reached by the keyboard.
const reachable = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    target.toggleAttribute("tabindex", false);
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
  }
});
addEventListener("load", () => {
  // The theme makes a landmark of every copy button.
  for (const nav of document.querySelectorAll(".md-code__nav")) nav.role = "presentation";
  for (const region of document.querySelectorAll(".sp-diagram > div, .md-typeset__scrollwrap")) {
    reachable.observe(region);
  }
});

// The field on the landing page hands over to the theme's search at the first letter.
const field = document.querySelector("[data-sp-search]");
if (field) {
  const query = document.querySelector("[data-md-component=search-query]");
  const toggle = document.querySelector("[data-md-toggle=search]");
  const handOver = () => {
    if (!toggle.checked) toggle.click();
    query.value = field.value;
    query.focus();
    query.dispatchEvent(new KeyboardEvent("keyup"));
    field.value = "";
  };
  field.addEventListener("input", (event) => event.isComposing || handOver());
  field.addEventListener("compositionend", handOver);
  field.form.addEventListener("submit", (event) => {
    event.preventDefault();
    handOver();
  });
}
