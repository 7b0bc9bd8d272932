//! The forward pass: one token in, logits for the next one out.

const std = @import("std");
const assert = std.debug.assert;
const checkpoint = @import("checkpoint.zig");
const kernels = @import("kernels.zig");
const memory = @import("memory.zig");
const Config = checkpoint.Config;
const Floats = kernels.Floats;
const Matrix = checkpoint.Matrix;
const Pool = @import("pool.zig").Pool;
const trace = @import("trace.zig");
const lanes = kernels.lanes;

extern "c" fn powf(x: f32, y: f32) f32;
extern "c" fn cosf(x: f32) f32;
extern "c" fn sinf(x: f32) f32;

/// Keys and values of the positions so far, laid out so that strict sums can be taken many at a time: attention runs
/// along whole vectors, whatever the width of a head.
const Cache = struct {
    keys: []f32, // (n_layers, n_kv_heads, capacity / lanes, head_dim, lanes): positions are innermost
    values: []f32, // (n_layers, n_kv_heads, capacity, head_width), zeros after head_dim
    n_kv_heads: usize,
    head_dim: usize,
    head_width: usize, // head_dim in whole vectors
    capacity: usize, // positions in whole vectors

    fn init(c: Config, n_positions: usize) Cache {
        const head_width = std.mem.alignForward(usize, c.headDim(), lanes);
        const capacity = std.mem.alignForward(usize, n_positions, lanes);
        return .{
            .keys = memory.allocate(f32, memory.product(&.{ c.n_layers, c.kvDim(), capacity })),
            .values = memory.allocate(f32, memory.product(&.{ c.n_layers, c.n_kv_heads, head_width, capacity })),
            .n_kv_heads = c.n_kv_heads,
            .head_dim = c.headDim(),
            .head_width = head_width,
            .capacity = capacity,
        };
    }

    fn keysOf(cache: *const Cache, layer: usize, kv_head: usize) []f32 {
        const size = cache.capacity * cache.head_dim;
        return cache.keys[(layer * cache.n_kv_heads + kv_head) * size ..][0..size];
    }

    fn valuesOf(cache: *const Cache, layer: usize, kv_head: usize) []f32 {
        const size = cache.capacity * cache.head_width;
        return cache.values[(layer * cache.n_kv_heads + kv_head) * size ..][0..size];
    }

    /// key, already rotated, and value: (n_kv_heads, head_dim)
    fn append(cache: *Cache, layer: usize, pos: usize, key: []const f32, value: []const f32) void {
        const head_dim = cache.head_dim;
        assert(pos < cache.capacity and key.len == cache.n_kv_heads * head_dim and value.len == key.len);
        for (0..cache.n_kv_heads) |kv_head| {
            const block = cache.keysOf(layer, kv_head)[pos / lanes * lanes * head_dim ..];
            for (key[kv_head * head_dim ..][0..head_dim], 0..) |element, i| block[i * lanes + pos % lanes] = element;
            const row = cache.valuesOf(layer, kv_head)[pos * cache.head_width ..];
            @memcpy(row[0..head_dim], value[kv_head * head_dim ..][0..head_dim]);
        }
    }
};

