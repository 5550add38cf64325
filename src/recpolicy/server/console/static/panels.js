// The panels of the operations page as elements, built from data without requests.

import { bar, el, empty, number, signed, when } from "./shared.js";
import { total } from "./counters.js";

const VERDICTS = { pass: "tag good", fail: "tag failed" };
const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
const ms = (seconds) => (seconds === null ? "–" : `${(1000 * seconds).toFixed(seconds < 0.01 ? 1 : 0)} ms`);
const short = (value) => (typeof value === "number" ? Number(value.toPrecision(4)).toString() : String(value ?? "–"));
const button = (action, text, data = {}, cls = "quiet") =>
  el("button", { type: "button", class: cls, id: `do-${action}-${data.number ?? data.name ?? ""}`, data: { action, ...data }, text });

/** Return a table; cells are texts or elements. */
export function table(label, heads, rows) {
  const text = heads.map((_, place) => place && rows.some((row) => !/^[-–−+±≤≥<>\d.,]/.test(row[place] instanceof Node ? "text" : String(row[place]))));
  const left = (place) => (text[place] ? "text" : null);
  const cell = (name, value, words = {}) => (value instanceof Node ? el(name, words, value) : el(name, { ...words, text: value }));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, el("table", {},
    el("thead", {}, el("tr", {}, heads.map((head, place) => el("th", { scope: "col", class: left(place), text: head })))),
    el("tbody", {}, rows.map(([first, ...rest]) => el("tr", {},
      cell("th", first, { scope: "row" }), rest.map((value, place) => cell("td", value, { class: left(place + 1) })))))));
}

export const tiles = (pairs) => el("dl", { class: "tiles" }, pairs.map(([term, value, hint]) => el("div", { title: hint }, el("dt", { text: term }), el("dd", { text: value }))));

export function metrics(rows, recent, ready, low) {
  const count = total(rows, "recpolicy_reward_count_total");
  const mean = count ? low + total(rows, "recpolicy_reward_sum_total") / count : null;
  const events = total(rows, "recpolicy_events_total"), explored = total(rows, "recpolicy_events_total", (labels) => labels.explored === "True");
  const span = recent.recent ? "of the last minute" : "since the server started";
  return [
    tiles([
      ["Requests / s", recent.rate === null ? "…" : number(recent.rate, 1), "without admin and console requests"],
      ["p50 recommend", ms(recent.p50), span], ["p99 recommend", ms(recent.p99), span],
      ["Failures", percent(recent.failed, 1), "responses with status 500 and above"],
      ["Lists recommended", events.toLocaleString(), "since the server started"], ["Explored", events ? percent(explored / events, 1) : "–"],
      ["Feedback", total(rows, "recpolicy_feedback_total").toLocaleString()], ["Rewards", count.toLocaleString()],
      ["Mean reward", number(mean)], ["Database", ready?.store ?? "–"],
      ["Writes waiting", total(rows, "recpolicy_writes_waiting").toLocaleString()], ["Events spooled", total(rows, "recpolicy_events_spooled").toLocaleString()],
    ]),
    el("p", { class: "hint", text: `Times ${span}, from the histogram. Champion: version ${ready?.policy.version ?? "–"} (${ready?.policy.agent ?? "–"}), policy ${(ready?.policy.policy_digest ?? "").slice(0, 8)}.` }),
  ];
}

// ---------------------------------------------------------------- versions

export function versions({ versions: all, routing }, gates) {
  if (!all.length) return empty("The registry has no versions. Train a policy and register it.");
  return [
    el("div", { class: "row" },
      el("span", { class: "hint", text: routing.challenger === null ? "The champion serves all users." : `Version ${routing.challenger} ${routing.shadow ? "is a shadow for" : "serves"} ${percent(routing.traffic_fraction, 1)} of the users.` }),
      el("span", { class: "hint", text: routing.exploration ? "Exploration is on." : "Exploration is paused." }),
      routing.exploration ? button("pause", "Pause exploration") : button("resume", "Resume exploration"),
      routing.challenger !== null && button("withdraw", "Remove the challenger", {}, "quiet danger"),
      (routing.previous !== null || routing.challenger !== null) && button("rollback", "Roll back", {}, "quiet danger")),
    ...[...all].reverse().map((one) => version(one, routing, gates.get(String(one.number)))),
  ];
}

