/* What another t would give, how class names are covered. */
"use strict";

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

/* Sum up the counts below t, entry by entry: exact. `whole` says whether no count is above its t. */
function tailAt({ count, thresholdsAt }, t) {
  const threshold = thresholdsAt(t);
  let tail = 0, all = 0, heads = 0, whole = true;
  for (let id = 0; id < count.length; id++) {
    const c = count[id], own = threshold(id);
    all += c;
    if (c < own) tail += c;
    else heads++;
    if (c > own) whole = false;
  }
  return { share: all ? tail / all : 0, heads, whole };
}

function startThreshold(data) {
  const { grid, account } = data.card;
  const most = grid ? grid.thresholds.at(-1) : Math.max(2, data.card.ranks[0][1]);
  const least = grid ? grid.thresholds[0] : 1;
  const { largest } = data;
  const toT = (place) => Number((least * (most / least) ** (place / 1000)).toPrecision(2));
  const toPlace = (t) => Math.round(1000 * Math.log(t / least) / Math.log(most / least));
  const show = (t) => {
    $("slide").setAttribute("aria-valuetext", `t = ${number(t, 2)}`);
    const { share, heads, whole } = tailAt(data, t);
    const found = whole ? { pairs: account.pairs.matched, exact: true } : grid && between(grid, t);
    const pairs = found ? `${found.exact ? "" : "about "}${number(found.pairs)} (${percent(found.pairs / account.pairs.matched)} of the matched)`
      : grid ? `not known: the grid begins at t = ${number(least, 2)}` : "not known: this card was made without a grid";
    fill($("would"), [
      ["pairs expected", pairs],
      ["tail share", `${percent(share)} of all counts are of entries below t (exact)`],
      ["head", `${number(heads)} entries with count of t or more (exact)`],
    ]);
    const sampled = !whole && grid?.share < 1;
    $("between").textContent = (whole ? `No entry has a count above ${data.varied ? "its t" : `t (the largest is ${number(largest)})`}: every entry is kept whole, and so is every matched pair: computed, not estimated.` : found?.from
      ? `Between the grid's points, where ${number(found.from[1])} are expected at t = ${number(found.from[0], 2)} and ${number(found.to[1])} at t = ${number(found.to[0], 2)}${sampled ? "." : ": the true number lies between these."}`
      : found ? `This t is a point of the grid${sampled ? "." : ": computed, not estimated."}` : "")
      + (sampled ? ` Scaled from a sample of ${percent(grid.share)} of the matched pairs.` : "")
      + (data.varied ? ` The thresholds of all entries move by one factor: each is ${thresholdOf("t", account.balance.t_by)}.` : "");
    if (!grid) return;
    const curve = (title, column, y, said) => chart({
      title, description: `${title}; at t = ${number(t, 2)}: ${said}`, lines: [{ points: grid.thresholds.map((x, i) => [x, column[i]]) }],
      x: { name: "t", log: true }, y, marks: [{ x: t, label: `t = ${number(t, 2)}` }],
    });
    $("curve").replaceChildren(
      curve("Pairs expected to be kept, by t", grid.pairs, { name: "pairs" }, pairs),
      curve("Tail share, by t", grid.tail_share, { name: "share of all matches", format: percent }, percent(share)),
    );
  };
  $("slide").addEventListener("input", () => { const t = toT($("slide").value); $("t").value = t; show(t); });
  $("t").addEventListener("input", () => { const t = Number($("t").value); if (t > 0) { $("slide").value = toPlace(t); show(t); } });
  $("t").value = data.t;
  $("slide").value = toPlace(data.t);
  show(data.t);
}

/* ---- Class names ---------------------------------------------------------------------------------------------------- */

const ORDERS = {
  rare: (a, b) => a.kept - b.kept || (a.count ?? 0) - (b.count ?? 0),
  often: (a, b) => b.kept - a.kept || (b.count ?? 0) - (a.count ?? 0),
  listed: () => 0,
};

function startClasses(data) {
  const lists = data.card.account.classes ?? [];
  if (!lists.length) return;
  $("classes").hidden = $("to-classes").hidden = false;
  $("class-list").append(...lists.map((list, i) => element("option", { value: i }, shown(list.name).textContent)));
  let limit = SHOWN;
  const nats = (value) => (value === null ? "none counted" : number(value, 3));
  const show = () => {
    const list = lists[Number($("class-list").value)];
    fill($("covered"), [
      ["names", `${number(list.names)}${list.known < list.names ? `; the count of ${number(list.known)} is known, and the figures below are of these` : ""}`],
      ["at zero", `${percent(list.zero)} in no matched pair, ${percent(list.zero_kept)} in no kept one`],
      ["divergence", `${nats(list.divergence)} before, ${nats(list.divergence_kept)} after: from all names being as frequent, in nats (0: even; ${number(Math.log(Math.max(1, list.known)), 1)}: all in one)`],
    ]);
    const rows = [...list.entries].sort(ORDERS[$("class-order").value]);
    $("names").tBodies[0].replaceChildren(...rows.slice(0, limit).map((one) => row(
      one.entry_id === null ? shown(one.name) : entryLink(data, one.entry_id), one.count === null ? "not known" : number(one.count), number(one.kept))));
    $("more-names").hidden = rows.length <= limit;
  };
  const anew = () => { limit = SHOWN; show(); };
  $("class-list").addEventListener("change", anew);
  $("class-order").addEventListener("change", anew);
  $("more-names").addEventListener("click", () => { limit += 4 * SHOWN; show(); });
  show();
}
