//! Arithmetic on vectors and matrices.
//!
//! The order of a sum is part of its result, and int8 text changes with the last bit of a logit. So there are two kinds
//! of arithmetic here. Where the weights are float32, the sums of matrix rows, of squares and of softmax are shared out
//! among the lanes of a vector, and exponentials are our own. Where they are int8, everything is strict: from left to
//! right in float32, product and addition rounded separately, with the C library's own functions; int8 products are
//! reordered only inside the integer sum of a group, which is exact in any order. One lane makes float32 strict as well.

const std = @import("std");
const builtin = @import("builtin");
const root = @import("root");
const assert = std.debug.assert;
const Matrix = @import("checkpoint.zig").Matrix;

extern "c" fn expf(x: f32) f32;

/// Width of the vectors in float32 or int32 elements. A root file that declares it decides it. The widest there are:
/// compilers prefer half of AVX-512 for loops that they make vectors of themselves.
pub const lanes: comptime_int = if (@hasDecl(root, "lanes"))
    root.lanes
else if (cpu.has(.x86, .avx512f))
    16
else
    std.simd.suggestVectorLength(f32) orelse 4;
pub const Floats = @Vector(lanes, f32);
const Bits = @Vector(lanes, i32);

comptime {
    assert(lanes == 1 or lanes == 4 or lanes == 8 or lanes == 16);
}

const cpu = builtin.cpu;
const has_fma = cpu.has(.x86, .fma) or cpu.arch.isAARCH64();
// Four products of bytes added to each int32 lane in one instruction. Its first factor is unsigned.
const has_dot_bytes = lanes > 1 and (has_wide_encoding or cpu.has(.x86, .avxvnni));
const has_wide_encoding = cpu.has(.x86, .avx512vnni) and cpu.has(.x86, .avx512vl);

/// How sums of float32 are taken, and whose exponentials are.
pub const Order = enum { strict, any };

// ---- Float32

/// out may be x.
pub fn rmsnorm(out: []f32, x: []const f32, weight: []const f32, order: Order) void {
    assert(out.len == x.len and weight.len == x.len);
    var sum: f32 = 0;
    switch (order) {
        .strict => for (x) |value| {
            sum += value * value;
        },
        .any => sum = dotFloats(1, x.ptr, 0, x)[0],
    }
    const mean = sum / @as(f32, @floatFromInt(x.len));
    const scale = 1.0 / @sqrt(mean + 1e-5);
    for (out, x, weight) |*result, value, w| result.* = w * (scale * value);
}

pub fn softmax(x: []f32, order: Order) void {
    if (order == .any and lanes > 1) return softmaxByVector(x);
    var largest = x[0];
    for (x[1..]) |value| {
        if (value > largest) largest = value;
    }
    var sum: f32 = 0;
    for (x) |*value| {
        value.* = expf(value.* - largest);
        sum += value.*;
    }
    for (x) |*value| value.* /= sum;
}

fn softmaxByVector(x: []f32) void {
    var most: Floats = @splat(x[0]);
    var i: usize = 0;
    while (i < x.len) : (i += lanes) {
        const some = loadPart(x[i..], x[0]);
        most = @select(f32, some > most, some, most);
    }
    const largest: Floats = @splat(@reduce(.Max, most));
    var sums: Floats = @splat(0);
    i = 0;
    while (i < x.len) : (i += lanes) {
        const powers = exponential(loadPart(x[i..], -std.math.inf(f32)) - largest);
        storePart(x[i..], powers);
        sums += if (x.len - i >= lanes) powers else loadPart(x[i..], 0);
    }
    const sum: Floats = @splat(sumLanes(lanes, sums));
    i = 0;
    while (i < x.len) : (i += lanes) storePart(x[i..], loadPart(x[i..], 0) / sum);
}