function version(one, routing, whole) {
  const n = one.number, champion = routing.champion === n, verdict = one.verdict ?? "none";
  return el("article", { class: "item", data: { key: `version-${n}` } },
    el("div", { class: "row" },
      el("h3", {}, `Version ${n}`, el("span", { class: "hint", text: one.agent }),
        one.aliases.map((alias) => el("span", { class: `tag ${alias}`, text: alias })),
        el("span", { class: VERDICTS[one.verdict] ?? "tag", text: one.verdict ? `gate: ${one.verdict.replace("_", " ")}` : "no gate record" })),
      !champion && el("div", { class: "row" },
        button("promote", "Promote", { number: n, verdict }, "quiet danger"), button("rollout", "Roll out", { number: n, verdict }),
        el("form", { class: "traffic row", data: { number: n, verdict } },
          el("label", { class: "unseen", for: `share-${n}`, text: `Percentage of the users for version ${n}` }),
          el("input", { type: "number", name: "share", id: `share-${n}`, class: "share", min: 0, max: 100, step: "0.1", value: 10, required: true }), "%",
          el("label", { class: "check" }, el("input", { type: "checkbox", name: "shadow", id: `shadow-${n}` }), " shadow"),
          el("button", { type: "submit", class: "quiet", id: `traffic-${n}`, text: "Set traffic" })))),
    el("p", { class: "hint", text: `registered ${when(Date.parse(one.registered_at))} · policy ${one.policy_digest.slice(0, 12)} · ${one.lineage.data ?? "data unknown"}` }),
    catalogChange(one.lineage),
    el("details", { data: { gate: n, key: `gate-${n}` } }, el("summary", { id: `gate-${n}`, text: "Gate record and lineage" }),
      whole ? record(whole) : el("p", { class: "hint", text: "…" })));
}

/** Say which items a version has more and fewer than the one that it was made from. */
function catalogChange({ catalog_change: change, changed_from: from }) {
  if (!Array.isArray(change?.added) || !Array.isArray(change?.retired)) return null;
  const some = (ids) => `${ids.slice(0, 5).join(", ")}${ids.length > 5 ? ` and ${ids.length - 5} more` : ""}`;
  const parts = [
    change.added.length ? `added: ${some(change.added)}` : "",
    change.retired.length ? `retired: ${some(change.retired)}` : "",
    change.restored?.length ? `restored: ${some(change.restored)}` : "",
  ].filter(Boolean);
  return el("p", { class: "hint", text: `Version ${from ?? "unknown"} with other items; ${parts.join("; ")}.` });
}

/** Say how long a list is instead of printing hundreds of lines: a replacer for JSON.stringify. */
const shortened = (_, value) => (Array.isArray(value) && value.length > 20 ? `${value.length.toLocaleString()} values` : value);

function record({ gate, lineage }) {
  return el("div", {},
    gate?.criteria ? criteria(`Criteria of the gate: ${gate.verdict}`, gate.criteria) : empty("No gate has evaluated this version."),
    gate?.reasons?.length ? el("ul", {}, gate.reasons.map((text) => el("li", { text }))) : null,
    lineage.simulator?.gates ? card(lineage.simulator) : null,
    el("pre", { tabindex: "0", role: "region", "aria-label": "Lineage", text: JSON.stringify(lineage, shortened, 1) }));
}

const criteria = (label, list) => table(label, ["Criterion", "Figure", "Limit", "Verdict"], list.map((one) => [
  one.name, short(one.value), `${one.at_least ? (one.strict ? ">" : "≥") : one.strict ? "<" : "≤"} ${short(one.limit)}`,
  el("span", { class: one.passed ? "tag good" : "tag failed", text: one.passed ? "passed" : "failed" }),
]));

const card = (found) => el("div", {},
  el("p", {}, `Session simulator of ${found.world ?? "unnamed"}; split ${found.split ?? "unnamed"} `,
    el("span", { class: found.passed ? "tag good" : "tag failed", text: found.passed ? "passed" : "failed" })),
  criteria("Gates of the simulator", Object.entries(found.gates).map(([name, one]) => ({ name, ...one }))));

export function simulator({ card: found }, listed) {
  if (found) return card(found);
  const some = listed?.versions.some((one) => one.lineage.simulator);
  return empty(some ? "Versions have their cards in their lineage." : "There is no validation card. recpolicy simulator validate --out STATE/simulator writes one.");
}

// ---------------------------------------------------------------- rollout

const outcome = { wait: "waits", advance: "begins the next stage", promote: "promotes the challenger", roll_back: "rolls back" };

