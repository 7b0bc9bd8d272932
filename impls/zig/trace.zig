//! The trace (docs/trace.md): what the forward pass computes goes to the file that HARNESS_TRACE names.

const std = @import("std");
const c = std.c;
const os = @import("system.zig");

extern "c" fn fopen(path: [*:0]const u8, mode: [*:0]const u8) ?*c.FILE;
extern "c" fn fwrite(bytes: [*]const u8, size: usize, count: usize, file: *c.FILE) usize;

var file: ?*c.FILE = null;

/// Begin the trace if the environment asks for one. The C library writes its end when the program leaves by exit.
pub fn open() void {
    const path = c.getenv("HARNESS_TRACE") orelse return;
    if (path[0] == 0) return;
    file = fopen(path, "wb") orelse os.die("HARNESS_TRACE: cannot write {s}", .{path});
    write("harness-trace 1\n");
}

pub inline fn isAsked() bool {
    return file != null;
}

/// Record one value of a forward pass, layer null outside of the blocks; costs a branch where no trace is asked for.
pub inline fn record(comptime name: []const u8, layer: ?usize, pos: usize, values: []const f32) void {
    if (isAsked()) recordAlways(name, layer, pos, values);
}

fn recordAlways(name: []const u8, layer: ?usize, pos: usize, values: []const f32) void {
    var buffer: [128]u8 = undefined;
    const block: i64 = if (layer) |l| @intCast(l) else -1;
    const header = std.fmt.bufPrint(&buffer, "{s} {d} {d} {d}\n", .{ name, block, pos, values.len }) catch unreachable;
    write(header);
    write(std.mem.sliceAsBytes(values)); // little-endian, as all machines that this is for
}

fn write(bytes: []const u8) void {
    if (fwrite(bytes.ptr, 1, bytes.len, file.?) != bytes.len) os.die("HARNESS_TRACE: cannot write the trace", .{});
}
