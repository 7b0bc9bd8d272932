/** llama2.c's checkpoints, versions 0 and 1 (float32) and 2 (int8): a header, then tensors without names. */
import { endianness } from "node:os";
import { Failure } from "./failure.ts";
import { FileReader } from "./files.ts";
import type { Kernel, Quantized } from "./kernel.ts";

export type Config = {
  readonly dim: number; // width of the residual stream
  readonly hiddenDim: number; // width of the feed-forward block
  readonly nLayers: number;
  readonly nHeads: number; // query heads
  readonly nKvHeads: number; // key/value heads; each serves nHeads / nKvHeads query heads
  readonly vocabSize: number;
  readonly seqLen: number; // longest context
  readonly headDim: number;
  readonly kvDim: number;
  readonly group: number; // int8 values per scale; 0: the weights are float32
};

/** (rows, cols), row-major, in float32 or in int8. */
export type Matrix = { readonly rows: number; readonly cols: number } & (
  | { readonly values: Float32Array }
  | { readonly quantized: Quantized }
);

export type Layer = {
  readonly attnNorm: Float32Array; // (dim)
  readonly ffnNorm: Float32Array;
  readonly wq: Matrix; // (dim, dim)
  readonly wk: Matrix; // (kvDim, dim)
  readonly wv: Matrix;
  readonly wo: Matrix; // (dim, dim)
  readonly wGate: Matrix; // w1 (hiddenDim, dim)
  readonly wDown: Matrix; // w2 (dim, hiddenDim)
  readonly wUp: Matrix; // w3 (hiddenDim, dim)
};

export type Model = {
  readonly config: Config;
  readonly tokEmbedding: Matrix; // (vocabSize, dim)
  readonly layers: readonly Layer[];
  readonly finalNorm: Float32Array; // (dim)
  readonly lmHead: Matrix; // (vocabSize, dim), or the embedding itself
};

const MAGIC = 0x616b3432;
const HEADER_BYTES = 256; // of versions 1 and 2
const BOS = 1;
/** Two norms, seven matrices, which in int8 have two arrays each, two caches; and generously what is there once. */
const ARRAYS_PER_LAYER = 18;
const OTHER_ARRAYS = 64;

/** What a run of so many positions holds besides weights, all of which meets the kernel: generously. */
function activationBytes(c: Config, positions: number, lanes: number): number {
  const capacity = positions + lanes;
  const caches = capacity * (c.nHeads + c.nLayers * c.nKvHeads * (2 * c.headDim + lanes));
  return 4 * (8 * c.dim + 4 * c.hiddenDim + 4 * c.kvDim + 2 * c.headDim + 2 * c.vocabSize + caches);
}

/** Refuse dimensions that mean nothing, and derive the others. */
function checkedConfig(path: string, header: DataView, offset: number, vocabSign: number, group: number): Config {
  const field = (index: number): number => header.getInt32(offset + 4 * index, true);
  const c = {
    dim: field(0),
    hiddenDim: field(1),
    nLayers: field(2),
    nHeads: field(3),
    nKvHeads: field(4),
    vocabSize: field(5) * vocabSign,
    seqLen: field(6),
  };
  const bad = (what: string): Failure => new Failure(`${path}: bad header: ${what}`);
  for (const [name, value] of Object.entries(c)) if (value <= 0) throw bad(`${name} is ${value}, not positive`);
  if (c.dim % c.nHeads !== 0 || (c.dim / c.nHeads) % 2 !== 0)
    throw bad(`dim ${c.dim} does not split into ${c.nHeads} heads of even width`);
  if (c.nHeads % c.nKvHeads !== 0) throw bad(`${c.nHeads} heads cannot share ${c.nKvHeads} key/value heads evenly`);
  if (c.vocabSize <= BOS) throw bad(`a vocabulary of ${c.vocabSize} has no BOS`);
  const headDim = c.dim / c.nHeads;
  return { ...c, headDim, kvDim: headDim * c.nKvHeads, group };
}

/** Tensors in the order of a file, each in memory of the kernel's. */
class TensorReader {
  readonly #file: FileReader;
  readonly #kernel: Kernel;
  readonly #config: Config;

  constructor(file: FileReader, kernel: Kernel, config: Config, positions: number) {
    this.#file = file;
    this.#kernel = kernel;
    this.#config = config;
    // Each layer has norms in the file, which bounds everything that is made per layer by the file's size.
    file.need("norms of all layers", 8 * config.nLayers * config.dim);
    const activations = activationBytes(config, Math.min(positions, config.seqLen), kernel.lanes);
    kernel.reserve(file.size, activations, ARRAYS_PER_LAYER * config.nLayers + OTHER_ARRAYS);
  }

  vector(what: string, length: number): Float32Array {
    this.#file.need(what, 4 * length);
    const vector = this.#kernel.floats(length);
    this.#file.fill(what, vector);
    return vector;
  }

  matrix(what: string, rows: number, cols: number): Matrix {
    const { group } = this.#config;
    const count = rows * cols;
    if (group === 0) return { rows, cols, values: this.vector(what, count) };
    this.#file.need(what, count);
    const codes = this.#kernel.codes(count);
    this.#file.fill(what, codes);
    return { rows, cols, quantized: { codes, scales: this.vector(`scales of ${what}`, count / group) } };
  }

