/** The line protocol (docs/protocol.md): a request a line on standard input, its reply a line on standard output. */
import { readSync } from "node:fs";
import { readModel } from "./checkpoint.ts";
import { Failure } from "./failure.ts";
import type { Kernel } from "./kernel.ts";
import { Llama } from "./model.ts";
import { Random, Sampler } from "./sampler.ts";
import { isBusy, pause, print } from "./streams.ts";
import { BOS, EOS, Tokenizer } from "./tokenizer.ts";
import { Trace } from "./trace.ts";

const VERBS = "info load encode decode generate logits quit";
const READ_BYTES = 1 << 16;

/** Every line of standard input, without its end. */
function* requests(): Generator<string> {
  const bytes = Buffer.alloc(READ_BYTES);
  let parts: string[] = [];
  for (;;) {
    let got: number;
    try {
      got = readSync(0, bytes);
    } catch (error) {
      if (!isBusy(error)) return;
      pause();
      continue;
    }
    if (got === 0) return;
    const [first, ...others] = bytes.toString("latin1", 0, got).split("\n");
    parts.push(first);
    for (const other of others) {
      yield parts.join("");
      parts = [other];
    }
  }
}

/** A text in hexadecimal as a string of bytes: see tokenizer.ts. */
function fromHex(word: string): string {
  if (word !== "-" && !/^([0-9a-f]{2})+$/i.test(word)) throw new Failure("expected a text in hexadecimal");
  return word === "-" ? "" : Buffer.from(word, "hex").toString("latin1");
}

function integers(words: string[]): number[] {
  const numbers = words.map(Number);
  if (!words.every((word) => /^-?\d+$/.test(word))) throw new Failure("expected integers");
  return numbers;
}

function float32(word: string): number {
  return word === "inf" ? Infinity : Math.fround(Number(word));
}

type Loaded = { llama: Llama; tokenizer: Tokenizer; kernel: Kernel };

function load(makeKernel: () => Kernel, words: string[], trace?: Trace): Loaded {
  const [checkpoint, pieces] = words.map((word) => Buffer.from(fromHex(word), "latin1"));
  const kernel = makeKernel();
  const model = readModel(checkpoint, kernel);
  const tokenizer = new Tokenizer(pieces, model.config.vocabSize);
  return { llama: new Llama(model, kernel, model.config.seqLen, trace), tokenizer, kernel };
}

function encode({ tokenizer }: Loaded, words: string[]): string {
  const [bos, eos] = integers(words.slice(0, 2));
  const ids = tokenizer.encode(fromHex(words[2])).slice(bos === 0 ? 1 : 0);
  if (eos !== 0) ids.push(EOS);
  return `ok ${bos} ${eos} ${[ids.length, ...ids].join(" ")}`;
}

function decode({ tokenizer, llama }: Loaded, words: string[]): string {
  const ids = checked(words, llama);
  const text = ids.map((id, i) => (i === 0 && id === BOS ? "" : tokenizer.decode(i === 0 ? -1 : ids[i - 1], id)));
  return `ok ${ids.length} ${Buffer.from(text.join(""), "latin1").toString("hex") || "-"}`;
}

function checked(words: string[], { config }: Llama): number[] {
  const ids = integers(words);
  if (!ids.every((id) => id >= 0 && id < config.vocabSize)) throw new Failure("an id is outside of the vocabulary");
  return ids;
}

/** Ids that can be fed. */
function fed(words: string[], llama: Llama): number[] {
  const ids = checked(words, llama);
  if (ids.length === 0 || ids.length > llama.config.seqLen)
    throw new Failure(`${ids.length} ids, the context has 1 to ${llama.config.seqLen}`);
  return ids;
}

function generate({ llama, kernel }: Loaded, words: string[]): string {
  const [n, seed] = integers([words[0], words[3]]);
  const [temperature, topp] = words.slice(1, 3).map(float32);
  const ids = fed(words.slice(4), llama);
  const sampler = new Sampler(temperature, topp, Random.fromInt(seed), kernel);
  const found: number[] = [];
  for (let pos = 0; pos < llama.config.seqLen && found.length < n; pos++) {
    const logits = llama.forward(pos < ids.length ? ids[pos] : found[pos - ids.length], pos);
    if (pos < ids.length - 1) continue;
    found.push(sampler.sample(logits));
    if (found[found.length - 1] === BOS) break;
  }
  const inForce = [n, shown(temperature), shown(topp), seed];
  return `ok ${[...inForce, found.length, ...found].join(" ")}`;
}

function shown(value: number): string {
  return Number.isFinite(value) ? String(value) : value > 0 ? "inf" : "nan";
}

/** Rows go out as they are made: all of them may be too long for a string. */
function printLogits(number: string, { llama }: Loaded, words: string[]): void {
  const [first] = integers(words.slice(0, 1));
  const ids = fed(words.slice(1), llama);
  if (first < 0 || first >= ids.length) throw new Failure(`there is no row ${first}`);
  print(`${number} ok ${first} ${ids.length - first} ${llama.config.vocabSize} `);
  ids.forEach((id, pos) => {
    const row = llama.forward(id, pos);
    if (pos >= first) print(Buffer.from(row.buffer, row.byteOffset, row.byteLength).toString("hex"));
  });
  print("\n");
}

/** Answer until told to quit, or until the input ends. */
export function answerLines(makeKernel: () => Kernel): void {
  let loaded: Loaded | undefined;
  const trace = Trace.asked();
  const about = new Map([
    ["encode", encode],
    ["decode", decode],
    ["generate", generate],
  ]);
  const answer = (number: string, verb: string, words: string[]): void => {
    const reply = (text: string): void => print(`${number} ${text}\n`);
    const model = loaded?.llama.config;
    if (verb === "info") reply(`ok llama-lines 1 ts ${model?.vocabSize ?? 0} ${model?.seqLen ?? 0} 1 ${VERBS}`);
    else if (verb === "quit") reply("ok");
    else if (verb === "load") {
      loaded = undefined; // its memory may be needed
      loaded = load(makeKernel, words, trace);
      reply(`ok ${loaded.llama.config.vocabSize} ${loaded.llama.config.seqLen}`);
    } else if (!VERBS.split(" ").includes(verb)) reply("unsupported");
    else if (loaded === undefined) throw new Failure("no model is loaded");
    else if (verb === "logits") printLogits(number, loaded, words);
    else reply(about.get(verb)!(loaded, words));
  };
  for (const line of requests()) {
    const [number, verb, ...words] = line.split(" ");
    try {
      answer(number, verb, words);
    } catch (error) {
      if (!(error instanceof Failure || error instanceof RangeError)) throw error;
      print(`${number} error ${error.message.replace(/[^ -~]/g, "?")}\n`);
    }
    if (verb === "quit") return;
  }
}
