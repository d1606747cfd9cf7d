/* What readers want first: what the set is, key figures, counts before and after, the funnel, head and tail, terms, files. */
"use strict";

const LISTED = 8;
const BINS = 200;

/* Say what the set is, and what t means, in two sentences. */
function drawSummary({ card, t, varied }) {
  const { account } = card;
  document.title = `${shown(card.name).textContent} - data card`;
  $("name").replaceChildren(shown(card.name));
  $("summary").replaceChildren(
    shown(card.name), ` is a set of ${plural(account.pairs.kept, "image-text pair")}, chosen from a pool of ${number(account.funnel.rows)} by their captions`
      + ` alone: each caption was searched for the ${number(account.list.entries)} entries, words and phrases, of a query list.`
      + (varied ? ` The threshold t of an entry is ${thresholdOf(number(t, 2), account.balance.t_by)}, and balances the set: an entry` : ` The threshold t = ${number(t, 2)} balances the set: an entry`)
      + ` that fewer pairs match (the tail) keeps all of them, and of a more frequent entry (the head)`
      + " each pair is kept with probability t / count, or more if its other entries keep it too.",
  );
}

/* Say what the threshold of an entry is, where thresholds vary by a weight or a language, or by both. */
function thresholdOf(t, by) {
  if (!by.startsWith("language")) return `${t} times its ${shown(by).textContent}`;
  return `that of its language${by === "language" ? "" : " times its weight"}`;
}

/* Say what t was found from: `asked` is "t = 20", "tail_share = 0.06" or "target_pairs = 1000". */
function askedFor(asked) {
  const [, name, value] = asked.match(/^(t|tail_share|target_pairs) = ([0-9.e+-]+)$/) ?? [];
  if (name === "t") return "as the publisher chose it";
  if (name === "tail_share") return `chosen to give a tail share of ${percent(Number(value))}`;
  return name ? `chosen to keep ${number(Number(value))} pairs` : asked;
}

function drawTiles({ card, t, sums, varied }) {
  const { pairs, funnel, list, entries, balance } = card.account;
  const share = (part, whole) => (whole ? part / whole : 0);
  const tiles = [
    ["Pairs kept", number(pairs.kept), `${percent(share(pairs.kept, funnel.rows))} of the ${number(funnel.rows)} rows of the pool`],
    ["Pairs matched", number(pairs.matched), `${percent(share(pairs.matched, funnel.rows))} of the rows contain an entry`],
    ["Threshold t", number(t, 2), shown(`${askedFor(balance.asked)}${varied ? `; ${balance.t_by.startsWith("language") ? `by ${balance.t_by}` : `times the ${balance.t_by} of each entry`}` : ""}`)],
    ["Tail share", `${percent(share(sums.tail.count, sums.all.count))} → ${percent(share(sums.tail.kept, sums.all.kept))}`, "of all matches belong to entries of the tail, before and after balancing"],
    ["Entries found", number(entries.head + entries.tail), `of the ${number(list.entries)} in the list`],
    ["Head entries", number(entries.head), "have at least t pairs, and those above t were thinned"],
  ];
  $("tiles").replaceChildren(...tiles.map(([name, figure, more]) => element("div", {}, element("dt", {}, name),
    element("dd", { className: "figure" }, figure), element("dd", { className: "note" }, more))));
}

/* ---- Curves */

function drawRanks({ card, t }) {
  const line = (i) => card.ranks.map((point) => [point[0], point[i]]);
  $("ranks").replaceChildren(chart({
    title: "Pairs of each entry, from the most frequent entry to the rarest. Balancing lowers the head towards t and leaves the tail.",
    description: `Pairs of an entry by its rank, in the pool and in the set, both axes logarithmic. The largest count is ${number(card.ranks[0][1])} in the pool and ${number(card.ranks[0][2])} in the set; t is ${number(t, 2)}.`,
    lines: [{ points: line(1), name: "in the pool", className: "before" }, { points: line(2), name: "in the set" }],
    x: { name: "rank of the entry", log: true }, y: { name: "pairs", log: true }, marks: [{ y: t, label: `t = ${number(t, 2)}` }],
  }));
}

