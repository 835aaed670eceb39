// The page as a whole: filters, pictures, light and dark.

const dark = matchMedia("(prefers-color-scheme: dark)");

function setTheme(state) {
  const printed = document.body.classList.contains("printed");
  document.documentElement.dataset.theme = printed ? "light" : state.theme || (dark.matches ? "dark" : "light");
}

function showFilters(state) {
  pressed(byId("sections"), state.section);
  pressed(byId("sizes"), state.size);
  if (byId("class")) byId("class").value = state.class;
  byId("clear").hidden = !state.class && state.size === "all";
  const section = SECTIONS.length > 1 ? DATA.sectionTitles[state.section].toLowerCase() : "";
  for (const place of document.querySelectorAll(".of-section")) place.textContent = section;
  const parts = [section, state.class, state.size !== "all" && `${state.size} objects`];
  for (const place of document.querySelectorAll(".of")) place.textContent = parts.filter(Boolean).join(" · ");
}

function showCards(state) {
  for (const gallery of document.querySelectorAll(".gallery")) {
    const cards = [...gallery.querySelectorAll("article")];
    for (const card of cards) {
      const fits = ([name, size]) => (!state.class || name === state.class) && (state.size === "all" || size === state.size);
      card.hidden = Boolean(state.class || state.size !== "all") && !JSON.parse(card.dataset.objects).some(fits);
    }
    const count = cards.filter((card) => !card.hidden).length;
    gallery.querySelector("output").textContent = count === cards.length ? `${count}` : `${count} of ${cards.length}`;
    gallery.querySelector(".none").hidden = count > 0;
  }
}

// What no filter changes is drawn again only where its colours or its width do.
let drawnAs = "";

function show() {
  const state = chosen();
  setTheme(state);
  showFilters(state);
  drawCurves(state);
  drawClasses(state);
  drawErrors(state);
  drawConfusions(state);
  showCards(state);
  const as = `${document.documentElement.dataset.theme} ${document.body.clientWidth}`;
  if (as === drawnAs) return;
  drawnAs = as;
  drawConfusion();
  drawTraining();
}

if (SECTIONS.length > 1) {
  for (const section of SECTIONS) byId("sections").append(element("button", DATA.sectionTitles[section], { type: "button", value: section }));
  byId("sections").addEventListener("click", (event) => event.target.value && choose({ section: event.target.value }));
}
if (byId("sizes")) byId("sizes").addEventListener("click", (event) => event.target.value && choose({ size: event.target.value }));
if (byId("class")) byId("class").addEventListener("change", (event) => choose({ class: event.target.value }));
byId("clear").addEventListener("click", () => choose({ class: "", size: "all" }));
byId("theme").addEventListener("click", () => {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  choose({ theme: next === (dark.matches ? "dark" : "light") ? "" : next });
});
dark.addEventListener("change", show);
window.addEventListener("hashchange", show);
let resizing = 0;
window.addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(show, 150);
});
document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
// The address is for what is chosen, so that the links to parts leave it alone.
for (const link of document.querySelectorAll(".parts a")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    document.querySelector(link.getAttribute("href")).scrollIntoView();
  });
}

// On paper it is light, and as wide as the paper before Plotly measures it.
window.addEventListener("beforeprint", () => {
  document.body.classList.add("printed");
  show();
});
window.addEventListener("afterprint", () => {
  document.body.classList.remove("printed");
  show();
});

// Pictures, large, one after the other
const dialog = document.querySelector("dialog");
let open = null;

function enlarge(card) {
  open = card;
  const picture = card.querySelector("img");
  const large = dialog.querySelector("img");
  large.src = picture.src;
  large.alt = picture.alt;
  dialog.querySelector("span").textContent = `${card.querySelector("h3").textContent} · ${card.querySelector(".about p").textContent}`;
  if (!dialog.open) dialog.showModal();
}

function step(by) {
  const cards = [...document.querySelectorAll("article:not([hidden])")];
  const next = cards[cards.indexOf(open) + by];
  if (next) enlarge(next);
}

for (const button of document.querySelectorAll(".picture")) button.addEventListener("click", () => enlarge(button.closest("article")));
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
byId("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => event.target.tagName !== "BUTTON" && dialog.close());
dialog.addEventListener("close", () => open && open.querySelector("button").focus());
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});

show();
