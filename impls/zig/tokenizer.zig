//! Text to token ids and back, with the pieces of a tokenizer.bin. Text is bytes: it need not be valid UTF-8.

const std = @import("std");
const checkpoint = @import("checkpoint.zig");
const die = @import("system.zig").die;
const memory = @import("memory.zig");

const first_byte_piece = 3; // the ids of bytes 0, 1, ... in every vocabulary of the family

pub const Tokenizer = struct {
    path: []const u8,
    pieces: [][]const u8,
    scores: []f32,
    longest: usize, // bytes of the longest piece
    ids: std.StringHashMapUnmanaged(u32), // of two equal pieces the first
    scratch: []u8, // (longest)
    encoded: std.ArrayListUnmanaged(u32), // what encode() returned last
    joined: std.ArrayListUnmanaged(?u32), // joined[i]: what ids i and i + 1 of it make

    /// The file does not say how many pieces it has: the model does, and what follows them is ignored.
    pub fn load(path: [*:0]const u8, n_pieces: usize) Tokenizer {
        var reader: checkpoint.Reader = .{ .file = .map(path) };
        // The longest length the file claims. It cannot be relied on for sizes, so the true one is found below.
        _ = reader.int("tokenizer header");
        // The model's file bounds n_pieces: it has a row for each.
        var t: Tokenizer = .{
            .path = reader.file.path,
            .pieces = memory.allocate([]const u8, n_pieces),
            .scores = memory.allocate(f32, n_pieces),
            .longest = 0,
            .ids = .empty,
            .scratch = &.{},
            .encoded = .empty,
            .joined = .empty,
        };
        for (t.pieces, t.scores, 0..) |*piece, *score, id| {
            score.* = reader.take(f32, "tokenizer piece", 1, 1)[0];
            const length = reader.int("tokenizer piece");
            if (length <= 0) die("{s}: piece {d} has length {d}", .{ path, id, length });
            const bytes = reader.take(u8, "tokenizer piece", 1, @intCast(length));
            // Text ends at a NUL, also inside a piece: to llama2.c pieces and prompts are C strings.
            piece.* = std.mem.sliceTo(bytes, 0);
            t.longest = @max(t.longest, piece.len);
            const entry = t.ids.getOrPut(std.heap.c_allocator, piece.*) catch
                die("out of memory: the tokenizer's table", .{});
            if (!entry.found_existing) entry.value_ptr.* = @intCast(id);
        }
        t.scratch = memory.allocate(u8, t.longest);
        return t;
    }

    /// Give back what memory.freeAll() does not.
    pub fn close(t: *Tokenizer) void {
        t.ids.deinit(std.heap.c_allocator);
        t.encoded.deinit(std.heap.c_allocator);
        t.joined.deinit(std.heap.c_allocator);
    }

    /// BOS, a space in front of any text, then one id per character or, where the vocabulary lacks the character, per
    /// byte; then merged. A character is a byte and up to three continuation bytes after it. Valid until the next call.
    pub fn encode(t: *Tokenizer, text: []const u8) []u32 {
        t.encoded.resize(std.heap.c_allocator, text.len + 2) catch die("out of memory: a text", .{});
        t.joined.resize(std.heap.c_allocator, text.len + 2) catch die("out of memory: a text", .{});
        const ids = t.encoded.items;
        ids[0] = checkpoint.bos;
        var count: usize = 1;
        if (text.len > 0) {
            ids[1] = t.ids.get(" ") orelse die("{s}: no piece for the space that goes before a prompt", .{t.path});
            count = 2;
        }
        var rest = text;
        while (rest.len > 0) {
            var length: usize = 1;
            while (length < 4 and length < rest.len and rest[length] & 0xC0 == 0x80) length += 1;
            if (t.ids.get(rest[0..length])) |id| {
                ids[count] = id;
                count += 1;
            } else for (rest[0..length]) |byte| {
                ids[count] = @as(u32, byte) + first_byte_piece;
                if (ids[count] >= t.pieces.len)
                    die("{s}: no piece for byte 0x{X:0>2} of the prompt", .{ t.path, byte });
                count += 1;
            }
            rest = rest[length..];
        }
        return ids[0..t.merge(ids[0..count])];
    }

    /// Join, again and again, the adjacent pair whose joined piece has the best score; among equals the leftmost.
    /// Returns how many ids are left.
    fn merge(t: *const Tokenizer, ids: []u32) usize {
        const scratch, const joined = .{ t.scratch, t.joined.items };
        for (joined[0 .. ids.len - 1], ids[0 .. ids.len - 1], ids[1..]) |*id, a, b| id.* = t.joinedId(a, b, scratch);

        var count = ids.len;
        while (true) {
            var best_score: f32 = -1e10; // below the -1e9 that vocabularies give to runs of spaces
            var best: ?usize = null;
            for (joined[0 .. count - 1], 0..) |id, i| {
                const score = t.scores[id orelse continue];
                if (score > best_score) {
                    best_score = score;
                    best = i;
                }
            }
            const at = best orelse return count;
            ids[at] = joined[at].?;
            count -= 1;
            std.mem.copyForwards(u32, ids[at + 1 .. count], ids[at + 2 .. count + 1]);
            std.mem.copyForwards(?u32, joined[at..count], joined[at + 1 .. count + 1]);
            if (at > 0) joined[at - 1] = t.joinedId(ids[at - 1], ids[at], scratch);
            if (at + 1 < count) joined[at] = t.joinedId(ids[at], ids[at + 1], scratch);
        }
    }

    fn joinedId(t: *const Tokenizer, a: u32, b: u32, scratch: []u8) ?u32 {
        const left, const right = .{ t.pieces[a], t.pieces[b] };
        const length = left.len + right.len;
        if (length > t.longest) return null;
        @memcpy(scratch[0..left.len], left);
        @memcpy(scratch[left.len..length], right);
        return t.ids.get(scratch[0..length]);
    }

    /// The text that id stands for after previous. Directly after BOS a leading space is dropped: encode() put it
    /// there. A piece spelled <0xHH> is that byte; the closing bracket and the second digit may be missing. Byte 0 is
    /// no text.
    pub fn textOf(t: *const Tokenizer, previous: ?u32, id: u32) []const u8 {
        var text = t.pieces[id];
        if (previous == checkpoint.bos and std.mem.startsWith(u8, text, " ")) text = text[1..];
        if (spelledByte(text)) |byte| text = if (byte == 0) "" else every_byte[byte..][0..1];
        return text;
    }

    /// What llama2.c prints of it: a lone byte only if it is printable ASCII or white space, so characters that come
    /// as byte pieces never appear, not even whole ones.
    pub fn shownText(t: *const Tokenizer, previous: u32, id: u32) []const u8 {
        const text = t.textOf(previous, id);
        if (text.len == 1 and !std.ascii.isPrint(text[0]) and !std.ascii.isWhitespace(text[0])) return "";
        return text;
    }

    fn spelledByte(text: []const u8) ?u8 {
        if (text.len < 4 or !std.mem.startsWith(u8, text, "<0x")) return null;
        const high = std.fmt.charToDigit(text[3], 16) catch return null;
        const low = std.fmt.charToDigit(if (text.len > 4) text[4] else ' ', 16) catch return high;
        return high * 16 + low;
    }
};

const every_byte: [256]u8 = bytes: {
    var bytes: [256]u8 = undefined;
    for (&bytes, 0..) |*byte, value| byte.* = value;
    break :bytes bytes;
};
