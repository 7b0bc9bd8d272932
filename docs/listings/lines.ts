/**
 * The line protocol (docs/protocol.md) and the trace writer (docs/trace.md) for a program in TypeScript:
 *
 *     harness smoke "node lines.ts"        (Node 22.18 or later runs it as it is)
 *
 * Copy this file, and put your model in its first part; the last two stay as they are.
 */
import { openSync, readSync, writeSync } from "node:fs";

// ==== yours: in place of this toy, whose tokens are bytes and whose logits are a formula ====

class Model {
  static readonly program = "toy"; // one word
  static readonly threads = 1;
  readonly vocabSize = 259;
  readonly seqLen = 64;
  readonly #logits = new Float32Array(this.vocabSize);
  #state = 0;

  /** Load two files; throw an Error where they cannot be used. Paths are bytes. */
  constructor(model: Buffer, tokenizer: Buffer) {
    if (model.length === 0 || tokenizer.length === 0) throw new Error("no such file");
  }

  /** The ids of a text, which need not be UTF-8. */
  encode(text: Buffer, bos: boolean, eos: boolean): number[] {
    return [...(bos ? [1] : []), ...Array.from(text, (byte) => 3 + byte), ...(eos ? [2] : [])];
  }

  /** What a token adds after the previous one, -1 if it is the first; after BOS without one leading space. */
  decode(previous: number, token: number): Buffer {
    return Buffer.from(token < 3 || (previous === 1 && token === 3 + 32) ? [] : [token - 3]);
  }

  /** The logits after a token. Positions come in order; 0 begins a new sequence. They may be overwritten. */
  forward(token: number, pos: number): Float32Array {
    trace("token", -1, pos, Float32Array.of(token));
    this.#state = (5 * (pos === 0 ? 0 : this.#state) + token) % 1009;
    for (let i = 0; i < this.vocabSize; i++) this.#logits[i] = ((37 * this.#state + 101 * i) % 127) / 16;
    trace("logits", -1, pos, this.#logits);
    return this.#logits;
  }
}

// ==== llama2.c's sampler, or yours ====

const { fround } = Math;

class Sampler {
  readonly #temperature: number;
  readonly #topp: number;
  #state: bigint;

  constructor(temperature: number, topp: number, seed: number) {
    this.#temperature = temperature;
    this.#topp = topp;
    this.#state = BigInt.asUintN(64, BigInt(seed));
  }

