//! The line protocol (docs/protocol.md) and the trace writer (docs/trace.md) for a program in Zig:
//!
//!     zig build-exe -O ReleaseFast -lc lines.zig && harness smoke ./lines
//!
//! Copy this file, and put your model in its first part; the last two stay as they are. Input and output are the C
//! library's, which change less than Zig's.
const std = @import("std");
const allocator = std.heap.c_allocator;

// ==== yours: in place of this toy, whose tokens are bytes and whose logits are a formula ====

const program = "toy"; // one word
const n_threads = 1;

const Model = struct {
    vocab_size: usize,
    seq_len: usize,
    state: usize = 0,
    logits: [259]f32 = @splat(0),

    /// Any error is that the files cannot be used.
    fn load(model: [:0]const u8, tokenizer: [:0]const u8) !Model {
        if (model.len == 0 or tokenizer.len == 0) return error.NoSuchFile;
        return .{ .vocab_size = 259, .seq_len = 64 };
    }

    /// Append the ids of a text, which need not be UTF-8.
    fn encode(_: *Model, ids: *std.ArrayListUnmanaged(u32), text: []const u8, bos: bool, eos: bool) !void {
        if (bos) try ids.append(allocator, 1);
        for (text) |byte| try ids.append(allocator, 3 + @as(u32, byte));
        if (eos) try ids.append(allocator, 2);
    }

    /// Append what a token adds after the previous one, if there is one; after BOS without one leading space.
    fn decode(_: *Model, text: *std.ArrayListUnmanaged(u8), previous: ?u32, token: u32) !void {
        if (token < 3 or (previous == 1 and token == 3 + ' ')) return;
        try text.append(allocator, @intCast(token - 3));
    }

    /// The logits after a token. Positions come in order; 0 begins a new sequence. They may be overwritten.
    fn forward(m: *Model, token: u32, pos: usize) []f32 {
        trace("token", -1, pos, &.{@floatFromInt(token)});
        m.state = (5 * (if (pos == 0) 0 else m.state) + token) % 1009;
        for (&m.logits, 0..) |*logit, i| logit.* = @as(f32, @floatFromInt((37 * m.state + 101 * i) % 127)) / 16.0;
        trace("logits", -1, pos, &m.logits);
        return &m.logits;
    }
};

// ==== llama2.c's sampler, or yours ====

const Sampler = struct {
    temperature: f32,
    topp: f32,
    state: u64,

    fn coin(s: *Sampler) f32 {
        s.state ^= s.state >> 12;
        s.state ^= s.state << 25;
        s.state ^= s.state >> 27;
        const bits: u32 = @truncate(s.state *% 0x2545F4914F6CDD1D >> 40);
        return @as(f32, @floatFromInt(bits)) / 16777216.0;
    }

    fn sample(s: *Sampler, p: []f32) !u32 {
        const best: u32 = @intCast(std.mem.findMax(f32, p));
        if (s.temperature == 0) return best;
        const most = p[best] / s.temperature;
        var sum: f32 = 0;
        for (p) |*value| {
            value.* = @exp(value.* / s.temperature - most);
            sum += value.*;
        }
        for (p) |*value| value.* /= sum;
        var kept = try allocator.alloc(u32, p.len);
        defer allocator.free(kept.ptr[0..p.len]);
        for (kept, 0..) |*id, i| id.* = @intCast(i);
        var target = s.coin();
        if (s.topp > 0 and s.topp < 1) {
            std.mem.sort(u32, kept, p, likelier);
            var mass: f32 = 0;
            for (kept, 1..) |id, n| {
                mass += p[id];
                if (mass > s.topp) kept.len = n; // the one that crosses belongs to it
                if (mass > s.topp) break;
            }
            target *= mass;
        }
        var passed: f32 = 0;
        for (kept) |id| {
            passed += p[id];
            if (passed > target) return id;
        }
        return kept[kept.len - 1];
    }

    fn likelier(p: []f32, a: u32, b: u32) bool {
        return if (p[a] != p[b]) p[a] > p[b] else a < b;
    }
};

// ==== the trace writer, which stays ====

const File = opaque {};
extern "c" fn getenv(name: [*:0]const u8) ?[*:0]const u8;
extern "c" fn fopen(path: [*:0]const u8, mode: [*:0]const u8) ?*File;
extern "c" fn fwrite(bytes: [*]const u8, size: usize, n: usize, file: *File) usize;

var trace_file: ?*File = null;

/// Record one value; does nothing unless the environment asks for a trace.
fn trace(name: []const u8, layer: i32, pos: usize, values: []const f32) void {
    const file = trace_file orelse return;
    var buffer: [128]u8 = undefined;
    const header = std.fmt.bufPrint(&buffer, "{s} {d} {d} {d}\n", .{ name, layer, pos, values.len }) catch return;
    _ = fwrite(header.ptr, 1, header.len, file);
    _ = fwrite(@ptrCast(values.ptr), 4, values.len, file); // little-endian, as most machines are
}

// ==== the line protocol, which stays ====

extern "c" fn fflush(file: ?*File) c_int;
extern "c" fn getchar() c_int;
extern "c" fn putchar(byte: c_int) c_int;

