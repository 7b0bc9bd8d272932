//! run: Llama-architecture inference for checkpoints of the llama2.c family, printing what llama2.c prints.
//!
//!     zig build-exe -O ReleaseFast -lc -fno-compiler-rt run.zig
//!
//! From the bottom up: system.zig and memory.zig are what is needed of the operating system, checkpoint.zig and
//! tokenizer.zig read the files, kernels.zig computes, pool.zig shares work out among threads, forward.zig is the
//! model; here are the sampler, the two modes and the command line.

const std = @import("std");
const builtin = @import("builtin");
const assert = std.debug.assert;
const bos = checkpoint.bos;
const checkpoint = @import("checkpoint.zig");
const die = os.die;
const eos = checkpoint.eos;
const kernels = @import("kernels.zig");
const lines = @import("lines.zig");
const memory = @import("memory.zig");
const os = @import("system.zig");
const pool_module = @import("pool.zig");
const State = @import("forward.zig").State;
const Tokenizer = @import("tokenizer.zig").Tokenizer;
const trace = @import("trace.zig");

comptime {
    const version = builtin.zig_version;
    if (version.major != 0 or version.minor != 17)
        @compileError("this is written in Zig 0.17: pip install ziglang==0.17.1");
}

/// Every build has this file's declarations for its root: scalar.zig takes them from here.
pub const panic = std.debug.FullPanic(os.panic);
pub const std_options: std.Options = .{ .enable_segfault_handler = false };

extern "c" fn strtod(text: [*:0]const u8, end: ?*[*:0]u8) f64;
extern "c" fn strtoll(text: [*:0]const u8, end: ?*[*:0]u8, base: c_int) c_longlong;

// ---- Sampler

pub const Sampler = struct {
    pub const Candidate = struct {
        probability: f32,
        id: u32,

        /// Likeliest first; equals by id, as a stable sort leaves them.
        fn before(_: void, a: Candidate, b: Candidate) bool {
            return if (a.probability != b.probability) a.probability > b.probability else a.id < b.id;
        }
    };

    temperature: f32, // 0: always the likeliest token, without drawing a random number
    topp: f32, // draw from the fewest likeliest tokens that exceed this mass; <= 0 or >= 1: from all
    random: u64, // xorshift* state, not 0
    candidates: []Candidate, // (vocab_size) scratch

    /// The next token; logits are overwritten. Takes one random number per call, none at temperature 0.
    pub fn sample(sampler: *Sampler, logits: []f32) u32 {
        if (sampler.temperature == 0) return argmax(logits);
        for (logits) |*logit| logit.* /= sampler.temperature;
        kernels.softmax(logits, .strict);
        const coin = sampler.draw();
        if (sampler.topp <= 0 or sampler.topp >= 1) return sampleAll(logits, coin);
        return sampler.sampleNucleus(logits, coin);
    }

    /// 24 random bits as a float in [0, 1).
    fn draw(sampler: *Sampler) f32 {
        var state = sampler.random;
        assert(state != 0);
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        sampler.random = state;
        const bits: u32 = @truncate((state *% 0x2545F4914F6CDD1D) >> 32);
        return @as(f32, @floatFromInt(bits >> 8)) / 16777216.0;
    }

    fn sampleNucleus(sampler: *Sampler, probabilities: []const f32, coin: f32) u32 {
        // A token below this cannot be in the nucleus: all but one of them together would not reach 1 - topp.
        const cutoff = (1.0 - sampler.topp) / @as(f32, @floatFromInt(probabilities.len - 1));
        var count: usize = 0;
        for (probabilities, 0..) |probability, id| {
            if (probability >= cutoff) {
                sampler.candidates[count] = .{ .probability = probability, .id = @intCast(id) };
                count += 1;
            }
        }
        if (count == 0) return argmax(probabilities); // topp below 1/n on a flat distribution, or NaN
        const candidates = sampler.candidates[0..count];
        std.mem.sortUnstable(Candidate, candidates, {}, Candidate.before);

        var mass: f32 = 0;
        var kept: usize = 0;
        while (kept < count) {
            mass += candidates[kept].probability;
            kept += 1;
            if (mass > sampler.topp) break; // the token that crosses belongs to the nucleus
        }
        const target = coin * mass;
        var passed: f32 = 0;
        for (candidates[0..kept]) |candidate| {
            passed += candidate.probability;
            if (target < passed) return candidate.id;
        }
        return candidates[kept - 1].id;
    }
};

/// The first of the largest. Few stretches hold a larger one, and to see that they do not takes no order.
fn argmax(x: []const f32) u32 {
    const stretch = 64;
    var best: usize = 0;
    var start: usize = 0;
    while (start < x.len) : (start += stretch) {
        const some = x[start..@min(start + stretch, x.len)];
        const largest = x[best];
        var n_larger: u32 = 0;
        for (some) |value| n_larger += @intFromBool(value > largest);
        if (n_larger == 0) continue;
        for (some, start..) |value, i| {
            if (value > x[best]) best = i;
        }
    }
    return @intCast(best);
}