  #coin(): number {
    this.#state ^= this.#state >> 12n;
    this.#state ^= BigInt.asUintN(64, this.#state << 25n);
    this.#state ^= this.#state >> 27n;
    return Number((BigInt.asUintN(64, this.#state * 0x2545f4914f6cdd1dn) >> 40n) & 0xffffffn) / 2 ** 24;
  }

  sample(logits: Float32Array): number {
    const most = logits.reduce((a, b) => Math.max(a, b));
    if (this.#temperature === 0) return logits.indexOf(most);
    const p = logits.map((logit) => Math.exp(fround(logit / this.#temperature) - fround(most / this.#temperature)));
    const total = p.reduce((sum, value) => fround(sum + value));
    let kept = Array.from(p, (value, id) => ({ p: fround(value / total), id }));
    let coin = this.#coin();
    if (this.#topp > 0 && this.#topp < 1) {
      kept.sort((a, b) => b.p - a.p || a.id - b.id);
      let mass = 0;
      const last = kept.findIndex((one) => (mass = fround(mass + one.p)) > this.#topp); // crosses, and belongs to it
      if (last >= 0) kept = kept.slice(0, last + 1);
      coin = fround(coin * mass);
    }
    let passed = 0;
    return (kept.find((one) => (passed = fround(passed + one.p)) > coin) ?? kept[kept.length - 1]).id;
  }
}

// ==== the trace writer, which stays ====

const TRACE = process.env.HARNESS_TRACE ? openSync(process.env.HARNESS_TRACE, "w") : undefined;
if (TRACE !== undefined) writeSync(TRACE, "harness-trace 1\n");

/** Record one value; does nothing unless the environment asks for a trace. */
function trace(name: string, layer: number, pos: number, values: Float32Array): void {
  if (TRACE === undefined) return;
  writeSync(TRACE, `${name} ${layer} ${pos} ${values.length}\n`);
  writeSync(TRACE, bytesOf(values));
}

/** Little-endian, as the machines that Node runs on are. */
function bytesOf(values: Float32Array): Buffer {
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength);
}

// ==== the line protocol, which stays ====

const VERBS = "info load encode decode generate logits quit";

/** Standard output may be a pipe that is full for the moment. */
function print(text: string): void {
  const bytes = Buffer.from(text, "latin1");
  for (let done = 0; done < bytes.length; ) {
    try {
      done += writeSync(1, bytes, done);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
    }
  }
}

function* lines(): Generator<string> {
  const bytes = Buffer.alloc(1 << 16);
  let begun = "";
  for (let got = 0; (got = readSync(0, bytes)) > 0; ) {
    const parts = (begun + bytes.toString("latin1", 0, got)).split("\n");
    begun = parts.pop()!;
    yield* parts;
  }
}

const text = (word: string): Buffer => Buffer.from(word === "-" ? "" : word, "hex");
const hexed = (bytes: Buffer): string => bytes.toString("hex") || "-";
const listed = (ids: number[]): string => [ids.length, ...ids].join(" ");

/** What follows `ok`. */
function* answer(model: Model, verb: string, words: string[]): Generator<string> {
  if (verb === "encode") {
    const ids = model.encode(text(words[2]), words[0] === "1", words[1] === "1");
    return yield `${words[0]} ${words[1]} ${listed(ids)}`;
  }
  const before = words.splice(0, verb === "decode" ? 0 : verb === "logits" ? 1 : 4);
  const ids = words.map(Number);
  if (!ids.every((id) => id >= 0 && id < model.vocabSize)) throw new Error("an id is outside of the vocabulary");
  if (verb === "decode") {
    const pieces = ids.map((id, i) => (i === 0 && id === 1 ? Buffer.of() : model.decode(ids[i - 1] ?? -1, id)));
    return yield `${ids.length} ${hexed(Buffer.concat(pieces))}`;
  }
  const first = verb === "logits" ? Number(before[0]) : 0;
  if (!(first >= 0 && first < ids.length && ids.length <= model.seqLen)) throw new Error("too many ids, or none");
  if (verb === "logits") {
    yield `${first} ${ids.length - first} ${model.vocabSize} `;
    for (const [pos, id] of ids.entries()) {
      const row = hexed(bytesOf(model.forward(id, pos)));
      if (pos >= first) yield row;
    }
    return;
  }
  const [n, seed] = [Number(before[0]), Number(before[3])];
  const [temperature, topp] = before.slice(1, 3).map((word) => (word === "inf" ? Infinity : fround(Number(word))));
  const sampler = new Sampler(temperature, topp, seed);
  const found: number[] = [];
  for (let pos = 0; pos < model.seqLen && found.length < n && found.at(-1) !== 1; pos++) {
    const logits = model.forward(ids[pos] ?? found[pos - ids.length], pos);
    if (pos >= ids.length - 1) found.push(sampler.sample(logits));
  }
  const inForce = [temperature, topp].map((value) => (value === Infinity ? "inf" : String(value)));
  yield `${n} ${inForce.join(" ")} ${seed} ${listed(found)}`;
}

let model: Model | undefined;
for (const line of lines()) {
  const [number, verb, ...words] = line.split(" ");
  let begin = `${number} ok `;
  try {
    if (verb === "info") {
      const shape = `${model?.vocabSize ?? 0} ${model?.seqLen ?? 0} ${Model.threads}`;
      print(`${begin}llama-lines 1 ${Model.program} ${shape} ${VERBS}\n`);
    } else if (verb === "load") {
      model = undefined;
      model = new Model(text(words[0]), text(words[1]));
      print(`${begin}${model.vocabSize} ${model.seqLen}\n`);
    } else if (verb === "quit") {
      print(`${number} ok\n`);
      break;
    } else if (!VERBS.split(" ").includes(verb)) {
      print(`${number} unsupported\n`);
    } else if (model === undefined) {
      throw new Error("no model is loaded");
    } else {
      for (const part of answer(model, verb, words)) {
        print(begin + part);
        begin = "";
      }
      print("\n");
    }
  } catch (error) {
    print(`${number} error ${(error as Error).message.replace(/[^ -~]/g, "?")}\n`);
  }
}