  /** All layers of one kind of tensor lie together. */
  perLayer<T>(read: () => T): T[] {
    return Array.from({ length: this.#config.nLayers }, read);
  }

  norms(what: string): Float32Array[] {
    return this.perLayer(() => this.vector(what, this.#config.dim));
  }

  embedding(what: string): Matrix {
    return this.matrix(what, this.#config.vocabSize, this.#config.dim);
  }

  attention(): Pick<Layer, "wq" | "wk" | "wv" | "wo">[] {
    const { dim, kvDim } = this.#config;
    const wq = this.perLayer(() => this.matrix("wq", dim, dim));
    const wk = this.perLayer(() => this.matrix("wk", kvDim, dim));
    const wv = this.perLayer(() => this.matrix("wv", kvDim, dim));
    const wo = this.perLayer(() => this.matrix("wo", dim, dim));
    return wq.map((_, l) => ({ wq: wq[l], wk: wk[l], wv: wv[l], wo: wo[l] }));
  }

  feedForward(): Pick<Layer, "wGate" | "wDown" | "wUp">[] {
    const { dim, hiddenDim } = this.#config;
    const wGate = this.perLayer(() => this.matrix("w1", hiddenDim, dim));
    const wDown = this.perLayer(() => this.matrix("w2", dim, hiddenDim));
    const wUp = this.perLayer(() => this.matrix("w3", hiddenDim, dim));
    return wGate.map((_, l) => ({ wGate: wGate[l], wDown: wDown[l], wUp: wUp[l] }));
  }
}

type Norms = { attnNorm: Float32Array[]; ffnNorm: Float32Array[] };

function joinLayers(
  { attnNorm, ffnNorm }: Norms,
  attention: ReturnType<TensorReader["attention"]>,
  feedForward: ReturnType<TensorReader["feedForward"]>,
): Layer[] {
  return attention.map((weights, l) => ({
    attnNorm: attnNorm[l],
    ffnNorm: ffnNorm[l],
    ...weights,
    ...feedForward[l],
  }));
}

/** A 28-byte header without magic. A vocabulary size that is not positive says that the classifier is stored. */
function readVersion0(file: FileReader, kernel: Kernel, positions: number): Model {
  file.seek(0);
  const header = file.view("header", 28);
  const tied = header.getInt32(20, true) > 0;
  const config = checkedConfig(file.path, header, 0, tied ? 1 : -1, 0);
  const tensors = new TensorReader(file, kernel, config, positions);
  const tokEmbedding = tensors.embedding("token embedding");
  const attnNorm = tensors.norms("attention norm");
  const attention = tensors.attention();
  const ffnNorm = tensors.norms("ffn norm");
  const feedForward = tensors.feedForward();
  const finalNorm = tensors.vector("final norm", config.dim);
  let lmHead = tokEmbedding;
  if (!tied) {
    // Cosines and sines that nobody reads. Behind them a tied file has nothing, so there they may even be missing.
    file.skip("RoPE tables", 4 * config.seqLen * config.headDim);
    lmHead = tensors.embedding("classifier");
  }
  return { config, tokEmbedding, layers: joinLayers({ attnNorm, ffnNorm }, attention, feedForward), finalNorm, lmHead };
}

/** A 256-byte header with magic and version; all norms first, no tables. */
function readVersion1Or2(file: FileReader, kernel: Kernel, positions: number, version: number): Model {
  file.seek(0);
  const header = file.view("header", HEADER_BYTES);
  const tied = header.getUint8(36) !== 0;
  const group = version === 2 ? header.getInt32(37, true) : 0;
  const config = checkedConfig(file.path, header, 8, 1, group);
  // Dividing dim, the group divides every tensor; up to 2^16, the int32 sum over a group cannot overflow.
  if (version === 2 && (group <= 0 || group > 1 << 16 || config.dim % group !== 0))
    throw new Failure(`${file.path}: bad header: group size ${group} does not divide dim ${config.dim}`);
  const tensors = new TensorReader(file, kernel, config, positions);
  const attnNorm = tensors.norms("attention norm");
  const ffnNorm = tensors.norms("ffn norm");
  const finalNorm = tensors.vector("final norm", config.dim);
  const tokEmbedding = tensors.embedding("token embedding");
  const layers = joinLayers({ attnNorm, ffnNorm }, tensors.attention(), tensors.feedForward());
  const lmHead = tied ? tokEmbedding : tensors.embedding("classifier");
  return { config, tokEmbedding, layers, finalNorm, lmHead };
}

/** positions: how many will be run, at most; the context bounds it. */
export function readModel(name: Buffer, kernel: Kernel, positions = Infinity): Model {
  if (endianness() !== "LE") throw new Failure("the files are little-endian and used as they are: this machine is not");
  const file = new FileReader(name);
  const start = file.view("header", 8);
  const version = start.getUint32(0, true) === MAGIC ? start.getInt32(4, true) : 0;
  if (version === 0 && start.getUint32(0, true) !== MAGIC) return closing(file, readVersion0(file, kernel, positions));
  if (version === 1 || version === 2) return closing(file, readVersion1Or2(file, kernel, positions, version));
  throw new Failure(`${file.path}: checkpoint version ${version} is not supported, only 0, 1 and 2 are`);
}

function closing(file: FileReader, model: Model): Model {
  file.close();
  return model;
}
