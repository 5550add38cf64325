// Shared by all pages: requests, the key, dialogs, the theme, and elements written as text, never as HTML.

const KEY = "recpolicy-key", THEME = "recpolicy-theme";
export const $ = (id) => document.getElementById(id);

// ---------------------------------------------------------------- the page

/** Create an element; options: attributes, or `text`, `style` (custom properties) and `data` as objects. */
export function el(name, words = {}, ...children) {
  const made = document.createElement(name);
  for (const [word, value] of Object.entries(words)) {
    if (value === null || value === undefined || value === false) continue;
    if (word === "text") made.textContent = value;
    else if (word === "data") Object.assign(made.dataset, value);
    else if (word === "style") for (const [property, set] of Object.entries(value)) made.style.setProperty(property, set);
    else made.setAttribute(word, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);
const keyOf = (node) => (node.dataset ? node.dataset.key : undefined);

/** Make `old` look like `fresh`, but keep focus, open details and typed text. */
function morph(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") name === "style" ? (old.style.cssText = "") : old.removeAttribute(name);
  }
  for (const { name, value } of [...fresh.attributes]) {
    if (name === "open") continue; // keep the user's choice
    if (name === "style") { if (old.style.cssText !== fresh.style.cssText) old.style.cssText = fresh.style.cssText; }
    else if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  morphChildren(old, [...fresh.childNodes]);
}

function morphChildren(old, fresh) {
  const keyed = new Map([...old.childNodes].filter(keyOf).map((child) => [keyOf(child), child]));
  let place = old.firstChild;
  for (const child of fresh) {
    const same = keyOf(child) ? keyed.get(keyOf(child)) : place;
    if (same && alike(same, child)) {
      if (same === place) place = place.nextSibling;
      else old.insertBefore(same, place);
      morph(same, child);
    } else {
      old.insertBefore(child, place);
    }
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

/** Show these nodes in a container; the focus stays with the element of the same id. */
export function show(container, ...nodes) {
  const focus = document.activeElement, id = focus && container.contains(focus) ? focus.id : null;
  morphChildren(container, nodes.flat().filter(Boolean));
  const again = id ? $(id) : null;
  if (again && again !== document.activeElement) again.focus({ preventScroll: true });
  return !id || Boolean(again);
}

export const number = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));
export const signed = (value, digits = 2) => (value > 0 ? "+" : value < 0 ? "−" : "±") + Math.abs(value).toFixed(digits);
const MINUTE = { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", timeZoneName: "short" };
export const when = (ms) => (ms ? new Date(ms).toLocaleString([], MINUTE) : "–");
export const clock = () => new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short" });
// The noun for one item, a setting of the server: [console] item_label.
export const itemLabel = document.body.dataset.itemLabel, itemsLabel = `${itemLabel}s`;
export const anItem = () => `${/^[aeiou]/i.test(itemLabel) ? "an" : "a"} ${itemLabel}`;
export const titleOf = (item) => item.title ?? `${itemLabel} ${item.item_id}`;
export const empty = (text) => el("p", { class: "empty", text });

/** Draw a rating on the scale with its uncertainty; `was`: its previous value. */
export function bar(rating, std, { low, high }, was = null) {
  const place = (value) => `${(100 * Math.min(Math.max((value - low) / (high - low), 0), 1)).toFixed(2)}%`;
  const label = `predicted ${number(rating)}${std === null ? "" : ` ± ${number(std)}`} on a scale of ${low} to ${high}`;
  const known = rating !== null;
  return el("div", {
    class: "bar", role: "img", "aria-label": known ? label + (was === null ? "" : `, before ${number(was)}`) : "no prediction",
    style: known ? {
      "--steps": high - low, "--at": place(rating), "--lo": place(rating - (std ?? 0)), "--hi": place(rating + (std ?? 0)),
      "--was": was === null ? "0%" : place(was),
    } : { "--steps": high - low },
  }, known && el("span", { class: "fill" }), known && std !== null && el("span", { class: "band" }),
  was !== null && el("span", { class: "was" }), known && el("span", { class: "dot" }));
}

/** Create the stars of an item: arrows choose, Enter or the button sends; a click on a star sends at once. */
export function stars(id, title, { low, high }) {
  const first = Math.ceil(low), steps = Array.from({ length: Math.min(Math.floor(high) - first + 1, 11) }, (_, n) => first + n);
  return el("form", { class: "stars", data: { key: `stars-${id}` } },
    el("fieldset", {}, el("legend", { class: "unseen", text: `Rate ${title}` }),
      steps.flatMap((value) => [
        el("input", { type: "radio", name: `stars-${id}`, id: `star-${id}-${value}`, value, required: true, class: "unseen" }),
        el("label", { for: `star-${id}-${value}`, title: `${value} of ${Math.floor(high)}` },
          el("span", { class: "unseen", text: `${value} of ${Math.floor(high)}` }), el("span", { "aria-hidden": "true", text: "★" })),
      ])),
    el("button", { type: "submit", class: "send", id: `send-${id}`, "aria-label": `Send the rating of ${title}`, text: "Rate" }));
}

/** Call `rated(form, value)` for every rating in a container. */
export function onStars(container, rated) {
  container.addEventListener("click", (event) => {
    const label = event.target.closest("form.stars label");
    if (!label || event.detail === 0) return;
    event.preventDefault();
    const input = $(label.htmlFor);
    input.checked = true;
    label.closest("form").requestSubmit();
  });
  container.addEventListener("submit", (event) => {
    if (!event.target.matches("form.stars")) return;
    event.preventDefault();
    const chosen = event.target.querySelector("input:checked");
    if (chosen) rated(event.target, Number(chosen.value));
  });
}

/** Announce a change to screen readers. */
export function announce(text) {
  $("live").textContent = "";
  setTimeout(() => { $("live").textContent = text; }, 50);
}

// ---------------------------------------------------------------- the server

/** An error response of the server. */
export class Problem extends Error {
  constructor(status, code, message, wait = null) {
    super(message);
    Object.assign(this, { status, code, wait });
  }
}

/** Send a request; return the response's JSON or text. Throws Problem. */
export async function ask(method, path, body = undefined) {
  const key = keyNow(), headers = key ? { authorization: `Bearer ${key}` } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body), credentials: "omit", cache: "no-store",
    });
    if (answer.ok) {
      return (answer.headers.get("content-type") ?? "").includes("json") ? await answer.json() : await answer.text();
    }
  } catch {
    throw new Problem(0, "gone", "The server does not answer.");
  }
  const { error = {} } = await answer.json().catch(() => ({}));
  const wait = Number(answer.headers.get("retry-after")) || null;
  throw new Problem(answer.status, error.code ?? "unknown", error.message ?? `The server answered ${answer.status}.`, wait);
}

