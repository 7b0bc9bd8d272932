/** llama2.c's command line: options, generating, chatting, and what goes to which stream. */
import { readFileSync, readSync } from "node:fs";
import { readModel } from "./checkpoint.ts";
import { Failure } from "./failure.ts";
import type { Kernel } from "./kernel.ts";
import { answerLines } from "./lines.ts";
import { Llama } from "./model.ts";
import { Random, Sampler } from "./sampler.ts";
import { isBusy, pause, print, printSoon } from "./streams.ts";
import { BOS, EOS, Tokenizer, untilNul } from "./tokenizer.ts";
import { Trace } from "./trace.ts";

const USAGE = `usage: main.ts CHECKPOINT [-t X] [-p X] [-s N] [-n N] [-i TEXT] [-z FILE] [-m MODE] [-y TEXT]
e.g.:  main.ts stories15M.bin -n 128 -t 0.8 -i "The old lighthouse"
  -t X     temperature, 0 picks the likeliest token (default 1.0)
  -p X     top-p in [0, 1]; 0 and 1 consider every token (default 0.9)
  -s N     random seed, 0 takes the time (default 0)
  -n N     positions to run, prompt included, 0 fills the context (default 256)
  -i TEXT  text to continue, or the first user message (default none)
  -z FILE  tokenizer (default tokenizer.bin)
  -m MODE  generate or chat (default generate)
  -y TEXT  system prompt for chat (default: ask)
or:    main.ts --lines, which answers requests, one a line (docs/protocol.md)
`;

class UsageError extends Error {}

/** Texts are strings of bytes, one character each: see tokenizer.ts. */
type Options = {
  checkpoint: string;
  tokenizer: string;
  mode: string;
  prompt: string | undefined;
  system: string | undefined;
  temperature: number;
  topp: number;
  seed: number; // 0: the time
  steps: number; // 0: as many as the context holds
};

// ---- Reading the command line

/** The arguments as the bytes they are: process.argv has lost what is no UTF-8. */
function programArguments(): string[] {
  const decoded = process.argv.slice(2);
  try {
    const all = readFileSync("/proc/self/cmdline", "latin1").split("\0").slice(0, -1);
    if (all.length >= decoded.length + 2) return all.slice(all.length - decoded.length);
  } catch {
    // A system without /proc.
  }
  return decoded.map((text) => Buffer.from(text).toString("latin1"));
}

/** C's atof, rounded to float32: what begins like a number, and 0 if nothing does. */
export function parseFloat32(text: string): number {
  const found = /^[ \t-\r]*([+-]?)(?:0x([0-9a-f]*)\.?([0-9a-f]*)(?:p([+-]?\d+))?|(inf|nan)|(\d*\.?\d*(?:e[+-]?\d+)?))/i.exec(text);
  if (!found) return 0;
  const [, sign, whole, fraction, exponent, name, decimal] = found;
  let value = parseFloat(decimal);
  if (name) value = name.toLowerCase() === "inf" ? Infinity : NaN;
  else if (whole || fraction) value = parseInt(whole + fraction, 16) * 2 ** (Number(exponent ?? 0) - 4 * fraction.length);
  if (Number.isNaN(value) && !name) return 0;
  return Math.fround(sign === "-" ? -value : value);
}

/** C's atoi where int has 32 bits and long 64: what does not fit wraps. 3000000000 is -1294967296. */
export function parseInt32(text: string): number {
  const digits = /^[ \t-\r]*([+-]?\d+)/.exec(text)?.[1] ?? "0";
  const value = BigInt(digits.replace("+", ""));
  const limit = 1n << 63n;
  return Number(BigInt.asIntN(32, value >= limit ? limit - 1n : value < -limit ? -limit : value));
}

function parseOptions(args: string[]): Options {
  if (args.length === 0) throw new UsageError();
  const options: Options = {
    checkpoint: args[0],
    tokenizer: "tokenizer.bin",
    mode: "generate",
    prompt: undefined,
    system: undefined,
    temperature: 1,
    topp: 0.9,
    seed: 0,
    steps: 256,
  };
  for (let i = 1; i < args.length; i += 2) {
    if (i + 1 === args.length) throw new UsageError();
    const value = args[i + 1];
    switch (args[i]) {
      case "-t": options.temperature = parseFloat32(value); break;
      case "-p": options.topp = parseFloat32(value); break;
      case "-s": options.seed = parseInt32(value); break;
      case "-n": options.steps = parseInt32(value); break;
      case "-i": options.prompt = value; break;
      case "-z": options.tokenizer = value; break;
      case "-m": options.mode = value; break;
      case "-y": options.system = value; break;
      default: throw new UsageError();
    }
  }
  if (options.temperature < 0) options.temperature = 0;
  if (options.topp < 0 || options.topp > 1) options.topp = 0.9;
  options.topp = Math.fround(options.topp);
  if (options.steps < 0) options.steps = 0;
  return options;
}

// ---- Standard input

/** Lines of standard input, of at most 511 bytes as in llama2.c: of a longer one the rest is the next line. */
class Lines {
  #pending = "";
  #ended = false;

