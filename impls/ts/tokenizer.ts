/**
 * Text <-> token ids, by llama2.c's tokenizer file.
 *
 * Texts are strings of bytes here: each character is one byte (0 to 255). Neither prompts nor pieces need be UTF-8.
 */
import { Failure } from "./failure.ts";
import { FileReader } from "./files.ts";

export const BOS = 1;
export const EOS = 2;
const FIRST_BYTE_PIECE = 3;
/** Below the -1e9 that vocabularies give to runs of spaces. */
const LOWEST_SCORE = -1e10;

/** To llama2.c texts and pieces are C strings: a NUL ends them. */
export function untilNul(text: string): string {
  const end = text.indexOf("\0");
  return end < 0 ? text : text.slice(0, end);
}

function isContinuation(text: string, at: number): boolean {
  return at < text.length && (text.charCodeAt(at) & 0xc0) === 0x80;
}

export class Tokenizer {
  readonly #path: string;
  readonly #pieces: string[] = [];
  readonly #scores: number[] = [];
  readonly #ids = new Map<string, number>();

  /** The file does not say how many pieces it has: the model does, and what follows them is ignored. */
  constructor(name: Buffer, nPieces: number) {
    const file = new FileReader(name);
    this.#path = file.path;
    const view = file.view("tokenizer", file.size);
    const bytes = Buffer.from(view.buffer);
    const need = (end: number): void => {
      if (end > file.size) throw new Failure(`${file.path}: truncated: piece ${this.#pieces.length} ends after the file`);
    };
    let pos = 4; // behind the length of the longest piece, which need not be true
    while (this.#pieces.length < nPieces) {
      need(pos + 8);
      const score = view.getFloat32(pos, true);
      const length = view.getInt32(pos + 4, true);
      pos += 8;
      if (length <= 0) throw new Failure(`${file.path}: piece ${this.#pieces.length} has length ${length}`);
      need(pos + length);
      const piece = untilNul(bytes.toString("latin1", pos, pos + length));
      pos += length;
      if (!this.#ids.has(piece)) this.#ids.set(piece, this.#pieces.length); // of two equal pieces the first counts
      this.#pieces.push(piece);
      this.#scores.push(score);
    }
    file.close();
  }

  /**
   * BOS, a space in front of any text, then an id per character or, where the vocabulary lacks the character, per byte;
   * then merged. A character is a byte and up to three continuation bytes after it.
   */
  encode(text: string): number[] {
    const ids = [BOS];
    text = untilNul(text);
    if (text !== "") {
      const space = this.#ids.get(" ");
      if (space === undefined) throw new Failure(`${this.#path}: no piece for the space that goes before a prompt`);
      ids.push(space);
    }
    for (let at = 0; at < text.length; ) {
      let end = at + 1;
      while (end < at + 4 && isContinuation(text, end)) end++;
      const id = this.#ids.get(text.slice(at, end));
      if (id !== undefined) ids.push(id);
      else for (let i = at; i < end; i++) ids.push(this.#byteId(text.charCodeAt(i)));
      at = end;
    }
    return this.#merged(ids);
  }

  #byteId(byte: number): number {
    const id = byte + FIRST_BYTE_PIECE;
    if (id < this.#pieces.length) return id;
    const name = byte.toString(16).toUpperCase().padStart(2, "0");
    throw new Failure(`${this.#path}: no piece for byte 0x${name} of the prompt`);
  }

  /** Join, again and again, the adjacent pair whose joined piece has the best score; among equals the leftmost. */
  #merged(ids: number[]): number[] {
    const join = (at: number): number => this.#ids.get(this.#pieces[ids[at]] + this.#pieces[ids[at + 1]]) ?? -1;
    const joined = ids.slice(1).map((_, at) => join(at)); // joined[i]: what ids[i] and ids[i + 1] make, or -1
    for (;;) {
      let best = -1;
      let bestScore = LOWEST_SCORE;
      for (let i = 0; i < joined.length; i++) {
        if (joined[i] >= 0 && this.#scores[joined[i]] > bestScore) {
          best = i;
          bestScore = this.#scores[joined[i]];
        }
      }
      if (best < 0) return ids;
      ids.splice(best, 2, joined[best]);
      joined.splice(best, 1);
      if (best > 0) joined[best - 1] = join(best - 1);
      if (best < joined.length) joined[best] = join(best);
    }
  }

  /**
   * The text of id after previous. Directly after BOS a leading space is dropped: encode() put it there. A piece spelled
   * <0xHH> is that byte; the bracket and the second digit may be missing. Byte 0 is no text.
   */
  decode(previous: number, id: number): string {
    let text = this.#pieces[id];
    if (previous === BOS && text.startsWith(" ")) text = text.slice(1);
    const byte = text.startsWith("<") ? /^<0x([0-9a-f]{1,2})/i.exec(text) : null;
    return byte ? untilNul(String.fromCharCode(parseInt(byte[1], 16))) : text;
  }

  /** What is shown of it: a lone byte only if it is printable ASCII or white space. */
  printed(previous: number, id: number): string {
    const text = this.decode(previous, id);
    return text.length === 1 && !/[\t-\r -~]/.test(text) ? "" : text;
  }
}
