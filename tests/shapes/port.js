// Takes llama2.c's flags, run by node: `node port.js MODEL -t 0 ...`. Weights are read where they lie in the file.
"use strict";
const fs = require("fs");

const values = { "-t": "1.0", "-p": "0.9", "-s": "0", "-n": "256", "-i": "", "-z": "tokenizer.bin" };
const words = process.argv.slice(2);
const die = (message) => { console.error(message); process.exit(1); };
if (words.length % 2 !== 1) die("usage: node port.js MODEL [-t T] [-p P] [-s SEED] [-n STEPS] [-i PROMPT] [-z TOKENIZER]");
for (let i = 1; i < words.length; i += 2) {
  if (!(words[i] in values)) die("unknown option " + words[i]);
  values[words[i]] = words[i + 1];
}

// ---- files

const file = fs.readFileSync(words[0]);
const [dim, hidden, layers, heads, kvHeads, signedVocab, context] = new Int32Array(file.buffer.slice(file.byteOffset, file.byteOffset + 28));
if (dim < 1 || dim > 1 << 18 || file.length < 28) die("bad header");
const vocab = Math.abs(signedVocab), head = dim / heads, kv = kvHeads * head;
const floats = new Float32Array(file.buffer.slice(file.byteOffset + 28, file.byteOffset + (file.length & ~3)));
let at = 0;
const take = (n) => { at += n; return floats.subarray(at - n, at); };
const perLayer = (n) => Array.from({ length: layers }, () => take(n));
const embedding = take(vocab * dim), attNorm = perLayer(dim);
const wq = perLayer(dim * dim), wk = perLayer(kv * dim), wv = perLayer(kv * dim), wo = perLayer(dim * dim);
const ffnNorm = perLayer(dim), w1 = perLayer(hidden * dim), w2 = perLayer(dim * hidden), w3 = perLayer(hidden * dim);
const lastNorm = take(dim);
take(context * head);
const classifier = signedVocab > 0 ? embedding : take(vocab * dim);

const data = fs.readFileSync(values["-z"]);
const pieces = [], scores = [], idOf = new Map();
for (let place = 4; pieces.length < vocab; ) {
  const length = data.readInt32LE(place + 4), piece = data.subarray(place + 8, place + 8 + length).toString("latin1");
  if (!idOf.has(piece)) idOf.set(piece, pieces.length);
  scores.push(data.readFloatLE(place));
  pieces.push(piece);
  place += 8 + length;
}

// ---- text

function encode(text) {
  const ids = text ? [1, idOf.get(" ")] : [1];
  for (const letter of text) {
    const bytes = Buffer.from(letter, "utf8"), id = idOf.get(bytes.toString("latin1"));
    if (id === undefined) ids.push(...Array.from(bytes, (b) => b + 3));
    else ids.push(id);
  }
  for (;;) {
    let best = -1, merged = 0;
    for (let i = 0; i + 1 < ids.length; i++) {
      const id = idOf.get(pieces[ids[i]] + pieces[ids[i + 1]]);
      if (id !== undefined && (best < 0 || scores[id] > scores[merged])) { best = i; merged = id; }
    }
    if (best < 0) return ids;
    ids.splice(best, 2, merged);
  }
}

function say(before, id) {
  const piece = before === 1 && pieces[id][0] === " " ? pieces[id].slice(1) : pieces[id];
  const byte = /^<0x([0-9A-F]{2})>$/.exec(piece);
  process.stdout.write(Buffer.from(byte ? String.fromCharCode(parseInt(byte[1], 16)) : piece, "latin1"));
}

// ---- the model

const times = (w, x, n) => {
  const out = new Float32Array(n);
  for (let i = 0; i < n; i++) {
    let sum = 0;
    for (let j = 0; j < x.length; j++) sum += w[i * x.length + j] * x[j];
    out[i] = sum;
  }
  return out;
};
const normed = (x, gain) => {
  const root = Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / dim + 1e-5);
  return x.map((v, i) => (v / root) * gain[i]);
};
const turned = (x, pos) => {
  for (let i = 0; i < x.length; i += 2) {
    const angle = pos / Math.pow(10000, (i % head) / head), c = Math.cos(angle), s = Math.sin(angle);
    [x[i], x[i + 1]] = [x[i] * c - x[i + 1] * s, x[i] * s + x[i + 1] * c];
  }
  return x;
};
const softmax = (x) => {
  const top = Math.max(...x), e = x.map((v) => Math.exp(v - top)), sum = e.reduce((a, b) => a + b, 0);
  return e.map((v) => v / sum);
};
const keys = perLayer(0).map(() => []), mixed = perLayer(0).map(() => []);

function forward(id, pos) {
  const x = embedding.slice(id * dim, (id + 1) * dim);
  for (let l = 0; l < layers; l++) {
    let h = normed(x, attNorm[l]);
    const q = turned(times(wq[l], h, dim), pos), out = new Float32Array(dim);
    keys[l].push(turned(times(wk[l], h, kv), pos));
    mixed[l].push(times(wv[l], h, kv));
    for (let n = 0; n < heads; n++) {
      const own = n * head, shared = Math.floor(n / (heads / kvHeads)) * head;
      const weights = softmax(keys[l].map((k) => {
        let sum = 0;
        for (let j = 0; j < head; j++) sum += q[own + j] * k[shared + j];
        return sum / Math.sqrt(head);
      }));
      weights.forEach((w, t) => { for (let j = 0; j < head; j++) out[own + j] += w * mixed[l][t][shared + j]; });
    }
    times(wo[l], out, dim).forEach((v, i) => { x[i] += v; });
    h = normed(x, ffnNorm[l]);
    const up = times(w3[l], h, hidden), gated = times(w1[l], h, hidden).map((g, i) => (g / (1 + Math.exp(-g))) * up[i]);
    times(w2[l], gated, dim).forEach((v, i) => { x[i] += v; });
  }
  return times(classifier, normed(x, lastNorm), vocab);
}

function choice(logits, temperature) {
  if (temperature === 0) return logits.indexOf(Math.max(...logits));
  let coin = Math.random();
  const drawn = softmax(Array.from(logits, (v) => v / temperature)).findIndex((p) => (coin -= p) < 0);
  return drawn < 0 ? vocab - 1 : drawn;
}

const ids = encode(values["-i"]), asked = Number(values["-n"]);
const steps = asked > 0 && asked < context ? asked : context;
for (let pos = 0, id = ids[0]; pos < steps; pos++) {
  const logits = forward(id, pos);
  const next = pos + 1 < ids.length ? ids[pos + 1] : choice(logits, Number(values["-t"]));
  if (next === 1) break;
  say(id, next);
  id = next;
}
process.stdout.write("\n");
