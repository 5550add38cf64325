// The page with a user's list, its ratings, and the change of the policy since.

import { $, Problem, allWell, announce, ask, bar, complain, el, inWords, keyNow, number, onKey, onStars, show, signed, stars, titleOf, anItem, itemLabel, itemsLabel } from "./shared.js";
import { asked, begin, called, give, isNew, scale } from "./user-picker.js";

const LOOK_MS = 400, PATIENCE_MS = 9000;
const { learns, learnsKeyless, stores } = $("result").dataset;
let list = null; // the last response
let before = null; // item -> {rank, rating, title} in the previous list
let gone = []; // items of the previous list that are not in this one, with their present estimates
const rated = new Map(); // item -> {text, bad} of this user
let watching = null; // the wait after feedback
let turn = 0; // counts the requests, so a late response does not replace a newer one
if (window.innerWidth < 760) $("filters").open = false;

const say = (text) => { $("status").textContent = text; };

function filters() {
  const year = (id) => ($(id) && $(id).value ? Number($(id).value) : null);
  const [from, to] = [year("from-input"), year("to-input")];
  const found = {
    k: Number($("k-input").value),
    exclude_rated: !$("rated-input").checked,
    genres: [...document.querySelectorAll("[name=genre]:checked")].map((box) => box.value),
  };
  if (from !== null || to !== null) found.years = [from ?? Number($("from-input").min), to ?? Number($("to-input").max)];
  return found;
}

/**
 * Request the list; `moved`: the same person has rated items, so show the old and the new list side by side.
 * `further`: keep the old list of the previous call.
 */
async function load(moved = false, further = false) {
  const who = asked(), mine = ++turn;
  if (!moved) {
    before = watching = null;
    gone = [];
    rated.clear();
    say("");
  }
  if (!who) {
    list = before = null;
    show($("moved"));
    show($("list"), el("p", { class: "empty", text: isNew() ? `Rate ${anItem()} on this page to see a list.` : "Pick a user." }));
    return say("");
  }
  $("result").setAttribute("aria-busy", "true");
  try {
    const answer = await ask("POST", "/v1/recommend", { ...who, ...filters() });
    if (mine !== turn) return undefined;
    if (moved && list && !(further && before)) before = new Map(list.items.map((item, place) => [item.item_id, { rank: place + 1, ...item }]));
    gone = moved ? await left(who, answer) : [];
    if (mine !== turn) return undefined;
    list = answer;
    allWell();
    draw();
    announce(`${answer.items.length} ${itemsLabel} for ${called()}`);
  } catch (problem) {
    if (mine === turn) refused(problem, () => load(moved, further));
  } finally {
    if (mine === turn) $("result").setAttribute("aria-busy", "false");
  }
  return undefined;
}

/** Return the present estimates of the items that left the list. */
async function left(who, answer) {
  const still = new Set(answer.items.map((item) => item.item_id));
  const lost = [...before.keys()].filter((item) => !still.has(item));
  if (!lost.length) return [];
  try {
    const { exclude_rated, genres, years } = filters();
    return (await ask("POST", "/v1/console/estimates", { ...who, exclude_rated, genres, years, items: lost })).items;
  } catch {
    return lost.map((item) => ({ ...before.get(item), rank: null, rating: null, std: null }));
  }
}

function refused(problem, again) {
  if (!(problem instanceof Problem)) throw problem;
  if (problem.status === 404 || problem.status === 422) {
    list = null;
    show($("moved"));
    const hint = problem.code === "unknown_id" && !isNew() ? ` Or choose “A new user” and rate a few ${itemsLabel}.` : "";
    show($("list"), el("p", { class: "empty bad", text: `${inWords(problem)}.${hint}`.replace("..", ".") }));
    return say("");
  }
  return complain(problem, again);
}

// ---------------------------------------------------------------- drawing

