/** Files read front to back, in pieces, and never past their end. What does not fit ends in a Failure. */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { Failure } from "./failure.ts";

/** One read asks for no more: the system refuses 2 GiB and more at once. */
const PIECE_BYTES = 1 << 30;

export class FileReader {
  readonly path: string;
  readonly size: number;
  readonly #descriptor: number;
  #pos = 0;

  /** Open a file by the bytes of its name. */
  constructor(name: Buffer) {
    this.path = name.toString();
    try {
      this.#descriptor = openSync(name, "r");
    } catch {
      throw new Failure(`couldn't open file ${this.path}`);
    }
    const status = fstatSync(this.#descriptor);
    if (!status.isFile()) throw new Failure(`${this.path}: not a regular file`);
    this.size = status.size;
  }

  get left(): number {
    return this.size - this.#pos;
  }

  seek(pos: number): void {
    this.#pos = pos;
  }

  /** Fail unless that many bytes are left. Counts from a hostile header may be huge: doubles do not overflow on them. */
  need(what: string, bytes: number): void {
    if (bytes > this.left)
      throw new Failure(
        `${this.path}: truncated or inconsistent: ${what} at byte ${this.#pos} needs ${bytes} bytes, ${this.left} are left`,
      );
  }

  skip(what: string, bytes: number): void {
    this.need(what, bytes);
    this.#pos += bytes;
  }

  /** Fill an array, whatever its type, with the next bytes. */
  fill(what: string, array: ArrayBufferView): void {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    this.need(what, bytes.length);
    for (let done = 0; done < bytes.length; ) {
      const length = Math.min(bytes.length - done, PIECE_BYTES);
      const got = readSync(this.#descriptor, bytes, done, length, this.#pos);
      if (got === 0) throw new Failure(`${this.path}: the file became shorter while it was read`);
      done += got;
      this.#pos += got;
    }
  }

  view(what: string, bytes: number): DataView {
    this.need(what, bytes);
    const view = new DataView(new ArrayBuffer(bytes));
    this.fill(what, view);
    return view;
  }

  close(): void {
    closeSync(this.#descriptor);
  }
}
