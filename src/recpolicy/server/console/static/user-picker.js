// The choice of the user: a known one by id, or a new one described by ratings. Stored for this tab.

import { $, Problem, announce, ask, el, keyNow, onKey, onStars, show, stars, titleOf, itemLabel } from "./shared.js";

const PLACE = "recpolicy-who";
const WAIT_MS = 200;
export const scale = { low: Number($("who").dataset.low), high: Number($("who").dataset.high) };

const kept = read();
let known = [], found = [], changed = () => {};

function read() {
  try {
    const stored = JSON.parse(sessionStorage.getItem(PLACE));
    if (stored && Array.isArray(stored.given)) return stored;
  } catch { /* nothing is stored */ }
  const letters = crypto.getRandomValues(new Uint32Array(2));
  return { mode: "known", user: null, name: `console-${letters[0].toString(36)}${letters[1].toString(36)}`, given: [] };
}

const keep = () => sessionStorage.setItem(PLACE, JSON.stringify(kept));

/** Return {user, ratings?} for a request; null without a user. */
export function asked() {
  if (kept.mode === "known") return kept.user === null ? null : { user: kept.user };
  if (!kept.given.length) return null;
  return { user: kept.name, ratings: kept.given.map(({ item, rating }) => ({ item, rating })) };
}

export const isNew = () => kept.mode === "new";
export const called = () => (isNew() ? "the new person" : `user ${kept.user}`);

/** Add a rating of the new user without calling the listener. */
export function give(item, title, rating) {
  kept.given = [...kept.given.filter((one) => one.item !== item), { item, title, rating }];
  keep();
  draw();
}

/** Start; calls `then(same)` for another user, or for the same new user with other ratings. */
export function begin(then) {
  changed = then;
  $("who-known").checked = !isNew();
  $("who-new").checked = isNew();
  if (kept.user !== null) $("user-input").value = kept.user;
  draw();
  suggestUsers();
  if (isNew()) findItems();
  onKey(suggestUsers);
  if (asked()) then(false);
}

function draw() {
  $("known-form").hidden = isNew();
  $("new-form").hidden = !isNew();
  $("new-clear").hidden = !kept.given.length;
  const rows = kept.given.map((one) => el("li", { data: { key: `given-${JSON.stringify(one.item)}` } },
    el("span", { class: "name", text: one.title }), el("span", { class: "mark", text: `${one.rating} ★` }),
    el("button", {
      type: "button", class: "quiet", data: { remove: JSON.stringify(one.item) }, "aria-label": `Forget the rating of ${one.title}`, text: "✕",
    })));
  show($("item-given"), rows.length ? rows : el("li", { class: "empty", text: "No ratings yet." }));
  drawFound();
}

function drawFound() {
  const left = found.filter((item) => !kept.given.some((one) => one.item === item.item_id));
  show($("item-found"), left.map((item, place) => el("li", {
    data: { key: `found-${JSON.stringify(item.item_id)}`, item: JSON.stringify(item.item_id), title: titleOf(item) },
  }, el("span", { class: "name", text: titleOf(item) }), stars(`f${found.indexOf(item)}`, titleOf(item), scale))),
  found.length && !left.length && el("li", { class: "empty", text: "You have rated all of these. Search for others." }),
  !found.length && $("item-input").value && el("li", { class: "empty", text: `No ${itemLabel} has these words in its title.` }));
}

// ---------------------------------------------------------------- a known user

async function findUsers(text, count) {
  try {
    return (await ask("POST", "/v1/console/users", { text, count })).users;
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    return null; // users can type an id without suggestions
  }
}

async function suggestUsers() {
  known = (await findUsers("", 8)) ?? [];
  show($("user-chips"), known.map((user) => el("button", {
    type: "button", class: "chip", data: { key: JSON.stringify(user), user: JSON.stringify(user) }, text: String(user),
  })), !known.length && el("p", { class: "hint", text: keyNow() ? "No suggestions; type an id." : "Without a key there are no suggestions; type an id." }));
}

const typed = later(async () => {
  const users = await findUsers($("user-input").value, 12);
  if (users === null) return;
  known = users;
  show($("user-list"), users.map((user) => el("option", { value: String(user) })));
});

function choose(user) {
  Object.assign(kept, { mode: "known", user });
  $("user-input").value = user;
  keep();
  changed(false);
}

$("user-input").addEventListener("input", typed);
$("user-chips").addEventListener("click", (event) => {
  const user = event.target.closest("[data-user]")?.dataset.user;
  if (user) choose(JSON.parse(user));
});
$("known-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("user-input").value.trim();
  if (!text) return;
  const users = (await findUsers(text, 1)) ?? [];
  const same = users.find((user) => String(user) === text);
  choose(same ?? (/^-?(0|[1-9]\d{0,15})$/.test(text) ? Number(text) : text));
});

// ---------------------------------------------------------------- a new user

async function findItems() {
  try {
    found = (await ask("POST", "/v1/console/items", { text: $("item-input").value, count: 8 })).items;
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    found = [];
  }
  drawFound();
}

$("item-input").addEventListener("input", later(findItems));
$("who").addEventListener("change", (event) => {
  if (event.target.name !== "who") return;
  kept.mode = event.target.value;
  keep();
  draw();
  if (isNew() && !found.length) findItems();
  changed(false);
});
onStars($("item-found"), (form, rating) => {
  const { item, title } = form.closest("li").dataset;
  give(JSON.parse(item), title, rating);
  announce(`${title}: ${rating}`);
  const next = $("item-found").querySelector("input");
  if (next && !$("who").contains(document.activeElement)) next.focus({ preventScroll: true });
  changed(true);
});
$("item-given").addEventListener("click", (event) => {
  const item = event.target.closest("[data-remove]")?.dataset.remove;
  if (!item) return;
  kept.given = kept.given.filter((one) => JSON.stringify(one.item) !== item);
  keep();
  draw();
  ($("item-given").querySelector("button") ?? $("item-input")).focus();
  changed(true);
});
$("new-clear").addEventListener("click", () => {
  kept.given = [];
  keep();
  draw();
  $("item-input").focus();
  changed(false);
});

/** Return the function, delayed until the user stops typing. */
function later(then) {
  let waiting;
  return () => {
    clearTimeout(waiting);
    waiting = setTimeout(then, WAIT_MS);
  };
}