/// Everything one sequence needs besides the weights.
pub const State = struct {
    model: *const checkpoint.Model,
    order: kernels.Order,
    pool: *Pool,
    cache: Cache,
    x: []f32, // (dim) residual stream
    normed: []f32, // (dim) output of a norm or of attention: what a matrix reads next
    delta: []f32, // (dim) what a block adds to x
    q: []f32, // (dim)
    k: []f32, // (kv_dim)
    v: []f32, // (kv_dim)
    gate: []f32, // (hidden_dim)
    up: []f32, // (hidden_dim)
    scores: []f32, // (n_heads, capacity)
    raw_scores: []f32, // (n_heads, positions so far) before the softmax; empty without a trace
    frequencies: []f32, // (head_dim / 2)
    cosines: []f32, // (head_dim / 2) at the current position
    sines: []f32, // (head_dim / 2)
    logits: []f32, // (vocab_size)
    input: kernels.Input, // buffers for the vector being multiplied

    pub fn init(model: *const checkpoint.Model, pool: *Pool, n_positions: usize) State {
        const c = model.config;
        const half = c.headDim() / 2;
        const widest = if (model.group != null) @max(c.dim, c.hidden_dim) else 0;
        const n_groups = if (model.group) |group| widest / group else 0;
        const cache: Cache = .init(c, n_positions);
        const n_scores = memory.product(&.{ c.n_heads, cache.capacity });
        const state: State = .{
            .model = model,
            .order = if (model.group == null) .any else .strict,
            .pool = pool,
            .cache = cache,
            .x = memory.allocate(f32, c.dim),
            .normed = memory.allocate(f32, c.dim),
            .delta = memory.allocate(f32, c.dim),
            .q = memory.allocate(f32, c.dim),
            .k = memory.allocate(f32, c.kvDim()),
            .v = memory.allocate(f32, c.kvDim()),
            .gate = memory.allocate(f32, c.hidden_dim),
            .up = memory.allocate(f32, c.hidden_dim),
            .scores = memory.allocate(f32, n_scores),
            .raw_scores = memory.allocate(f32, if (trace.isAsked()) n_scores else 0),
            .frequencies = memory.allocate(f32, half),
            .cosines = memory.allocate(f32, half),
            .sines = memory.allocate(f32, half),
            .logits = memory.allocate(f32, c.vocab_size),
            .input = .{
                .values = &.{},
                .codes = memory.allocate(i8, widest),
                .scales = memory.allocate(f32, n_groups),
                .code_sums = memory.allocate(i32, n_groups),
            },
        };
        const head_dim: f32 = @floatFromInt(c.headDim());
        for (state.frequencies, 0..) |*frequency, j| {
            const exponent = @as(f32, @floatFromInt(2 * j)) / head_dim;
            frequency.* = 1.0 / powf(10000.0, exponent);
        }
        return state;
    }

    /// Logits for the token that follows token, which stands at pos. Positions must come in order, from 0.
    pub fn forward(s: *State, token: u32, pos: usize) []f32 {
        const c = s.model.config;
        for (s.frequencies, s.cosines, s.sines) |frequency, *cosine, *sine| {
            const angle = @as(f32, @floatFromInt(pos)) * frequency;
            cosine.* = cosf(angle);
            sine.* = sinf(angle);
        }
        copyRow(s.x, s.model.tok_embedding, token);
        trace.record("token", null, pos, &.{@floatFromInt(token)});
        trace.record("embedding", null, pos, s.x);

        for (s.model.layers, 0..) |*layer, l| {
            kernels.rmsnorm(s.normed, s.x, layer.attn_norm, s.order);
            trace.record("attn_norm", l, pos, s.normed);
            s.multiply(s.normed, &.{ .of(s.q, &layer.wq), .of(s.k, &layer.wk), .of(s.v, &layer.wv) });
            trace.record("q_raw", l, pos, s.q);
            trace.record("k_raw", l, pos, s.k);
            trace.record("v", l, pos, s.v);
            kernels.rotate(s.q, s.cosines, s.sines);
            kernels.rotate(s.k, s.cosines, s.sines);
            trace.record("q", l, pos, s.q);
            trace.record("k", l, pos, s.k);
            s.cache.append(l, pos, s.k, s.v);
            s.attend(l, pos);
            trace.record("attn_mix", l, pos, s.normed);
            s.multiply(s.normed, &.{.of(s.delta, &layer.wo)});
            trace.record("attn_out", l, pos, s.delta);
            kernels.add(s.x, s.delta);
            trace.record("attn_residual", l, pos, s.x);

            kernels.rmsnorm(s.normed, s.x, layer.ffn_norm, s.order);
            trace.record("ffn_norm", l, pos, s.normed);
            s.multiply(s.normed, &.{ .of(s.gate, &layer.w_gate), .of(s.up, &layer.w_up) });
            trace.record("gate", l, pos, s.gate);
            trace.record("up", l, pos, s.up);
            kernels.swiglu(s.gate, s.up, s.order);
            trace.record("ffn_mix", l, pos, s.gate);
            s.multiply(s.gate, &.{.of(s.delta, &layer.w_down)});
            trace.record("ffn_out", l, pos, s.delta);
            kernels.add(s.x, s.delta);
            trace.record("ffn_residual", l, pos, s.x);
        }

        assert(s.x.len == c.dim);
        kernels.rmsnorm(s.x, s.x, s.model.final_norm, s.order);
        trace.record("final_norm", null, pos, s.x);
        s.multiply(s.x, &.{.of(s.logits, &s.model.lm_head)});
        trace.record("logits", null, pos, s.logits);
        return s.logits;
    }

    const Product = struct {
        out: []f32,
        matrix: *const Matrix,

        fn of(out: []f32, matrix: *const Matrix) Product {
            return .{ .out = out, .matrix = matrix };
        }
    };

    /// out = matrix @ x for each of the products, whose blocks of rows are shared out among the threads together.
    fn multiply(s: *State, x: []const f32, products: []const Product) void {
        s.input.values = x;
        if (s.model.group) |group| kernels.quantize(&s.input, group);
        const Job = struct {
            products: []const Product,
            input: *const kernels.Input,

            fn work(job: *const @This(), begin: usize, end: usize) void {
                var offset: usize = 0; // blocks of the products before this one
                for (job.products) |product| {
                    const count = kernels.blockCount(product.matrix);
                    const from, const to = .{ @max(begin, offset), @min(end, offset + count) };
                    if (from < to) {
                        for (from - offset..to - offset) |block| {
                            kernels.multiplyBlock(product.out, product.matrix, job.input, block);
                        }
                    }
                    offset += count;
                }
            }
        };
        const job: Job = .{ .products = products, .input = &s.input };
        var n_blocks: usize = 0;
        for (job.products) |product| n_blocks += kernels.blockCount(product.matrix);
        s.pool.run(&job, Job.work, .{
            .n_items = n_blocks,
            .multiplications = n_blocks * kernels.rows_abreast * x.len,
        });
    }

    /// normed becomes the heads' outputs side by side.
    fn attend(s: *State, layer: usize, pos: usize) void {
        const Job = struct {
            state: *const State,
            layer: usize,
            pos: usize,

            fn work(job: *const @This(), begin: usize, end: usize) void {
                for (begin..end) |head| job.state.attendHead(job.layer, head, job.pos);
            }
        };
        const job: Job = .{ .state = s, .layer = layer, .pos = pos };
        s.pool.run(&job, Job.work, .{
            .n_items = s.model.config.n_heads,
            .multiplications = 2 * s.model.config.dim * (pos + 1),
        });
        if (trace.isAsked()) trace.record("scores", layer, pos, s.raw_scores[0 .. s.model.config.n_heads * (pos + 1)]);
    }

    fn attendHead(s: *const State, layer: usize, head: usize, pos: usize) void {
        const c = s.model.config;
        const head_dim = c.headDim();
        const kv_head = head / (c.n_heads / c.n_kv_heads);
        const scores = s.scores[head * s.cache.capacity ..][0..s.cache.capacity];
        score(scores, s.q[head * head_dim ..][0..head_dim], s.cache.keysOf(layer, kv_head), pos + 1);
        if (trace.isAsked()) @memcpy(s.raw_scores[head * (pos + 1) ..][0 .. pos + 1], scores[0 .. pos + 1]);
        kernels.softmax(scores[0 .. pos + 1], s.order);
        const out = s.normed[head * head_dim ..][0..head_dim];
        mix(out, scores[0 .. pos + 1], s.cache.valuesOf(layer, kv_head), s.cache.head_width);
    }
};

