/** Llama inference in TypeScript alone: node main.ts model.bin -z tokenizer.bin -t 0 -i "Once upon a time" */
import { typescriptKernel } from "./kernel.ts";
import { main } from "./program.ts";

main(() => typescriptKernel);
