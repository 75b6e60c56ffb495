// The dashboard: asks the admin port once a second how things stand, and every five for the hour's samples, and draws them.
"use strict";
const SPAN = 60;             // seconds looked back
const CALM = 3;              // seconds that a rate "now" is taken over
const EVERY = 5000;          // milliseconds from one sample of the hour to the next
const HOUR = 3600e3;
const ENOUGH = 20;           // samples below which percentiles are taken since the start
const byId = (id) => document.getElementById(id);
const history = [];          // {at: seconds, s: status} of the last minute, oldest first
const past = [];             // samples of the last hour as api/history has them, oldest first

// Wording of numbers.
const grouped = new Intl.NumberFormat("en");
function digits(n) { return n >= 100 || n === 0 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(2); }
function short(n) { return n >= 1e9 ? digits(n / 1e9) + " G" : n >= 1e6 ? digits(n / 1e6) + " M" : n >= 1e4 ? digits(n / 1e3) + " k" : n >= 10 || Number.isInteger(n) ? grouped.format(Math.round(n)) : n.toFixed(1); }
function percent(part) { return part == null ? "–" : part > 0 && part < 0.0005 ? "<0.1 %" : (part * 100).toFixed(part > 0.9995 && part < 1 ? 2 : 1) + " %"; }
function time(ns) { return ns == null ? "–" : ns < 1e3 ? `${Math.round(ns)} ns` : ns < 1e6 ? `${digits(ns / 1e3)} µs` : ns < 1e9 ? `${digits(ns / 1e6)} ms` : `${digits(ns / 1e9)} s`; }
function bytes(n) { const units = ["B", "KiB", "MiB", "GiB", "TiB"]; let u = 0; while (n >= 1024 && u < 4) { n /= 1024; u++; } return `${u ? digits(n) : n} ${units[u]}`; }
function age(s) { const d = Math.floor(s / 86400), h = Math.floor(s / 3600) % 24, m = Math.floor(s / 60) % 60; return d ? `${d} d ${h} h` : h ? `${h} h ${m} min` : m ? `${m} min` : `${s} s`; }

// Drawing. Text goes in as text, never as HTML: user names are not ours.
function put(id, text, unit) { const e = byId(id); e.textContent = text; if (unit) { const u = document.createElement("span"); u.className = "unit"; u.textContent = unit; e.append(u); } }
function cell(kind, ...parts) { const c = document.createElement("td"); if (kind) c.className = kind; c.append(...parts); return c; }
function small(text, kind) { const s = document.createElement("small"); s.textContent = text; if (kind) s.className = kind; return s; }
function code(text) { const c = document.createElement("code"); c.textContent = text; return c; }
function rows(id, made) {
  byId(id).replaceChildren(...made.map((cells) => { const r = document.createElement("tr"); r.append(...cells); return r; }));
}
function spark(svg, values, top) {
  const shape = (name) => { const p = document.createElementNS("http://www.w3.org/2000/svg", "path"); p.setAttribute("class", name); return p; };
  if (!svg.firstChild) { svg.setAttribute("viewBox", "0 0 100 20"); svg.setAttribute("preserveAspectRatio", "none"); svg.setAttribute("aria-hidden", "true"); svg.append(shape("fill"), shape("stroke")); }
  const max = top || Math.max(...values.filter((v) => v != null), 1e-9);
  const x = (i) => (100 * (SPAN - values.length + 1 + i) / SPAN).toFixed(2);
  let line = "", area = "", from = null;
  values.forEach((v, i) => {
    if (v != null) { const y = (19 - 18 * v / max).toFixed(2); line += `${from == null ? "M" : "L"}${x(i)} ${y}`; area += `${from == null ? `M${x(i)} 20L` : "L"}${x(i)} ${y}`; from ??= i; }
    if (from != null && (v == null || i === values.length - 1)) { area += `L${x(v == null ? i - 1 : i)} 20Z`; from = null; }
  });
  svg.children[0].setAttribute("d", area);
  svg.children[1].setAttribute("d", line);
}

