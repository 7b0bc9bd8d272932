//! Checkpoints of versions 0, 1 (float32) and 2 (int8), mapped into memory and used in place.
//!
//! The file is untrusted: a size from it is compared with the bytes that are there before anything is allocated
//! or indexed by it. What does not fit ends in one line on stderr.

const std = @import("std");
const builtin = @import("builtin");
const assert = std.debug.assert;
const die = system.die;
const memory = @import("memory.zig");
const system = @import("system.zig");

comptime {
    if (builtin.cpu.arch.endian() != .little) @compileError("the files are little-endian and used in place");
}

pub const bos = 1;
pub const eos = 2;

/// A file, mapped.
pub const File = struct {
    path: []const u8,
    bytes: []const u8,

    pub fn map(path: [*:0]const u8) File {
        return .{ .path = std.mem.span(path), .bytes = system.openFile(path) };
    }
};

/// Reads a file front to back and never past its end.
pub const Reader = struct {
    file: File,
    pos: usize = 0,

    /// The next a x b items of T, after checking that they exist. Dividing what is left, rather than multiplying
    /// what is wanted, keeps the check free of overflow whatever a hostile header asks for.
    pub fn take(reader: *Reader, comptime T: type, what: []const u8, a: usize, b: usize) []align(1) const T {
        const left = reader.file.bytes.len - reader.pos;
        if (a == 0 or b > left / @sizeOf(T) / a) {
            die("{s}: truncated or inconsistent: {s} at byte {d} needs {d} x {d} items of {d} bytes, " ++
                "{d} bytes are left", .{
                reader.file.path, what, reader.pos, a, b, @sizeOf(T), left,
            });
        }
        const n_bytes = a * b * @sizeOf(T);
        defer reader.pos += n_bytes;
        return @ptrCast(reader.file.bytes[reader.pos..][0..n_bytes]);
    }

    pub fn int(reader: *Reader, what: []const u8) i32 {
        return reader.take(i32, what, 1, 1)[0];
    }
};

pub const Config = struct {
    dim: usize, // width of the residual stream
    hidden_dim: usize, // width of the feed-forward block
    n_layers: usize,
    n_heads: usize, // query heads
    n_kv_heads: usize, // key/value heads; each serves n_heads / n_kv_heads query heads
    vocab_size: usize,
    seq_len: usize, // longest context

    pub fn headDim(c: Config) usize {
        return @divExact(c.dim, c.n_heads);
    }

    pub fn kvDim(c: Config) usize {
        return c.headDim() * c.n_kv_heads;
    }
};

/// (rows, cols), row-major, applied as out[i] = sum over j of w[i][j] * x[j].
pub const Matrix = struct {
    rows: usize,
    cols: usize,
    weights: union(enum) {
        f32: [*]const f32,
        q8: Codes,
    },

    /// Group g covers the flat elements g * group .. (g + 1) * group; their values are codes * scales[g].
    pub const Codes = struct {
        codes: [*]const i8,
        scales: [*]align(1) const f32,
        group: usize,
    };
};

pub const Layer = struct {
    attn_norm: []const f32, // (dim)
    wq: Matrix, // (dim, dim)
    wk: Matrix, // (kv_dim, dim)
    wv: Matrix, // (kv_dim, dim)
    wo: Matrix, // (dim, dim)
    ffn_norm: []const f32, // (dim)
    w_gate: Matrix, // w1: (hidden_dim, dim)
    w_down: Matrix, // w2: (dim, hidden_dim)
    w_up: Matrix, // w3: (hidden_dim, dim)
};

pub const Model = struct {
    config: Config,
    group: ?usize, // int8 weights per scale; null: the weights are float32
    tok_embedding: Matrix, // (vocab_size, dim)
    layers: []Layer,
    final_norm: []const f32, // (dim)
    lm_head: Matrix, // (vocab_size, dim); the token embedding where they are tied

    pub fn load(path: [*:0]const u8) Model {
        const magic = 0x616b3432;
        var reader: Reader = .{ .file = .map(path) };
        if (reader.int("header") != magic) {
            reader.pos = 0;
            return loadVersion0(&reader);
        }
        const version = reader.int("header");
        return switch (version) {
            1, 2 => loadVersion1Or2(&reader, version),
            else => die("{s}: checkpoint version {d} is not supported, only 0, 1 and 2 are", .{
                reader.file.path, version,
            }),
        };
    }
};

/// Header of 28 bytes without magic. A negative vocabulary size says that the classifier is stored.
fn loadVersion0(reader: *Reader) Model {
    var fields = readFields(reader);
    const tied = fields[5] > 0;
    fields[5] = @intCast(@min(@abs(fields[5]), std.math.maxInt(i32)));
    const config = checkFields(fields, reader.file.path);
    var tensors: Tensors = .init(reader, config, null);

    tensors.model.tok_embedding = tensors.matrix("token embedding", config.vocab_size, config.dim);
    tensors.eachVector("attn_norm");
    tensors.attentionMatrices();
    tensors.eachVector("ffn_norm");
    tensors.feedForwardMatrices();
    tensors.model.final_norm = tensors.vector("final norm");
    tensors.model.lm_head = tensors.model.tok_embedding;
    if (!tied) {
        // Tables of RoPE cosines and sines, which nobody reads; in a tied file they may be missing.
        _ = reader.take(f32, "RoPE tables", config.headDim(), config.seq_len);
        tensors.model.lm_head = tensors.matrix("classifier", config.vocab_size, config.dim);
    }
    return tensors.model;
}

