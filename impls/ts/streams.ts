/** Standard output at once, and patience with pipes. */
import { writeSync } from "node:fs";
import { Failure } from "./failure.ts";

const never = new Int32Array(new SharedArrayBuffer(4));

/** Whether a pipe that another process made non-blocking is full or empty for now. */
export function isBusy(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === "EAGAIN";
}

/** Wait a millisecond. */
export function pause(): void {
  Atomics.wait(never, 0, 0, 1);
}

/** Write a string of bytes at once. */
export function print(text: string): void {
  for (let left = text; left !== ""; ) {
    try {
      left = left.slice(writeSync(1, left, null, "latin1"));
    } catch (error) {
      if (!isBusy(error)) throw new Failure("cannot write to standard output");
      pause();
    }
  }
}
