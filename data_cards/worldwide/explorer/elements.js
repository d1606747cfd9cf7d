/* What the page is made of. Every text of the data goes through `shown`, which makes text nodes and nothing else. */
"use strict";

const $ = (id) => document.getElementById(id);
const number = (x, digits = 0) => x.toLocaleString("en-US", { maximumFractionDigits: digits });
const percent = (x) => `${number(100 * x, 2)}%`;
const plural = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;
const chance = (p) => (p === 1 || p === 0 ? String(p) : p.toPrecision(4));

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
