/** One buffer handed out piece by piece: for kernels that do not reach JavaScript's own memory, or know better memory. */
export class Arena {
  readonly buffer: ArrayBuffer;
  readonly #alignment: number;
  #next: number;

  /** Hand out what lies from start on and is zero, in steps of alignment bytes. */
  constructor(buffer: ArrayBuffer, start: number, alignment: number) {
    this.buffer = buffer;
    this.#alignment = alignment;
    this.#next = start;
  }

  /** The offset of that many free bytes, which stay taken. */
  #take(bytes: number): number {
    const offset = this.#next;
    if (offset + bytes > this.buffer.byteLength) throw new Error("more memory than reserved");
    this.#next += Math.ceil(bytes / this.#alignment) * this.#alignment;
    return offset;
  }

  floats(length: number): Float32Array {
    return new Float32Array(this.buffer, this.#take(4 * length), length);
  }

  codes(length: number): Int8Array {
    return new Int8Array(this.buffer, this.#take(length), length);
  }
}