/* Sum up counts and kept pairs of entries up to a count, at counts evenly spaced in the logarithm. */
function cumulative({ count, kept, largest, sums }) {
  const top = Math.log(Math.max(2, largest)), before = new Float64Array(BINS + 1), after = new Float64Array(BINS + 1);
  for (let id = 0; id < count.length; id++) {
    if (!count[id]) continue;
    const bin = Math.min(BINS, Math.ceil(BINS * Math.log(count[id]) / top - 1e-9));
    before[bin] += count[id];
    after[bin] += kept(id);
  }
  const points = (bins, all) => { let sum = 0; return Array.from(bins, (value, i) => [Math.exp(top * i / BINS), all ? (sum += value) / all : 0]); };
  return [points(before, sums.all.count), points(after, sums.all.kept)];
}

function drawCumulative(data) {
  const [before, after] = cumulative(data);
  $("cumulative").replaceChildren(chart({
    title: "Share of all matches that belong to entries up to a count. Left of t is the tail, whose share balancing raises.",
    description: `Share of all matches by count of the entry, in the pool and in the set. Up to t = ${number(data.t, 2)}: ${percent(data.sums.tail.count / (data.sums.all.count || 1))} in the pool, ${percent(data.sums.tail.kept / (data.sums.all.kept || 1))} in the set.`,
    lines: [{ points: before, name: "in the pool", className: "before" }, { points: after, name: "in the set" }],
    x: { name: "count of the entry in the pool", log: true }, y: { name: "share of all matches", format: percent },
    marks: [{ x: data.t, label: `t = ${number(data.t, 2)}` }],
  }));
}

/* ---- Funnel */

function bar(share, className = "") {
  const made = element("div", { className: `bar ${className}` });
  made.style.width = `${100 * Math.min(1, share)}%`;
  return made;
}

function drawFunnel({ card }) {
  const { account, meaning } = card;
  const stages = ["rows", "matched", "kept"], always = [...stages, "no_match", "not_drawn"];
  const names = Object.keys(meaning).filter((name) => always.includes(name) || account.funnel[name]);
  $("rows").tBodies[0].replaceChildren(...names.map((name) => {
    const share = account.funnel.rows ? account.funnel[name] / account.funnel.rows : 0, stage = stages.includes(name);
    const text = stage ? meaning[name][0].toUpperCase() + meaning[name].slice(1) : `Dropped: ${meaning[name]}`;
    return Object.assign(row(number(account.funnel[name]), percent(share), wordCell(text, bar(share, stage ? "" : "before"))), { className: stage ? "stage" : "" });
  }));
  const images = account.images ?? [], seen = images.find((one) => one.step === "samples")?.samples || 1;
  $("images").hidden = !images.length;
  $("images").tBodies[0].replaceChildren(...images.map(({ step, samples, meaning }) => {
    const stage = ["samples", "kept"].includes(step);
    return Object.assign(row(number(samples), percent(samples / seen), wordCell(shown(meaning), bar(samples / seen, stage ? "" : "before"))), { className: stage ? "stage" : "" });
  }));
  const lost = account.lost_inputs;
  $("lost").replaceChildren(...(lost.length ? [
    element("p", { className: "no" }, `${plural(lost.length, "input file")} could not be read; what is missing of them is in no figure here:`),
    element("ul", {}, ...lost.map((item) => element("li", {}, shown(item.name), ` from row ${number(item.first)}, ${item.rows === null ? "all there are" : plural(item.rows, "row")}`)))] : []));
}

/* ---- Head and tail */

const keptShare = (data, id) => (data.count[id] ? percent(data.keptShare(id)) : "");

function sumCell(value, all, className) {
  const share = all ? value / all : 0;
  return element("td", {}, number(value), " ", element("small", {}, percent(share)), bar(share, className));
}