  /** The next line without its end, or undefined at the end of the input. */
  next(): string | undefined {
    for (;;) {
      const end = this.#pending.indexOf("\n");
      if (end >= 0 && end < 511) return this.#take(end, end + 1);
      if (this.#pending.length >= 511) return this.#take(511, 511);
      if (this.#ended) return this.#pending === "" ? undefined : this.#take(this.#pending.length, this.#pending.length);
      this.#read();
    }
  }

  #take(end: number, next: number): string {
    const line = this.#pending.slice(0, end);
    this.#pending = this.#pending.slice(next);
    return untilNul(line);
  }

  #read(): void {
    const bytes = Buffer.alloc(4096);
    try {
      const got = readSync(0, bytes);
      this.#ended = got === 0;
      this.#pending += bytes.toString("latin1", 0, got);
    } catch (error) {
      if (isBusy(error)) pause();
      else this.#ended = true;
    }
  }
}

// ---- Generate and chat

type Session = { llama: Llama; tokenizer: Tokenizer; sampler: Sampler; steps: number };

/** Echo the prompt piece by piece and continue it until BOS, which starts the next story, or until steps run out. */
function generate({ llama, tokenizer, sampler, steps }: Session, prompt: string): void {
  const forced = tokenizer.encode(prompt);
  let token = forced[0];
  let pos = 0;
  let startMs = 0; // taken after the first pass
  while (pos < steps) {
    const logits = llama.forward(token, pos);
    pos++;
    const next = pos < forced.length ? forced[pos] : sampler.sample(logits);
    if (next === BOS) break;
    printSoon(tokenizer.printed(token, next));
    token = next;
    if (pos === 1) startMs = performance.now();
  }
  print("\n");
  if (pos > 1) {
    const tps = ((pos - 1) / (performance.now() - startMs)) * 1000;
    process.stderr.write(`achieved tok/s: ${Number.isFinite(tps) ? tps.toFixed(6) : "inf"}\n`);
  }
}

/**
 * Take turns until steps run out. One position counter, one cache: the model sees the whole conversation.
 *
 * Three habits of llama2.c are kept because they show in the output. A sample is drawn at every position, also while the
 * prompt is fed. The EOS that ends an answer is fed as well, and the token sampled from it is printed and dropped. At the
 * end of the input the last user text is repeated.
 */
function chat({ llama, tokenizer, sampler, steps }: Session, prompt: string | undefined, system: string | undefined): void {
  const lines = new Lines();
  let user = "";
  let turn: number[] = [];
  let fed = 0;
  let next = 0;
  let usersTurn = true;
  for (let pos = 0; pos < steps; pos++) {
    if (usersTurn) {
      if (pos === 0 && system === undefined) {
        print("Enter system prompt (optional): ");
        system = lines.next();
      }
      if (pos === 0 && prompt !== undefined) {
        user = prompt;
      } else {
        print("User: ");
        user = lines.next() ?? user;
      }
      const rules = pos === 0 && system ? `<<SYS>>\n${system}\n<</SYS>>\n\n` : "";
      turn = tokenizer.encode(`[INST] ${rules}${user} [/INST]`);
      fed = 0;
      usersTurn = false;
      print("Assistant: ");
    }
    const token = fed < turn.length ? turn[fed++] : next;
    if (token === EOS) usersTurn = true;
    next = sampler.sample(llama.forward(token, pos));
    if (next === EOS) print("\n");
    else if (fed === turn.length) printSoon(tokenizer.printed(token, next));
  }
  print("\n");
}

// ---- The program

function run(makeKernel: () => Kernel): void {
  const words = programArguments();
  if (words[0] === "--lines") return answerLines(makeKernel);
  const kernel = makeKernel();
  const options = parseOptions(words);
  const model = readModel(Buffer.from(options.checkpoint, "latin1"), kernel, options.steps || Infinity);
  const { seqLen, vocabSize } = model.config;
  const steps = options.steps === 0 ? seqLen : Math.min(options.steps, seqLen);
  const tokenizer = new Tokenizer(Buffer.from(options.tokenizer, "latin1"), vocabSize);
  const seed = options.seed === 0 ? Math.floor(Date.now() / 1000) : options.seed;
  const session = {
    llama: new Llama(model, kernel, steps, Trace.asked()),
    tokenizer,
    sampler: new Sampler(options.temperature, options.topp, Random.fromInt(seed), kernel),
    steps,
  };
  if (options.mode === "generate") generate(session, options.prompt ?? "");
  else if (options.mode === "chat") chat(session, options.prompt, options.system);
  else throw new UsageError(`unknown mode: ${Buffer.from(options.mode, "latin1")}`);
}

/** Do what the command line asks; any failure is one line and exit status 1. */
export function main(makeKernel: () => Kernel): void {
  try {
    run(makeKernel);
  } catch (error) {
    process.exitCode = 1;
    if (error instanceof UsageError) process.stderr.write(`${error.message && `llama: ${error.message}\n`}${USAGE}`);
    else if (error instanceof Failure) process.stderr.write(`llama: ${error.message}\n`);
    else if (error instanceof RangeError) process.stderr.write(`llama: out of memory: ${error.message}\n`);
    else throw error;
  }
}
