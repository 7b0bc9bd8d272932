//! Runs tests with the C library alone. Zig's own runner does more, and takes ten times as long to compile.

const std = @import("std");
const builtin = @import("builtin");

pub const panic = std.debug.FullPanic(giveUp);
pub const std_options: std.Options = .{ .enable_segfault_handler = false };

fn giveUp(message: []const u8, _: ?usize) noreturn {
    _ = std.c.write(2, message.ptr, message.len);
    std.c.abort();
}

pub fn main() u8 {
    var status: u8 = 0;
    for (builtin.test_functions) |function| {
        const failure: [:0]const u8 = if (function.func()) |_| "ok" else |err| @errorName(err);
        if (!std.mem.eql(u8, failure, "ok")) status = 1;
        const name_length: c_int = @intCast(function.name.len);
        _ = std.c.printf("%.*s: %s\n", name_length, function.name.ptr, failure.ptr);
    }
    return status;
}
