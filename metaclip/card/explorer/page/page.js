/* The page: draws what the data say. Every text of the data goes through `shown`, which makes text nodes and nothing else.
   law.js has the rules, data.js the data, chart.js the charts. */
"use strict";

const $ = (id) => document.getElementById(id);
const number = (x, digits = 0) => x.toLocaleString("en-US", { maximumFractionDigits: digits });
const percent = (x) => `${number(100 * x, 2)}%`;
const chance = (p) => (p === 1 || p === 0 ? String(p) : p.toPrecision(4));
const SHOWN = 50;

/* ---- Elements ---------------------------------------------------------------------------------------------------- */

/* Make an element; what it holds are nodes, and strings of this program. */
function element(tag, properties = {}, ...inside) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...inside);
  return made;
}

/* What acts on a terminal or on the order of letters, or is not seen: controls, bidi marks, zero widths, half pairs. */
const UNSEEN = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;

/* Show a text from outside: isolated from the direction of what stands around it, what is unseen as its number. */
function shown(text) {
  const bdi = element("bdi");
  let at = 0;
  for (const { 0: char, index } of text.matchAll(UNSEEN)) {
    const code = char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    bdi.append(text.slice(at, index), element("span", { className: "escape" }, `U+${code}`));
    at = index + char.length;
  }
  bdi.append(text.slice(at));
  return bdi;
}

function fill(list, pairs) {
  list.replaceChildren(...pairs.flatMap(([term, ...inside]) => [element("dt", {}, term), element("dd", {}, ...inside)]));
}

function row(...cells) {
  return element("tr", {}, ...cells.map((cell, i) => (cell instanceof HTMLTableCellElement ? cell
    : element(i ? "td" : "th", i ? {} : { scope: "row" }, cell))));
}

function wordCell(...inside) { return element("td", { className: "words" }, ...inside); }
function moreCell(...inside) { return element("td", { className: "more" }, ...inside); }

function explain(problem) {
  $("problem").hidden = false;
  $("problem").textContent = problem.message ?? String(problem);
}

/* ---- Entries ----------------------------------------------------------------------------------------------------- */

function startSearch(data) {
  let limit = SHOWN;
  const show = () => {
    const source = $("source").value === "" ? "" : Number($("source").value);
    const { ids, total } = search(data, $("query").value, source, $("part").value, limit);
    $("found").textContent = `${number(total)} of ${number(data.entries.length)} entries${total > ids.length ? `, the first ${number(ids.length)} shown` : ""}`;
    $("results").tBodies[0].replaceChildren(...ids.map((id) => entryRow(data, id)));
    $("more").hidden = total <= ids.length;
  };
  const anew = () => { limit = SHOWN; show(); };
  data.card.sources.forEach((name, i) => $("source").append(element("option", { value: i + 1 }, shown(name).textContent)));
  if (data.source.includes(0)) $("source").append(element("option", { value: 0 }, "unnamed"));
  $("query").addEventListener("input", anew);
  $("source").addEventListener("change", anew);
  $("part").addEventListener("change", anew);
  $("more").addEventListener("click", () => { limit += 4 * SHOWN; show(); });
  data.goTo = (id) => {
    $("query").value = data.entries[id];
    $("source").value = $("part").value = "";
    anew();
    const button = $("results").tBodies[0].querySelector("button");
    button.focus();
    if (button.getAttribute("aria-expanded") === "false") button.click();
  };
  show();
}

function entryRow(data, id) {
  const button = element("button", { type: "button", className: "link", ariaExpanded: "false" }, shown(data.entries[id]));
  const made = row(button, moreCell(shown(data.sourceOf(data.source[id]))), number(data.count[id]), moreCell(chance(data.probability(id))),
    moreCell(number(data.expected(id), 1)), number(data.kept(id)));
  let detail = null;
  button.addEventListener("click", () => {
    const opening = button.ariaExpanded === "false";
    if (opening) history.replaceState(null, "", `#entry=${encodeURIComponent(data.entries[id])}`);
    button.ariaExpanded = String(opening);
    made.className = opening ? "opened" : "";
    if (!opening) { detail.remove(); return; }
    detail = element("tr", {}, element("td", { className: "detail", colSpan: 6 }, element("p", {}, "Loading.")));
    made.after(detail);
    entryDetail(data, id).then((inside) => detail.firstChild.replaceChildren(...inside), explain);
  });
  return made;
}