function draw() {
  const { policy, explored, items } = list;
  $("result-title").textContent = `For ${called()}`;
  show($("list"),
    el("p", { class: "facts" },
      el("span", { class: "tag", text: policy.version === null ? policy.agent : `version ${policy.version} · ${policy.agent}` }),
      el("span", { class: `tag ${policy.variant}`, text: policy.variant }),
      el("span", { class: explored ? "tag warm" : "tag", text: explored ? "explored: drawn to learn" : "not explored: the best" }),
      el("span", { class: "hint", title: policy.policy_digest, text: `policy ${policy.policy_digest.slice(0, 8)}` })),
    el("p", { class: "hint legend", text: `Bars: predicted rating from ${scale.low} to ${scale.high}; pale band: ± one standard deviation${before ? "; ring: before" : ""}.` }),
    el("ol", { class: "items" }, items.map(card)));
  drawMoved();
}

function card(item, place) {
  const old = before?.get(item.item_id), title = titleOf(item), id = JSON.stringify(item.item_id);
  const done = rated.get(item.item_id);
  return el("li", { class: "item", data: { key: id, item: id, title, place } },
    el("span", { class: "rank", text: place + 1 }),
    el("div", { class: "about" },
      el("h3", {}, title, " ", before && change(old, item, place + 1)),
      item.explanations.length > 0 && el("p", { class: "hint", text: `because ${isNew() ? "you" : "this user"} rated ${item.explanations.map(titleOf).join(" and ")}` })),
    el("div", { class: "guess" },
      bar(item.rating, item.std, scale, old?.rating ?? null),
      el("p", { class: "figures" },
        el("strong", { text: number(item.rating) }), el("span", { text: item.std === null ? "" : ` ± ${number(item.std)}` }),
        item.value !== null && el("span", { class: "hint", title: "the policy's own estimate, which orders the list", text: `value ${number(item.value)} ` }),
        el("span", { class: "hint", title: "probability of this item at this position", text: `propensity ${number(item.propensity, 3)}` }))),
    el("div", { class: "rate", data: { key: `rate-${id}` } },
      done && el("p", { class: done.bad ? "said bad" : "said", text: done.text }),
      (!done || done.bad) && (stores === "true" || isNew()) && stars(`r${place}`, title, scale)));
}

function change(old, item, rank) {
  if (!old) return el("span", { class: "tag new", text: "new here" });
  const by = old.rank - rank;
  return by === 0 ? null : el("span", { class: by > 0 ? "tag up" : "tag down", text: `${by > 0 ? "▲" : "▼"} ${old.rank} → ${rank}` });
}

/** Return the policy's own estimate of an item, which learns from feedback; of session policies the rating. */
const estimate = (item) => item?.value ?? item?.rating ?? null;

/** Show the old and the new list side by side. */
function drawMoved() {
  if (!before) return show($("moved"));
  const now = [...list.items.map((item, place) => ({ ...item, rank: place + 1 })), ...gone];
  const all = now.map((item) => ({ item, old: before.get(item.item_id) }));
  const rows = all.filter(({ item, old }) => rated.has(item.item_id) || !old || old.rank !== item.rank || estimate(old) !== estimate(item));
  if (!rows.length) return show($("moved"), el("p", { class: "hint", text: "The list has not changed." }));
  rows.sort((a, b) => rated.has(b.item.item_id) - rated.has(a.item.item_id)); // rated items first
  const still = all.length - rows.length;
  const step = ({ item, old }) => (estimate(old) !== null && estimate(item) !== null ? estimate(item) - estimate(old) : null);
  return show($("moved"), el("details", { class: "panel", open: true, data: { key: "moved" } },
    el("summary", {}, el("h3", { text: "Changes of the list" }), el("span", { class: "hint", text: " before → now" })),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Changes of the list" }, el("table", {},
      el("thead", {}, el("tr", {}, ["Item", "Rank", "Value", "Change"].map((text) => el("th", { scope: "col", text })))),
      el("tbody", {}, rows.map((row) => el("tr", { class: rated.has(row.item.item_id) ? "mine" : null },
        el("th", { scope: "row", text: titleOf(row.item) }),
        el("td", { text: `${row.old?.rank ?? "–"} → ${row.item.rank ?? "out"}` }),
        el("td", { text: `${number(estimate(row.old), 3)} → ${number(estimate(row.item), 3)}` }),
        el("td", { class: step(row) > 0 ? "up" : step(row) < 0 ? "down" : null, text: step(row) === null ? "–" : signed(step(row), 3) })))))),
    still > 0 && el("p", { class: "hint", text: `${still === 1 ? `One other ${itemLabel}` : `${still} other ${itemsLabel}`} did not change.` })));
}

