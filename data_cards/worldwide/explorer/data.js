/* The data: loaded from classic scripts that call metaclip(number of files, base64 of gzip), for a page from disk may fetch
   nothing. metaclip/card/explorer/writer.py describes them. */
"use strict";

const policy = globalThis.trustedTypes?.createPolicy("explorer", { createScriptURL: dataUrl }) ?? { createScriptURL: dataUrl };
globalThis.metaclip = (files, base64) => Object.assign(document.currentScript, { files, base64 });

function dataUrl(name) {
  if (!/^[a-z0-9-]+\.\d+$/.test(name)) throw new TypeError(`${name} is no data file`);
  return `explorer/data/${name}.js`;
}

function loadFile(name) {
  return new Promise((resolve, reject) => {
    const script = element("script", { src: policy.createScriptURL(name) });
    script.onload = () => { resolve(script); script.remove(); };
    script.onerror = () => reject(new Error(`${dataUrl(name)} cannot be read: the page needs its folder "explorer" whole.`));
    document.head.append(script);
  });
}

const loaded = new Map();

/* Give the bytes of a name's data, loading them once. */
function load(name) {
  if (!loaded.has(name)) loaded.set(name, (async () => {
    const first = await loadFile(`${name}.0`);
    const others = Array.from({ length: first.files - 1 }, (_, i) => loadFile(`${name}.${i + 1}`));
    const base64 = [first, ...await Promise.all(others)].map((file) => file.base64).join("");
    const packed = atob(base64);
    const bytes = new Uint8Array(packed.length);
    for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  })());
  return loaded.get(name);
}

const loadText = async (name) => new TextDecoder("utf-8", { ignoreBOM: true }).decode(await load(name));
const loadJson = async (name) => JSON.parse(await loadText(name));

/* Read columns of n varints each. */
function readColumns(bytes, n, columns) {
  let at = 0;
  return Array.from({ length: columns }, () => {
    const column = new Float64Array(n);
    for (let i = 0; i < n; i++) {
      let value = 0, unit = 1, byte;
      do { byte = bytes[at++]; value += (byte & 127) * unit; unit *= 128; } while (byte > 127);
      column[i] = value;
    }
    return column;
  });
}

/* Read n numbers of 64 bits, the lowest byte first. */
function readDoubles(bytes, n) {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return Float64Array.from({ length: n }, (_, i) => view.getFloat64(8 * i, true));
}

/* Everything that the first view needs: the card, and the columns of the entries. */
async function open() {
  const [card, text, bytes] = await Promise.all([loadJson("card"), loadText("entries"), load("numbers")]);
  if (![1, 2].includes(card.format)) throw new Error(`This page reads data of formats 1 and 2, and these are of format ${card.format}: make the card again.`);
  const entries = text.split("\n");
  const [count, dropped, missing, source] = readColumns(bytes, entries.length, 4);
  const { t } = card.account.balance;
  // Format 2 is that of a set in which t differs from entry to entry.
  const each = card.format === 2 ? readDoubles(await load("t"), entries.length) : null;
  const thresholdsAt = (other) => (each ? (id) => law.scaled(each[id], t, other) : () => other);
  const threshold = each ? (id) => each[id] : () => t;
  const given = new Map(card.probabilities);
  const sums = { head: { count: 0, kept: 0 }, tail: { count: 0, kept: 0 }, all: { count: 0, kept: 0 } };
  for (let id = 0; id < entries.length; id++) for (const sum of [sums.all, count[id] < threshold(id) ? sums.tail : sums.head]) {
    sum.count += count[id];
    sum.kept += count[id] - dropped[id];
  }
  return {
    card, entries, count, source, t, threshold, thresholdsAt, sums,
    varied: each !== null,
    largest: count.reduce((a, b) => Math.max(a, b), 0),
    kept: (id) => count[id] - dropped[id],
    /* The part of an entry's pairs that is kept; 2 for an entry of no pair, which stands behind those that are kept whole. */
    keptShare: (id) => (count[id] ? 1 - dropped[id] / count[id] : 2),
    expected: (id) => count[id] - missing[id] / 10,
    probability: (id) => given.get(id) ?? law.probability(count[id], threshold(id)),
    part: (id) => (count[id] === 0 ? "zero" : count[id] < threshold(id) ? "tail" : "head"),
    languages: card.languages ?? null,
    languageOf: (id) => card.languages?.ids.find(([, first, n]) => id >= first && id < first + n)[0] ?? "",
    sourceOf: (code) => (code ? card.sources[code - 1] : "unnamed"),
  };
}

/* Keys by which entries are put in order, the lowest first: those of which the smallest part was kept, or the most pairs matched. */
const ORDERINGS = { thinned: (data) => data.keptShare, matched: () => () => 0 };

/* Holds the first `limit` ids in an order, ties by falling count; a sort of all would take longer than to look. */
class First {
  constructor(data, order, limit) { Object.assign(this, { key: ORDERINGS[order](data), count: data.count, limit, ids: [], last: null }); }

  compare(a, b) {
    const [x, y] = [this.key(a), this.key(b)];
    return x === y ? this.count[b] - this.count[a] || a - b : x - y;
  }

  add(id) {
    if (this.last !== null && this.compare(id, this.last) > 0) return;
    this.ids.push(id);
    if (this.ids.length < 4 * this.limit) return;
    this.ids = this.sorted();
    this.last = this.ids.at(-1);
  }

  sorted() { return this.ids.sort((a, b) => this.compare(a, b)).slice(0, this.limit); }
}

/* Find the entries that hold `query`, in any case of letters: the same ones first, then those that begin with it, then
   the others; each in the given order. Give {ids: the first `limit`, total}. */
function search(data, query, source, part, order, limit) {
  const small = query.toLowerCase();
  const ranks = Array.from({ length: 4 }, () => new First(data, order, limit));
  let total = 0;
  if (small) data.lower ??= data.entries.map((entry) => entry.toLowerCase());
  for (let id = 0; id < data.entries.length; id++) {
    const at = small ? data.lower[id].indexOf(small) : 0;
    if (at < 0 || (source !== "" && data.source[id] !== source) || (part !== "" && data.part(id) !== part)) continue;
    total++;
    ranks[data.entries[id] === query ? 0 : at ? 3 : small && data.lower[id] === small ? 1 : 2].add(id);
  }
  return { ids: ranks.flatMap((rank) => rank.sorted()).slice(0, limit), total };
}