/// scores[t] = q . key t / sqrt(head_dim), a vector of positions at a time, each sum strict. After n_positions the last
/// vector scores what the cache was made with: zeros, which nobody reads.
fn score(scores: []f32, q: []const f32, keys: []const f32, n_positions: usize) void {
    const wide = 4; // vectors side by side: their sums fill each other's waits
    var t: usize = 0;
    while (t + (wide - 1) * lanes < n_positions) : (t += wide * lanes) scoreBlocks(wide, scores[t..], q, keys[t * q.len ..]);
    while (t < n_positions) : (t += lanes) scoreBlocks(1, scores[t..], q, keys[t * q.len ..]);
}

inline fn scoreBlocks(comptime n: comptime_int, scores: []f32, q: []const f32, keys: []const f32) void {
    const root: Floats = @splat(@sqrt(@as(f32, @floatFromInt(q.len))));
    var sums: [n]Floats = @splat(@splat(0));
    for (q, 0..) |element, i| {
        inline for (&sums, 0..) |*sum, block| {
            const key: Floats = keys[(block * q.len + i) * lanes ..][0..lanes].*;
            sum.* += @as(Floats, @splat(element)) * key;
        }
    }
    inline for (sums, 0..) |sum, block| scores[block * lanes ..][0..lanes].* = sum / root;
}

/// out = the sum of the values, each times its weight, strict in the order of positions.
fn mix(out: []f32, weights: []const f32, values: []const f32, head_width: usize) void {
    const wide = 4;
    var i: usize = 0;
    while (i < head_width) {
        if (head_width - i >= wide * lanes) {
            mixVectors(wide, out[i..], weights, values[i..], head_width);
            i += wide * lanes;
        } else {
            mixVectors(1, out[i..], weights, values[i..], head_width);
            i += lanes;
        }
    }
}

inline fn mixVectors(
    comptime n: comptime_int,
    out: []f32,
    weights: []const f32,
    values: []const f32,
    stride: usize,
) void {
    var sums: [n]Floats = @splat(@splat(0));
    for (weights, 0..) |weight, t| {
        inline for (&sums, 0..) |*sum, i| {
            const value: Floats = values[t * stride + i * lanes ..][0..lanes].*;
            sum.* += @as(Floats, @splat(weight)) * value;
        }
    }
    const flat: [n * lanes]f32 = @bitCast(sums);
    const count = @min(out.len, flat.len);
    @memcpy(out[0..count], flat[0..count]);
}

/// One row as float32: the embedding of a token.
fn copyRow(out: []f32, m: Matrix, row: usize) void {
    assert(row < m.rows and out.len == m.cols);
    const start = row * m.cols;
    switch (m.weights) {
        .f32 => |weights| @memcpy(out, weights[start..][0..m.cols]),
        .q8 => |w| for (out, start..) |*value, i| {
            value.* = @as(f32, @floatFromInt(w.codes[i])) * w.scales[i / w.group];
        },
    }
}
