//! Buffers that live as long as the program, or as a model: zeroed, aligned for vectors, freed all at once.

const std = @import("std");
const die = @import("system.zig").die;

const alignment_bytes = 64; // a cache line, and the widest vector there is

/// Sizes come from files: multiply them here, where an overflow ends the program.
pub fn product(factors: []const usize) usize {
    var result: usize = 1;
    for (factors) |factor| {
        result = std.math.mul(usize, result, factor) catch
            die("out of memory: the model needs more than the address space", .{});
    }
    return result;
}

var taken: std.ArrayListUnmanaged(*anyopaque) = .empty;

/// Free every buffer there is.
pub fn freeAll() void {
    for (taken.items) |raw| std.c.free(raw);
    taken.clearRetainingCapacity();
}

/// `count` zeroed items. Pages of a large buffer cost nothing before they are touched.
pub fn allocate(comptime T: type, count: usize) []align(alignment_bytes) T {
    const n_bytes = product(&.{ count, @sizeOf(T) });
    const with_slack_bytes = std.math.add(usize, n_bytes, alignment_bytes) catch product(&.{ n_bytes, 2 });
    const raw = std.c.calloc(with_slack_bytes, 1) orelse
        die("out of memory: cannot allocate {d} x {d} bytes", .{ count, @sizeOf(T) });
    taken.append(std.heap.c_allocator, raw) catch die("out of memory: a list of buffers", .{});
    const start = std.mem.alignForward(usize, @intFromPtr(raw), alignment_bytes);
    const items: [*]align(alignment_bytes) T = @ptrFromInt(start);
    return items[0..count];
}
