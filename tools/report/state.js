"use strict";
// What the page shows, and what is chosen; the choice stands in the address, so that a link keeps it.

const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

// What fails is told in the page, not only in the console.
function trouble(text) {
  const place = byId("trouble");
  place.hidden = false;
  place.textContent = `A part of this page failed: ${text}`;
}
window.addEventListener("error", (event) => trouble(event.message));
window.addEventListener("unhandledrejection", (event) => trouble(String(event.reason)));
document.addEventListener("securitypolicyviolation", (event) => trouble(`${event.violatedDirective} ${event.blockedURI}`));

const SECTIONS = Object.keys(DATA.sectionTitles);
const CLASSES = byId("class") ? [...byId("class").options].slice(1).map((option) => option.value) : [];
const SIZES = byId("sizes") ? [...byId("sizes").children].map((button) => button.value) : ["all"];
const DEFAULTS = { section: SECTIONS[0] || "", class: "", size: "all", bars: "", theme: "" };

function chosen() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const state = { ...DEFAULTS };
  for (const name of Object.keys(DEFAULTS)) if (asked.has(name)) state[name] = asked.get(name);
  if (!SECTIONS.includes(state.section)) state.section = DEFAULTS.section;
  if (!CLASSES.includes(state.class)) state.class = "";
  if (!SIZES.includes(state.size)) state.size = "all";
  return state;
}

function choose(changes) {
  const state = { ...chosen(), ...changes };
  const kept = Object.entries(state).filter(([name, value]) => value !== DEFAULTS[name]);
  const hash = new URLSearchParams(kept).toString();
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  show();
}

// The colours of the style sheet, for plots.
function colours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ground", "panel", "ink", "pale", "line", "grid", "accent", "warm", "bar", "second", "faint"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

// An element with text and attributes; text is never read as HTML.
function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// Fractions have so many digits; 1 among them is a whole number to JavaScript, though not to who reads a column.
function shown(value, digits = 3, fraction = false) {
  if (value === null) return "–";
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) && !fraction ? value.toLocaleString("en-US") : value.toFixed(digits);
}

function pressed(group, value) {
  for (const button of group ? group.children : []) button.setAttribute("aria-pressed", String(button.value === value));
}
