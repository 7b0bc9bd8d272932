//! The little that is needed of the operating system, through the C library alone: files, output, time, giving up.

const std = @import("std");
const builtin = @import("builtin");
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

/// The bytes of a file that is not empty, read-only, until closeFiles(). At most two files.
pub fn openFile(path: [*:0]const u8) []const u8 {
    const descriptor = c.open(path, .{ .ACCMODE = .RDONLY });
    if (descriptor < 0) die("couldn't open file {s}", .{path});
    defer _ = c.close(descriptor);
    const size_bytes = c.lseek(descriptor, 0, c.SEEK.END);
    if (size_bytes < 0) die("{s}: not a regular file", .{path});
    if (size_bytes == 0) die("{s}: the file is empty", .{path});
    const length: usize = @intCast(size_bytes);
    const copy = inLargePages(descriptor, length);
    opened[n_opened] = .{ .bytes = copy orelse mapped(path, descriptor, length), .is_mapped = copy == null };
    n_opened += 1;
    return opened[n_opened - 1].bytes;
}

fn mapped(path: [*:0]const u8, descriptor: c_int, length: usize) []const u8 {
    const bytes = c.mmap(null, length, .{ .READ = true }, .{ .TYPE = .PRIVATE }, descriptor, 0);
    if (bytes == c.MAP_FAILED) die("{s}: mmap failed: not a regular file, or too large", .{path});
    // Without this the kernel gives up reading ahead in a file that memory does not hold, and waits for page by page.
    _ = c.madvise(@ptrCast(@alignCast(bytes)), length, c.MADV.SEQUENTIAL);
    return @as([*]const u8, @ptrCast(bytes))[0..length];
}

/// A large file in large pages, which a mapped file does not get: reading every weight for every token then misses the
/// address translation far less often. null where there are none, or where the copy would be much of all memory.
fn inLargePages(descriptor: c_int, length: usize) ?[]const u8 {
    if (builtin.os.tag != .linux) return null;
    const large_page = 2 << 20;
    const n_pages = sysconf(85); // _SC_PHYS_PAGES of glibc and musl
    if (length < 4 * large_page or n_pages < 4) return null;
    if (length / std.heap.pageSize() > @as(usize, @intCast(n_pages)) / 4) return null;
    var memory: ?*anyopaque = null;
    if (c.posix_memalign(&memory, large_page, length) != 0) return null;
    const bytes = @as([*]u8, @ptrCast(memory.?))[0..length];
    _ = c.madvise(@ptrCast(@alignCast(bytes.ptr)), length, c.MADV.HUGEPAGE); // if there are none, nothing is lost
    var done: usize = 0;
    while (done < length) {
        const n_read = c.pread(descriptor, bytes[done..].ptr, length - done, @intCast(done));
        if (n_read <= 0) {
            c.free(memory);
            return null;
        }
        done += @intCast(n_read);
    }
    return bytes;
}

extern "c" fn sysconf(name: c_int) c_long;

const Opened = struct { bytes: []const u8, is_mapped: bool };
var opened: [2]Opened = undefined; // a checkpoint and a tokenizer
var n_opened: usize = 0;

/// Give back every file that is open.
pub fn closeFiles() void {
    for (opened[0..n_opened]) |file| {
        const start: *anyopaque = @ptrCast(@constCast(file.bytes.ptr));
        if (file.is_mapped) _ = c.munmap(@alignCast(start), file.bytes.len) else c.free(start);
    }
    n_opened = 0;
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
