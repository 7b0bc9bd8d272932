/** impls/ts with a kernel in WebAssembly: LLAMA_KERNEL names the module that zig made. */
import { main } from "../ts/program.ts";
import { loadKernel } from "./kernel.ts";

main(() => loadKernel(process.env.LLAMA_KERNEL ?? "kernel.wasm"));
