//! Tests of kernels.zig. With a test runner that needs only the C library:
//!
//!     zig test -lc -fno-compiler-rt -fno-stack-check --test-runner test_runner.zig kernels_test.zig

const std = @import("std");
const expect = std.testing.expect;
const kernels = @import("kernels.zig");
const Matrix = @import("checkpoint.zig").Matrix;

const Fixture = struct {
    const max_cols = 2200;
    const n_rows = 5; // a block and a rest

    prng: std.Random.DefaultPrng = .init(3),
    x: [max_cols]f32 = undefined,
    weights: [n_rows * max_cols]f32 = undefined,
    codes: [n_rows * max_cols]i8 = undefined,
    scales: [n_rows * max_cols]f32 = undefined,
    x_codes: [max_cols]i8 = undefined,
    x_scales: [max_cols]f32 = undefined,
    x_code_sums: [max_cols]i32 = undefined,

    fn fill(f: *Fixture) void {
        const random = f.prng.random();
        for (&f.x) |*value| value.* = random.floatNorm(f32);
        for (&f.weights) |*value| value.* = random.floatNorm(f32);
        for (&f.codes) |*code| code.* = random.int(i8);
        for (&f.scales) |*scale| scale.* = random.float(f32);
    }

    fn input(f: *Fixture, cols: usize) kernels.Input {
        return .{ .values = f.x[0..cols], .codes = &f.x_codes, .scales = &f.x_scales, .code_sums = &f.x_code_sums };
    }

    fn multiply(w: *const Matrix, x: *const kernels.Input) [n_rows]f32 {
        var out: [n_rows]f32 = undefined;
        for (0..kernels.blockCount(w)) |block| kernels.multiplyBlock(&out, w, x, block);
        return out;
    }
};

test "float32 rows of every length are summed completely" {
    var f: Fixture = .{};
    f.fill();
    for (1..200) |cols| {
        const w: Matrix = .{ .rows = Fixture.n_rows, .cols = cols, .weights = .{ .f32 = &f.weights } };
        const out = Fixture.multiply(&w, &f.input(cols));
        for (out, 0..) |actual, row| {
            var expected: f64 = 0;
            var magnitude: f64 = 0;
            for (f.weights[row * cols ..][0..cols], f.x[0..cols]) |weight, value| {
                expected += @as(f64, weight) * value;
                magnitude += @abs(@as(f64, weight) * value);
            }
            // Each of at most 200 roundings is half a unit in the last place of at most the magnitude.
            try expect(@abs(actual - expected) <= 200 * std.math.floatEps(f32) / 2.0 * magnitude);
        }
    }
}

test "int8 rows are those of the plain loop to the last bit, tails and groups astride rows too" {
    var f: Fixture = .{};
    f.fill();
    for ([_]usize{ 1, 2, 3, 4, 8, 16, 32, 48, 64, 96, 128, 256 }) |group| {
        for ([_]usize{ 1, 2, 7, 8, 9, 12, 16, 17, 31 }) |n_groups| {
            for ([_]usize{ 0, 1, group / 2, group - 1 }) |tail| {
                const cols = n_groups * group + tail;
                if (cols > Fixture.max_cols or tail >= group) continue;
                const w: Matrix = .{ .rows = Fixture.n_rows, .cols = cols, .weights = .{
                    .q8 = .{ .codes = &f.codes, .scales = &f.scales, .group = group },
                } };
                var x = f.input(cols);
                kernels.quantize(&x, group);
                for (Fixture.multiply(&w, &x), 0..) |actual, row| {
                    var expected: f32 = 0;
                    for (0..n_groups) |g| {
                        var sum: i32 = 0;
                        for (g * group..(g + 1) * group) |j| sum += @as(i32, f.codes[row * cols + j]) * x.codes[j];
                        expected += @as(f32, @floatFromInt(sum)) * f.scales[row * cols / group + g] * x.scales[g];
                    }
                    try expect(expected == actual);
                }
            }
        }
    }
}