// The hour, on an axis of time. Each chart says in words what it shows, and by mouse or arrow keys what there was at a moment.
const CHARTS = [
  { title: "Hit ratio", show: percent, top: 1, lines: [["hits", (r) => r.lookups ? r.hits / r.lookups : null], ["in mode observe", (r) => r.would_hits ? (r.hits + r.would_hits) / r.lookups : null]] },
  { title: "Requests per second", show: short, lines: [["all", (r) => perSecond(r, r.requests)], ["that reach Redis", (r) => perSecond(r, r.requests - r.spared)]] },
  { title: "Time, median", show: time, lines: [["hits", (r) => r.hit_p50_ns], ["misses", (r) => r.miss_p50_ns]] },
  { title: "Time, 99 of 100 within", show: time, lines: [["hits", (r) => r.hit_p99_ns], ["misses", (r) => r.miss_p99_ns]] },
  { title: "L1", show: bytes, lines: [["in use", (r) => r.l1_bytes]] },
  { title: "Clients", show: short, lines: [["connected", (r) => r.sessions]] },
];
const LEFT = 58, RIGHT = 8, ABOVE = 8, BELOW = 20;
function perSecond(row, count) { return row.span_ms ? count * 1000 / row.span_ms : null; }
function clock(ms, seconds) { return new Date(ms).toLocaleTimeString("en-GB", seconds ? {} : { hour: "2-digit", minute: "2-digit" }); }
function shape(name, attributes, text) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
  if (text != null) e.textContent = text;
  return e;
}
function makeCharts() {
  for (const chart of CHARTS) {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption"), name = document.createElement("b");
    name.textContent = chart.title;
    chart.said = chart.lines.map(([title], i) => { const k = document.createElement("span"); k.className = i ? "key second" : "key"; k.textContent = title; return k; });
    chart.when = small("");
    caption.append(name, ...chart.said, chart.when);
    chart.svg = shape("svg", { class: "chart", role: "img", tabindex: "0" });
    figure.append(caption, chart.svg);
    byId("charts").append(figure);
    chart.svg.addEventListener("pointermove", (e) => { const box = chart.svg.getBoundingClientRect(); point(chart, nearest(chart, e.clientX - box.left)); });
    chart.svg.addEventListener("pointerleave", () => point(chart, null));
    chart.svg.addEventListener("blur", () => point(chart, null));
    chart.svg.addEventListener("keydown", (e) => {
      const last = chart.rows.length - 1, at = chart.at == null ? last + 1 : chart.at;
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last, Escape: null }[e.key];
      if (to === undefined || last < 0) return;
      e.preventDefault();
      point(chart, to == null ? null : Math.max(0, Math.min(last, to)));
    });
  }
  new ResizeObserver(drawCharts).observe(byId("charts"));
  byId("span").addEventListener("change", () => { CHARTS.forEach((chart) => { chart.at = null; }); drawCharts(); });
}
function nearest(chart, x) {
  let best = null;
  chart.rows.forEach((row, i) => { if (best == null || Math.abs(chart.x(row.at_ms) - x) < Math.abs(chart.x(chart.rows[best].at_ms) - x)) best = i; });
  return best;
}
function point(chart, at) { chart.at = at; drawChart(chart); }
function drawCharts() { CHARTS.forEach(drawChart); }
function drawChart(chart) {
  const span = Number(byId("span").value) * 1000, svg = chart.svg, width = svg.clientWidth || 400, height = svg.clientHeight || 144;
  const end = past.length ? past[past.length - 1].at_ms : Date.now(), from = end - span;
  chart.rows = past.filter((row) => row.at_ms > from);
  chart.x = (ms) => LEFT + (width - LEFT - RIGHT) * (ms - from) / span;
  const values = chart.lines.map(([, read]) => chart.rows.map(read));
  const top = chart.top ?? ceiling(Math.max(0, ...values.flat().filter((v) => v != null)), chart.show === bytes ? 1024 : 1000);
  const y = (v) => ABOVE + (height - ABOVE - BELOW) * (1 - Math.min(v / top, 1));
  const parts = [];
  for (const v of [0, top / 2, top]) {
    parts.push(shape("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(v), y2: y(v) }));
    parts.push(shape("text", { x: LEFT - 6, y: y(v) + 4, "text-anchor": "end" }, chart.show(v)));
  }
  const step = span / 5 > 300e3 ? 600e3 : span / 5;
  for (let ms = Math.ceil(from / step) * step; ms <= end; ms += step) parts.push(shape("text", { x: chart.x(ms), y: height - 4, "text-anchor": chart.x(ms) > width - 24 ? "end" : "middle" }, clock(ms)));
  values.forEach((line, i) => parts.push(shape("path", { class: i ? "line second" : "line", d: pathOf(chart, line, y) })));
  const at = chart.at;
  if (at != null) parts.push(shape("line", { class: "at", x1: chart.x(chart.rows[at].at_ms), x2: chart.x(chart.rows[at].at_ms), y1: ABOVE, y2: height - BELOW }));
  svg.replaceChildren(...parts);
  const of = (line) => line[at ?? line.length - 1];
  chart.lines.forEach(([title], i) => { const v = of(values[i]); chart.said[i].hidden = !values[i].some((one) => one != null); chart.said[i].textContent = `${title} ${v == null ? "–" : chart.show(v)}`; });
  chart.when.textContent = at == null ? "" : `at ${clock(chart.rows[at].at_ms, true)}`;
  svg.setAttribute("aria-label", `${chart.title}, ${byId("span").selectedOptions[0].text === "hour" ? "the last hour" : `the last ${byId("span").selectedOptions[0].text}`}: ` + (at != null ? chart.said.filter((one) => !one.hidden).map((one) => one.textContent).join(", ") + ` ${chart.when.textContent}` : chart.lines.map(([title], i) => inWords(chart, title, values[i])).filter(Boolean).join("; ") || "nothing yet"));
}
function inWords(chart, title, values) {
  const known = values.map((v, i) => [v, i]).filter(([v]) => v != null);
  if (!known.length) return "";
  const least = known.reduce((a, b) => b[0] < a[0] ? b : a), most = known.reduce((a, b) => b[0] > a[0] ? b : a);
  return `${title}: ${chart.show(known[known.length - 1][0])} now, least ${chart.show(least[0])} at ${clock(chart.rows[least[1]].at_ms)}, most ${chart.show(most[0])} at ${clock(chart.rows[most[1]].at_ms)}`;
}
function ceiling(most, thousand) {
  let unit = 1;
  while (most >= unit * thousand) unit *= thousand;
  while (most > 0 && most < unit) unit /= 10;
  const power = unit * 10 ** Math.floor(Math.log10(most / unit || 1));
  return ([1, 2, 4, 6, 8, 10].find((n) => n * power >= most) ?? 10) * power || 1;
}
function pathOf(chart, line, y) {
  // A gap in which nothing was sampled, or nothing came, is left open.
  let d = "", open = false;
  line.forEach((v, i) => {
    const gap = i && chart.rows[i].at_ms - chart.rows[i - 1].at_ms > 3 * EVERY;
    if (v != null) d += `${open && !gap ? "L" : "M"}${chart.x(chart.rows[i].at_ms).toFixed(1)} ${y(v).toFixed(1)}${open && !gap ? "" : "h0"}`;
    open = v != null;
  });
  return d;
}
function newSpark() { const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"); svg.setAttribute("class", "spark"); return svg; }

// Reckoning over the history.
const last = () => history[history.length - 1];
const back = (seconds) => history.find((h) => h.at >= last().at - seconds - 0.5);
function gain(read, from = back(SPAN)) { return read(last().s) - read(from.s); }
function rate(read, seconds = CALM) { const from = back(seconds), t = last().at - from.at; return t > 0 ? gain(read, from) / t : null; }
function series(read) { return history.slice(1).map((h, i) => read(history[i].s, h.s, h.at - history[i].at)); }
function sum(s, pick) { return s.requests.outcomes.reduce((n, o) => n + (pick(o) ? o.total : 0), 0); }
const total = (s) => s.requests.total;
const hits = (s) => sum(s, (o) => o.name === "hit");
const wouldHit = (s) => sum(s, (o) => o.name === "would_hit");
const lookups = (s) => sum(s, (o) => o.lookup);
const reachedRedis = (s) => sum(s, (o) => !o.spared);
const counter = (s, name, label) => label ? s.metrics[name]?.[label] ?? 0 : s.metrics[name] ?? 0;

function bucketsBetween(from, to, path) {
  const before = new Map(from ? from.latency[path].buckets : []);
  return to.latency[path].buckets.map(([end, n]) => [end, n - (before.get(end) ?? 0)]).filter(([, n]) => n > 0);
}
function samples(buckets) { return buckets.reduce((n, b) => n + b[1], 0); }
function quantile(buckets, q) {
  const all = samples(buckets);
  if (!all) return null;
  let below = 0;
  for (const [end, n] of buckets) {
    if (below + n >= all * q) {
      if (end == null) return 2 ** 34;
      return end * (1 - 0.16 * (1 - (all * q - below) / n));  // a bucket is about 16 % of its end wide
    }
    below += n;
  }
}

function show() {
  const s = last().s, alone = history.length < 2;
  const since = (read) => alone ? read(s) : gain(read);

  document.title = `crema on ${s.host}${s.ready ? "" : ": not ready"}`;
  put("host", s.host);
  put("state", s.ready ? "Ready" : "Not ready");
  byId("state").className = `pill ${s.ready ? "good" : "bad"}`;
  byId("mode").hidden = s.mode === "cache";
  put("mode", s.mode === "observe" ? "Mode observe: memory answers nothing" : s.mode === "pass" ? "Mode pass: memory is not used" : "");
  const trouble = s.trouble ?? s.upstream.trouble;
  byId("trouble").hidden = !trouble;
  byId("trouble").textContent = trouble ?? "";
  put("where", `in front of ${s.upstream.address}` + (s.upstream.server ? `, ${s.upstream.server}` : "") + (s.upstream.up ? "" : ", not answering")
    + (s.upstream.sentinel ? `; master ${s.upstream.sentinel.master ?? "unknown"}, ${s.upstream.sentinel.answering} of ${s.upstream.sentinel.sentinels} Sentinels answer, ${s.upstream.sentinel.failovers} failovers` : ""));
  put("about", `crema ${s.version}, up ${age(s.uptime_seconds)}. L1 promotes ${s.settings.promote ? `1 read in ${s.settings.promote}` : "nothing"}; a change is unseen for at most ${s.settings.max_staleness_ms} ms; coherence by ${s.settings.coherence}.`);

  const looked = since(lookups);
  put("ratio", looked ? percent(since(hits) / looked) : "–");
  put("ratio-foot", s.mode === "observe" && looked ? `memory would have answered ${percent((since(hits) + since(wouldHit)) / looked)} of ${short(looked)} reads` : looked ? `of ${short(looked)} reads that L1 may answer, ${alone ? "since start" : "last minute"}` : s.requests.hit_ratio == null ? "no read that L1 may answer yet" : `no such read in the last minute; ${percent(s.requests.hit_ratio)} since start`);

  const now = rate(total), redis = rate(reachedRedis);
  put("rate", now == null ? "–" : short(now), "/s");
  put("rate-foot", redis == null ? " " : `${short(redis)} per second reach Redis`);

  const minute = alone ? null : back(SPAN).s;
  const times = (path) => {
    const recent = bucketsBetween(minute, s, path);
    const few = !minute || samples(recent) < ENOUGH;
    return { few, at: (q) => quantile(few ? s.latency[path].buckets : recent, q) };
  };
  const [hit, miss] = [times("hit"), times("miss")];
  put("hit", time(hit.at(0.5)), "median");
  put("hit-foot", `a miss: ${time(miss.at(0.5))}`);
  rows("latency", [["L1", hit], ["Redis", miss]].map(([name, from]) =>
    [cell("", name, ...(from.few ? [small("since start")] : [])), ...[0.5, 0.9, 0.99, 0.999].map((q) => cell("n", time(from.at(q))))]));

  const fill = s.l1.capacity ? s.l1.bytes / s.l1.capacity : 0;
  put("l1", s.l1.capacity ? bytes(s.l1.bytes) : "off");
  put("l1-foot", s.l1.capacity ? `${percent(fill)} of ${bytes(s.l1.capacity)}, ${short(s.l1.entries)} ${s.l1.entries === 1 ? "entry" : "entries"}` : "all reads go to Redis");
  byId("l1-meter").setAttribute("aria-valuenow", Math.round(fill * 100));
  byId("l1-meter").firstChild.style.width = `${Math.min(fill * 100, 100)}%`;

  const seen = s.requests.outcomes.filter((o) => o.total);
  rows("outcomes", seen.map((o) => {
    const read = (x) => x.requests.outcomes.find((y) => y.name === o.name).total, all = since(total), line = newSpark();
    spark(line, series((a, b, t) => (read(b) - read(a)) / t));
    const name = document.createElement("code"); name.textContent = o.name;
    const speed = rate(read);
    return [cell("", name, small(o.about)), cell("wide", line), cell("n", speed == null ? "–" : short(speed)), cell("n", all ? percent(since(read) / all) : "–"), cell("n wide", short(o.total))];
  }));
  const rest = s.requests.outcomes.filter((o) => !o.total).map((o) => o.name);
  put("absent", rest.length ? `Not seen yet: ${rest.join(", ")}.` : "");

  rows("workers", s.workers.map((w, i) => {
    const speed = rate((x) => x.workers[i].requests);
    return [cell("", String(i)), cell("n", speed == null ? "–" : short(speed)), ...[w.sessions, w.lanes, w.pinned, w.homes].map((n) => cell("n", short(n)))];
  }));

  byId("cluster").hidden = s.upstream.map_version === 0 && !s.upstream.nodes.some((n) => n.read_from.length);
  put("map", `map ${s.upstream.map_version}, ${short(s.metrics.crema_elections_total)} elections`);
  const reading = (r) => small(r.lease_ms_left == null ? `${r.address}: not read` : `${r.address}: read, ${short(r.lag_bytes)} bytes behind`);
  rows("nodes", s.upstream.nodes.map((n) => {
    const proven = n.census === "proven";
    const word = document.createElement("span"); word.className = proven ? "good" : "warn";
    word.textContent = proven ? `proven ${n.proven_ms_ago} ms ago` : n.census || "not asked yet";
    return [cell("", n.address, small(n.trouble || n.server || "")), cell("n", short(n.slots)), cell("n", String(Math.max(n.replicas.length, n.read_from.length)), ...n.read_from.map(reading)), cell("", word)];
  }));

  const nodes = new Set(s.ears.map((e) => e.node)).size;
  byId("no-ears").hidden = s.ears.length > 0;
  rows("ears", s.ears.flatMap((e) => {
    const name = document.createElement("code"); name.textContent = e.user;
    const held = e.lease_ms_left != null;
    const words = held ? `held, ${e.lease_ms_left} ms left` : e.connected ? "none" : "not connected";
    const lease = document.createElement("span"); lease.className = held ? "good" : "warn"; lease.textContent = words;
    const line = [cell("", name, ...(nodes > 1 ? [small(e.node)] : [])), cell("", lease), cell("n", grouped.format(e.epoch)), cell("n wide", grouped.format(e.reconnects))];
    if (!e.trouble) return [line];
    const why = cell("why", small(e.trouble));
    why.colSpan = 4;
    return [line, [why]];
  }));

  byId("below").hidden = s.tiers.length === 0;
  rows("tiers", s.tiers.map((t) => {
    const word = document.createElement("span"); word.className = t.well ? "good" : "warn";
    word.textContent = t.well ? "asked" : t.left_alone.length ? `left alone: ${t.left_alone.join(", ")}` : "not known";
    const why = t.well || !t.last_error ? [] : [small(`${t.last_error}, ${t.last_error_seconds} s ago`)];
    return [cell("", t.name, small(`${t.keys} in ${t.server}`)), ...["hit", "miss", "stale", "copied", "copied_up", "error"].map((n) => cell("n", short(t.counts[n]))), cell("", word, ...why)];
  }));

  byId("loaded").hidden = s.origins.length === 0;
  rows("origins", s.origins.map((o) => {
    const word = document.createElement("span"); word.className = o.trouble ? "warn" : "good";
    word.textContent = o.trouble ? `failed ${o.trouble_seconds} s ago` : "answers";
    const r = o.results, counts = [r.loaded + r.refreshed, r.joined + r.found, r.missing + r.negative, r.failed + r.refresh_failed, r.stale];
    const now = o.waiting ? `${o.under_way} + ${o.waiting}` : `${o.under_way}`;
    return [cell("", o.keys, small(o.url)), ...counts.map((n) => cell("n", short(n))), cell("n", now), cell("n", o.mean_load_ms ? `${o.mean_load_ms} ms` : "–"), cell("", word, ...(o.trouble ? [small(o.trouble)] : []))];
  }));

  const audit = s.audit;
  byId("audited").hidden = !audit;
  if (audit) {
    const violations = cell("n", grouped.format(audit.violations));
    violations.classList.add(audit.violations ? "bad" : "good");
    rows("audit", [
      [cell("", "Hits compared with Redis", small(audit.one_in ? `one in ${grouped.format(audit.one_in)}` : "off")), cell("n", grouped.format(audit.checked))],
      [cell("", "Hits held against writes and changes", small("their order in this process")), cell("n", grouped.format(audit.ordered))],
      [cell("", "Proven wrong", small(Object.entries(audit.wrong).filter(([, n]) => n).map(([what]) => what.replaceAll("_", " ")).join(", "))), violations],
      ...[["proves nothing", audit.ambiguous], ["not compared", audit.skipped]].flatMap(([what, reasons]) => Object.entries(reasons).filter(([, n]) => n).map(([reason, n]) => [cell("", reason.replaceAll("_", " "), small(what)), cell("n", grouped.format(n))])),
      ...audit.last.map((v) => { const c = cell("", `${v.command} `, code(v.key), small(`${v.what.replaceAll("_", " ")}, for ${v.user} in database ${v.database} of ${v.node}, ${new Date(v.at * 1000).toLocaleString()}`)); c.colSpan = 2; return [c]; }),
    ]);
  }

  const upkeep = [
    ["Promotions asked for", "crema_promotions_total"],
    ["Fills stored", "crema_fills_total", "stored"],
    ["Fills doomed by a change", "crema_fills_total", "doomed"],
    ["Keys that Redis said had changed", "crema_invalidations_total"],
    ["Entries given up for room", "crema_l1_evictions_total"],
    ["Leases lapsed", "crema_leases_lapsed_total"],
  ];
  rows("upkeep", upkeep.map(([title, name, label]) => {
    const read = (x) => counter(x, name, label);
    return [cell("", title), cell("n", alone ? "–" : short(gain(read))), cell("n", short(read(s)))];
  }));

  byId("changed").hidden = s.changes.length === 0;
  rows("changes", s.changes.map((c) => [cell("", new Date(c.at * 1000).toLocaleString()), cell("", c.what.join("; ")), cell("", c.by)]));

  rows("all", Object.entries(s.metrics).flatMap(([name, v]) => typeof v === "number" ? [[name, v]] : Object.entries(v).map(([label, n]) => [`${name} ${label}`, n]))
    .map(([name, n]) => { const c = document.createElement("code"); c.textContent = name; return [cell("", c), cell("n", grouped.format(n))]; }));
}

function remember(s) {
  const at = performance.now() / 1000, before = history.length ? last() : null;
  // A restart begins a new history, and so does a gap in which the page slept.
  if (before && (s.uptime_seconds < before.s.uptime_seconds || total(s) < total(before.s) || at - before.at > 10)) history.length = 0;
  history.push({ at, s });
  while (history.length > SPAN + 1) history.shift();
}

function showAdvice(a) {
  const words = a.waits_for ? [a.waits_for] : a.advice.map((one) => one.text);
  byId("advice").replaceChildren(...words.map((text) => { const li = document.createElement("li"); li.textContent = text; return li; }));
  const groups = [...a.rules, ...a.prefixes];
  byId("of-groups").hidden = !groups.length;
  rows("groups", groups.map((g) => [cell("", code(g.keys)), ...[g.reads_part, g.bytes_part, g.hit_ratio, g.changed_ratio].map((part) => cell("n", percent(part)))]));
  const svg = byId("curve"), width = svg.clientWidth || 400, height = svg.clientHeight || 144, parts = [];
  const y = (v) => ABOVE + (height - ABOVE - BELOW) * (1 - v);
  for (const v of [0, 0.5, 1]) parts.push(shape("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(v), y2: y(v) }), shape("text", { x: LEFT - 6, y: y(v) + 4, "text-anchor": "end" }, percent(v)));
  const least = Math.log2(a.sizes[0]?.bytes ?? 1), range = Math.log2(a.sizes.at(-1)?.bytes ?? 2) - least || 1;
  const x = (size) => LEFT + 16 + (width - LEFT - RIGHT - 44) * (Math.log2(size.bytes) - least) / range;
  parts.push(shape("path", { class: "line", d: a.sizes.map((s, i) => `${i ? "L" : "M"}${x(s).toFixed(1)} ${y(s.hit_ratio).toFixed(1)}`).join("") }));
  let free = 0;
  for (const s of a.sizes) {
    if (s.present) parts.push(shape("circle", { class: "dot", cx: x(s), cy: y(s.hit_ratio), r: 4 }));
    if (x(s) < free) continue;
    parts.push(shape("text", { x: x(s), y: height - 4, "text-anchor": "middle" }, bytes(s.bytes)));
    free = x(s) + 62;
  }
  svg.replaceChildren(...parts);
  svg.setAttribute("aria-label", a.sizes.length ? "Hit ratio by size of L1: " + a.sizes.map((s) => `${bytes(s.bytes)} ${percent(s.hit_ratio)}${s.present ? " (as it is)" : ""}`).join(", ") : "Hit ratio by size of L1: nothing yet");
  put("curve-said", a.sizes.length ? `of ${short(a.reads)} reads in ${age(a.seconds)}; the dot is the present size` : "");
}

async function read(path) { return (await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(5000) })).json(); }
async function recall() {
  const first = !past.length;
  try {
    showAdvice(await read("api/advise"));
    const { columns, rows } = await read(`api/history?after=${past.length ? past[past.length - 1].at_ms : 0}`);
    past.push(...rows.map((row) => Object.fromEntries(columns.map((name, i) => [name, row[i]]))));
    while (past.length && past[past.length - 1].at_ms - past[0].at_ms > HOUR) past.shift();
    if (first && past.length) {
      const options = [...byId("span").options], age = past[past.length - 1].at_ms - past[0].at_ms;
      byId("span").value = (options.find((one) => Number(one.value) * 1000 > age) ?? options.at(-1)).value;
    }
    for (const chart of CHARTS) if (chart.at == null) drawChart(chart);
  } catch (problem) { console.debug(problem); }
  setTimeout(recall, EVERY);
}

// Words that not everybody knows, told where they stand: by mouse, by keyboard, by touch.
const TERMS = {
  ratio: "Of the reads that memory may answer, the share that it did answer.",
  hit: "A read answered from crema's memory: Redis saw nothing of it.",
  l1: "crema's own memory, in which it keeps replies to keys that are read often. Redis is L2.",
  lane: "A connection to Redis that many clients use at once, pipelined.",
  pinned: "A connection to Redis lent to a single client, for a transaction or a command that blocks.",
  home: "A connection to Redis that a single client keeps for as long as it lives.",
  ear: "The one connection of a user to a Redis on which memory is filled, and on which Redis tells what has changed.",
  lease: "Until when memory may answer. It is renewed each time Redis has shown that nothing was missed; without one all reads go to Redis.",
  epoch: "A number that grows whenever all that an ear has filled must be forgotten.",
  slot: "A cluster divides its keys among 16,384 slots, and these among its masters.",
  census: "Rounds of questions to all nodes prove that a master still owns its keys. Memory answers only while that is proven.",
  tier: "A server below Redis that keeps copies of values for longer.",
  origin: "Where values come from that Redis does not have.",
  audit: "Of the hits a few are read again in Redis and compared. A violation is one that was proven wrong.",
  curve: "Small models of memory, fed with a sample of the keys, show what more or less of it would answer.",
  changed: "Of reads whose key had been read before, the share that found it changed: there memory has little to gain.",
};
let told = null;
function tell(button) {
  const tip = byId("tip");
  if (told) told.removeAttribute("aria-describedby");
  told = button;
  tip.hidden = !button;
  if (!button) return;
  tip.textContent = TERMS[button.dataset.term];
  button.setAttribute("aria-describedby", "tip");
  const at = button.getBoundingClientRect(), box = tip.getBoundingClientRect();
  tip.style.left = `${scrollX + Math.max(8, Math.min(at.left, document.documentElement.clientWidth - box.width - 8))}px`;
  tip.style.top = `${scrollY + (at.bottom + box.height + 8 < innerHeight ? at.bottom + 6 : at.top - box.height - 6)}px`;
}
function explainTerms() {
  const term = (e) => e.target.closest?.(".term");
  document.addEventListener("pointerover", (e) => { if (term(e)) tell(term(e)); else if (told && document.activeElement !== told && !e.target.closest?.("#tip")) tell(null); });
  document.addEventListener("focusin", (e) => tell(term(e)));
  document.addEventListener("click", (e) => { if (term(e)) tell(term(e)); });
  document.addEventListener("keydown", (e) => { if (e.key === "Escape") tell(null); });
}

// A table wider than its place can be moved by keyboard too.
function fit() {
  for (const table of document.querySelectorAll("main table")) {
    let frame = table.parentElement;
    if (!frame.classList.contains("scroll")) { frame = document.createElement("div"); frame.className = "scroll"; table.replaceWith(frame); frame.append(table); }
    const wide = frame.scrollWidth > frame.clientWidth + 1, name = table.closest("section, details")?.querySelector("h2, summary")?.textContent ?? "";
    for (const [key, value] of [["tabindex", "0"], ["role", "group"], ["aria-label", name]]) if (wide) frame.setAttribute(key, value); else frame.removeAttribute(key);
  }
}

// What names keys and clients: for who has the token, which is kept in this variable and nowhere else.
let token = null;
async function ask(path, body) {
  const shown = String.fromCharCode(...new TextEncoder().encode(token));
  const answer = await fetch(path, { method: body == null ? "GET" : "POST", body, cache: "no-store", headers: { Authorization: `Bearer ${shown}` }, signal: AbortSignal.timeout(10000) });
  const told = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(told.error ?? answer.statusText), { status: answer.status });
  return told;
}
function lockable() {
  byId("unlock").addEventListener("submit", async (e) => {
    e.preventDefault();
    token = byId("token").value;
    byId("token").value = "";
    try {
      await ask("api/explain", "PING");
      byId("unlocked").hidden = false;
      put("unlock-said", "Shown until this page is closed.");
      showKeys();
    } catch (problem) {
      token = null;
      byId("unlocked").hidden = true;
      put("unlock-said", problem.status === 401 ? "That is not the token." : problem.message);
    }
  });
  byId("ask").addEventListener("submit", async (e) => {
    e.preventDefault();
    const list = document.createElement("table"), body = document.createElement("tbody");
    list.append(body);
    byId("explained").replaceChildren(list);
    let fields;
    try { fields = await ask("api/explain", byId("line").value); } catch (problem) { byId("explained").textContent = problem.message; return; }
    body.replaceChildren(...Object.entries(fields).filter(([, value]) => value).map(([name, value]) => {
      const row = document.createElement("tr"), head = document.createElement("th");
      head.scope = "row";
      head.textContent = name;
      row.append(head, cell("", value));
      return row;
    }));
    fit();
  });
}
async function showKeys() {
  if (token == null) return;
  try {
    const [hot, big, clients, slow] = await Promise.all(["api/hotkeys", "api/bigkeys", "api/clients", "api/slowlog"].map((path) => ask(path)));
    const hottest = (keys) => keys.map((k) => [cell("", code(k.key)), cell("n", short(k.per_second)), cell("n", percent(k.share))]);
    rows("hot-reads", hottest(hot.reads));
    rows("hot-writes", hottest(hot.writes));
    rows("big", big.values.map((v) => [cell("", code(v.key)), cell("n", bytes(v.bytes)), cell("", v.command), cell("n", `${age(v.seconds_ago)} ago`)]));
    rows("slow", slow.entries.map((e) => [cell("", clock(e.at * 1000, true), small(`${e.name || e.address} ${e.user}`)), cell("", e.command, ...(e.key ? [" ", code(e.key)] : [])), cell("n", time(e.us * 1000)), cell("", e.reason, small(e.about))]));
    rows("clients", clients.clients.map((c) => [cell("", c.address, small([c.name, c.user].filter(Boolean).join(", "))), cell("n", short(c.per_second)), cell("n", bytes(c.received_bytes)), cell("n", bytes(c.sent_bytes)), cell("n", short(c.unanswered)), cell("n", bytes(c.unread_bytes)), cell("", c.link, small(c.doing))]));
    byId("hashed").hidden = hot.keys === "shown";
    fit();
  } catch (problem) {
    console.debug(problem);
    if (problem.status === 401 || problem.status === 403) { token = null; byId("unlocked").hidden = true; put("unlock-said", "The token holds no more."); }
  }
  setTimeout(showKeys, EVERY);
}
let lost = null;
async function look() {
  try {
    const answer = await fetch("api/status", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(answer.status);
    remember(await answer.json());
    lost = null;
    document.body.className = "";
    show();
    fit();
  } catch (problem) {
    console.debug(problem);
    lost ??= new Date();
    // One look may miss: connections are closed now and then.
    if (Date.now() - lost > 2500 || !history.length) {
      document.body.className = "stale";
      put("state", "No answer");
      byId("state").className = "pill bad";
      byId("trouble").hidden = false;
      put("trouble", `crema's admin port has not answered since ${lost.toLocaleTimeString()}. What is below is from before.`);
    }
  }
  setTimeout(look, 1000);
}
makeCharts();
explainTerms();
lockable();
look();
recall();
