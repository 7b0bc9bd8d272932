/** The native add-on as a kernel. Node gives it addresses of JavaScript's own memory: nothing is copied. */
import { createRequire } from "node:module";
import { Failure } from "../ts/failure.ts";
import { heap, type Kernel } from "../ts/kernel.ts";

/** What binding.c exports. Wrong arguments throw TypeError or RangeError. */
export type Addon = {
  matmul(out: Float32Array, weights: Float32Array, x: Float32Array): void;
  matmulQ8(
    out: Float32Array,
    codes: Int8Array,
    scales: Float32Array,
    xCodes: Int8Array,
    xScales: Float32Array,
    group: number,
  ): void;
  readonly instructions: string;
};

export function loadAddon(file: string): Addon {
  try {
    return createRequire(import.meta.url)(file);
  } catch (error) {
    throw new Failure(`cannot load the kernel: ${(error as Error).message.split("\n")[0]}`);
  }
}

export function loadKernel(file: string): Kernel {
  const addon = loadAddon(file);
  return {
    ...heap,
    matmul: addon.matmul,
    matmulQ8: (out, weights, x, group) =>
      addon.matmulQ8(out, weights.codes, weights.scales, x.codes, x.scales, group),
  };
}
