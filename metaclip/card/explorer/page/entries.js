/* The search of entries, and what is told of one entry. */
"use strict";

const SHOWN = 50;

function startSearch(data) {
  let limit = SHOWN;
  const show = () => {
    const source = $("source").value === "" ? "" : Number($("source").value);
    const { ids, total } = search(data, $("query").value, source, $("part").value, $("order").value, limit);
    $("found").textContent = `${number(total)} of ${plural(data.entries.length, "entry", "entries")}${total > ids.length ? `, the first ${number(ids.length)} shown` : ""}`;
    $("results").tBodies[0].replaceChildren(...ids.map((id) => entryRow(data, id)));
    $("more").hidden = total <= ids.length;
  };
  const anew = () => { limit = SHOWN; show(); };
  data.card.sources.forEach((name, i) => $("source").append(element("option", { value: i + 1 }, shown(name).textContent)));
  if (data.source.includes(0)) $("source").append(element("option", { value: 0 }, "unnamed"));
  $("query").addEventListener("input", anew);
  $("source").addEventListener("change", anew);
  $("part").addEventListener("change", anew);
  $("order").addEventListener("change", anew);
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
  const made = row(button, moreCell(shown([data.languageOf(id), data.sourceOf(data.source[id])].filter(Boolean).join(" \u00b7 "))), number(data.count[id]), moreCell(chance(data.probability(id))),
    moreCell(number(data.expected(id), 1)), number(data.kept(id)), keptShare(data, id));
  let detail = null;
  button.addEventListener("click", () => {
    const opening = button.ariaExpanded === "false";
    if (opening) history.replaceState(null, "", `#entry=${encodeURIComponent(data.entries[id])}`);
    button.ariaExpanded = String(opening);
    made.className = opening ? "opened" : "";
    if (!opening) { detail.remove(); return; }
    detail = element("tr", {}, element("td", { className: "detail", colSpan: 7 }, element("p", {}, "Loading.")));
    made.after(detail);
    entryDetail(data, id).then((inside) => detail.firstChild.replaceChildren(...inside), explain);
  });
  return made;
}

async function entryDetail(data, id) {
  const { card, t, count } = data;
  const [samples, seen, fellows, grid, left] = (await loadJson(`block-${Math.floor(id / card.block)}`))[id % card.block];
  const times = data.varied ? `, which is ${thresholdOf(number(t, 2), card.account.balance.t_by)}` : "";
  const what = {
    zero: "No pair of the pool matches it.",
    tail: `Its count is below t = ${number(data.threshold(id), 2)}${times}: every pair is kept.`,
    head: `It alone keeps a pair with probability ${chance(data.probability(id))}; pairs also stay through their other entries.${data.varied ? ` Its t is ${number(data.threshold(id), 2)}${times}.` : ""}`,
  }[data.part(id)];
  const inside = [
    element("p", {}, `entry_id ${id} (${data.languages ? `language: ${data.languageOf(id)}, ` : ""}source: `, shown(data.sourceOf(data.source[id])), `): ${plural(count[id], "pair matches", "pairs match")} it, `,
      `${number(data.expected(id), 1)} were expected to be kept, and ${number(data.kept(id))} ${data.kept(id) === 1 ? "was" : "were"}. ${what}`),
    ...(left === undefined ? [] : [element("p", {}, `Pairs were taken out since its count was made: ${number(left)} are left.`)]),
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
  if (data.part(id) === "tail") inside.push(element("p", {}, `At any t of ${data.varied ? `about ${number(count[id] * t / data.threshold(id), 2)}` : number(count[id])} or more it is kept whole.`));
  if (grid.length && data.part(id) === "head") {
    const points = card.grid.thresholds.map((x, i) => [x, grid[i] ?? count[id]]);
    inside.push(element("h3", {}, "Expected pairs under another t"), chart({
      title: "Pairs of this entry that are expected to be kept, by t",
      description: `From ${number(points[0][1], 1)} at t = ${number(points[0][0], 2)} to ${number(points.at(-1)[1], 1)} at t = ${number(points.at(-1)[0], 2)}`,
      lines: [{ points }], x: { name: "t", log: true }, y: { name: "pairs", log: true }, marks: [{ x: t, label: `t = ${number(t, 2)}` }],
    }));
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
