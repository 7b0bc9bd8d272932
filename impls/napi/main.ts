/** impls/ts with a kernel in C: LLAMA_KERNEL names the add-on that build.ts made. */
import { resolve } from "node:path";
import { main } from "../ts/program.ts";
import { loadKernel } from "./kernel.ts";

main(() => loadKernel(resolve(process.env.LLAMA_KERNEL ?? "kernel.node")));