async function entryDetail(data, id) {
  const { card, t, count } = data;
  const [samples, seen, fellows, grid] = (await loadJson(`block-${Math.floor(id / card.block)}`))[id % card.block];
  const what = {
    zero: "No pair of the pool matches it.",
    tail: `Its count is below t = ${number(t, 2)}: every pair is kept.`,
    head: `It alone keeps a pair with probability ${chance(data.probability(id))}; pairs also stay through their other entries.`,
  }[data.part(id)];
  const inside = [
    element("p", {}, `entry_id ${id} (source: `, shown(data.sourceOf(data.source[id])), `): ${number(count[id])} pairs match it, `,
      `${number(data.expected(id), 1)} were expected to stay, ${number(data.kept(id))} were kept. ${what}`),
    element("h3", {}, "Captions that were kept"),
    samples.length ? element("ul", {}, ...samples.map((text) => element("li", {}, shown(text))))
      : element("p", { className: "note" }, "None to show."),
    element("h3", {}, "Occurs with"),
  ];
  if (!card.neighbours) inside.push(element("p", { className: "note" }, "This card was made without neighbours."));
  else if (!fellows.length) inside.push(element("p", { className: "note" }, "No entry, more often than by chance."));
  else inside.push(
    element("ul", {}, ...fellows.map(([other, together, lift]) => element("li", {}, entryLink(data, other),
      ` in ${percent(together / seen)} of its captions, ${number(lift, 1)} times as often as by chance`))),
    element("p", { className: "note" }, `Seen in ${number(seen)} of its ${number(count[id])} captions`
      + `${seen < count[id] ? `, drawn by hash (about ${number(card.neighbours.seen)} of an entry; none of more than ${card.neighbours.widest} entries)` : ""}.`),
  );
  if (data.part(id) === "tail") inside.push(element("p", {}, `At any t of ${number(count[id])} or more it is kept whole.`));
  if (card.grid && data.part(id) === "head") {
    const points = card.grid.thresholds.map((x, i) => [x, grid[i] ?? count[id]]);
    inside.push(element("h3", {}, "Expected pairs under another t"), chart(
      [{ points }], "t", "expected pairs of this entry", t,
      `From ${number(points[0][1], 1)} at t = ${number(points[0][0], 2)} to ${number(points.at(-1)[1], 1)} at t = ${number(points.at(-1)[0], 2)}`));
  }
  return inside;
}

function entryLink(data, id) {
  const button = element("button", { type: "button", className: "link" }, shown(data.entries[id]));
  button.addEventListener("click", () => data.goTo(id));
  return button;
}

/* Open the entry that the address names: index.html#entry=hot%20dog. */
function followAddress(data) {
  if (!location.hash.startsWith("#entry=")) return;
  let entry;
  try { entry = decodeURIComponent(location.hash.slice("#entry=".length)); } catch { return; }
  const id = data.entries.indexOf(entry);
  if (id >= 0) data.goTo(id);
}

/* ---- A caption ---------------------------------------------------------------------------------------------------- */

/* Make the function that finds the entries of a text, with what its rule needs; null where the rule is unknown here. */
async function matcher(data) {
  const { rule } = data.card.account;
  const tables = data.card.rule_tables ? await loadJson("rule") : {};
  const index = law.makeIndex(data.entries, tables.forms);
  return {
    find: (text) => law.match(text, index, rule, tables),
    unsure: (text) => Boolean(rule.nfc) && law.mayComposeOtherwise(text, tables.unassigned),
  };
}

function startCaption(data) {
  const unknown = law.unknownOptions(data.card.account.rule);
  let ready = null, asked = 0;
  const show = async () => {
    const mine = ++asked;
    const [text, url, uid] = ["text", "url", "uid"].map((id) => $(id).value);
    $("matches").hidden = true;
    if (!text) return $("verdict").replaceChildren();
    if (unknown.length) return $("verdict").replaceChildren(cannot(unknown));
    if (!text.isWellFormed?.() && /\p{Cs}/u.test(text)) return $("verdict").replaceChildren("This text holds half a character (a lone surrogate): no pool can.");
    const match = await (ready ??= matcher(data));
    if (mine !== asked) return null;
    if (match.unsure(text)) return $("verdict").replaceChildren("This text holds a character that this browser and the Python that matched may compose otherwise; ask metaclip explain.");
    const ids = match.find(text);
    const p = law.keepProbability(ids.map(data.probability));
    $("matches").hidden = !ids.length;
    $("matches").tBodies[0].replaceChildren(...ids.map((id) => row(entryLink(data, id), number(data.count[id]), chance(data.probability(id)))));
    return $("verdict").replaceChildren(...captionVerdict(data, ids, p, text, url, uid));
  };
  ["text", "url", "uid"].forEach((id) => $(id).addEventListener("input", () => show().catch(explain)));
}

