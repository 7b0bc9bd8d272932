/**
 * The trace (docs/trace.md): what the forward pass computes goes to the file that HARNESS_TRACE names.
 *
 * Values are written in the byte order of the machine, which is little-endian wherever Node runs.
 */
import { openSync, writeSync } from "node:fs";
import { Failure } from "./failure.ts";

export class Trace {
  readonly #file: number;

  constructor(path: string) {
    try {
      this.#file = openSync(path, "w");
      writeSync(this.#file, "harness-trace 1\n");
    } catch (error) {
      throw new Failure(`HARNESS_TRACE: ${(error as Error).message}`);
    }
  }

  /** The trace that the environment asks for, if it does. */
  static asked(): Trace | undefined {
    const path = process.env.HARNESS_TRACE;
    return path ? new Trace(path) : undefined;
  }

  /** Record one value of a forward pass; layer is -1 outside of the blocks. */
  record(name: string, layer: number, pos: number, values: Float32Array): void {
    const header = Buffer.from(`${name} ${layer} ${pos} ${values.length}\n`);
    const bytes = Buffer.concat([header, Buffer.from(values.buffer, values.byteOffset, values.byteLength)]);
    for (let done = 0; done < bytes.length; ) done += writeSync(this.#file, bytes, done);
  }
}