/// gate becomes silu(gate) * up.
pub fn swiglu(gate: []f32, up: []const f32, order: Order) void {
    assert(gate.len == up.len);
    if (order == .any and lanes > 1) {
        const one: Floats = @splat(1);
        var i: usize = 0;
        while (i < gate.len) : (i += lanes) {
            const values = loadPart(gate[i..], 0);
            storePart(gate[i..], values / (one + exponential(-values)) * loadPart(up[i..], 0));
        }
        return;
    }
    for (gate, up) |*value, factor| {
        const silu = value.* * (1.0 / (1.0 + expf(-value.*)));
        value.* = silu * factor;
    }
}

/// Within 2 units of the last place of exp(x). Below -87, and above 88, the value of those.
fn exponential(x: Floats) Floats {
    const lowest: Floats = @splat(-87);
    const highest: Floats = @splat(88);
    var bounded = @select(f32, x < lowest, lowest, x); // NaN stays
    bounded = @select(f32, bounded > highest, highest, bounded);
    // exp(x) = 2^n exp(r), |r| <= ln(2) / 2. Adding 1.5 * 2^23 rounds to an integer, which the low bits then are. ln 2
    // comes in two parts, of which the first has so few bits that n times it is exact.
    const rounder: Floats = @splat(0x1.8p23);
    const shifted = bounded * @as(Floats, @splat(0x1.715476p0)) + rounder;
    const n = shifted - rounder;
    const r = bounded - n * @as(Floats, @splat(0x1.62e4p-1)) - n * @as(Floats, @splat(0x1.7f7d1cp-20));
    // (exp(r) - 1 - r) / r^2, fitted so that the largest relative error of exp(r) is 3e-9.
    var series: Floats = @splat(0x1.6a1a7p-10);
    inline for (.{ 0x1.123fc6p-7, 0x1.555916p-5, 0x1.55548ap-3, 0x1.fffffcp-2 }) |coefficient| {
        series = multiplyAdd(series, r, @splat(coefficient));
    }
    const power = multiplyAdd(series * r, r, r) + @as(Floats, @splat(1));
    const exponent = @as(Bits, @bitCast(shifted)) << @as(@Vector(lanes, u5), @splat(23)); // n goes to where it is
    return @bitCast(@as(Bits, @bitCast(power)) +% exponent);
}

/// The first lanes of x; if it is shorter, with `rest` behind it.
inline fn loadPart(x: []const f32, rest: f32) Floats {
    if (x.len >= lanes) return x[0..lanes].*;
    var values: [lanes]f32 = @splat(rest);
    @memcpy(values[0..x.len], x);
    return values;
}

inline fn storePart(x: []f32, values: Floats) void {
    if (x.len >= lanes) {
        x[0..lanes].* = values;
    } else {
        const all: [lanes]f32 = values;
        @memcpy(x, all[0..x.len]);
    }
}

pub fn add(x: []f32, delta: []const f32) void {
    for (x, delta) |*value, change| value.* += change;
}

/// Turn each adjacent pair of every head by the angle of its place within the head.
pub fn rotate(x: []f32, cosines: []const f32, sines: []const f32) void {
    assert(x.len % (2 * cosines.len) == 0);
    var head = x;
    while (head.len > 0) : (head = head[2 * cosines.len ..]) {
        for (cosines, sines, 0..) |cosine, sine, i| {
            const a, const b = head[2 * i ..][0..2].*;
            head[2 * i] = a * cosine - b * sine;
            head[2 * i + 1] = a * sine + b * cosine;
        }
    }
}

// ---- Inputs of matrices

/// A vector as the matrices want it. All but `values` is filled in only where the weights are int8.
pub const Input = struct {
    values: []const f32,
    codes: []i8,
    scales: []f32,
    code_sums: []i32, // of each group, times 128
};

/// Round x to int8, one scale per group. Halves go away from zero here, unlike in the exporter, which rounds the
/// weights half to even. A tail shorter than a group is left out, as the product leaves it out.
pub fn quantize(input: *Input, group: usize) void {
    for (0..input.values.len / group) |g| {
        const values = input.values[g * group ..][0..group];
        const codes = input.codes[g * group ..][0..group];
        var largest: f32 = 0;
        for (values) |value| {
            if (@abs(value) > largest) largest = @abs(value);
        }
        const scale = largest / 127.0;
        input.scales[g] = scale;
        var sum: i32 = 0;
        for (codes, values) |*code, value| {
            // An all-zero group divides 0 by 0, and NaN has no integer: code 0, as the product is. Numbers stay
            // below 191, which a scale rounded down to the smallest float can bring about.
            const rounded = @round(value / scale);
            code.* = if (@abs(rounded) < 256) @truncate(@as(i32, @intFromFloat(rounded))) else 0;
            sum += code.*;
        }
        input.code_sums[g] = 128 * sum;
    }
}