function cannot(options) {
  return `The list was matched with ${options.join(", ")}, which this page does not know. It does not guess: ask metaclip explain.`;
}

function captionVerdict(data, ids, p, text, url, uid) {
  if (!ids.length) return [element("p", {}, element("span", { className: "no" }, "Dropped"), ": no entry matches.")];
  const likely = element("p", {}, `P(keep) = ${chance(p)}: of 100 pairs with this caption about ${number(100 * p, 1)} are kept.`);
  if (!url && !uid) return [likely, element("p", { className: "note" }, "Which ones is drawn from the pair's uid: give its url or uid to see.")];
  const name = law.uidOf(text, url, uid);
  const from = uid ? "" : ", the md5 of caption and url, as where a pool names none";
  return [likely, drawnLine(data, name, p), element("p", { className: "note" }, `uid ${name}${from}. This says what becomes of such a pair if it is in the pool.`)];
}

/* Say what the draw gives for a uid and P(keep). */
function drawnLine(data, uid, p) {
  const u = law.uniform(data.card.seed, data.card.account.balance.epoch, uid);
  const kept = u < p;
  return element("p", {}, element("span", { className: kept ? "yes" : "no" }, kept ? "Kept" : "Not kept"),
    `: its draw u = ${chance(u)} is ${kept ? "below" : "not below"} P(keep) = ${chance(p)}.`);
}

/* ---- A pair ------------------------------------------------------------------------------------------------------- */

async function rowsOf(kind, digits, key) {
  const rows = await loadJson(`${kind}-${digits ? key.slice(0, digits) : "all"}`);
  return rows.filter(([begin]) => begin === key.slice(0, 16)).map(([, ...rest]) => rest);
}

async function lookUp(data, key) {
  const looks = data.card.look_ups;
  if (/^[0-9a-f]{1,32}$/i.test(key)) return uidAnswer(data, law.uidOf("", "", key));
  if (!looks) return [element("p", {}, "This card has no look-ups, so it cannot say what urls are in. Give the caption and url above to see what their draw is.")];
  if (!looks.urls) return [element("p", { className: "note" }, "The pool names no urls; read as a uid."), ...await uidAnswer(data, law.uidOf("", "", key))];
  const uids = await rowsOf("url", looks.url_digits, law.md5(key));
  const note = element("p", { className: "note" }, `Looked for by the md5 of the url, letter by letter as the pool writes it, among the ${looks.urls} pairs.`);
  if (uids.length) {
    const answers = await Promise.all([...new Set(uids.flat())].map((uid) => uidAnswer(data, uid)));
    return [element("p", {}, `${uids.length === 1 ? "A pair has" : `${number(uids.length)} pairs have`} this url.`), ...answers.flat(), note];
  }
  // Neither digits nor a url that is known: maybe an upstream id, which stands for its md5.
  if ((await rowsOf("uid", looks.uid_digits, law.md5(key))).length) return uidAnswer(data, law.md5(key));
  const why = looks.urls === "kept" ? " Whether it was in the pool and not drawn, its caption and url tell, above." : "";
  return [element("p", {}, element("span", { className: "no" }, "Not in"), `: no ${looks.urls} pair has this url, and no matched pair this uid.${why}`), note];
}

async function uidAnswer(data, uid) {
  const looks = data.card.look_ups;
  const name = element("p", { className: "note" }, `uid ${uid}`);
  if (!looks) {
    const u = law.uniform(data.card.seed, data.card.account.balance.epoch, uid);
    return [element("p", {}, `Its draw is u = ${chance(u)}: a pair with this uid is kept if its P(keep) is above that. This card has no look-ups: give the caption above to see P(keep).`), name];
  }
  const pairs = await rowsOf("uid", looks.uid_digits, uid);
  if (!pairs.length) return [element("p", {}, element("span", { className: "no" }, "Not in"), ": no matched pair has this uid. It is not in the pool, or its text matches no entry, or was lost (see the funnel)."), name];
  return [name, ...pairs.flatMap((ids) => [
    drawnLine(data, uid, law.keepProbability(ids.map(data.probability))),
    element("p", { className: "note" }, "It matches ", ...ids.flatMap((id, i) => [i ? ", " : "", entryLink(data, id), ` (${chance(data.probability(id))})`]), "."),
  ])];
}