/** Return a sentence that explains a problem to users. */
export function inWords(problem) {
  if (problem.status === 401) return keyNow() ? "The API key is unknown or revoked." : "This needs an API key.";
  if (problem.code === "rate_limited" || problem.code === "overloaded") return `Too many requests; try again in ${problem.wait ?? 1} s.`;
  if (problem.code === "database_unavailable") return "The database does not answer. Recommendations continue; feedback is not possible now.";
  if (problem.status >= 500) return `The server failed (${problem.status}); its log has the reason.`;
  return problem.message.charAt(0).toUpperCase() + problem.message.slice(1);
}

let retry = null;

/** Show a line at the top with a button to try again. */
export function complain(problem, again) {
  if (!(problem instanceof Problem)) throw problem;
  retry = again;
  $("banner-retry").textContent = problem.status === 401 ? "Enter a key" : "Try again";
  $("banner-retry").dataset.key = problem.status === 401 ? "wanted" : "";
  if ($("banner").hidden || $("banner-text").textContent !== inWords(problem)) $("banner-text").textContent = inWords(problem);
  $("banner").hidden = false;
}

/** Hide the line at the top. */
export function allWell() {
  $("banner").hidden = true;
  retry = null;
}

// ---------------------------------------------------------------- key, dialogs, theme

const keyListeners = [];
export const keyNow = () => sessionStorage.getItem(KEY);
export const onKey = (then) => keyListeners.push(then);

/** Ask for a key. */
export function wantKey() {
  $("key-input").value = "";
  $("key-forget").hidden = !keyNow();
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

function setKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
  $("key-input").value = "";
  $("key-dialog").close();
  nameKey();
  allWell();
  keyListeners.forEach((then) => then());
}

function nameKey() {
  $("key-button").textContent = keyNow() ? "Key: set" : "Key: none";
}

/** Ask for confirmation in the page; resolves to true or false. */
export function confirmed(title, text, yes) {
  const dialog = $("confirm-dialog");
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  $("confirm-no").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

const themes = ["system", "light", "dark"];

function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("theme-button").textContent = `Theme: ${theme}`;
  try { localStorage.setItem(THEME, theme); } catch { /* no storage: the theme holds for this page only */ }
}

const themeNow = () => document.documentElement.dataset.theme ?? "system";
setTheme(themeNow());
nameKey();
$("theme-button").addEventListener("click", () => setTheme(themes[(themes.indexOf(themeNow()) + 1) % themes.length]));
$("key-button").addEventListener("click", wantKey);
$("key-cancel").addEventListener("click", () => $("key-dialog").close());
$("key-forget").addEventListener("click", () => setKey(null));
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = $("key-input").value.trim();
  if (/^[\x21-\x7e]+$/.test(key)) setKey(key); // the characters that a header allows
});
$("confirm-no").addEventListener("click", () => $("confirm-dialog").close("no"));
$("confirm-form").addEventListener("submit", (event) => {
  event.preventDefault();
  $("confirm-dialog").close("yes");
});
$("banner-retry").addEventListener("click", () => {
  if ($("banner-retry").dataset.key) return wantKey();
  const again = retry;
  allWell();
  return again?.();
});