export function rollout({ rollout: one, metrics, next, reason }) {
  if (!one) return empty("No rollout is running.");
  const stages = one.plan.stages ?? [];
  return [
    el("div", { class: "row between" },
      el("p", {}, el("strong", { text: `Version ${one.challenger} against ${one.champion}` }), " ",
        el("span", { class: "tag warm", text: one.plan.shadow ? "shadow" : `${percent(one.traffic_fraction)} of the users` }), " ",
        el("span", { class: "tag", text: `stage ${one.stage + 1} of ${stages.length}: ${stages.map((share) => percent(share)).join(" → ")}` })),
      button("stop", "Stop the rollout", {}, "quiet danger")),
    ...intervals(metrics),
    table("Health of both variants", ["Variant", "Users", "Rewards", "Requests", "Failures", "Slow", "Mean time"], ["champion", "challenger"].map((name) => [
      name, metrics[name].users, metrics[name].rewards, ...health(metrics.health[name]),
    ])),
    ...(metrics.returns ? returns(metrics.returns) : []),
    metrics.shadow && el("p", { class: "hint", text: `Shadow: ${metrics.shadow.compared} compared, agreement ${metrics.shadow.agreement === null ? "–" : percent(metrics.shadow.agreement)}, predicted ratings ${metrics.shadow.rating_difference === null ? "–" : signed(metrics.shadow.rating_difference)}.` }),
    el("p", { class: "hint", text: `${number(metrics.hours, 1)} h in this stage. The next check ${outcome[next] ?? next}: ${reason}.` }),
  ];
}

function returns({ window_days: days, champion, challenger, rate_difference: rates }) {
  const range = [0, 1], most = Math.max(...[rates.lo, rates.hi, rates.value].map((end) => Math.abs(end ?? 0)), 0.02) * 1.1;
  return [
    span(`come back within ${number(days, 1)} days, champion (${champion.users} users)`, champion.rate, range, false),
    span(`come back within ${number(days, 1)} days, challenger (${challenger.users} users)`, challenger.rate, range, false),
    span("difference of the return rates", rates, [-most, most], true),
  ];
}

const health = (of) => [of.requests, of.failures, of.slow, of.mean_ms === null ? "–" : `${number(of.mean_ms, 1)} ms`];

function intervals({ champion, challenger, difference }) {
  const means = [["champion", champion.mean], ["challenger", challenger.mean]];
  const ends = means.flatMap(([, mean]) => [mean.lo, mean.hi, mean.value]).filter((end) => end !== null);
  const most = Math.max(...[difference.lo, difference.hi, difference.value].map((end) => Math.abs(end ?? 0)), 0.1) * 1.1;
  const range = ends.length ? [Math.min(...ends) - 0.1, Math.max(...ends) + 0.1] : [0, 1];
  return [...means.map(([name, mean]) => span(`mean reward, ${name}`, mean, range, false)), span("difference", difference, [-most, most], true)];
}

function span(name, { value, lo, hi }, [first, last], zero) {
  const place = (end) => `${(100 * (end - first)) / (last - first)}%`;
  const label = value === null ? "no estimate yet" : `${number(value)} (${lo === null ? "open" : number(lo)} to ${hi === null ? "open" : number(hi)})`;
  return el("div", { class: "interval" },
    el("span", { text: name }),
    el("span", { class: "span", role: "img", "aria-label": `${name}: ${label}`, style: { "--at": place(value ?? first), "--lo": place(lo ?? first), "--hi": place(hi ?? last), "--zero": place(0) } },
      value !== null && el("span", { class: "reach" }), value !== null && el("span", { class: "at" }), zero && el("span", { class: "zero" })),
    el("span", { class: "value", text: value === null ? "no estimate yet" : label }));
}

export function rewards({ rows }) {
  if (!rows.length) return empty("There are no rewards yet. Feedback sets them.");
  const sums = new Map();
  for (const { version: n, variant, rewards: count, mean } of rows) {
    const name = `version ${n}, ${variant}`, sum = sums.get(name) ?? { count: 0, sum: 0, days: new Set() };
    sums.set(name, { count: sum.count + count, sum: sum.sum + count * mean });
  }
  const { low, high } = document.getElementById("metrics").dataset, scale = { low: Number(low), high: Number(high) };
  return table("Rewards by version", ["Version", "Rewards", "Mean reward", ""], [...sums].map(([name, { count, sum }]) => [
    name, count.toLocaleString(), number(sum / count, 3), bar(sum / count, null, scale),
  ]));
}

export function signals({ rows }) {
  if (!rows.length) return empty("There are no signals yet. Feedback and rewards of ranks send them.");
  const ends = ({ value, lo, hi }, shown) => `${shown(value)}${lo === null ? "" : ` (${shown(lo)} to ${shown(hi)})`}`;
  const day = (days) => new Date(days * 86_400_000).toISOString().slice(0, 10);
  return table("Rates of signals by day and version", ["Day", "Version", "Signal", "Events", "Rate (95 %)", "Mean value (95 %)"], [...rows].reverse().map((one) => [
    day(one.day), `${one.version} · ${one.task}`, one.type, one.events.toLocaleString(), ends(one.rate, (share) => percent(share, 1)), ends(one.mean, (mean) => number(mean, 3)),
  ]));
}