// ---- Matrices

/// Rows are taken so many at a time: they share the loads of the input, and their sums fill each other's waits.
pub const rows_abreast = 4;

pub fn blockCount(w: *const Matrix) usize {
    return (w.rows + rows_abreast - 1) / rows_abreast;
}

/// Compute the rows of one block of out = w @ input. Rows of floats are far apart: memory gives more to somebody who reads
/// in several places. Rows of codes are read in the order of the file.
pub fn multiplyBlock(out: []f32, w: *const Matrix, input: *const Input, block: usize) void {
    assert(out.len == w.rows and input.values.len == w.cols);
    const n_whole = w.rows / rows_abreast;
    if (block == n_whole) {
        for (n_whole * rows_abreast..w.rows) |row| out[row] = switch (w.weights) {
            .f32 => |weights| dotFloats(1, weights + row * w.cols, 0, input.values)[0],
            .q8 => |codes| dotCodes(1, codes, row, w.cols, input)[0],
        };
        return;
    }
    switch (w.weights) {
        .f32 => |weights| {
            const sums = dotFloats(rows_abreast, weights + block * w.cols, n_whole * w.cols, input.values);
            for (sums, 0..) |sum, r| out[block + r * n_whole] = sum;
        },
        .q8 => |codes| {
            const first = block * rows_abreast;
            out[first..][0..rows_abreast].* = dotCodes(rows_abreast, codes, first, w.cols, input);
        },
    }
}

/// Each row's sum is one vector, added up at the end; what is left of a row goes in ever narrower vectors. With one lane
/// the sum is strict. A row begins `step` floats behind the one before.
fn dotFloats(comptime n_rows: comptime_int, rows: [*]const f32, step: usize, x: []const f32) [n_rows]f32 {
    var sums: [n_rows]Floats = @splat(@splat(0));
    var j: usize = 0;
    while (x.len - j >= lanes) : (j += lanes) {
        const factor: Floats = x[j..][0..lanes].*;
        inline for (0..n_rows) |r| {
            const weights = rows + r * step + j;
            prefetch(weights, floats_ahead);
            sums[r] = multiplyAdd(weights[0..lanes].*, factor, sums[r]);
        }
    }
    var totals: [n_rows]f32 = undefined;
    for (&totals, sums) |*total, sum| total.* = sumLanes(lanes, sum);

    comptime var width = lanes / 2;
    inline while (width > 0) : (width /= 2) {
        if (x.len - j >= width) {
            const factor: @Vector(width, f32) = x[j..][0..width].*;
            inline for (0..n_rows) |r| {
                const weights: @Vector(width, f32) = rows[r * step + j ..][0..width].*;
                totals[r] += sumLanes(width, weights * factor);
            }
            j += width;
        }
    }
    assert(j == x.len);
    return totals;
}

/// How many bytes before it is wanted something is fetched: codes follow one another in memory, floats are read in several
/// places at a time.
const floats_ahead = 2048;
const codes_ahead = 8192;

/// Processors fetch ahead by themselves, but stop where a page ends. May point anywhere: nothing is read if there is
/// nothing.
inline fn prefetch(weights: anytype, comptime ahead: usize) void {
    const address = @intFromPtr(weights) +% ahead;
    @prefetch(@as([*]allowzero const u8, @ptrFromInt(address)), .{ .locality = 2 });
}

inline fn multiplyAdd(a: Floats, b: Floats, c: Floats) Floats {
    return if (lanes > 1 and has_fma) @mulAdd(Floats, a, b, c) else a * b + c;
}