fn sampleAll(probabilities: []const f32, coin: f32) u32 {
    var mass: f32 = 0;
    for (probabilities, 0..) |probability, id| {
        mass += probability;
        if (coin < mass) return @intCast(id);
    }
    return @intCast(probabilities.len - 1); // rounding kept the total below the coin
}

// ---- Generate and chat

const Session = struct {
    tokenizer: *Tokenizer,
    state: *State,
    sampler: *Sampler,
    steps: usize, // forward passes allowed, prompt included

    /// Echo the prompt piece by piece and continue it until BOS, which starts the next story, or until steps run out.
    fn generate(s: *const Session, prompt: []const u8) void {
        const forced = s.tokenizer.encode(prompt);
        var token = forced[0];
        var pos: usize = 0;
        var start_s: f64 = 0; // taken after the first pass, which also brings the weights into memory
        while (pos < s.steps) {
            const logits = s.state.forward(token, pos);
            pos += 1;
            const next = if (pos < forced.len) forced[pos] else s.sampler.sample(logits);
            if (next == bos) break;
            os.print(s.tokenizer.shownText(token, next));
            token = next;
            if (pos == 1) start_s = os.secondsOf(.MONOTONIC);
        }
        os.print("\n");
        if (pos > 1) {
            const duration_s = @max(1e-9, os.secondsOf(.MONOTONIC) - start_s);
            os.complain("achieved tok/s: {d:.6}\n", .{@as(f64, @floatFromInt(pos - 1)) / duration_s});
        }
    }

    /// Take turns until steps run out. One position counter, one cache: the model sees the whole conversation.
    ///
    /// Three habits of llama2.c are kept because they show in the output. A sample is drawn at every position, also
    /// while the prompt is fed. The EOS that ends an answer is fed as well, and the token sampled from it is printed
    /// and dropped. At the end of the input the last user text is repeated.
    fn chat(s: *const Session, first_prompt: ?[]const u8, system_prompt: ?[]const u8) void {
        var input: os.Input = .{};
        var user_line: [line_bytes]u8 = undefined;
        var user: []const u8 = "";
        var turn: []const u32 = &.{};
        var fed: usize = 0;
        var next: u32 = 0;
        var users_turn = true;
        for (0..s.steps) |pos| {
            if (users_turn) {
                var system: []const u8 = "";
                var system_line: [line_bytes]u8 = undefined;
                if (pos == 0) system = system_prompt orelse
                    ask("Enter system prompt (optional): ", &input, &system_line) orelse "";
                user = if (pos == 0 and first_prompt != null)
                    first_prompt.?
                else
                    ask("User: ", &input, &user_line) orelse user;
                turn = s.encodeTurn(system, user);
                fed = 0;
                users_turn = false;
                os.print("Assistant: ");
            }
            var token = next;
            if (fed < turn.len) {
                token = turn[fed];
                fed += 1;
            }
            if (token == eos) users_turn = true;
            next = s.sampler.sample(s.state.forward(token, pos));
            if (next == eos) {
                os.print("\n");
            } else if (fed == turn.len) {
                os.print(s.tokenizer.shownText(token, next));
            }
        }
        os.print("\n");
    }

    const line_bytes = 511; // llama2.c's; of a longer line the rest is the next one

    /// A line from the input, without its newline and whatever follows a NUL; null at the end of the input.
    fn ask(question: []const u8, input: *os.Input, line: *[line_bytes]u8) ?[]const u8 {
        os.print(question);
        var length: usize = 0;
        while (length < line.len) {
            const byte = input.next() orelse {
                if (length == 0) return null;
                break;
            };
            line[length] = byte;
            length += 1;
            if (byte == '\n') break;
        }
        return std.mem.sliceTo(std.mem.sliceTo(line[0..length], '\n'), 0);
    }

    /// One turn in Llama 2's chat markup; system may be empty.
    fn encodeTurn(s: *const Session, system: []const u8, user: []const u8) []const u32 {
        const text = if (system.len > 0)
            std.fmt.allocPrint(std.heap.c_allocator, "[INST] <<SYS>>\n{s}\n<</SYS>>\n\n{s} [/INST]", .{ system, user })
        else
            std.fmt.allocPrint(std.heap.c_allocator, "[INST] {s} [/INST]", .{user});
        return s.tokenizer.encode(text catch die("out of memory: a turn of the chat", .{}));
    }
};

// ---- Command line

