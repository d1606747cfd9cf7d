/* Would a caption be kept; is a url or uid in the set. law.js decides, as Python does. */
"use strict";

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
  const { rule } = data.card.account;
  const unknown = [...law.unknownOptions(rule), ...(data.languages && rule.longest_only ? ["longest_only and languages"] : [])];
  startLanguages(data, () => show().catch(explain));
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
    const searched = searchedIn(data, $("language").value);
    const ids = match.find(text).filter(searched);
    const p = law.keepProbability(ids.map(data.probability));
    $("matches").hidden = !ids.length;
    $("matches").tBodies[0].replaceChildren(...ids.map((id) => row(entryLink(data, id), number(data.count[id]), chance(data.probability(id)))));
    return $("verdict").replaceChildren(...captionVerdict(data, ids, p, text, url, uid));
  };
  ["text", "url", "uid"].forEach((id) => $(id).addEventListener("input", () => show().catch(explain)));
}

/* Offer the languages that are searched; the last choice, without a value, is any other one. */
function startLanguages(data, changed) {
  if (!data.languages) return;
  $("of-language").hidden = false;
  data.languages.searched.forEach((name) => $("language").append(element("option", { value: name }, name)));
  $("language").append(element("option", { value: "" }, "another, or not known"));
  $("language").addEventListener("change", changed);
}

/* Give what tells whether a text of the chosen language is searched for an entry: those of its list, and of the lists for all. */
function searchedIn(data, chosen) {
  if (!data.languages) return () => true;
  const { ids, also, other } = data.languages;
  const own = chosen === "" ? other : [chosen];
  const spans = ids.filter(([name]) => own.includes(name) || also.includes(name));
  return (id) => spans.some(([, first, n]) => id >= first && id < first + n);
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

/* ---- A pair */

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
    return [element("p", {}, `${plural(uids.length, "pair has", "pairs have")} this url.`), ...answers.flat(), note];
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
  if (!pairs.length) return [element("p", {}, element("span", { className: "no" }, "Not in"), `: no matched pair has this uid. It is not in the pool, or its text matches no entry, or was lost (see the funnel)${data.card.account.removed ? ", or it was taken out" : ""}.`), name];
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