function startPair(data) {
  $("pair").querySelector("form").addEventListener("submit", () => {
    const key = $("key").value.trim();
    if (key) lookUp(data, key).then((answer) => $("answer").replaceChildren(...answer), explain);
  });
}

/* ---- Another t ---------------------------------------------------------------------------------------------------- */

/* Read a grid's column at t: on a straight line between its points, in logarithms. Null outside of the grid. */
function between({ thresholds, pairs }, t) {
  const i = thresholds.findIndex((x) => x >= t);
  if (i < 0 || t < thresholds[0]) return null;
  if (thresholds[i] === t) return { pairs: pairs[i], exact: true };
  const [a, b] = [i - 1, i];
  const part = Math.log(t / thresholds[a]) / Math.log(thresholds[b] / thresholds[a]);
  const value = pairs[a] > 0 ? pairs[a] * (pairs[b] / pairs[a]) ** part : pairs[b] * part;
  return { pairs: value, exact: false, from: [thresholds[a], pairs[a]], to: [thresholds[b], pairs[b]] };
}

/* Sum up the counts below t, entry by entry: exact. */
function tailAt(count, t) {
  let tail = 0, all = 0, heads = 0;
  for (const c of count) { all += c; if (c < t) tail += c; else heads++; }
  return { share: all ? tail / all : 0, heads };
}

function startThreshold(data) {
  const { grid, account } = data.card;
  const most = grid ? grid.thresholds.at(-1) : Math.max(2, data.card.ranks[0][1]);
  const least = grid ? grid.thresholds[0] : 1;
  const toT = (place) => Number((least * (most / least) ** (place / 1000)).toPrecision(2));
  const toPlace = (t) => Math.round(1000 * Math.log(t / least) / Math.log(most / least));
  const show = (t) => {
    $("slide").setAttribute("aria-valuetext", `t = ${number(t, 2)}`);
    const { share, heads } = tailAt(data.count, t);
    const found = grid && between(grid, t);
    const pairs = found ? `${found.exact ? "" : "about "}${number(found.pairs)} (${percent(found.pairs / account.pairs.matched)} of the matched)`
      : grid ? `not known: the grid ends at t = ${number(most, 2)}` : "not known: this card was made without a grid";
    fill($("would"), [
      ["pairs expected", pairs],
      ["tail share", `${percent(share)} of all counts are of entries below t (exact)`],
      ["head", `${number(heads)} entries with count of t or more (exact)`],
    ]);
    const sampled = grid?.share < 1;
    $("between").textContent = (found?.from
      ? `Between the grid's points, where ${number(found.from[1])} are expected at t = ${number(found.from[0], 2)} and ${number(found.to[1])} at t = ${number(found.to[0], 2)}${sampled ? "." : ": the true number lies between these."}`
      : found ? `This t is a point of the grid${sampled ? "." : ": computed, not estimated."}` : "")
      + (sampled ? ` Scaled from a sample of ${percent(grid.share)} of the matched pairs.` : "");
    if (grid) {
      const points = (column) => [{ points: grid.thresholds.map((x, i) => [x, column[i]]) }];
      $("curve").replaceChildren(
        chart(points(grid.pairs), "t", "expected pairs", t, `Expected pairs by t; at t = ${number(t, 2)}: ${pairs}`),
        chart(points(grid.tail_share), "t", "tail share", t, `Tail share by t; at t = ${number(t, 2)}: ${percent(share)}`),
      );
    }
  };
  $("slide").addEventListener("input", () => { const t = toT($("slide").value); $("t").value = t; show(t); });
  $("t").addEventListener("input", () => { const t = Number($("t").value); if (t > 0) { $("slide").value = toPlace(t); show(t); } });
  $("t").value = data.t;
  $("slide").value = toPlace(data.t);
  show(data.t);
}

function drawRanks({ card }) {
  const line = (i) => card.ranks.map((point) => [point[0], point[i]]);
  $("ranks").replaceChildren(chart([{ points: line(1), className: "before" }, { points: line(2) }], "rank",
    "pairs of an entry by rank: dashed in the pool, solid kept", 0,
    "Pairs of an entry by rank, in the pool and kept, both axes logarithmic"));
}

/* ---- The account -------------------------------------------------------------------------------------------------- */

