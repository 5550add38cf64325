// The page of ranks: the model that serves, the rewards of the latest ranks, and the ranks themselves.

import { $, allWell, ask, clock, complain, el, empty, keyNow, number, onKey, show, wantKey, when } from "./shared.js";
import { table, tiles } from "./panels.js";

const EVERY_MS = 4000, SECTIONS = ["model", "summary", "ranks"];
const STATES = { inactive: "not activated", waiting: "window open", final: "final" };
const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(1)} %`);
const range = ({ value, lo, hi }, shown) => `${shown(value)}${value === null || lo === null ? "" : ` (${shown(lo)} to ${shown(hi)})`}`;
let running = false;

const DRAW = {
  model: ({ policy, mode, exploration, learning }) => tiles([
    ["Version", policy.version ?? "none", "without a version, every action is equally likely"],
    ["Agent", policy.agent], ["Policy", policy.policy_digest.slice(0, 8)], ["Learning mode", mode.replace("_", " ")],
    ["Uniform draws", percent(exploration), "in addition to the exploration of the policy"],
    ["Learning settings", learning ? learning.name : "of the version", learning?.arguments],
  ]),
  summary: ({ summary: { events, since, final, positive, mean } }) => (events
    ? [tiles([
      ["Ranks", events.toLocaleString(), "the latest ones, at most 10,000"], ["With a final reward", final.toLocaleString()],
      ["Reward above 0", percent(positive.value)], ["Mean reward", number(mean.value, 3)],
    ]), el("p", { class: "hint", text: `Since ${when(since)}. Share above 0: ${range(positive, percent)}; mean: ${range(mean, (value) => number(value, 3))}, with 95 % intervals over users. A reward is final once its window is over.` })]
    : empty("There are no ranks yet. POST /v1/rank makes one.")),
  ranks: ({ ranks }) => (ranks.length
    ? table("Recent ranks", ["Event", "Time", "Chosen action", "Of", "Propensity", "Reward", "State", "Version"], ranks.map((one) => [
      one.slot_id === null ? one.event_id : `${one.event_id} · ${one.slot_id}`, when(one.time), String(one.action ?? "–"), one.actions,
      number(one.propensity, 3), number(one.reward, 3), STATES[one.state], `${one.version ?? "none"} · ${one.variant}`,
    ]))
    : empty("There are no ranks yet.")),
};

/** Request the ranks once and show them. */
async function refresh() {
  if (running) return;
  running = true;
  try {
    if (!keyNow()) {
      for (const name of SECTIONS) show($(name), empty("This needs a key with the role reader or operator."));
      show($("ranks"), empty("This needs a key with the role reader or operator."),
        el("p", {}, el("button", { type: "button", id: "give-key", class: "main", text: "Enter a key" })));
      return;
    }
    const answer = await ask("GET", "/v1/admin/ranks?count=50");
    for (const name of SECTIONS) show($(name), DRAW[name](answer));
    $("fresh").textContent = `as of ${clock()}`;
    allWell();
  } catch (problem) {
    complain(problem, refresh);
    if (problem.status !== 0) for (const name of SECTIONS) show($(name), empty("Not available."));
  } finally {
    running = false;
  }
}

$("main").addEventListener("click", (event) => { if (event.target.id === "give-key") wantKey(); });
onKey(refresh);
setInterval(() => { if ($("refresh-input").checked && !document.hidden && keyNow()) refresh(); }, EVERY_MS);
refresh();