function drawParts(data) {
  const { sums, card } = data, { entries } = card.account;
  const parts = [[["Head", "count of t or more"], entries.head, sums.head], [["Tail", "count below t"], entries.tail, sums.tail], [["Zero", "found in no pair"], entries.zero, { count: 0, kept: 0 }]];
  $("head-tail").tBodies[0].replaceChildren(...parts.map(([[name, what], n, sum]) =>
    row(element("span", {}, `${name} `, element("small", {}, what)), number(n), sumCell(sum.count, sums.all.count, "before"), sumCell(sum.kept, sums.all.kept))));
  const list = (table, part, order) => {
    const { ids } = search(data, "", "", part, order, LISTED);
    $(table).hidden = !ids.length;
    $(table).tBodies[0].replaceChildren(...ids.map((id) => row(entryLink(data, id), number(data.count[id]), number(data.kept(id)), keptShare(data, id))));
  };
  list("thinned", "head", "thinned");
  list("whole", "tail", "matched");
  const { matched, kept } = card.account.pairs;
  $("overall").textContent = matched ? `Of all matched pairs ${percent(kept / matched)} were kept: entries with a smaller share kept have less weight in the set than in the pool, and those with a larger share have more.` : "";
  $("sources").hidden = card.by_source.length < 2;
  $("sources").tBodies[0].replaceChildren(...card.by_source.map(([code, n, zero, count, kept]) =>
    row(shown(data.sourceOf(code)), moreCell(number(n)), moreCell(number(zero)), sumCell(count, sums.all.count, "before"), sumCell(kept, sums.all.kept))));
}

/* ---- Licence, contact, removal, downloads */

/* Show a text from outside, as a link if it is an address of the web or of mail. */
function linked(text) {
  const href = /^https?:\/\/[^\s]+$/i.test(text) ? text : /^[^\s@:?&]+@[^\s@:?&]+$/.test(text) ? `mailto:${text}` : null;
  return href ? element("a", { href, rel: "noopener noreferrer" }, shown(text)) : shown(text);
}

function drawTerms({ card }) {
  const { account } = card, { license, contact, url, removed } = account;
  fill($("terms"), [
    ["Licence", ...(license ? [shown(license), ", of the figures and lists on this page."] : ["None is stated."]), " The images belong to whoever made them; none is part of this card."],
    ["Contact", ...(contact ? [linked(contact)] : ["The publisher gave no contact."])],
    ...(url ? [["Published at", linked(url)]] : []),
    ["Removal", ...(contact ? ["Write to ", linked(contact)] : ["Ask the publisher"]), " and name the uid, the url or the host of the pairs. The next version leaves them out; whether other pairs are kept does not change."],
  ]);
  const files = [
    ["card.json", "every figure of this page, for a program"],
    ["entries.parquet", "each entry with its count, probability, pairs expected and kept, and captions, if the card shows any"],
    ["README.md", "the data set card, as the Hugging Face Hub shows it"],
    ["croissant.json", "the description for data set search engines (Croissant)"],
    ...(removed ? [["removed.parquet", "the pairs that the last version took out, by uid and by hash of the url"]] : []),
  ];
  $("files").replaceChildren(...files.map(([name, what]) => element("li", {}, element("a", { href: name }, name), `: ${what}`)));
  if (!removed) return;
  const steps = removed.versions.map((version) => element("li", {}, `${plural(version.pairs, "matched pair")}, ${number(version.kept)} of them kept, from version `,
    shown(version.parent.slice(0, 16))));
  $("taken").replaceChildren(
    element("p", {}, "Taken out on request since the first version:"), element("ul", {}, ...steps),
    element("p", { className: "note" }, `Counts, probabilities and draws stay those of the first version; without these pairs the counts come to ${number(removed.count)}. removed.parquet lists the last step's pairs by uid and by hash of the url; "metaclip card apply" takes them out of a copy.`),
  );
}
