//! The line protocol (docs/protocol.md): a request a line on standard input, its reply a line on standard output.

const std = @import("std");
const checkpoint = @import("checkpoint.zig");
const memory = @import("memory.zig");
const os = @import("system.zig");
const Pool = @import("pool.zig").Pool;
const Sampler = @import("run.zig").Sampler;
const State = @import("forward.zig").State;
const Tokenizer = @import("tokenizer.zig").Tokenizer;

const allocator = std.heap.c_allocator;
const verbs = "info load encode decode generate logits quit";

extern "c" fn strtod(text: [*:0]const u8, end: ?*[*:0]u8) f64;

const Loaded = struct {
    names: [2][:0]const u8, // of the files
    model: checkpoint.Model,
    tokenizer: Tokenizer,
    state: State,
    candidates: []Sampler.Candidate,
};

/// What goes into one reply, or why there is none.
const Program = struct {
    pool: *Pool,
    loaded: ?*Loaded = null,
    words: std.mem.SplitIterator(u8, .scalar) = undefined,
    number: []const u8 = "",
    out: std.ArrayListUnmanaged(u8) = .empty,
    ids: std.ArrayListUnmanaged(u32) = .empty,
    text: std.ArrayListUnmanaged(u8) = .empty,
    what: []const u8 = "",

    fn refuse(p: *Program, what: []const u8) error{Refused} {
        p.what = what;
        return error.Refused;
    }

    fn add(p: *Program, comptime format: []const u8, args: anytype) void {
        p.out.print(allocator, format, args) catch os.die("out of memory: a reply", .{});
    }

    fn addHex(p: *Program, bytes: []const u8) void {
        for (bytes) |byte| p.add("{x:0>2}", .{byte});
    }

    fn addIds(p: *Program, ids: []const u32) void {
        p.add(" {d}", .{ids.len});
        for (ids) |id| p.add(" {d}", .{id});
    }

    // ---- words

    fn word(p: *Program) ![]const u8 {
        return p.words.next() orelse p.refuse("a word is missing");
    }

    fn integer(p: *Program) !i64 {
        return std.fmt.parseInt(i64, try p.word(), 10) catch p.refuse("expected an integer");
    }

    fn float(p: *Program) !f32 {
        const digits = try p.word();
        var terminated: [64]u8 = undefined;
        if (digits.len >= terminated.len) return p.refuse("expected a number");
        @memcpy(terminated[0..digits.len], digits);
        terminated[digits.len] = 0;
        return @floatCast(strtod(@ptrCast(&terminated), null));
    }

    /// A text in hexadecimal; valid until the next one.
    fn hex(p: *Program) ![]const u8 {
        const digits = try p.word();
        p.text.clearRetainingCapacity();
        if (std.mem.eql(u8, digits, "-")) return p.text.items;
        const room = p.text.addManyAsSlice(allocator, digits.len / 2) catch os.die("out of memory: a text", .{});
        return std.fmt.hexToBytes(room, digits) catch p.refuse("expected a text in hexadecimal");
    }

    fn path(p: *Program) ![:0]const u8 {
        const name = try p.hex();
        return allocator.dupeSentinel(u8, name, 0) catch os.die("out of memory: a path", .{});
    }

    /// The rest of the line, as ids of the vocabulary.
    fn rest(p: *Program, loaded: *const Loaded) ![]u32 {
        p.ids.clearRetainingCapacity();
        while (p.words.next()) |digits| {
            const id = std.fmt.parseInt(u32, digits, 10) catch return p.refuse("expected ids");
            if (id >= loaded.model.config.vocab_size) return p.refuse("an id is outside of the vocabulary");
            p.ids.append(allocator, id) catch os.die("out of memory: ids", .{});
        }
        return p.ids.items;
    }

    fn fed(p: *Program, loaded: *const Loaded) ![]u32 {
        const ids = try p.rest(loaded);
        if (ids.len == 0 or ids.len > loaded.model.config.seq_len) return p.refuse("more ids than the context, or none");
        return ids;
    }

    // ---- verbs

    fn answer(p: *Program, verb: []const u8) !void {
        const config = if (p.loaded) |loaded| loaded.model.config else null;
        if (std.mem.eql(u8, verb, "info")) {
            const shape = if (config) |c| .{ c.vocab_size, c.seq_len } else .{ @as(usize, 0), @as(usize, 0) };
            const threads = p.pool.n_threads;
            p.add("ok llama-lines 1 zig {d} {d} {d} " ++ verbs, .{ shape[0], shape[1], threads });
        } else if (std.mem.eql(u8, verb, "load")) {
            try p.load();
        } else if (std.mem.eql(u8, verb, "quit")) {
            p.add("ok", .{});
        } else if (std.mem.eql(u8, verb, "encode")) {
            try p.encode(try p.theLoaded());
        } else if (std.mem.eql(u8, verb, "decode")) {
            try p.decode(try p.theLoaded());
        } else if (std.mem.eql(u8, verb, "generate")) {
            try p.generate(try p.theLoaded());
        } else if (std.mem.eql(u8, verb, "logits")) {
            try p.logits(try p.theLoaded());
        } else {
            p.add("unsupported", .{});
        }
    }

    fn theLoaded(p: *Program) !*Loaded {
        return p.loaded orelse p.refuse("no model is loaded");
    }

    /// A file that can be opened and is wrong inside ends the program, as on the command line.
    fn load(p: *Program) !void {
        const names: [2][:0]const u8 = .{ try p.path(), try p.path() };
        for (names) |name| if (!os.canRead(name)) {
            for (names) |unused| allocator.free(unused);
            return p.refuse("cannot open a file");
        };
        if (p.loaded) |old| {
            old.tokenizer.close();
            os.closeFiles();
            memory.freeAll();
            for (old.names) |name| allocator.free(name);
            allocator.destroy(old);
            p.loaded = null;
        }
        const new = allocator.create(Loaded) catch os.die("out of memory: a model", .{});
        new.names = names;
        new.model = .load(names[0]);
        const config = new.model.config;
        new.tokenizer = .load(names[1], config.vocab_size);
        new.state = .init(&new.model, p.pool, config.seq_len);
        new.candidates = memory.allocate(Sampler.Candidate, config.vocab_size);
        p.loaded = new;
        p.add("ok {d} {d}", .{ config.vocab_size, config.seq_len });
    }

    fn encode(p: *Program, loaded: *Loaded) !void {
        const with_bos, const with_eos = .{ try p.integer() != 0, try p.integer() != 0 };
        const ids = loaded.tokenizer.encode(try p.hex());
        const kept = if (with_bos) ids else ids[1..];
        const extra = @intFromBool(with_eos);
        p.add("ok {d} {d} {d}", .{ @intFromBool(with_bos), extra, kept.len + extra });
        for (kept) |id| p.add(" {d}", .{id});
        if (with_eos) p.add(" {d}", .{checkpoint.eos});
    }

    fn decode(p: *Program, loaded: *Loaded) !void {
        const ids = try p.rest(loaded);
        p.add("ok {d} ", .{ids.len});
        const start = p.out.items.len;
        for (ids, 0..) |id, i| {
            if (i == 0 and id == checkpoint.bos) continue;
            p.addHex(loaded.tokenizer.textOf(if (i == 0) null else ids[i - 1], id));
        }
        if (p.out.items.len == start) p.add("-", .{});
    }

    fn generate(p: *Program, loaded: *Loaded) !void {
        const n, const temperature, const topp, const seed =
            .{ try p.integer(), try p.float(), try p.float(), try p.integer() };
        if (n < 0 or seed == 0) return p.refuse("a negative count, or a seed of 0");
        const n_prompt = (try p.fed(loaded)).len;
        var sampler: Sampler = .{
            .temperature = temperature,
            .topp = topp,
            .random = @bitCast(seed),
            .candidates = loaded.candidates,
        };
        var pos: usize = 0;
        while (pos < loaded.model.config.seq_len and p.ids.items.len < n_prompt + @as(usize, @intCast(n))) : (pos += 1) {
            const row = loaded.state.forward(p.ids.items[pos], pos);
            if (pos + 1 < n_prompt) continue;
            const next = sampler.sample(row);
            p.ids.append(allocator, next) catch os.die("out of memory: ids", .{});
            if (next == checkpoint.bos) break;
        }
        p.add("ok {d} {d} {d} {d}", .{ n, temperature, topp, seed });
        p.addIds(p.ids.items[n_prompt..]);
    }

    /// Rows go out as they are made.
    fn logits(p: *Program, loaded: *Loaded) !void {
        const first = try p.integer();
        const ids = try p.fed(loaded);
        if (first < 0 or first >= ids.len) return p.refuse("there is no such row");
        const vocab_size = loaded.model.config.vocab_size;
        p.add("ok {d} {d} {d} ", .{ first, ids.len - @as(usize, @intCast(first)), vocab_size });
        for (ids, 0..) |id, pos| {
            const row = loaded.state.forward(id, pos);
            if (pos < first) continue;
            p.addHex(std.mem.sliceAsBytes(row));
            os.print(p.out.items);
            p.out.clearRetainingCapacity();
        }
    }
};

/// Answer until told to quit, or until the input ends.
pub fn answerLines(pool: *Pool) void {
    var p: Program = .{ .pool = pool };
    var input: os.Input = .{};
    var line: std.ArrayListUnmanaged(u8) = .empty;
    while (true) {
        line.clearRetainingCapacity();
        while (true) {
            const byte = input.next() orelse return;
            if (byte == '\n') break;
            line.append(allocator, byte) catch os.die("out of memory: a request", .{});
        }
        p.words = std.mem.splitScalar(u8, line.items, ' ');
        const number = p.words.first();
        const verb = p.words.next() orelse "";
        p.out.clearRetainingCapacity();
        p.add("{s} ", .{number});
        const start = p.out.items.len;
        p.answer(verb) catch {
            p.out.shrinkRetainingCapacity(start);
            p.add("error {s}", .{p.what});
        };
        p.add("\n", .{});
        os.print(p.out.items);
        if (std.mem.eql(u8, verb, "quit")) return;
    }
}