// ---------------------------------------------------------------- rating

onStars($("list"), async (form, value) => {
  const { item: id, title, place } = form.closest("li").dataset, item = JSON.parse(id), event = list.event_id;
  const mark = (text, bad = false) => { rated.set(item, { text, bad }); draw(); };
  form.querySelector("button").disabled = true;
  let taken = null;
  if (event !== null) {
    try {
      taken = await ask("POST", "/v1/feedback", { event_id: event, item, type: "rating", value });
    } catch (problem) {
      mark(`${inWords(problem)} The rating was not taken.`, true);
      if (problem.status === 0) complain(problem, () => load());
      announce(`${title}: the rating was not taken`);
      return;
    }
  }
  const reward = taken?.reward === null || !taken ? "" : `, reward ${number(taken.reward, 1)}`;
  mark(`${value} ★ ${taken ? `${taken.status}${reward}` : "used for this list; this server stores no feedback"}`);
  focusAfter(Number(place));
  if (isNew()) {
    give(item, title, value);
    say(`${title}: ${value}. Folded in.`);
    await load(true);
  } else if (taken.status === "accepted" && taken.reward !== null && learns === "true" && list.policy.variant === "champion") {
    if (keyNow() || learnsKeyless === "true") return learnt(title, value);
    say(`${title}: ${value}, accepted. The policy learns at once only from feedback with a key.`);
    await load(true);
  } else {
    say(`${title}: ${value}, ${taken.status}. This policy does not learn from it while it serves.`);
    await load(true);
  }
});

/** Move the focus to the next item, because the stars are gone. */
function focusAfter(place) {
  if (document.activeElement !== document.body && document.activeElement !== null) return;
  const next = [...document.querySelectorAll("#list li.item")].find((item) => Number(item.dataset.place) > place && item.querySelector("form"));
  (next?.querySelector("form input") ?? $("result-title")).focus({ preventScroll: true });
}

/** Wait until the champion has learnt from the feedback, then fetch the list again. */
async function learnt(title, value) {
  say(`${title}: ${value}, accepted. The policy is learning from it…`);
  if (watching) {
    Object.assign(watching, { again: true, until: Date.now() + PATIENCE_MS });
    return;
  }
  const mine = { until: Date.now() + PATIENCE_MS, digest: list.policy.policy_digest, again: false, moved: false };
  watching = mine;
  while (watching === mine && Date.now() < mine.until) {
    await new Promise((done) => setTimeout(done, LOOK_MS));
    const ready = await ask("GET", "/readyz").catch(() => null);
    if (watching !== mine) return; // the page shows another user now
    if (!ready || ready.policy.policy_digest === mine.digest) continue;
    if (!mine.again) watching = null;
    const further = mine.moved;
    Object.assign(mine, { again: false, moved: true, digest: ready.policy.policy_digest, until: Date.now() + PATIENCE_MS / 2 });
    say(`The policy learned from it; it is now policy ${mine.digest.slice(0, 8)}.`);
    await load(true, further);
  }
  if (watching !== mine) return;
  watching = null;
  if (mine.moved) return;
  say("The rating is stored. The policy has not learned from it yet.");
  await load(true);
}

// ---------------------------------------------------------------- beginning

$("filter-form").addEventListener("submit", (event) => {
  event.preventDefault();
  load();
});
$("filter-form").addEventListener("reset", () => setTimeout(load));
onKey(() => load());
begin((same) => load(same && list !== null));
