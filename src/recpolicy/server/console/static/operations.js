// The page for operators: state of the server, and controls. Everything but the counters needs a key.

import {
  $, Problem, allWell, announce, ask, clock, complain, confirmed, el, empty, inWords, keyNow, number, onKey, show, wantKey,
} from "./shared.js";
import { lately, parse } from "./counters.js";
import * as draw from "./panels.js";

const EVERY_MS = 4000;
const gates = new Map(); // number -> the version with the full record of its gate
let running = false, last = {}, asked = {}; // asked: when a section that costs the database more was last requested

const SECTIONS = {
  versions: { path: "/v1/admin/versions", draw: (answer) => draw.versions(answer, gates) },
  rollout: { path: "/v1/admin/rollouts/current", draw: draw.rollout },
  rewards: { path: "/v1/admin/rewards?days=7", draw: draw.rewards },
  signals: { path: "/v1/admin/signals?days=7", every: 60_000, draw: draw.signals },
  jobs: { path: "/v1/admin/jobs", more: runsOf, draw: draw.jobs },
  "new-items": { path: "/v1/admin/new-items", every: 60_000, draw: draw.newItems },
  drift: { path: "/v1/admin/drift", draw: draw.drift },
  checklist: { path: "/v1/admin/checklist", every: 60_000, draw: draw.checklist },
  simulator: { path: "/v1/admin/simulator", draw: (answer) => draw.simulator(answer, last.versions) },
  audit: { path: "/v1/admin/audit?count=20", draw: draw.audit },
};

/** Request all data once and show it. */
async function refresh() {
  if (running) return;
  running = true;
  try {
    const text = await ask("GET", "/metrics");
    const ready = await ask("GET", "/readyz").catch(() => null);
    const rows = parse(text);
    show($("metrics"), draw.metrics(rows, lately(rows), ready, Number($("metrics").dataset.low)));
    if (keyNow()) await Promise.all(Object.entries(SECTIONS).map(([name, section]) => one(name, section)));
    else locked("This needs a key with the role reader or operator.");
    $("fresh").textContent = `as of ${clock()}`;
    if (keyNow() || !$("banner-retry").dataset.key) allWell();
  } catch (problem) {
    complain(problem, refresh);
  } finally {
    running = false;
  }
}

/** Return the jobs with their last runs, newest first; a separate request per job, because frequent jobs would hide others. */
async function runsOf({ jobs }) {
  const answers = await Promise.all(jobs.map(({ name }) => ask("GET", `/v1/admin/runs?limit=6&name=${encodeURIComponent(name)}`)));
  return { jobs, runs: answers.flatMap(({ runs }) => runs).sort((a, b) => b.id - a.id) };
}

async function one(name, { path, every, more, draw: drawn }) {
  if (every && last[name] && performance.now() - asked[name] < every) return;
  asked[name] = performance.now();
  try {
    const answer = await ask("GET", path);
    last[name] = more ? await more(answer) : answer;
    show($(name), drawn(last[name]));
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (problem.status === 0) throw problem;
    const said = problem.status === 404 ? "This server does not have it." : inWords(problem);
    show($(name), problem.status === 401 ? lock(name, said) : empty(said));
  }
}

function locked(text) {
  last = {};
  for (const name of Object.keys(SECTIONS)) show($(name), lock(name, text));
}

const lock = (name, text) => [empty(text), name === "rollout" ? el("p", {}, el("button", { type: "button", id: "give-key", class: "main", data: { action: "key" }, text: "Enter a key" })) : null].filter(Boolean);

// ---------------------------------------------------------------- changes

const warning = (verdict) => (verdict === "pass" ? "" : ` It passed no gate (${verdict === "none" ? "no gate record" : `gate: ${verdict.replace("_", " ")}`}).`);

const CHANGES = {
  promote: ({ number: n, verdict }) => ({
    ask: [`Promote version ${n}?`, `Version ${n} becomes the champion and serves all users from now on.${warning(verdict)}`, "Promote"],
    send: ["POST", `/v1/admin/versions/${n}/promote?ungated=${verdict !== "pass"}`],
  }),
  rollback: () => ({
    ask: ["Roll back?", "This removes the challenger. Without a challenger, the previous champion serves again.", "Roll back"],
    send: ["POST", "/v1/admin/roll-back"],
  }),
  withdraw: () => ({
    ask: ["Remove the challenger?", "The champion serves all users from now on.", "Remove"],
    send: ["DELETE", "/v1/admin/challenger"],
  }),
  rollout: ({ number: n, verdict }) => ({
    ask: [`Roll out version ${n}?`, `It serves more users stage by stage. The server rolls it back if it does worse.${warning(verdict)}`, "Start"],
    send: ["POST", "/v1/admin/rollouts", { challenger: Number(n), ungated: verdict !== "pass" }],
  }),
  stop: () => ({
    ask: ["Stop the rollout?", "The champion serves all users from now on.", "Stop"], send: ["DELETE", "/v1/admin/rollouts/current"],
  }),
  pause: () => ({ send: ["POST", "/v1/admin/exploration/pause"] }),
  resume: () => ({ send: ["POST", "/v1/admin/exploration/resume"] }),
  job: ({ name }) => ({
    ask: [`Run ${name} now?`, "The job runs in the background; the server keeps serving.", "Run"],
    send: ["POST", `/v1/admin/jobs/${encodeURIComponent(name)}`, {}],
  }),
  traffic: ({ number: n, verdict, share, shadow }) => ({
    ask: [
      `Give version ${n} ${share} % of the users?`,
      shadow ? "Its lists are computed and compared for them, but the champion serves." : `It serves ${share} % of the users from now on, the champion the others.${warning(verdict)}`, "Set",
    ],
    send: ["POST", "/v1/admin/traffic", { version: Number(n), traffic_fraction: Number(share) / 100, shadow, ungated: verdict !== "pass" }],
  }),
};

async function change(name, options) {
  const { ask: question, send } = CHANGES[name](options);
  if (question && !(await confirmed(...question))) return;
  try {
    const answer = await ask(...send);
    const took = answer?.ms === undefined ? "" : ` (${number(answer.ms, 0)} ms)`;
    $("status").textContent = `Done: ${question ? question[2].toLowerCase() : name}${options.number ? ` version ${options.number}` : options.name ? ` ${options.name}` : ""}${took}.`;
    $("status").className = "status";
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    $("status").textContent = problem.status === 403 ? `Not allowed: ${problem.message}.` : inWords(problem);
    $("status").className = "status bad";
    if (problem.status === 401) wantKey();
  }
  await refresh();
}

$("main").addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (!button) return;
  if (button.dataset.action === "key") wantKey();
  else change(button.dataset.action, button.dataset);
});
$("main").addEventListener("submit", (event) => {
  const form = event.target.closest("form.traffic");
  if (!form) return;
  event.preventDefault();
  const { share, shadow } = form.elements;
  change("traffic", { number: form.dataset.number, verdict: form.dataset.verdict, share: share.value, shadow: shadow.checked });
});
$("main").addEventListener("toggle", async (event) => {
  const n = event.target.dataset?.gate;
  if (!n || !event.target.open || gates.has(n)) return;
  try {
    gates.set(n, await ask("GET", `/v1/admin/versions/${n}`));
    show($("versions"), draw.versions(last.versions, gates));
  } catch (problem) {
    announce(problem instanceof Problem ? inWords(problem) : "");
  }
}, true);

onKey(() => {
  gates.clear();
  refresh();
});
setInterval(() => {
  if ($("refresh-input").checked && !document.hidden) refresh();
}, EVERY_MS);
refresh();