/// Header of 256 bytes with a flag for a tied classifier and, in version 2, the size of the int8 groups.
fn loadVersion1Or2(reader: *Reader, version: i32) Model {
    const config = checkFields(readFields(reader), reader.file.path);
    const tied = reader.take(u8, "header", 1, 1)[0] != 0;
    const group = if (version == 2) checkGroup(reader.int("header"), config, reader.file.path) else null;
    reader.pos = 0;
    _ = reader.take(u8, "header", 1, 256);
    var tensors: Tensors = .init(reader, config, group);

    tensors.eachVector("attn_norm");
    tensors.eachVector("ffn_norm");
    tensors.model.final_norm = tensors.vector("final norm");
    tensors.model.tok_embedding = tensors.matrix("token embedding", config.vocab_size, config.dim);
    tensors.attentionMatrices();
    tensors.feedForwardMatrices();
    tensors.model.lm_head = tensors.model.tok_embedding;
    if (!tied) tensors.model.lm_head = tensors.matrix("classifier", config.vocab_size, config.dim);
    return tensors.model;
}

/// dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len
fn readFields(reader: *Reader) [7]i32 {
    return reader.take(i32, "header", 1, 7)[0..7].*;
}

/// Reject dimensions that the sizes of the tensors cannot mean.
fn checkFields(fields: [7]i32, path: []const u8) Config {
    for (fields) |field| {
        if (field <= 0) die("{s}: bad header: the dimensions {any} must all be positive", .{ path, fields });
    }
    const c: Config = .{
        .dim = @intCast(fields[0]),
        .hidden_dim = @intCast(fields[1]),
        .n_layers = @intCast(fields[2]),
        .n_heads = @intCast(fields[3]),
        .n_kv_heads = @intCast(fields[4]),
        .vocab_size = @intCast(fields[5]),
        .seq_len = @intCast(fields[6]),
    };
    if (c.dim % c.n_heads != 0 or c.dim / c.n_heads % 2 != 0)
        die("{s}: bad header: dim {d} does not split into {d} heads of even width", .{ path, c.dim, c.n_heads });
    if (c.n_heads % c.n_kv_heads != 0)
        die("{s}: bad header: {d} heads cannot share {d} key/value heads evenly", .{ path, c.n_heads, c.n_kv_heads });
    if (c.vocab_size <= bos) die("{s}: bad header: a vocabulary of {d} has no BOS", .{ path, c.vocab_size });
    return c;
}

/// Dividing dim, the group size divides every tensor; up to 2^16, the int32 sum over a group cannot overflow.
fn checkGroup(group: i32, config: Config, path: []const u8) usize {
    if (group <= 0 or group > 1 << 16 or config.dim % @as(usize, @intCast(group)) != 0)
        die("{s}: bad header: group size {d} does not divide dim {d}", .{ path, group, config.dim });
    return @intCast(group);
}

/// Fills a model tensor by tensor. All layers of one kind of tensor lie together in the file.
const Tensors = struct {
    reader: *Reader,
    model: Model,

    fn init(reader: *Reader, config: Config, group: ?usize) Tensors {
        // Each layer has at least a norm in the file, which bounds the table of layers by the size of the file.
        var probe = reader.*;
        _ = probe.take(f32, "norms of all layers", config.n_layers, config.dim);
        return .{ .reader = reader, .model = .{
            .config = config,
            .group = group,
            .layers = memory.allocate(Layer, config.n_layers),
            .tok_embedding = undefined,
            .final_norm = undefined,
            .lm_head = undefined,
        } };
    }

    fn vector(tensors: *Tensors, what: []const u8) []const f32 {
        return @alignCast(tensors.reader.take(f32, what, 1, tensors.model.config.dim));
    }

    fn matrix(tensors: *Tensors, what: []const u8, rows: usize, cols: usize) Matrix {
        const group = tensors.model.group orelse {
            const floats: []const f32 = @alignCast(tensors.reader.take(f32, what, rows, cols));
            return .{ .rows = rows, .cols = cols, .weights = .{ .f32 = floats.ptr } };
        };
        const codes = tensors.reader.take(i8, what, rows, cols);
        assert(codes.len % group == 0);
        const scales = tensors.reader.take(f32, what, 1, codes.len / group);
        return .{ .rows = rows, .cols = cols, .weights = .{
            .q8 = .{ .codes = codes.ptr, .scales = scales.ptr, .group = group },
        } };
    }

    fn eachVector(tensors: *Tensors, comptime field: []const u8) void {
        for (tensors.model.layers) |*layer| @field(layer, field) = tensors.vector(field);
    }

    fn eachMatrix(tensors: *Tensors, comptime field: []const u8, rows: usize, cols: usize) void {
        for (tensors.model.layers) |*layer| @field(layer, field) = tensors.matrix(field, rows, cols);
    }

    fn attentionMatrices(tensors: *Tensors) void {
        const c = tensors.model.config;
        tensors.eachMatrix("wq", c.dim, c.dim);
        tensors.eachMatrix("wk", c.kvDim(), c.dim);
        tensors.eachMatrix("wv", c.kvDim(), c.dim);
        tensors.eachMatrix("wo", c.dim, c.dim);
    }

    fn feedForwardMatrices(tensors: *Tensors) void {
        const c = tensors.model.config;
        tensors.eachMatrix("w_gate", c.hidden_dim, c.dim);
        tensors.eachMatrix("w_down", c.dim, c.hidden_dim);
        tensors.eachMatrix("w_up", c.hidden_dim, c.dim);
    }
};
