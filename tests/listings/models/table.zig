const program = "table";
const n_threads = 1;

const Model = struct {
    vocab_size: usize = VOCAB_SIZE,
    seq_len: usize = SEQ_LEN,
    logits: [VOCAB_SIZE]f32 = @splat(0),

    fn load(model: [:0]const u8, _: [:0]const u8) !Model {
        if (fopen(model, "rb") == null) return error.NoSuchFile;
        return .{};
    }

    fn encode(_: *Model, ids: *std.ArrayListUnmanaged(u32), text: []const u8, bos: bool, eos: bool) !void {
        if (bos and !eos and std.mem.eql(u8, text, "PROMPT")) try ids.appendSlice(allocator, &.{IDS});
    }

    fn decode(_: *Model, _: *std.ArrayListUnmanaged(u8), _: ?u32, _: u32) !void {}

    fn forward(m: *Model, token: u32, pos: usize) []f32 {
        trace("token", -1, pos, &.{@floatFromInt(token)});
        const next = [_]u32{NEXT};
        for (&m.logits, 0..) |*logit, i| logit.* = if (i == next[pos]) 1 else 0;
        return &m.logits;
    }
};