test "groups of the lowest codes do not overflow" {
    var f: Fixture = .{};
    f.fill();
    @memset(&f.codes, -128);
    @memset(&f.scales, 1);
    @memset(&f.x, -127);
    for ([_]usize{ 32, 64, 128 }) |group| {
        const cols = 8 * group;
        const w: Matrix = .{ .rows = Fixture.n_rows, .cols = cols, .weights = .{
            .q8 = .{ .codes = &f.codes, .scales = &f.scales, .group = group },
        } };
        var x = f.input(cols);
        kernels.quantize(&x, group);
        const expected: f32 = @floatFromInt(128 * 127 * cols);
        for (Fixture.multiply(&w, &x)) |actual| try expect(expected == actual);
    }
}

test "weights and activations of any order are right to float32, whatever their number" {
    var f: Fixture = .{};
    f.fill();
    for (1..70) |n| {
        const largest = std.mem.max(f32, f.weights[0..n]);
        var total: f64 = 0;
        for (f.weights[0..n]) |value| total += @exp(@as(f64, 20 * value - 20 * largest));
        var weights: [70]f32 = @splat(std.math.nan(f32));
        for (weights[0..n], f.weights[0..n]) |*weight, value| weight.* = 20 * value;
        kernels.softmax(weights[0..n], .any);
        for (weights[0..n], f.weights[0..n]) |weight, value| {
            // The exponential is within 2 units of the last place, and 70 of them are summed.
            const expected = @exp(@as(f64, 20 * value - 20 * largest)) / total;
            try expect(@abs(weight - expected) <= 40 * std.math.floatEps(f32) * expected + 2e-38);
        }

        var gate: [70]f32 = @splat(std.math.nan(f32));
        for (gate[0..n], f.weights[0..n]) |*value, given| value.* = 30 * given;
        const before = gate;
        kernels.swiglu(gate[0..n], f.x[0..n], .any);
        for (gate[0..n], before[0..n], f.x[0..n]) |actual, value, up| {
            const silu = @as(f64, value) / (1 + @exp(-@as(f64, value)));
            try expect(@abs(actual - silu * up) <= 8 * std.math.floatEps(f32) * @abs(silu * up) + 1e-35);
        }
        for (weights[n..], gate[n..]) |a, b| try expect(std.math.isNan(a) and std.math.isNan(b));

        var normed: [2][70]f32 = undefined;
        kernels.rmsnorm(normed[0][0..n], f.x[0..n], f.weights[0..n], .any);
        kernels.rmsnorm(normed[1][0..n], f.x[0..n], f.weights[0..n], .strict);
        for (normed[0][0..n], normed[1][0..n]) |a, b| try expect(@abs(a - b) <= 70 * std.math.floatEps(f32) * @abs(b));
    }
}

test "what is no number stays none" {
    const nan = std.math.nan(f32);
    var scores: [23]f32 = @splat(0);
    scores[1] = nan;
    kernels.softmax(&scores, .any);
    for (scores[0..3]) |weight| try expect(std.math.isNan(weight));
    var gate = [_]f32{ nan, 100, -100, std.math.inf(f32) };
    kernels.swiglu(&gate, &.{ 1, 1, 1, 1 }, .any);
    try expect(std.math.isNan(gate[0]) and gate[1] == 100 and @abs(gate[2]) < 1e-35 and gate[3] == std.math.inf(f32));
}

test "codes round halves away from zero, and a group of zeros is zero" {
    const values = [_]f32{ 127, 0.5, 1.5, -2.5, 0, 0, 0, 0, 1e-3, 2e-3, -3e-3, 1e-4, 9 };
    var codes: [values.len]i8 = @splat(0);
    var scales: [4]f32 = undefined;
    var code_sums: [4]i32 = undefined;
    var input: kernels.Input = .{ .values = &values, .codes = &codes, .scales = &scales, .code_sums = &code_sums };
    kernels.quantize(&input, 4);
    try expect(std.mem.eql(i8, &.{ 127, 1, 2, -3, 0, 0, 0, 0, 42, 85, -127, 4, 0 }, &codes));
    try expect(std.mem.eql(i32, &.{ 128 * 127, 0, 128 * 4 }, code_sums[0..3]));
    try expect(scales[1] == 0);
}
