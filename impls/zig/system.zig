//! The little that is needed of the operating system, through the C library alone: files, output, time, giving up.

const std = @import("std");
const c = std.c;

pub fn die(comptime format: []const u8, args: anytype) noreturn {
    complain("run: " ++ format ++ "\n", args);
    c.exit(1);
}

/// Write to stderr; what is longer than the buffer (by an absurd path) is cut.
pub fn complain(comptime format: []const u8, args: anytype) void {
    var buffer: [8192]u8 = undefined;
    const text = std.fmt.bufPrint(&buffer, format, args) catch buffer[0..];
    if (text.len == buffer.len) text[text.len - 1] = '\n';
    _ = c.write(2, text.ptr, text.len);
}

/// Write to stdout, at once.
pub fn print(text: []const u8) void {
    var rest = text;
    while (rest.len > 0) {
        const n_written = c.write(1, rest.ptr, rest.len);
        if (n_written > 0) {
            rest = rest[@intCast(n_written)..];
        } else if (c.errno(n_written) != .INTR) {
            die("cannot write to standard output", .{});
        }
    }
}

/// Bytes of stdin, one by one.
pub const Input = struct {
    buffer: [4096]u8 = undefined,
    begin: usize = 0,
    end: usize = 0,

    /// null at the end of the input.
    pub fn next(input: *Input) ?u8 {
        if (input.begin == input.end) {
            const n_read = c.read(0, &input.buffer, input.buffer.len);
            if (n_read <= 0) return null;
            input.begin = 0;
            input.end = @intCast(n_read);
        }
        defer input.begin += 1;
        return input.buffer[input.begin];
    }
};

/// Map a file that is not empty, read-only, until unmapFiles(). At most two.
pub fn mapFile(path: [*:0]const u8) []const u8 {
    const descriptor = c.open(path, .{ .ACCMODE = .RDONLY });
    if (descriptor < 0) die("couldn't open file {s}", .{path});
    defer _ = c.close(descriptor);
    const size_bytes = c.lseek(descriptor, 0, c.SEEK.END);
    if (size_bytes < 0) die("{s}: not a regular file", .{path});
    if (size_bytes == 0) die("{s}: the file is empty", .{path});
    const length: usize = @intCast(size_bytes);
    const bytes = c.mmap(null, length, .{ .READ = true }, .{ .TYPE = .PRIVATE }, descriptor, 0);
    if (bytes == c.MAP_FAILED) die("{s}: mmap failed: not a regular file, or too large", .{path});
    // Without this the kernel gives up reading ahead in a file that memory does not hold, and waits for page by page.
    _ = c.madvise(@ptrCast(@alignCast(bytes)), length, c.MADV.SEQUENTIAL);
    mapped[n_mapped] = @as([*]const u8, @ptrCast(bytes))[0..length];
    n_mapped += 1;
    return mapped[n_mapped - 1];
}

var mapped: [2][]const u8 = undefined; // a checkpoint and a tokenizer
var n_mapped: usize = 0;

/// Give back every file that is mapped.
pub fn unmapFiles() void {
    for (mapped[0..n_mapped]) |bytes| _ = c.munmap(@ptrCast(@alignCast(@constCast(bytes.ptr))), bytes.len);
    n_mapped = 0;
}

pub fn canRead(path: [*:0]const u8) bool {
    const descriptor = c.open(path, .{ .ACCMODE = .RDONLY });
    if (descriptor < 0) return false;
    _ = c.close(descriptor);
    return true;
}

pub fn secondsOf(clock: c.clockid_t) f64 {
    var now: c.timespec = undefined;
    if (c.clock_gettime(clock, &now) != 0) die("there is no clock", .{});
    const seconds: f64 = @floatFromInt(now.sec);
    const nanoseconds: f64 = @floatFromInt(now.nsec);
    return seconds + nanoseconds * 1e-9;
}

/// A broken invariant of this program itself, found in a build with safety checks.
pub fn panic(message: []const u8, _: ?usize) noreturn {
    complain("run: internal error: {s}\n", .{message});
    c.abort();
}
