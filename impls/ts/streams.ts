/** Standard output, and patience with pipes. */
import { writeSync } from "node:fs";
import { Failure } from "./failure.ts";

/** How long text may wait, in milliseconds: 30 frames a second. Of a small model, a write for each token would take 2 %. */
const FRAME = 33;
const never = new Int32Array(new SharedArrayBuffer(4));
let waiting = ""; // said, and not written yet
let written = -Infinity; // when something was, last

/** Whether a pipe that another process made non-blocking is full or empty for now. */
export function isBusy(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === "EAGAIN";
}

/** Wait a millisecond. */
export function pause(): void {
  Atomics.wait(never, 0, 0, 1);
}

/** Write a string of bytes at once, after what waits. */
export function print(text: string): void {
  let left = waiting + text;
  waiting = "";
  while (left !== "") {
    try {
      left = left.slice(writeSync(1, left, null, "latin1"));
    } catch (error) {
      if (!isBusy(error)) throw new Failure("cannot write to standard output");
      pause();
    }
  }
}

/** Write it now if nothing was written for a frame, and else with what follows; the last must be followed by a print. */
export function printSoon(text: string): void {
  waiting += text;
  if (waiting === "") return; // the first token often is no text, and what follows it must not wait
  const now = Date.now();
  if (now >= written && now - written < FRAME) return; // the clock may have been set back
  written = now;
  print("");
}
