import { readModel } from "TS/checkpoint.ts";
import { typescriptKernel } from "TS/kernel.ts";
import { Llama } from "TS/model.ts";
import { Tokenizer } from "TS/tokenizer.ts";

class Model {
  static readonly program = "real";
  static readonly threads = 1;
  readonly #llama: Llama;
  readonly #tokenizer: Tokenizer;
  readonly vocabSize: number;
  readonly seqLen: number;

  constructor(model: Buffer, tokenizer: Buffer) {
    const found = readModel(model, typescriptKernel);
    ({ vocabSize: this.vocabSize, seqLen: this.seqLen } = found.config);
    this.#llama = new Llama(found, typescriptKernel, this.seqLen);
    this.#tokenizer = new Tokenizer(tokenizer, this.vocabSize);
  }

  encode(text: Buffer, bos: boolean, eos: boolean): number[] {
    const ids = this.#tokenizer.encode(text.toString("latin1")).slice(bos ? 0 : 1);
    return eos ? [...ids, 2] : ids;
  }

  decode(previous: number, token: number): Buffer {
    return Buffer.from(this.#tokenizer.decode(previous, token), "latin1");
  }

  forward(token: number, pos: number): Float32Array {
    trace("token", -1, pos, Float32Array.of(token));
    const logits = this.#llama.forward(token, pos);
    trace("logits", -1, pos, logits);
    return logits;
  }
}

