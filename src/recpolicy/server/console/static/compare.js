// The page that compares two versions for the same user. It writes no event.

import { $, Problem, allWell, announce, ask, bar, complain, el, inWords, keyNow, number, onKey, show, signed, titleOf, wantKey, anItem, itemsLabel } from "./shared.js";
import { asked, begin, called, isNew, scale } from "./user-picker.js";

let turn = 0;

/** Fill the selection of versions; by default the serving version and the newest other one. */
async function loadVersions() {
  if (!keyNow()) return needsKey();
  try {
    const { versions, routing } = await ask("GET", "/v1/admin/versions");
    const shown = [["", "serving this user now"], ...versions.map((one) => [String(one.number), named(one)]).reverse()];
    for (const id of ["left-input", "right-input"]) {
      const chosen = $(id).value;
      show($(id), shown.map(([value, text]) => el("option", { value, text })));
      if (chosen) $(id).value = chosen;
    }
    const other = routing.challenger ?? versions.map((one) => one.number).filter((one) => one !== routing.champion).at(-1);
    if (!$("right-input").value) $("right-input").value = String(other ?? routing.champion);
    allWell();
    return load();
  } catch (problem) {
    return refused(problem, loadVersions);
  }
}

const named = (one) => `${one.number} · ${one.agent}${one.aliases.length ? ` · ${one.aliases.join(", ")}` : ""}`;

function needsKey() {
  show($("list"),
    el("p", { class: "empty", text: "This page needs a key with the role reader or operator." }),
    el("p", {}, el("button", { type: "button", id: "give-key", class: "main", text: "Enter a key" })));
}

async function load() {
  const who = asked(), mine = ++turn;
  if (!keyNow()) return needsKey();
  if (!who) return show($("list"), el("p", { class: "empty", text: isNew() ? `Rate ${anItem()} on this page first.` : "Pick a user." }));
  if (!$("left-input").options.length) return undefined;
  const versions = ["left-input", "right-input"].map((id) => ($(id).value ? Number($(id).value) : null));
  $("result").setAttribute("aria-busy", "true");
  try {
    const answer = await ask("POST", "/v1/admin/compare", { ...who, k: Number($("k-input").value), versions });
    if (mine !== turn) return undefined;
    allWell();
    draw(answer);
  } catch (problem) {
    if (mine === turn) refused(problem, load);
  } finally {
    if (mine === turn) $("result").setAttribute("aria-busy", "false");
  }
  return undefined;
}

function refused(problem, again) {
  if (!(problem instanceof Problem)) throw problem;
  if ([403, 404, 409, 422].includes(problem.status)) show($("list"), el("p", { class: "empty bad", text: inWords(problem) }));
  else complain(problem, again);
}

// ---------------------------------------------------------------- drawing

function draw({ k, sides }) {
  const inList = sides.map((side) => new Map(side.items.filter((one) => one.rank !== null && one.rank <= k).map((one) => [one.item_id, one])));
  const both = [...inList[0].keys()].filter((item) => inList[1].has(item));
  const most = Math.min(k, Math.max(inList[0].size, inList[1].size));
  $("result-title").textContent = `For ${called()}`;
  const summary = sides.some((side) => side.error) ? "" : `${both.length} of ${most} ${itemsLabel} are in both lists.`;
  $("status").textContent = summary;
  announce(summary);
  show($("list"),
    el("div", { class: "sides" }, sides.map((side, place) => column(side, place, inList))),
    summary && table(sides, k));
}

function column(side, place, inList) {
  const items = [...inList[place].values()].sort((a, b) => a.rank - b.rank), others = inList[1 - place];
  const head = side.version === null ? "Serving now" : `Version ${side.version}, as trained`;
  return el("section", { class: "panel", "aria-label": `${place ? "Right" : "Left"}: ${head}` },
    el("h3", { text: head }),
    el("p", { class: "hint", title: side.policy_digest, text: `${side.agent} · policy ${side.policy_digest.slice(0, 8)}` }),
    side.error && el("p", { class: "empty bad", text: side.error.message }),
    el("ol", { class: "short" }, items.map((item) => el("li", {},
      el("span", { class: "rank", text: item.rank }),
      el("div", {},
        el("p", {}, titleOf(item), " ", others.has(item.item_id)
          ? el("span", { class: "tag", text: `${place ? "left" : "right"}: ${others.get(item.item_id).rank}` })
          : !side.error && el("span", { class: "tag new", text: "only here" })),
        bar(item.rating, item.std, scale)),
      el("span", { class: "value", text: number(item.rating) })))));
}

function table(sides, k) {
  const right = new Map(sides[1].items.map((item) => [item.item_id, item])), left = new Map(sides[0].items.map((item) => [item.item_id, item]));
  const ids = [...new Set([...left.keys(), ...right.keys()])];
  const cell = (item) => (item ? `${number(item.rating)} ± ${number(item.std)}` : "not known");
  const rank = (item) => (item ? item.rank ?? "left out" : "–");
  const gap = (a, b) => (a?.rating === undefined || b?.rating === undefined || a.rating === null || b.rating === null ? "–" : signed(b.rating - a.rating));
  return el("section", { class: "panel", "aria-label": "Predicted ratings" },
    el("h3", { text: `Predicted ratings of all ${itemsLabel} in either list (first ${k})` }),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Predicted ratings" }, el("table", {},
      el("thead", {}, el("tr", {}, ["Item", "Left rank", "Left rating", "Right rank", "Right rating", "Right − left"].map((text) => el("th", { scope: "col", text })))),
      el("tbody", {}, ids.map((id) => [left.get(id), right.get(id)]).map(([a, b]) => el("tr", {},
        el("th", { scope: "row", text: titleOf(a ?? b) }), el("td", { text: rank(a) }), el("td", { text: cell(a) }),
        el("td", { text: rank(b) }), el("td", { text: cell(b) }), el("td", { text: gap(a, b) })))))));
}

$("versions-form").addEventListener("submit", (event) => {
  event.preventDefault();
  load();
});
$("versions-form").addEventListener("change", () => load());
$("list").addEventListener("click", (event) => event.target.id === "give-key" && wantKey());
onKey(loadVersions);
begin(() => load());
loadVersions();