inline fn sumLanes(comptime n: comptime_int, v: @Vector(n, f32)) f32 {
    if (n == 1) return v[0];
    const halves: [2][n / 2]f32 = @bitCast(@as([n]f32, v));
    return sumLanes(n / 2, @as(@Vector(n / 2, f32), halves[0]) + @as(@Vector(n / 2, f32), halves[1]));
}

/// A group of 32 int8 weights, the smallest that is usual, is one vector.
const code_lanes = @min(lanes, 8);
const Ints = @Vector(code_lanes, i32);
const CodeFloats = @Vector(code_lanes, f32);
const step_bytes = 4 * code_lanes;

/// Per group, an exact integer sum, then times the weight scale, times the input scale; then strictly added up.
///
/// Groups count over the flat matrix, so where cols is not a multiple of the group size a row begins inside a group.
/// llama2.c then takes the scales from that group onwards as if the row began there, and ignores the last cols % group
/// inputs. Files that the exporter writes for some published shapes (172 or 1376 columns, group 64) depend on it.
fn dotCodes(comptime n_rows: comptime_int, w: Matrix.Codes, first: usize, cols: usize, x: *const Input) [n_rows]f32 {
    const group = w.group;
    const n_groups = cols / group;
    if (code_lanes > 1 and group % step_bytes == 0 and n_groups >= code_lanes) {
        return switch (group / step_bytes) {
            // The usual sizes, 32 and 64, are worth loops of a known length.
            inline 1, 2 => |steps| dotCodesByVector(n_rows, w, first, cols, x, steps),
            else => |steps| dotCodesByVector(n_rows, w, first, cols, x, steps),
        };
    }
    var totals: [n_rows]f32 = @splat(0);
    for (0..n_rows) |r| {
        const start = (first + r) * cols;
        const scales = w.scales + start / group;
        for (0..n_groups) |g| {
            const weights = w.codes[start + g * group ..][0..group];
            var sum: i32 = 0;
            for (weights, x.codes[g * group ..][0..group]) |weight, code| sum += @as(i32, weight) * code;
            totals[r] += @as(f32, @floatFromInt(sum)) * scales[g] * x.scales[g];
        }
    }
    return totals;
}

const strip_groups = 64 * code_lanes; // whose terms are kept at a time

/// As many groups at a time as there are lanes; the last vector of groups may overlap the one before. Row after row, so
/// that the weights are read in the order of the file; only the strict sums are taken abreast.
inline fn dotCodesByVector(
    comptime n_rows: comptime_int,
    w: Matrix.Codes,
    first: usize,
    cols: usize,
    x: *const Input,
    steps: usize,
) [n_rows]f32 {
    const group = steps * step_bytes;
    const n_groups = cols / group;
    assert(n_groups >= code_lanes);
    var totals: [n_rows]f32 = @splat(0);
    var terms: [n_rows][code_lanes + strip_groups]f32 = undefined;
    var strip: usize = 0; // terms[r][code_lanes] is that of this group
    while (strip < n_groups) : (strip += strip_groups) {
        const count = @min(n_groups - strip, strip_groups);
        for (0..n_rows) |r| {
            const start = (first + r) * cols;
            var next = strip;
            while (next < strip + count) : (next += code_lanes) {
                const g = @min(next, n_groups - code_lanes);
                const weights = w.codes + start + g * group;
                const scales: CodeFloats = (w.scales + start / group + g)[0..code_lanes].*;
                const x_scales: CodeFloats = x.scales[g..][0..code_lanes].*;
                const sums = sumGroups(weights, x.codes.ptr + g * group, x.code_sums[g..][0..code_lanes].*, steps);
                const products = @as(CodeFloats, @floatFromInt(sums)) * scales * x_scales;
                terms[r][code_lanes + g - strip ..][0..code_lanes].* = products;
            }
        }
        for (0..count) |i| {
            inline for (0..n_rows) |r| totals[r] += terms[r][code_lanes + i];
        }
    }
    return totals;
}

