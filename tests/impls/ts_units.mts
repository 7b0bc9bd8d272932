/**
 * Put calls to single functions of the TypeScript program: {function, calls} on stdin, the replies on stdout, in JSON.
 *
 * Bytes are strings of characters 0 to 255 here, as in the program. Numbers that JSON lacks come and go as bit patterns.
 */
import { readFileSync } from "node:fs";
import { argmax, quantize, rmsnorm, softmax, swiglu } from "../../impls/ts/arithmetic.ts";
import { readModel } from "../../impls/ts/checkpoint.ts";
import { Failure } from "../../impls/ts/failure.ts";
import { typescriptKernel } from "../../impls/ts/kernel.ts";
import { cosf, expf, sinf } from "../../impls/ts/libm.ts";
import { Llama } from "../../impls/ts/model.ts";
import { parseFloat32, parseInt32 } from "../../impls/ts/program.ts";
import { Random, sampleAll, sampleNucleus } from "../../impls/ts/sampler.ts";
import { Tokenizer } from "../../impls/ts/tokenizer.ts";

const floats = (values: (number | null)[]): Float32Array => Float32Array.from(values, (value) => value ?? NaN);

function bits(values: Float32Array): string {
  return Array.from(new Uint32Array(values.buffer), (word) => word.toString(16).padStart(8, "0")).join(" ");
}

/** Read a model and a tokenizer, and run a token: "" or the failure's message. */
function load(model: string, tokenizer: string): string {
  try {
    const read = readModel(Buffer.from(model), typescriptKernel);
    new Tokenizer(Buffer.from(tokenizer), read.config.vocabSize);
    new Llama(read, typescriptKernel, 2).forward(1, 0);
    return "";
  } catch (error) {
    if (error instanceof Failure) return error.message;
    throw error;
  }
}

/** The arguments of a function of the C library for which ours differs. The file holds them, then its values. */
function differing(name: string, file: string): number[] {
  const ours = { expf, sinf, cosf }[name]!;
  const words = new Float32Array(new Uint8Array(readFileSync(file)).buffer);
  const count = words.length / 2;
  const found: number[] = [];
  for (let i = 0; i < count; i++) if (!Object.is(ours(words[i]), words[count + i])) found.push(words[i]);
  return found;
}

const functions: Record<string, (...args: any[]) => unknown> = {
  load,
  differing,
  parseInt32,
  parseFloat32: (text: string) => bits(floats([parseFloat32(text)])),
  encode: (file: string, nPieces: number, text: string) => new Tokenizer(Buffer.from(file), nPieces).encode(text),
  decode: (file: string, nPieces: number, previous: number, id: number) =>
    new Tokenizer(Buffer.from(file), nPieces).decode(previous, id),
  draws(high: number, low: number, count: number) {
    const random = new Random(high, low);
    return Array.from({ length: count }, () => random.bits());
  },
  argmax: (values) => argmax(floats(values)),
  sampleAll: (coin, ...values) => sampleAll(floats(values), coin),
  sampleNucleus: (topp, coin, ...values) => sampleNucleus(floats(values), Math.fround(topp), Math.fround(coin)),
  rmsnorm(x, weight) {
    const out = floats(x);
    rmsnorm(out, out, floats(weight));
    return bits(out);
  },
  softmax(values) {
    const x = floats(values);
    softmax(x, 0, x.length);
    return bits(x);
  },
  silu(values) {
    const x = floats(values);
    swiglu(x, new Float32Array(x.length).fill(1));
    return bits(x);
  },
  quantize(values) {
    const out = { codes: new Int8Array(values.length), scales: new Float32Array(1) };
    quantize(out, floats(values), values.length);
    return [bits(out.scales), Array.from(out.codes).join(" ")];
  },
};

const request = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(request.calls.map((call: unknown[]) => functions[request.function](...call))));
