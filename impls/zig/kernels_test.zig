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