function drawFunnel(data) {
  const { account, meaning } = data.card;
  const always = ["rows", "no_match", "matched", "not_drawn", "kept"];
  const names = Object.keys(meaning).filter((name) => always.includes(name) || account.funnel[name]);
  $("rows").tBodies[0].replaceChildren(...names.map((name) => {
    const share = account.funnel.rows ? account.funnel[name] / account.funnel.rows : 0;
    const bar = element("div", { className: "bar" });
    bar.style.width = `${100 * share}%`;
    return row(number(account.funnel[name]), percent(share), wordCell(`${name}: ${meaning[name]}`, bar));
  }));
  const lost = account.lost_inputs;
  $("lost").replaceChildren(...(lost.length ? [element("p", { className: "no" }, `${number(lost.length)} inputs could not be read; what is missing of them is in no figure here:`),
    element("ul", {}, ...lost.map((item) => element("li", {}, shown(item.name), ` from row ${number(item.first)}, ${item.rows === null ? "all there are" : `${number(item.rows)} rows`}`)))] : []));
  $("sources").tBodies[0].replaceChildren(...data.card.by_source.map(([code, n, zero, count, kept]) =>
    row(shown(data.sourceOf(code)), number(n), moreCell(number(zero)), number(count), number(kept))));
}

function drawAccount({ card, t }) {
  const { account, inputs } = card;
  const { pairs, balance, entries } = account;
  document.title = `${shown(card.name).textContent} - data card`;
  $("name").replaceChildren(shown(card.name));
  $("summary").textContent = `${number(pairs.kept)} of ${number(account.funnel.rows)} pairs kept, by a list of ${number(account.list.entries)} entries: t = ${number(t, 2)}, tail share ${percent(balance.tail_share)}.`;
  const rule = Object.entries(account.rule).filter(([, value]) => value && value !== "none").map(([name, value]) => (value === true ? name : `${name} = ${value}`));
  const lines = (object) => Object.entries(object).map(([name, value]) => `${name} ${value}`).join(", ");
  fill($("facts"), [
    ["t", `${number(t, 6)} (asked: `, shown(balance.asked), ")"],
    ["pairs", `${number(pairs.matched)} matched, ${number(pairs.expected, 1)} ± ${number(pairs.deviation, 1)} expected, ${number(pairs.kept)} kept`],
    ["entries", `${number(entries.zero)} at zero, ${number(entries.tail)} tail, ${number(entries.head)} head`],
    ["text rule", shown(rule.join(", ") || "as in the paper")],
    ["seed, epoch", `${card.seed}, ${balance.epoch}`],
    ["repeated uids", `${number(pairs.repeated_uids)}, on ${number(pairs.repeated_rows)} rows too many`],
    ["list", shown(`sha256 ${account.list.digest}`)],
    ["result", shown(account.result_digest)],
    ["made", shown(`${account.created} with ${lines(account.versions)}`)],
    ["inputs", `${number(inputs.files)} files, ${number(inputs.bytes)} bytes${inputs.files > inputs.first.length ? `; the first ${inputs.first.length}, all in card.json:` : ":"}`,
      element("ul", {}, ...inputs.first.map((item) => element("li", {}, shown(item.name), ` (${number(item.size)} bytes)`)))],
  ]);
}

/* ---- The page ------------------------------------------------------------------------------------------------------ */

function startTheme() {
  const names = { auto: "as the system", light: "light", dark: "dark" };
  const remember = (name) => { try { localStorage.setItem("theme", name); } catch { /* a page from disk may have none */ } };
  const remembered = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const set = (name) => {
    document.documentElement.dataset.theme = name;
    $("theme").textContent = `Theme: ${names[name]}`;
  };
  set(Object.hasOwn(names, remembered() ?? "") ? remembered() : "auto");
  $("theme").addEventListener("click", () => {
    const order = Object.keys(names);
    const next = order[(order.indexOf(document.documentElement.dataset.theme) + 1) % order.length];
    set(next);
    remember(next);
  });
}

async function start() {
  document.querySelectorAll("form").forEach((form) => form.addEventListener("submit", (event) => event.preventDefault()));
  startTheme();
  const data = await open();
  drawAccount(data);
  startSearch(data);
  startCaption(data);
  startPair(data);
  startThreshold(data);
  drawFunnel(data);
  drawRanks(data);
  followAddress(data);
  addEventListener("hashchange", () => followAddress(data));
  document.documentElement.dataset.ready = "yes";
}

start().catch(explain);
