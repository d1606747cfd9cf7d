/* The page: how the set was made, light and dark, and the start of all the rest. law.js has the rules, data.js the data, chart.js the
   charts, elements.js what a page is made of; entries.js, asking.js and figures.js are its sections. */
"use strict";

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
  drawTaken(data);
  drawRanks(data);
  startClasses(data);
  followAddress(data);
  addEventListener("hashchange", () => followAddress(data));
  document.documentElement.dataset.ready = "yes";
}

start().catch(explain);
