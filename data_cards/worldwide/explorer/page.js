/* The page: how the set was made, light and dark, and the start of all the rest. law.js has the rules, data.js the data,
   chart.js the charts, elements.js what a page is made of; overview.js, entries.js, asking.js and figures.js are its
   sections. */
"use strict";

function drawSettings({ card, t, count, kept, expected, varied }) {
  const { account, inputs } = card;
  const { pairs, balance } = account;
  const rule = Object.entries(account.rule).filter(([, value]) => value && value !== "none").map(([name, value]) => (value === true ? name : `${name} = ${value}`));
  const lines = (object) => Object.entries(object).map(([name, value]) => `${name} ${value}`).join(", ");
  fill($("facts"), [
    ["Threshold", `t = ${number(t, 6)}, `, shown(`${askedFor(balance.asked)}${varied ? `; that of an entry is ${thresholdOf("t", balance.t_by)}, in the column t of entries.parquet` : ""}`)],
    ["Draw", `A hash of each pair's uid with seed ${card.seed} and epoch ${balance.epoch} decides. ${number(pairs.expected, 1)} ± ${number(pairs.deviation, 1)} pairs were expected to be kept, and ${number(pairs.kept)} were.`],
    ["Text rule", shown(rule.join(", ") || "as in the paper")],
    ["Repeated uids", pairs.repeated_uids ? `${plural(pairs.repeated_uids, "uid stands", "uids stand")} on more than one matched row; ${plural(pairs.repeated_rows, "row repeats", "rows repeat")} an earlier one.` : "No uid stands on more than one matched row."],
    ["Query list", shown(`sha256 ${account.list.digest}`)],
    ["Result digest", shown(account.result_digest)],
    ["Made", shown(`${account.created} with ${lines(account.versions)}`)],
    ["Pool", `${plural(inputs.files, "file")} of ${plural(inputs.bytes, "byte")} in all${inputs.files > inputs.first.length ? `; the first ${inputs.first.length}, all in card.json:` : ":"}`,
      element("ul", {}, ...inputs.first.map((item) => element("li", {}, shown(item.name), ` (${plural(item.size, "byte")})`)))],
  ]);
  // A few entries of each size: all of them would be one blot.
  const chosen = new Map();
  for (let id = 0; id < count.length; id++) if (kept(id)) chosen.set(Math.round(60 * Math.log(expected(id))), id);
  $("draw").replaceChildren(chart({
    title: "Pairs kept against pairs expected, for entries of every size: the draw is fair if the points lie along the diagonal.",
    description: "Pairs kept against pairs expected by entry, both axes logarithmic",
    lines: [{ points: [...chosen.values()].map((id) => [expected(id), kept(id)]), dots: true }],
    x: { name: "pairs expected", log: true }, y: { name: "pairs kept", log: true },
  }));
}

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
  drawSummary(data);
  drawTiles(data);
  drawRanks(data);
  drawCumulative(data);
  drawFunnel(data);
  drawParts(data);
  drawTerms(data);
  startSearch(data);
  startCaption(data);
  startPair(data);
  startThreshold(data);
  startClasses(data);
  drawSettings(data);
  followAddress(data);
  addEventListener("hashchange", () => followAddress(data));
  document.documentElement.dataset.ready = "yes";
}

start().catch(explain);