const Options = struct {
    checkpoint: [*:0]const u8,
    tokenizer: [*:0]const u8 = "tokenizer.bin",
    mode: []const u8 = "generate",
    prompt: ?[]const u8 = null,
    system_prompt: ?[]const u8 = null,
    temperature: f32 = 1,
    topp: f32 = 0.9,
    seed: u64 = 0, // 0: the time
    steps: usize = 256, // 0: as many as the model's context holds
    threads: i32 = 1, // 0: one per processor

    fn parse(args: []const [*:0]const u8) Options {
        if (args.len < 2) exitWithUsage();
        var o: Options = .{ .checkpoint = args[1] };
        var rest = args[2..];
        while (rest.len > 0) : (rest = rest[2..]) {
            const flag = std.mem.span(rest[0]);
            if (rest.len == 1 or flag.len != 2 or flag[0] != '-') exitWithUsage();
            const value = rest[1];
            switch (flag[1]) {
                't' => o.temperature = @floatCast(strtod(value, null)),
                'p' => o.topp = @floatCast(strtod(value, null)),
                's' => o.seed = @bitCast(@as(i64, parseInt(value))), // -1 is 2^64 - 1
                'n' => o.steps = @intCast(@max(0, parseInt(value))),
                'i' => o.prompt = std.mem.span(value),
                'z' => o.tokenizer = value,
                'm' => o.mode = std.mem.span(value),
                'y' => o.system_prompt = std.mem.span(value),
                'j' => o.threads = threadsOf(value),
                else => exitWithUsage(),
            }
        }
        if (o.temperature < 0) o.temperature = 0;
        if (o.topp < 0 or o.topp > 1) o.topp = 0.9;
        return o;
    }

    fn threadsOf(text: [*:0]const u8) i32 {
        const threads = parseInt(text);
        if (threads < 0 or threads > pool_module.max_threads)
            die("-j must be from 0 to {d}, not {d}", .{ pool_module.max_threads, threads });
        return threads;
    }

    /// C's atoi where int has 32 bits and long 64: no error, and what does not fit wraps.
    fn parseInt(text: [*:0]const u8) i32 {
        return @truncate(strtoll(text, null, 10));
    }
};

fn exitWithUsage() noreturn {
    os.complain(
        \\usage: run CHECKPOINT [-t X] [-p X] [-s N] [-n N] [-i TEXT] [-z FILE] [-m MODE] [-y TEXT] [-j N]
        \\e.g.:  run stories15M.bin -n 128 -t 0.8 -i "The old lighthouse"
        \\  -t X     temperature, 0 picks the likeliest token (default 1.0)
        \\  -p X     top-p in [0, 1]; 0 and 1 consider every token (default 0.9)
        \\  -s N     random seed, 0 takes the time (default 0)
        \\  -n N     positions to run, prompt included, 0 fills the context (default 256)
        \\  -i TEXT  text to continue, or the first user message (default none)
        \\  -z FILE  tokenizer (default tokenizer.bin)
        \\  -m MODE  generate or chat (default generate)
        \\  -y TEXT  system prompt for chat (default: ask)
        \\  -j N     threads, 0 takes one per processor (default 1)
        \\or:    run --lines [THREADS], which answers requests, one a line (docs/protocol.md)
        \\
    , .{});
    std.c.exit(1);
}

pub fn main(init: std.process.Init.Minimal) u8 {
    trace.open();
    const args = init.args.vector;
    if (args.len >= 2 and std.mem.eql(u8, std.mem.span(args[1]), "--lines")) {
        var pool: pool_module.Pool = .{ .n_threads = if (args.len > 2) @intCast(Options.threadsOf(args[2])) else 1 };
        pool.start();
        lines.answerLines(&pool);
        std.c.exit(0);
    }
    const o: Options = .parse(args);
    const model: checkpoint.Model = .load(o.checkpoint);
    const vocab_size, const seq_len = .{ model.config.vocab_size, model.config.seq_len };
    const steps = if (o.steps == 0) seq_len else @min(o.steps, seq_len);
    var pool: pool_module.Pool = .{ .n_threads = @intCast(o.threads) };
    if (o.threads == 0) pool.n_threads = @min(std.Thread.getCpuCount() catch 1, pool_module.max_threads);
    pool.start();
    var state: State = .init(&model, &pool, steps);
    var tokenizer: Tokenizer = .load(o.tokenizer, vocab_size);
    const time_s: u64 = @intFromFloat(os.secondsOf(.REALTIME));
    var sampler: Sampler = .{
        .temperature = o.temperature,
        .topp = o.topp,
        .random = if (o.seed != 0) o.seed else time_s,
        .candidates = memory.allocate(Sampler.Candidate, vocab_size),
    };
    const session: Session = .{ .tokenizer = &tokenizer, .state = &state, .sampler = &sampler, .steps = steps };

    if (std.mem.eql(u8, o.mode, "generate")) {
        session.generate(o.prompt orelse "");
    } else if (std.mem.eql(u8, o.mode, "chat")) {
        session.chat(o.prompt, o.system_prompt);
    } else {
        os.complain("run: unknown mode: {s}\n", .{o.mode});
        exitWithUsage();
    }
    // Nothing is freed, and the pool's threads wait: the system takes all of it back.
    std.c.exit(0);
}
