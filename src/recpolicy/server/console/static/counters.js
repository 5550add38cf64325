// The counters of /metrics, parsed from Prometheus' text format, and metrics of the last minute.

const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const WINDOW_MS = 60_000;
const samples = []; // [{time, counted}], oldest first

/** Return the text as [{name, labels, value}]. */
export function parse(text) {
  const rows = [];
  for (const line of text.split("\n")) {
    const found = /^([a-zA-Z_:]\w*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!found) continue;
    const labels = Object.fromEntries([...(found[2] ?? "").matchAll(LABEL)].map(([, name, value]) => [name, value]));
    rows.push({ name: found[1], labels, value: found[3] === "+Inf" ? Infinity : Number(found[3]) });
  }
  return rows;
}

/** Return the sum of the samples with this name that pass the filter. */
export const total = (rows, name, passes = () => true) => rows.reduce((sum, row) => (row.name === name && passes(row.labels) ? sum + row.value : sum), 0);

const asked = ({ route }) => route.startsWith("/v1/") && !route.startsWith("/v1/admin") && !route.startsWith("/v1/console");
const REQUESTS = "recpolicy_requests_total";

/** Return the metrics of the part of the last minute that the page has seen; of all time on a new page. */
export function lately(rows) {
  const now = performance.now();
  if (samples.length && total(rows, REQUESTS) < total(samples.at(-1).rows, REQUESTS)) samples.length = 0; // the server restarted
  samples.push({ time: now, rows });
  while (samples.length > 2 && now - samples[1].time > WINDOW_MS) samples.shift();
  const old = samples[0].rows, seconds = (now - samples[0].time) / 1000;
  const since = (name, passes) => total(rows, name, passes) - (seconds ? total(old, name, passes) : 0);
  const requests = since(REQUESTS, asked);
  const failed = since(REQUESTS, (labels) => asked(labels) && labels.status.startsWith("5"));
  const recommend = ({ route }) => route === "/v1/recommend";
  const edges = [...new Set(rows.filter((row) => row.name === "recpolicy_request_seconds_bucket").map((row) => row.labels.le))]
    .map((text) => ({ text, edge: text === "+Inf" ? Infinity : Number(text) })).sort((a, b) => a.edge - b.edge);
  const counts = (of) => edges.map(({ text, edge }) => ({ edge, count: of((labels) => recommend(labels) && labels.le === text) }));
  const recent = counts((passes) => since("recpolicy_request_seconds_bucket", passes));
  const all = counts((passes) => total(rows, "recpolicy_request_seconds_bucket", passes));
  const used = recent.at(-1)?.count ? recent : all;
  return {
    rate: seconds ? requests / seconds : null, failed: requests ? failed / requests : 0, seconds, recent: used === recent && seconds > 0,
    p50: quantile(used, 0.5), p99: quantile(used, 0.99),
  };
}

/** Return a quantile of a histogram with cumulative counts, linear within a bucket; null without counts. */
export function quantile(buckets, share) {
  const all = buckets.at(-1)?.count ?? 0;
  if (!all) return null;
  let [low, below] = [0, 0];
  for (const { edge, count } of buckets) {
    if (count >= share * all) return edge === Infinity ? low : low + ((edge - low) * (share * all - below)) / Math.max(count - below, 1e-9);
    [low, below] = [edge, count];
  }
  return low;
}