/// One request, and the reply that is being made.
const Line = struct {
    words: std.mem.SplitIterator(u8, .scalar),
    out: std.ArrayListUnmanaged(u8) = .empty,

    fn add(line: *Line, comptime format: []const u8, args: anytype) !void {
        try line.out.print(allocator, format, args);
    }

    fn addIds(line: *Line, ids: []const u32) !void {
        try line.add(" {d}", .{ids.len});
        for (ids) |id| try line.add(" {d}", .{id});
    }

    fn word(line: *Line) ![]const u8 {
        return line.words.next() orelse error.AWordIsMissing;
    }

    fn number(line: *Line, comptime T: type) !T {
        const digits = try line.word();
        return if (T == f32) std.fmt.parseFloat(f32, digits) else std.fmt.parseInt(T, digits, 10);
    }

    fn text(line: *Line) ![:0]u8 {
        const digits = try line.word();
        const bytes = try allocator.allocSentinel(u8, digits.len / 2, 0); // of "-": none
        if (digits.len > 1) _ = try std.fmt.hexToBytes(bytes, digits);
        return bytes;
    }

    fn answer(line: *Line, verb: []const u8, loaded: *?Model) !void {
        const Verb = enum { info, load, encode, decode, generate, logits, quit };
        const known = std.meta.stringToEnum(Verb, verb) orelse return line.add("unsupported", .{});
        if (known == .quit) return line.add("ok", .{});
        if (known == .info) {
            const shape: [2]usize = if (loaded.*) |m| .{ m.vocab_size, m.seq_len } else .{ 0, 0 };
            try line.add("ok llama-lines 1 {s} {d} {d} {d}", .{ program, shape[0], shape[1], n_threads });
            return line.add(" info load encode decode generate logits quit", .{});
        }
        if (known == .load) {
            loaded.* = null; // its memory may be needed
            const model = try line.text();
            loaded.* = try .load(model, try line.text());
            return line.add("ok {d} {d}", .{ loaded.*.?.vocab_size, loaded.*.?.seq_len });
        }
        const m = if (loaded.*) |*model| model else return error.NoModelIsLoaded;
        var ids: std.ArrayListUnmanaged(u32) = .empty;
        defer ids.deinit(allocator);
        if (known == .encode) {
            const bos, const eos = .{ try line.number(u8), try line.number(u8) };
            const bytes = try line.text();
            defer allocator.free(bytes);
            try m.encode(&ids, bytes, bos != 0, eos != 0);
            try line.add("ok {d} {d}", .{ bos, eos });
            return line.addIds(ids.items);
        }
        const n = if (known == .decode) 0 else try line.number(usize);
        const temperature = if (known == .generate) try line.number(f32) else 0;
        const topp = if (known == .generate) try line.number(f32) else 0;
        const seed = if (known == .generate) try line.number(i32) else 0;
        while (line.words.next()) |digits| {
            try ids.append(allocator, try std.fmt.parseInt(u32, digits, 10));
            if (ids.getLast() >= m.vocab_size) return error.AnIdIsOutsideOfTheVocabulary;
        }
        const count = ids.items.len;
        if (known == .decode) {
            var bytes: std.ArrayListUnmanaged(u8) = .empty;
            defer bytes.deinit(allocator);
            for (ids.items, 0..) |id, i| {
                if (i > 0 or id != 1) try m.decode(&bytes, if (i > 0) ids.items[i - 1] else null, id);
            }
            return line.add("ok {d} {s}{x}", .{ count, if (bytes.items.len == 0) "-" else "", bytes.items });
        }
        if (count == 0 or count > m.seq_len or (known == .logits and n >= count)) return error.TooManyIdsOrNone;
        if (known == .logits) {
            try line.add("ok {d} {d} {d} ", .{ n, count - n, m.vocab_size });
            for (ids.items, 0..) |id, pos| {
                const row = m.forward(id, pos);
                if (pos >= n) try line.add("{x}", .{std.mem.sliceAsBytes(row)});
            }
            return;
        }
        var sampler: Sampler = .{ .temperature = temperature, .topp = topp, .state = @bitCast(@as(i64, seed)) };
        var pos: usize = 0;
        while (pos < m.seq_len and ids.items.len < count + n) : (pos += 1) {
            const logits = m.forward(ids.items[pos], pos);
            if (pos + 1 < count) continue;
            try ids.append(allocator, try sampler.sample(logits));
            if (ids.getLast() == 1) break;
        }
        try line.add("ok {d} {d} {d} {d}", .{ n, temperature, topp, seed });
        try line.addIds(ids.items[count..]);
    }
};

pub fn main() !void {
    if (getenv("HARNESS_TRACE")) |path| trace_file = fopen(path, "wb");
    if (trace_file) |file| _ = fwrite("harness-trace 1\n", 1, 16, file);
    var model: ?Model = null;
    var request: std.ArrayListUnmanaged(u8) = .empty;
    while (true) {
        request.clearRetainingCapacity();
        var byte = getchar();
        while (byte >= 0 and byte != '\n') : (byte = getchar()) try request.append(allocator, @intCast(byte));
        if (byte < 0) break;
        var line: Line = .{ .words = std.mem.splitScalar(u8, request.items, ' ') };
        defer line.out.deinit(allocator);
        try line.add("{s} ", .{try line.word()});
        const verb, const begun = .{ line.words.next() orelse "", line.out.items.len };
        line.answer(verb, &model) catch |problem| {
            line.out.shrinkRetainingCapacity(begun);
            try line.add("error {s}", .{@errorName(problem)});
        };
        for (line.out.items) |one| _ = putchar(one);
        _ = putchar('\n');
        _ = fflush(null);
        if (std.mem.eql(u8, verb, "quit")) break;
    }
}
