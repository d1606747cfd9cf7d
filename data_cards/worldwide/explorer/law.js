/* The law of metaclip, without a page: which entries stand in a text, P(keep), the draw, the uid.

   It gives what metaclip's Python gives, bit by bit; tests/card/test_explorer_law.py holds the two together. Where
   Python's Unicode decides (case folding, separators, HTML's names), its tables come with the data, so that no browser's
   own version of them is asked. */
"use strict";

const law = (() => {
  const MARKS = /[,.;:?!`]/g;
  const BLANKS = /[\t\n\r]/g;
  const EACH = /[\s\S]/gu;
  const OPTIONS = ["space_entries", "fold_spaces", "unicode_separators", "nfc", "unescape_html", "fold_case",
    "longest_only", "unspaced_scripts"];

  /* Name the options of a text rule that are in use and unknown here: under them nothing may be answered. */
  function unknownOptions(rule) {
    return Object.keys(rule).filter((name) => rule[name] && rule[name] !== "none" && !OPTIONS.includes(name));
  }

  /* Give the padded, spaced form of a text. `tables` are Python's: {separators, folded, names, numbers}. */
  function pad(text, rule = {}, tables = {}) {
    if (rule.unescape_html) text = unescapeHtml(text, tables);
    if (rule.nfc) text = text.normalize("NFC");
    if (rule.fold_case) text = replaceEach(text, tables.folded);
    if (rule.fold_case && rule.nfc) text = text.normalize("NFC");
    if (rule.unicode_separators) text = replaceEach(text, tables.separators);
    text = ` ${text.replace(MARKS, " $& ").replace(BLANKS, " ")} `;
    return rule.fold_spaces ? text.replace(/ +/g, " ") : text;
  }

  function replaceEach(text, table) {
    return text.replace(EACH, (char) => (Object.hasOwn(table, char) ? table[char] : char));
  }

  function unescapeHtml(text, { names, numbers }) {
    return text.replace(/&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)/gu, (whole, name) => {
      if (name[0] === "#") {
        const hex = name[1] === "x" || name[1] === "X";
        const point = Number.parseInt(name.slice(hex ? 2 : 1), hex ? 16 : 10);
        if (Object.hasOwn(numbers, point)) return numbers[point];
        return point > 0x10ffff ? "\ufffd" : String.fromCodePoint(point);
      }
      for (let size = name.length; size > 1; size--) {
        const begin = name.slice(0, size);
        if (Object.hasOwn(names, begin)) return names[begin] + name.slice(size);
      }
      return whole;
    });
  }

  /* Tell whether Unicode's composed form of a text may differ between this browser and the Python that matched:
     whether it holds a character that one of them does not know. `unassigned` are ranges of code points. */
  function mayComposeOtherwise(text, unassigned) {
    return /\p{Cn}/u.test(text) || Array.from(text).some((char) => {
      const point = char.codePointAt(0);
      return unassigned.some(([first, last]) => first <= point && point <= last);
    });
  }

  /* Make the entries ready to be looked for. `forms` lists [id, padded form] of those whose form is not the entry between
     two spaces, with null for one that can match nothing. */
  function makeIndex(entries, forms = []) {
    const changed = new Map(forms);
    const index = { spaced: new Map(), open: new Map(), openings: new Set(), longest: 0, longestOpen: 0 };
    for (let id = 0; id < entries.length; id++) {
      let form = entries[id];
      if (changed.has(id)) {
        form = changed.get(id);
        if (form === null) continue;
        if (!form.startsWith(" ") || !form.endsWith(" ") || form.length < 2) {
          add(index.open, form, id);
          index.openings.add(form[0]);
          index.longestOpen = Math.max(index.longestOpen, form.length);
          continue;
        }
        form = form.slice(1, -1);
      }
      add(index.spaced, form, id);
      if (form.length > index.longest) index.longest = form.length;
    }
    return index;
  }

  function add(map, form, id) {
    const before = map.get(form);
    if (before === undefined) map.set(form, id);
    else if (typeof before === "number") map.set(form, [before, id]);
    else before.push(id);
  }

  /* Find the entries in a text: ascending ids. A padded entry begins and ends with a space (or is "open", at the edge of
     a script without spaces), so what stands between any two spaces is looked up, up to the longest entry. */
  function match(text, index, rule = {}, tables = {}) {
    const padded = pad(text, rule, tables);
    const spans = [];
    const found = (begin, end, ids) => { if (ids !== undefined) spans.push([begin, end, ids]); };
    const spaces = [];
    for (let at = padded.indexOf(" "); at >= 0; at = padded.indexOf(" ", at + 1)) spaces.push(at);
    for (let a = 0; a < spaces.length; a++) {
      for (let b = a + 1; b < spaces.length && spaces[b] - spaces[a] - 1 <= index.longest; b++) {
        found(spaces[a], spaces[b] + 1, index.spaced.get(padded.slice(spaces[a] + 1, spaces[b])));
      }
    }
    for (let begin = 0; index.open.size && begin < padded.length; begin++) {
      if (!index.openings.has(padded[begin])) continue;
      const last = Math.min(padded.length, begin + index.longestOpen);
      for (let end = begin + 1; end <= last; end++) found(begin, end, index.open.get(padded.slice(begin, end)));
    }
    const kept = rule.longest_only ? withoutCovered(spans) : spans;
    return [...new Set(kept.flatMap(([, , ids]) => ids))].sort((a, b) => a - b);
  }

  /* Leave out each span that lies inside a longer one. */
  function withoutCovered(spans) {
    spans.sort((a, b) => a[0] - b[0] || b[1] - a[1]);
    let reach = 0, last = null, covered = false;
    return spans.filter((span) => {
      const twin = last && last[0] === span[0] && last[1] === span[1];
      if (!twin) covered = span[1] <= reach;
      reach = Math.max(reach, span[1]);
      last = span;
      return !covered;
    });
  }

  /* min(1, t / count), 1 where the count is 0. */
  function probability(count, t) {
    return count > 0 ? Math.min(1, t / count) : 1;
  }

  /* Where t differs from entry to entry: the threshold of an entry that has `own` in a set whose t is `base`, at another t. */
  function scaled(own, base, t) {
    return (t / base) * own;
  }

  /* P(keep) from the probabilities of a text's entries by ascending id; the order is part of the law. */
  function keepProbability(probabilities) {
    let dropped = 1;
    for (const p of probabilities) dropped *= 1 - p;
    return 1 - dropped;
  }

  const word = (x) => BigInt.asUintN(64, x);

  function mix(x) {
    x = word((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n);
    x = word((x ^ (x >> 27n)) * 0x94d049bb133111ebn);
    return x ^ (x >> 31n);
  }

  /* Draw u in [0, 1) for a uid of 32 hex digits; `seed` is a decimal string, for it may pass 2^53. */
  function uniform(seed, epoch, uid) {
    const number = BigInt(`0x${uid}`);
    const key = mix(word(BigInt(seed) + 0x9e3779b97f4a7c15n * (BigInt(epoch) + 1n)));
    const hash = mix(mix(key ^ (number >> 64n)) ^ word(number));
    return Number(hash >> 11n) * 2 ** -53;
  }

  /* Give the uid of a pair: the given one, md5 of it where it is no number, or md5 of text and url. */
  function uidOf(text, url, given) {
    if (!given) return md5(text + url);
    return /^[0-9a-f]{1,32}$/i.test(given) ? given.toLowerCase().padStart(32, "0") : md5(given);
  }

  const TURNS = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
  const CONSTANTS = Array.from({ length: 64 }, (_, i) => Math.floor(Math.abs(Math.sin(i + 1)) * 2 ** 32) | 0);

  /* md5 of a string's UTF-8 bytes as 32 hex digits (RFC 1321); browsers offer none. */
  function md5(string) {
    const bytes = new TextEncoder().encode(string);
    const data = new DataView(new ArrayBuffer((((bytes.length + 8) >> 6) + 1) << 6));
    new Uint8Array(data.buffer).set(bytes);
    data.setUint8(bytes.length, 0x80);
    data.setUint32(data.byteLength - 8, bytes.length << 3, true);
    data.setUint32(data.byteLength - 4, bytes.length >>> 29, true);
    const state = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476];
    for (let block = 0; block < data.byteLength; block += 64) {
      let [a, b, c, d] = state;
      for (let step = 0; step < 64; step++) {
        const turn = step >> 4;
        const place = [step, 5 * step + 1, 3 * step + 5, 7 * step][turn] & 15;
        const mixed = [(b & c) | (~b & d), (d & b) | (~d & c), b ^ c ^ d, c ^ (b | ~d)][turn];
        const sum = (a + mixed + CONSTANTS[step] + data.getInt32(block + 4 * place, true)) | 0;
        const left = TURNS[turn][step & 3];
        [a, d, c, b] = [d, c, b, (b + ((sum << left) | (sum >>> (32 - left)))) | 0];
      }
      [a, b, c, d].forEach((part, i) => { state[i] = (state[i] + part) | 0; });
    }
    const digest = new DataView(new ArrayBuffer(16));
    state.forEach((part, i) => digest.setInt32(4 * i, part, true));
    return Array.from(new Uint8Array(digest.buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  return { unknownOptions, pad, mayComposeOtherwise, makeIndex, match, probability, scaled, keepProbability, uniform, uidOf, md5 };
})();

if (typeof module !== "undefined") module.exports = law;