// ---------------------------------------------------------------- jobs, drift, audit

export function jobs({ jobs: all, runs: found }) {
  const latest = new Map([...found].reverse().map((run) => [run.name, run])), runs = found.filter((run) => run.status !== "skipped").filter(fewOfEach());
  return [
    ...all.map((job) => el("article", { class: "item", data: { key: `job-${job.name}` } },
      el("div", { class: "row" },
        el("h3", {}, job.name, latest.has(job.name) && status(latest.get(job.name))), button("job", "Run now", { name: job.name })),
      el("p", { class: "hint", text: `${job.description} Next: ${job.next_at ? when(job.next_at) : "only on request"} · ${job.cron} (UTC)` }),
      reason(latest.get(job.name)))),
    runs.length
      ? table("Last runs", ["Run", "Status", "Began", "Took", "Users", "Records"], runs.map((run) => [
        `${run.id} · ${run.name}`, status(run), when(run.executed_at),
        run.finished_at ? `${number((run.finished_at - run.executed_at) / 1000, 1)} s` : "–", run.users ?? "–", run.records ?? "–",
      ]))
      : empty(found.length ? "So far, every run had nothing to do. The reasons stand above." : "No job has run yet."),
  ];
}

/** Return why the last run of a job did nothing or failed; null for any other run. */
function reason(run) {
  const text = run && (run.metadata.reason ?? run.metadata.error);
  return text ? el("p", { class: run.status === "skipped" ? "hint" : "bad", text: `Run ${run.id} ${run.status}: ${text}` }) : null;
}

/** Return a filter that passes the first three runs of each job. */
function fewOfEach(most = 3) {
  const seen = new Map();
  return ({ name }) => seen.set(name, (seen.get(name) ?? 0) + 1).get(name) <= most;
}

const STATUS = { done: "tag good", failed: "tag failed", lost: "tag failed", running: "tag warm" };
const status = (run) => el("span", { class: STATUS[run.status] ?? "tag", text: run.status });

export function drift({ run }) {
  if (!run) return empty("There is no drift check yet.");
  const { alarms = {}, metrics = {} } = run.metadata, found = Object.values(alarms);
  const parts = Object.entries(metrics).filter(([, part]) => part && typeof part === "object");
  return [
    el("p", {}, el("span", { class: found.length ? "tag failed" : "tag good", text: found.length ? `${found.length} alarms` : "no alarm" }), " ",
      el("span", { class: "hint", text: `checked ${when(run.finished_at ?? run.executed_at)}` })),
    found.length ? el("ul", {}, found.map((text) => el("li", { class: "bad", text: String(text) }))) : null,
    parts.length
      ? table("Metrics of drift", ["What", "Figures"], parts.map(([name, part]) => [name, Object.entries(part).map(([key, value]) => `${key.replaceAll("_", " ")} ${short(value)}`).join(" · ")]))
      : el("p", { class: "hint", text: "There are too few events for a comparison." }),
  ];
}

export function newItems({ share, day, version, horizon, items }) {
  if (!items.length) return empty(share ? "There are no new items. The job allocate_new_items looks for some every day." : "Lists have no place for new items: [new_items] share is 0.");
  return [
    el("p", { class: "hint", text: `Version ${version}, known until ${day}. ${number(100 * share, 1)} % of lists show a new item. Belief: expected active days of a user within ${horizon} days.` }),
    table("New items", ["Item", "Belief", "95 % interval", "Days", "Traces", "Share"], items.map((one) => [
      one.title ? `${one.item_id} · ${one.title}` : String(one.item_id), number(one.mean, 2), `${number(one.lo, 2)} to ${number(one.hi, 2)}`,
      one.days, one.traces, `${number(100 * one.probability, 1)} %`,
    ])),
  ];
}

export function checklist({ items }) {
  return table("Production checklist", ["Item", "State", "Figure", "Expected", "See"], items.map((one) => [
    one.name, el("span", { class: one.kept ? "tag good" : "tag failed", text: one.kept ? "kept" : "not kept" }), one.figure, one.expected, el("code", { text: one.command }),
  ]));
}

export function audit({ audit: lines }) {
  if (!lines.length) return empty("There are no changes yet.");
  return table("Changes", ["When", "Who", "What", "Detail"], lines.map((line) => [when(line.time), line.actor, line.action.replaceAll("_", " "), JSON.stringify(line.detail)]));
}