/// The sums of products of `code_lanes` groups, each of `steps` vectors of bytes.
inline fn sumGroups(weights: [*]const i8, codes: [*]const i8, code_sums: Ints, steps: usize) Ints {
    var partial: [code_lanes]Ints = undefined;
    inline for (0..code_lanes) |g| {
        var sum: Ints = @splat(0);
        for (0..steps) |step| {
            const at = (g * steps + step) * step_bytes;
            if (at % 64 == 0) prefetch(weights + at, codes_ahead);
            sum = dotBytes(sum, weights[at..][0..step_bytes], codes[at..][0..step_bytes]);
        }
        partial[g] = sum;
    }
    const sums = sumEach(partial);
    return if (has_dot_bytes) sums - code_sums else sums;
}

/// sum, each lane having four of the products added. With has_dot_bytes the weights count as 128 more than they are,
/// which makes them unsigned.
inline fn dotBytes(sum: Ints, weights: *const [step_bytes]i8, codes: *const [step_bytes]i8) Ints {
    if (has_dot_bytes) {
        const offset: @Vector(step_bytes, u8) = @splat(128);
        const unsigned = @as(@Vector(step_bytes, u8), @bitCast(weights.*)) ^ offset;
        const prefix = if (has_wide_encoding) "" else "{vex} ";
        return asm (prefix ++ "vpdpbusd %[codes], %[unsigned], %[sum]"
            : [sum] "=x" (-> Ints),
            : [_] "0" (sum),
              [unsigned] "x" (unsigned),
              [codes] "x" (@as(@Vector(step_bytes, i8), codes.*)),
        );
    }
    const half_bytes = step_bytes / 2;
    var result = sum;
    inline for (0..2) |half| {
        const some_weights: @Vector(half_bytes, i8) = weights[half * half_bytes ..][0..half_bytes].*;
        const some_codes: @Vector(half_bytes, i8) = codes[half * half_bytes ..][0..half_bytes].*;
        result += addPairs(some_weights, some_codes);
    }
    return result;
}

/// Lane i is a[2i] * b[2i] + a[2i + 1] * b[2i + 1]. The factors are bytes: a product fits in 16 bits.
inline fn addPairs(a: @Vector(2 * code_lanes, i16), b: @Vector(2 * code_lanes, i16)) Ints {
    if (code_lanes == 8 and cpu.has(.x86, .avx2)) {
        return asm ("vpmaddwd %[b], %[a], %[sums]"
            : [sums] "=x" (-> Ints),
            : [a] "x" (a),
              [b] "x" (b),
        );
    }
    const evens = comptime std.simd.iota(i32, code_lanes) * @as(Ints, @splat(2));
    const odds = evens + @as(Ints, @splat(1));
    const products = a * b;
    return @as(Ints, @shuffle(i16, products, undefined, evens)) + @as(Ints, @shuffle(i16, products, undefined, odds));
}

/// Lane g is the sum of the lanes of partial[g]. Pairs of vectors are merged, each half as many partial sums as before:
/// first inside the 128-bit quarters, where shuffles are cheap, then across them.
inline fn sumEach(partial: [code_lanes]Ints) Ints {
    @setEvalBranchQuota(20_000);
    var vectors = partial;
    comptime var count = code_lanes;
    comptime var unit = 1; // elements moved together
    inline while (count > 1) : (count /= 2) {
        inline for (0..count / 2) |i| {
            const a, const b = vectors[2 * i ..][0..2].*;
            vectors[i] = @shuffle(i32, a, b, mergeMask(unit, 0)) + @shuffle(i32, a, b, mergeMask(unit, 1));
        }
        if (count == code_lanes / 2) unit = 4;
    }
    return vectors[0];
}

/// Of every span, the units of this parity: those of a, then those of b.
fn mergeMask(comptime unit: comptime_int, comptime parity: comptime_int) Ints {
    const span = if (unit == 1) 4 else code_lanes;
    var mask: [code_lanes]i32 = undefined;
    for (&mask, 0..) |*source, i| {
        const place = i % span / unit; // in units, within the span
        const half = span / unit / 2;
        const element = i / span * span + (place % half * 2 + parity) * unit + i % unit;
        const index: i32 = @intCast(element);
        source.* = if (place < half) index else ~index;
    }
    return mask;
}
